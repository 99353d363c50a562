"""Processes, metrics, scenarios and the verdict."""

import json
import subprocess
import sys
import time

import pytest
from ropeway_e2e import __main__, faults, pair, processes, scenarios, verdict
from ropeway_e2e.checks import Finding
from ropeway_e2e.instance import HERE, Failed, Process
from ropeway_e2e.metrics import Metrics

SPIN = "while True: pass"
# A child that outlives an ordinary end of its parent, as an engine process could.
FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("up", flush=True)
time.sleep(600)
"""


def start(code: str, log) -> Process:
    return Process("a program", [sys.executable, "-c", code], {}, 1, log)


def gone(pids: list[int]) -> bool:
    """Whether all have ended; one that its parent has not yet waited for has ended too."""
    def ended(pid: int) -> bool:
        try:
            return processes.stat(pid)[0] == "Z"
        except OSError:
            return True
    deadline = time.monotonic() + 20
    while not all(map(ended, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_tree_that_spins_is_told_from_one_that_sleeps():
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{SPIN}'])"
    spinning = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        time.sleep(1)
        busy, quiet = processes.cores_used([spinning.pid, sleeping.pid], 2)
        # A loaded machine gives the spinning one less than a core, but never as little as the sleeping one.
        assert busy > 0.1 > quiet
        assert processes.resident_bytes(spinning.pid) > 1 << 20
    finally:
        processes.kill_tree(spinning.pid)
        sleeping.kill()


def stopped(pids: list[int], all_of_them: bool) -> bool:
    """Whether soon all of them, or none, are stopped."""
    deadline = time.monotonic() + 20
    while {processes.stat(pid)[0] == "T" for pid in pids} != {all_of_them}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_no_process_of_a_tree_outlives_its_end(way, tmp_path):
    process = start(FAMILY, tmp_path / "log")
    while "up" not in process.tail():
        time.sleep(0.05)
    pids = processes.tree(process.pid)
    assert len(pids) == 2
    getattr(process, way)()
    assert gone(pids)
    getattr(process, way)()


def test_a_paused_tree_lives_and_does_nothing_until_it_goes_on(tmp_path):
    process = start(FAMILY, tmp_path / "log")
    try:
        while "up" not in process.tail():
            time.sleep(0.05)
        pids = processes.tree(process.pid)
        process.pause()
        assert stopped(pids, True) and process.paused and process.child.poll() is None
        process.resume()
        assert stopped(pids, False) and not process.paused
        process.pause()
    finally:
        # Also one that is paused ends.
        process.resume()
        process.stop()
    assert gone(pids)


def test_a_server_that_ends_instead_of_coming_up_is_told_with_the_end_of_its_log(tmp_path):
    process = start("print('the reason'); raise SystemExit(3)", tmp_path / "log")
    with pytest.raises(Failed, match="(?s)ended with 3.*the reason"):
        process.wait_ready(60)
    process.stop()


def test_a_server_that_never_answers_is_told_after_the_time_given(tmp_path):
    process = start("import time; time.sleep(600)", tmp_path / "log")
    with pytest.raises(Failed, match="not healthy after 1 s"):
        process.wait_ready(1)
    process.stop()


def test_ports_given_together_are_distinct():
    assert len(set(processes.free_ports(20))) == 20


def test_metrics_are_summed_over_engines_and_found_by_any_form_of_their_name():
    text = '# TYPE a counter\na_total{engine="0",kind="x"} 2.0\na_total{engine="1",kind="x"} 3\n' \
           'b_sum 4.0\nb_count 8\nc{label="a \\"quoted\\" one, }"} 1e-3\nnan NaN\n'
    reading = Metrics(text)
    assert reading.total("a_total", kind="x") == 5 and reading.total("a_total", engine="1") == 3
    assert reading.total("missing") == 0 and reading.mean("b") == 0.5 and reading.mean("a") is None
    assert [reading.has(name) for name in ("a", "b", "c", "d")] == [True, True, True, False]
    assert reading.total("c") == 0.001


def test_every_scenario_can_be_built_and_chosen_by_name():
    names = [one.name for one in scenarios.EVERYTHING]
    assert len(set(names)) == len(names)
    assert [one.name for one in scenarios.chosen([], True)] == names
    assert [one.name for one in scenarios.chosen([names[-1], names[0]], False)] == [names[0], names[-1]]
    assert scenarios.chosen([], False), "without --all something is proven all the same"
    with pytest.raises(ValueError, match="no scenario `nothing`; there are: "):
        scenarios.chosen(["nothing"], False)
    assert all(one.line for one in scenarios.EVERYTHING)
    assert {fault for one in scenarios.SCENARIOS for fault in one.faults} == set(faults.FAULTS), "each is in a scenario"
    for one in scenarios.SCENARIOS:
        json.dumps(one.connector.config)
        assert set(one.routers) <= {"proxy", "proxy-absent", "proxy-layerwise", "vllm-router", "kthena-like"}


def test_folders_are_meant_from_where_the_harness_was_called():
    given = __main__.parse(["run", "--cache", "a", "--out", "target/e2e", "--ropeway", "b", "--cann", "c"])
    assert all(path.is_absolute() for path in (given.cache, given.out, given.ropeway, given.cann))


def test_what_scenarios_need_is_told_once_and_why_others_are_left_out():
    ours = next(one for one in scenarios.SCENARIOS if one.connector.ropeway)
    other = next(one for one in scenarios.SCENARIOS if not one.connector.ropeway and not one.always)
    assert scenarios.needs([ours, ours]) == [f"vllm {ours.vllm}", "ropeway"]
    assert scenarios.needs([other]) == [f"vllm {other.vllm}"]
    caches = next(one for one in scenarios.OTHERS if "cann" in one.needs)
    assert scenarios.needs([caches]) == [f"vllm {caches.vllm}", "ropeway", "cann"]
    assert "--all" in scenarios.left_out(other, []) and "--only" in scenarios.left_out(other, [ours.name])
    with pytest.raises(Failed, match="needs Ropeway's package"):
        pair.Instances(ours, sys.executable, HERE, HERE, HERE)


def test_a_key_is_new_each_time_and_its_owners_alone(tmp_path):
    file, keys = tmp_path / "logs" / "key", set()
    for _ in range(2):
        pair.new_key(file)
        assert file.stat().st_mode & 0o777 == 0o600
        keys.add(file.read_bytes())
    assert len(keys) == 2 and all(len(key) == 32 for key in keys)


def test_threads_and_libraries_of_a_tree_are_seen_from_outside():
    code = ("import ctypes, sqlite3, threading, time; name = ctypes.create_string_buffer(b'a-thread-name'); "
            "work = lambda: (ctypes.CDLL(None).prctl(15, name), print('up', flush=True), time.sleep(600)); "
            "threading.Thread(target=work).start()")
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)
    try:
        parent.stdout.readline()
        outer, inner = processes.inside(parent.pid)
        assert "a-thread-name" in inner.threads and any("_sqlite3" in path for path in inner.libraries)
        assert "a-thread-name" not in outer.threads and not any("_sqlite3" in path for path in outer.libraries)
        assert "subprocess.run" in outer.title
    finally:
        processes.kill_tree(parent.pid)
        parent.stdout.close()
        parent.wait()


def test_a_mooncake_that_is_installed_cannot_be_imported_behind_the_one_that_refuses(tmp_path):
    (tmp_path / "mooncake").mkdir()
    (tmp_path / "mooncake/__init__.py").touch()
    (tmp_path / "mooncake/engine.py").touch()
    shim = HERE / "shims/no_mooncake"
    line = [sys.executable, "-c", "import mooncake.engine"]
    for path, code in (([tmp_path], 0), ([shim, tmp_path], 1)):
        ended = subprocess.run(line, env={"PYTHONPATH": ":".join(map(str, path))}, capture_output=True, text=True)
        assert ended.returncode == code, ended.stderr
    assert "has no Mooncake" in ended.stderr


def test_ports_are_put_in_wherever_a_configuration_names_them():
    ports = {"side_port": "7", "bootstrap_port": "8"}
    assert pair.filled({"a": "{side_port}", "b": {"c": "x:{bootstrap_port}"}, "d": [4, "{side_port}"]}, ports) == \
        {"a": "7", "b": {"c": "x:8"}, "d": [4, "7"]}


def test_the_verdict_tells_what_passed_what_failed_and_why(tmp_path):
    passed = verdict.Row("one", "A", "tcp", "proxy", "llama", "0", good=True, outputs_equal=True, prompts=3,
                         tokens_external=9, times_ms={"first_token_ms": 12.4}, idle_cores={"prefill": 0.01})
    control = verdict.Row("two", "A", "tcp", "proxy", "llama", "0", good=True, control=True)
    wrong = verdict.Row("three", "B", "tcp", "proxy", "llama", "0",
                        findings=[Finding("a_check", tuple("abcdefgh")), Finding("another", ())])
    text = verdict.table([passed, control, wrong])
    assert "| pass " in text and "fails, as it must" in text and "| FAIL " in text
    assert "three behind proxy: a_check:\n    a\n" in text and "and 2 more" in text and "another" not in text
    assert text.endswith("\n2 passed, 1 failed")
    lines = text.splitlines()[:5]
    assert len({len(line) for line in lines}) == 1
    verdict.save([passed, control, wrong], tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())[0]["times_ms"] == {"first_token_ms": 12.4}
    assert (tmp_path / "verdict.txt").read_text() == text + "\n"
