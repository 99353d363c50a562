"""The proof of vllm-ascend's connector by itself: its judge, its processes, and the files it takes from the wheel."""

import base64
import hashlib
import os
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from ropeway_e2e import ascend_wheel, scenarios, threads, verdict
from ropeway_e2e.instance import Failed
from ropeway_e2e.ranks import Nursery
from ropeway_e2e.threads import Case, Seen, Threads
from ropeway_e2e.tools import NotToBeHad, Tools

SCENARIO = next(one for one in scenarios.OTHERS if isinstance(one, Threads))


def seen(**wrong) -> Seen:
    """A round in which all was well but this."""
    return Seen(**({"requests": 2, "compared": 10, "tokens": 5, "ways": {"cma"}} | wrong))


def failed(findings) -> set[str]:
    return {one.check for one in findings if not one.passed}


@pytest.mark.parametrize(("check", "wrong"), [
    ("compared", {"compared": 0}),
    ("bytes_equal", {"differ": ["a token"]}),
    ("nothing_else_written", {"stray": ["a block"]}),
    ("producer_untouched", {"producer": ["a block"]}),
    ("reported_by_both", {"late": ["a rank"]}),
    ("none_failed", {"failed": ["a block"]}),
    ("engine_beneath", {"ways": {"hixl"}}),
    ("engine_beneath", {"ways": set()}),
])
def test_each_fact_of_a_round_that_is_broken_fails_its_own_check(check, wrong):
    assert failed(threads.judge(seen(), "host")) == set()
    assert failed(threads.judge(seen(**wrong), "host")) == {check}
    assert failed(threads.judge(seen(ways={"hixl"}), "npu")) == set()


@pytest.mark.parametrize(("check", "lost", "again"), [
    ("restarted_fails", {"failed": ["one of two"]}, {}),
    ("nothing_stale", {"stray": ["a block"]}, {}),
    ("nothing_stale", {"differ": ["a token of a request before"]}, {}),
    ("restarted_reported", {"late": ["a rank"]}, {}),
    ("new_consumer_bytes_equal", {}, {"differ": ["a token"]}),
])
def test_each_fact_of_a_restart_that_is_broken_fails_its_own_check(check, lost, again):
    good = {"failed": ["a block", "another"]}
    assert failed(threads.judge_restart(seen(**good), seen(), "host")) == set()
    assert failed(threads.judge_restart(seen(**good | lost), seen(**again), "host")) == {check}


def test_a_control_passes_only_when_the_comparison_alone_fails():
    def good(spoils: bool, **wrong) -> bool:
        case, round_ = Case("gqa", spoils=spoils), seen(**wrong)
        return threads.row(SCENARIO, case, "-", threads.judge(round_, "host"), round_).good

    assert good(False) and good(True, differ=["a token"])
    assert not good(True), "nobody noticed"
    assert not good(True, differ=["a token"], stray=["a block"])
    assert not good(False, differ=["a token"])


def wheel(folder: Path, code: str = "x = 1\n") -> None:
    """What pip would have downloaded."""
    name = f"{ascend_wheel.PACKAGE}-{ascend_wheel.VERSION}"
    files = {"vllm_ascend/__init__.py": code, "vllm_ascend/native.so": "ELF"}
    with zipfile.ZipFile(folder / f"{name}-cp312.whl", "w") as made:
        for path, text in files.items():
            made.writestr(path, text)
        lines = [f"{path},sha256={digest(text)},{len(text)}" for path, text in files.items()]
        made.writestr(f"{name}.dist-info/RECORD", "\n".join([*lines, f"{name}.dist-info/RECORD,,"]))


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def pip(folder: Path, does: str) -> str:
    """An interpreter whose pip does that with the folder it is to fill, `into`."""
    program = folder / "python"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                       f"into = Path(sys.argv[sys.argv.index('--dest') + 1])\n{textwrap.dedent(does)}\n")
    program.chmod(0o755)
    return str(program)


def test_the_wheels_sources_are_unpacked_once_and_a_changed_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    python = pip(tmp_path, "import test_threads; test_threads.wheel(into)")
    site = ascend_wheel.ready(python, tmp_path)
    assert [path.name for path in site.rglob("*") if path.is_file()] == ["__init__.py"], "neither native files nor metadata"
    refuses = pip(tmp_path, "sys.exit('fetched again')")
    assert ascend_wheel.ready(refuses, tmp_path) == site
    (site / "vllm_ascend" / "__init__.py").write_text("x = 2\n")
    with pytest.raises(NotToBeHad, match="not the wheel's, as vllm_ascend/__init__.py"):
        ascend_wheel.ready(refuses, tmp_path)


def test_a_wheel_that_cannot_be_had_is_told_in_a_row_and_is_no_failure(tmp_path):
    python = pip(tmp_path, "sys.exit('ERROR: No matching distribution')")
    rows = list(SCENARIO.rows(Tools(python, tmp_path, tmp_path, tmp_path)))
    assert len(rows) == 1 and not rows[0].good and not rows[0].bad
    assert "No matching distribution" in rows[0].skipped
    assert verdict.table(rows).endswith("0 passed, 0 failed, 1 skipped")
    with pytest.raises(Failed, match="needs Ropeway's package"):
        list(SCENARIO.rows(Tools(python, tmp_path, tmp_path)))


FAKE_WORKER = """
import json, os, signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen()
os.rename(sys.argv[1] + ".new", sys.argv[1])
connection, _ = listener.accept()
lines = connection.makefile("rw")
setup = json.loads(lines.readline())
print(json.dumps({"ok": os.getpid()}), file=lines, flush=True)
for line in lines:
    name, arguments = json.loads(line)
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    said = {"error": "refused"} if name == "refuse" else {"ok": [setup, arguments]}
    print(json.dumps(said), file=lines, flush=True)
"""


def test_a_ranks_answers_errors_and_end_reach_the_harness(tmp_path):
    package = tmp_path / "threads_worker"
    package.mkdir()
    (package / "__main__.py").write_text(FAKE_WORKER)
    nursery = Nursery(sys.executable, [tmp_path], {}, tmp_path / "logs")
    try:
        nursery.wait_ready()
        rank = nursery.rank({"name": "P0"})
        rank.wait_ready()
        assert rank.pid
        assert rank.ask("anything", of=1) == [{"name": "P0"}, {"of": 1}]
        with pytest.raises(Failed, match="P0: refused"):
            rank.ask("refuse")
        rank.send("die")
        with pytest.raises(Failed, match="P0 ended"):
            rank.receive()
    finally:
        nursery.stop()


def test_a_nursery_that_cannot_import_says_so(tmp_path):
    package = tmp_path / "threads_worker"
    package.mkdir()
    (package / "__main__.py").write_text("raise ImportError('no such thing')")
    nursery = Nursery(sys.executable, [tmp_path], {}, tmp_path / "logs")
    try:
        with pytest.raises(Failed, match="no such thing"):
            nursery.wait_ready()
    finally:
        nursery.stop()
