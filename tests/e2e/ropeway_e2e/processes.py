"""Process trees, read from /proc: what they burn, hold, and how they are ended."""

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

SETTLE_SECONDS, IDLE_SECONDS = 6, 8
TICKS = os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Distinct ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def parents() -> dict[int, int]:
    """The parent of every process that there is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                found[int(entry.name)] = int(stat(int(entry.name))[1])
    return found


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes have used so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = stat(pid)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def cores_used(roots: list[int], seconds: float) -> list[float]:
    """How many cores each tree keeps busy while `seconds` pass."""
    trees = [tree(root) for root in roots]
    before, start = [cpu_seconds(pids) for pids in trees], time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - start
    return [round((cpu_seconds(pids) - had) / took, 3) for pids, had in zip(trees, before)]


def idle_cores(roots: list[int]) -> list[float]:
    """How many cores each tree keeps busy with nothing to do, once the last work has settled."""
    # vLLM's queues poll for some seconds after a request before they sleep.
    time.sleep(SETTLE_SECONDS)
    return cores_used(roots, IDLE_SECONDS)


def resident_bytes(root: int) -> int:
    """Proportional set size of a tree: shared pages counted once."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


@dataclass
class Inside:
    """A process as it looks from outside."""

    title: str
    threads: set[str]
    libraries: set[str]


def inside(root: int) -> list[Inside]:
    """What runs and what is loaded in each process of a tree."""
    found = []
    for pid in tree(root):
        # One that ends meanwhile is none.
        with contextlib.suppress(OSError):
            place = Path(f"/proc/{pid}")
            title = place.joinpath("cmdline").read_text(errors="replace").replace("\0", " ").strip()
            threads = {thread.joinpath("comm").read_text().strip() for thread in place.joinpath("task").iterdir()}
            lines = [line.split(maxsplit=5) for line in place.joinpath("maps").read_text().splitlines()]
            found.append(Inside(title, threads, {line[5] for line in lines if len(line) > 5 and ".so" in line[5]}))
    return found


def kill_tree(root: int) -> None:
    """SIGKILL to a process and its descendants, all known before the first dies."""
    for pid in tree(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
