"""Hands what the native half says to `logging`, by a thread that starts with the first engine of a process."""

from __future__ import annotations

import atexit
import logging
import os
import threading

from ropeway import _ropeway as native

_process: int | None = None


def start(name: str = "ropeway") -> None:
    """Starts it; the loggers are `name` and what is beneath it. Called again it does nothing."""
    global _process
    if _process == os.getpid():
        return
    _process = os.getpid()
    native.keep_log()
    thread = threading.Thread(target=_forward, args=(name,), name="ropeway-log", daemon=True)
    thread.start()
    # It waits in native code, which the interpreter cannot interrupt when it ends.
    atexit.register(_stop, thread)


def _forward(name: str) -> None:
    while (lines := native.take_log()) is not None:
        for level, module, text in lines:
            logging.getLogger(f"{name}.{module}" if module else name).log(level, "%s", text)


def _stop(thread: threading.Thread) -> None:
    if _process == os.getpid():
        native.close_log()
        thread.join()
