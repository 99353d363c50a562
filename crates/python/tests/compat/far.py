"""A process with an engine of the drop-in and two buffers, driven over its standard input and output by `Far`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

BYTES = 1 << 20
HOST = "127.0.0.1"


class Far:
    """The process, from outside. Its buffers hold the byte `fill`."""

    def __init__(
        self, fill: int = 0, nbytes: int = BYTES, port: int = 0, env: dict[str, str] | None = None, npu: int = -1
    ) -> None:
        """``npu``: its buffers are in that NPU's memory."""
        command = [sys.executable, __file__, str(fill), str(nbytes), str(port), str(npu)]
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


def serve(fill: int, nbytes: int, port: int, npu: int) -> None:
    from memory import Hbm, Host

    from ropeway import compat

    compat.plugin()
    from mooncake.engine import TransferEngine, TransferNotify

    from ropeway.compat import mooncake

    if port:
        mooncake._listen = lambda hostname: f"{hostname}:{port}"
    engine = TransferEngine()
    asked = ("tcp", "") if npu < 0 else ("ascend", f"npu:{npu}")
    assert engine.initialize(HOST, "P2PHANDSHAKE", *asked) == 0, engine.last_error
    buffers = [Host(nbytes) if npu < 0 else Hbm(nbytes, npu) for _ in range(2)]
    for buffer in buffers:
        buffer.put(0, bytes([fill]) * nbytes)
    addresses = [buffer.address for buffer in buffers]
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
                say_one(buffers[buffer].get(start, length).hex())
            case ["fill", buffer, value]:
                buffers[buffer].put(0, bytes([value]) * nbytes)
                say_one(0)
            case ["random", buffer, seed]:
                buffers[buffer].put(0, random_bytes(seed, nbytes))
                say_one(0)


def random_bytes(seed: int, nbytes: int) -> bytes:
    """The same everywhere."""
    return random.Random(seed).randbytes(nbytes)


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


def say_one(word: Any) -> None:
    print(json.dumps(word), flush=True)


def blocks(address: int, ids: Sequence[int], size: int) -> list[int]:
    """Where blocks of a cache lie."""
    return [address + block * size for block in ids]


if __name__ == "__main__":
    serve(*(int(word) for word in sys.argv[1:]))
