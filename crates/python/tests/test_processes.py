"""Processes: exchange between them, fork, spawn, signals, exit, and what an import costs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BLOCK, WAIT, pair, side

import ropeway

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "python"
LISTEN = "127.0.0.1:0"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


def produce(pipe: multiprocessing.connection.Connection, transport: str, kind: str) -> None:
    lender = side(kind, listen=LISTEN, transports=[transport])
    lender.region.fill(7 * BLOCK, BLOCK, 42)
    lease = lender.cache.lease([[7]])
    pipe.send((lender.engine.descriptor(), lease.token))
    freed = lease.wait_free(WAIT)
    pipe.send(freed.outcome if freed else None)


def test_what_runs_at_exit_after_the_engines_were_closed_may_still_call_them() -> None:
    """Hooks run last in, first out: one that was registered before the first engine comes after ours."""
    code = """
import atexit
held = {}
atexit.register(lambda: (held["engine"].close(), held["region"].close(), print("closed")))
import ropeway
held["engine"] = ropeway.Engine()
held["region"] = held["engine"].alloc(4096)
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(("transport", "kind"), [("shm", "shared"), ("cma", "private"), ("tcp", "private")])
def test_blocks_move_between_processes(method: str, transport: str, kind: str) -> None:
    """Also when both were forked before either had an engine, as vLLM's workers are."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=produce, args=(theirs, transport, kind))
    child.start()
    assert ours.poll(WAIT)
    descriptor, token = ours.recv()
    borrower = side(kind, listen=LISTEN, transports=[transport])
    peer = borrower.engine.connect(descriptor).wait()
    grant = peer.claim(token).wait()
    try:
        route = peer.route(borrower.cache, "kv").wait()
    except ropeway.Error as error:
        refused = dict(peer.refused_transports)
        if transport == "cma" and "cma" in refused:
            pytest.skip(f"cma is not to be had here: {refused['cma']}: {error}")
        raise
    assert route.transport == transport
    route.read(grant, [[0]], [[7]]).submit().wait(WAIT)
    assert borrower.region.read(0, BLOCK) == b"\x2a" * BLOCK
    grant.release()
    assert ours.poll(WAIT) and ours.recv() == "done"
    child.join(WAIT)
    assert child.exitcode == 0


def test_a_forked_child_is_told_and_its_parent_works_on() -> None:
    all = pair([[0]])
    plan = all.route.read(all.grant, [[1]], [[0]])
    waiting = plan.submit(after=ropeway.Event())
    connecting = all.consumer.engine.connect(all.producer.engine.descriptor())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            forbidden = [
                lambda: all.producer.engine.alloc(BLOCK),
                plan.submit,
                waiting.wait,
                connecting.wait,
                all.lease.freed,
                all.lease.wait_free,
                all.consumer.engine.completions.wait,
                all.producer.engine.close,
                lambda: all.producer.region.read(0, 1),
            ]
            for number, call in enumerate(forbidden):
                code = 10 + number
                try:
                    call()
                except ropeway.ForkedError:
                    continue
                break
            else:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert plan.submit().wait(WAIT) is not None and connecting.wait().is_connected


def test_a_forked_child_opens_its_own_engine_and_leaves_cleanly() -> None:
    code = """
import os, sys, ropeway
engine = ropeway.Engine()
region = engine.register(bytearray(4096))
child = os.fork()
if child == 0:
    own = ropeway.Engine()
    own.alloc(4096).fill(0, 4096, 1)
    sys.exit(0 if own.close() == [] else 3)  # through atexit and every destructor
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), region.read(0, 1), engine.close())
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "0 b'\\x00' []\n"), done.stderr


@pytest.mark.parametrize("what", ["transfer", "lease", "completions", "connect"])
def test_ctrl_c_ends_a_wait_and_nothing_else(what: str) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import pair
import ropeway, signal, socket
all = pair([[0]])
event = ropeway.Event()
transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
silent = socket.create_server(("127.0.0.1", 0))
waits = {{
    "transfer": transfer.wait,
    "lease": all.lease.wait_free,
    "completions": all.consumer.engine.completions.wait,
    "connect": lambda: all.consumer.engine.connect(SILENT, 600).wait(),
}}
if {what!r} == "connect":
    quiet = ropeway.Engine(listen="127.0.0.1:0", advertise="127.0.0.1:%d" % silent.getsockname()[1])
    SILENT = quiet.descriptor()
    quiet.close()
# Whoever started the tests in the background had it ignored, for them and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
try:
    waits[{what!r}]()
except KeyboardInterrupt:
    event.fire()
    print("interrupted", transfer.wait(60) is not None, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n", child.communicate()[1]
    import time

    time.sleep(0.3)  # into the wait
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=150)
    assert (child.returncode, out) == (0, "interrupted True\n"), err


def test_an_interpreter_ends_cleanly_with_everything_open() -> None:
    """Transfers armed, a loop's descriptor, keep-alives on their way, threads in a wait."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import pair
import threading, ropeway
all = pair([[0]])
kept = [all.producer.engine.register(bytearray(4096)) for _ in range(64)]
transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=ropeway.Event())
def waits(call):
    try:
        call()
    except ropeway.Error:
        pass  # the engine closes, and its transfers end
for call in (transfer.wait, all.lease.wait_free, all.consumer.engine.completions.wait):
    for _ in range(8):
        threading.Thread(target=waits, args=(call,), daemon=True).start()
del kept[::2]
print("end")
"""
    for _ in range(3):
        done = run(code)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_peer_is_told_when_the_interpreter_ends() -> None:
    borrower = side(listen=LISTEN)
    code = """
import sys, ropeway
engine = ropeway.Engine(listen="127.0.0.1:0")
peer = engine.connect(sys.argv[1]).wait()
"""
    done = run(code, borrower.engine.descriptor())
    assert done.returncode == 0, done.stderr
    assert borrower.engine.peers() == []


def test_an_import_is_cheap_and_brings_nothing_heavy() -> None:
    code = "import sys, ropeway; print(*sorted(set(sys.modules)))"
    modules = set(run(code).stdout.split())
    heavy = {"torch", "torch_npu", "vllm", "numpy", "asyncio", "ctypes", "logging", "typing", "threading", "acl"}
    assert "ropeway._ropeway" in modules and not modules & heavy
    measured = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ropeway"], capture_output=True, text=True, timeout=150
    )
    ours = [line for line in measured.stderr.splitlines() if "ropeway" in line]
    assert len(ours) == 2, ours
    threads = run("import ropeway, os; print(len(os.listdir('/proc/self/task')))")
    assert threads.stdout == "1\n", "no thread starts before an engine is opened"


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_examples_run(example: str) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / example)], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout
