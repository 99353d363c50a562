"""Forks a process for each connection to a socket, which becomes one rank of an instance: imports are paid for once.

    python -m threads_worker SOCKET LOGS

The first line of a connection is the rank's setup, each later one a command, `[name, arguments]`; all are JSON, and each is
answered by a line, {"ok": ...} or {"error": ...}. What libraries print goes to LOGS/NAME.log.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from ropeway import compat

from . import fakes

PARENT_DEATH_SIGNAL = 1


def main() -> None:
    # As vLLM does in each of its processes, through the package's plugin.
    compat.plugin()
    fakes.install()
    from .instance import Instance

    listener = socket.socket(socket.AF_UNIX)
    # Its name appears when it can be connected to.
    listener.bind(f"{sys.argv[1]}.new")
    listener.listen()
    os.rename(f"{sys.argv[1]}.new", sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        try:
            serve(connection, Instance)
        finally:
            # Threads of the connector never end by themselves.
            os._exit(0)


def serve(connection: socket.socket, instance: type) -> None:
    """One rank, until its connection ends."""
    with connection.makefile("rw") as lines:
        setup = json.loads(lines.readline())
        log = os.open(Path(sys.argv[2]) / f"{setup['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(log, standard)
        made = None

        def answer(work: Callable[[], object]) -> None:
            try:
                said = {"ok": work()}
            except Exception:
                said = {"error": traceback.format_exc()}
            print(json.dumps(said), file=lines, flush=True)

        def start() -> int:
            nonlocal made
            made = instance(setup)
            return os.getpid()

        answer(start)
        for line in lines:
            name, arguments = json.loads(line)
            answer(lambda: getattr(made, name)(**arguments))


main()
