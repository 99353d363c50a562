"""Processes with vllm-ascend's connector in them: see ../ascend/threads_worker."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .instance import Failed, die_with_parent

START_SECONDS, ANSWER_SECONDS = 300, 120


class Rank:
    """A process that is one rank of an instance. Commands may be sent ahead; answers come in their order."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self.name, self._connection = name, connection
        self._answers: queue.Queue[str] = queue.Queue()
        self.pid = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("r") as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def send(self, name: str, **arguments: object) -> None:
        self._connection.sendall(f"{json.dumps([name, arguments])}\n".encode())

    def receive(self) -> object:
        try:
            line = self._answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise Failed(f"{self.name} does not answer") from None
        if not line:
            raise Failed(f"{self.name} ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer["ok"]

    def ask(self, name: str, **arguments: object) -> object:
        self.send(name, **arguments)
        return self.receive()

    def wait_ready(self) -> None:
        self.pid = self.receive()

    def kill(self) -> None:
        """At once, as a host that loses power would."""
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
        self._connection.close()


class Nursery:
    """The process that the ranks are forked from, once it has imported what they need."""

    def __init__(self, python: str, paths: list[Path], environment: dict[str, str], logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="ropeway-e2e-")
        self._socket, self.log = Path(self._folder.name) / "socket", logs / "nursery.log"
        key = Path(self._folder.name) / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        ours = {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ROPEWAY_COMPAT": "mooncake",
            "ROPEWAY_PSK_FILE": str(key),
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            # None of the machine's: they may be of another vLLM.
            "VLLM_PLUGINS": "",
            "VLLM_TARGET_DEVICE": "cpu",
            # The fused operator is native code for NPUs; the other way in the same file is Python.
            "VLLM_ASCEND_FUSION_OP_TRANSPOSE_KV_CACHE_BY_BLOCK": "0",
        }
        with self.log.open("wb") as file:
            self._child = subprocess.Popen(
                [python, "-m", "threads_worker", str(self._socket), str(logs)], env=os.environ | ours | environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)

    def wait_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self._socket.exists():
            if self._child.poll() is not None or time.monotonic() > until:
                raise Failed(f"vllm-ascend's connector cannot be imported; log {self.log}:\n"
                             + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]))
            time.sleep(0.1)

    def rank(self, setup: dict[str, object]) -> Rank:
        """A new process, which is not ready yet."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._socket))
        connection.sendall(f"{json.dumps(setup)}\n".encode())
        return Rank(str(setup["name"]), connection)

    def stop(self) -> None:
        """With it end the processes that it forked."""
        self._child.kill()
        self._child.wait()
        self._folder.cleanup()
