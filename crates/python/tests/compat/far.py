"""A process with an engine of the drop-in and two buffers, driven over its standard input and output by `Far`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

BYTES = 1 << 20
HOST = "127.0.0.1"


class Far:
    """The process, from outside. Its buffers hold the byte `fill`."""

    def __init__(self, fill: int = 0, nbytes: int = BYTES, port: int = 0, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, __file__, str(fill), str(nbytes), str(port)]
        environment = {**os.environ, "ROPEWAY_COMPAT": "mooncake,insecure", **(env or {})}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.port, self.addresses = self._hear()

    @property
    def session(self) -> str:
        return f"{HOST}:{self.port}"

    def call(self, name: str, *arguments: Any) -> Any:
        """A method of its engine."""
        return self.ask("call", name, *arguments)

    def ask(self, *words: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def bytes(self, buffer: int, start: int, length: int) -> bytes:
        return bytes.fromhex(self.ask("bytes", buffer, start, length))

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the far process is gone"
        return json.loads(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def serve(fill: int, nbytes: int, port: int) -> None:
    import numpy

    from ropeway import compat

    compat.plugin()
    from mooncake.engine import TransferEngine, TransferNotify

    from ropeway.compat import mooncake

    if port:
        mooncake._listen = lambda hostname: f"{hostname}:{port}"
    engine = TransferEngine()
    assert engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == 0, engine.last_error
    buffers = [numpy.full(nbytes, fill, numpy.uint8) for _ in range(2)]
    addresses = [buffer.ctypes.data for buffer in buffers]
    assert engine.batch_register_memory(addresses, [nbytes] * 2) == 0
    say(engine.get_rpc_port(), addresses)
    for line in sys.stdin:
        match json.loads(line):
            case ["call", name, *arguments]:
                say_one(getattr(engine, name)(*arguments))
            case ["send", session, here, there, message]:
                notify = TransferNotify("far", message)
                say_one(engine.transfer_sync(session, here, there, 8, 1, notify))
            case ["notifies"]:
                say_one([[word.name, word.msg] for word in engine.get_notifies()])
            case ["bytes", buffer, start, length]:
                say_one(buffers[buffer][start : start + length].tobytes().hex())
            case ["fill", buffer, value]:
                buffers[buffer][:] = value
                say_one(0)


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


def say_one(word: Any) -> None:
    print(json.dumps(word), flush=True)


def blocks(address: int, ids: Sequence[int], size: int) -> list[int]:
    """Where blocks of a cache lie."""
    return [address + block * size for block in ids]


if __name__ == "__main__":
    serve(*(int(word) for word in sys.argv[1:]))
