"""Sets of tests without servers: what they report, and what they are told when something cannot be had."""

import stat
from pathlib import Path

import pytest
from ropeway_e2e import models, verdict, within
from ropeway_e2e.instance import Failed
from ropeway_e2e.tools import NotToBeHad, Tools
from ropeway_e2e.within import Serverless

PASSED, FAILED = '<testcase classname="a" name="one"/>', '<testcase classname="a" name="two"><failure/></testcase>'
SKIPPED = '<testcase classname="a" name="three"><skipped/></testcase>'


def report(folder: Path, *cases: str) -> Path:
    file = folder / "report.xml"
    file.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return file


def test_what_failed_or_was_skipped_inside_is_named_and_no_test_at_all_is_wrong(tmp_path):
    log = tmp_path / "log"
    assert within.read(report(tmp_path, PASSED, PASSED), log) == (2, [])
    assert within.read(report(tmp_path, PASSED, FAILED, SKIPPED), log) == (1, ["a::two", "a::three"])
    assert within.read(report(tmp_path), log)[1] == [f"no test ran; see {log}"]
    assert "pytest left no report" in within.read(tmp_path / "none.xml", log)[1][0]


def program(folder: Path, text: str) -> str:
    """In place of an interpreter."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IEXEC)
    return str(file)


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache with a model, the packages and the tests."""
    model = models.folder_of("llama", tmp_path)
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).touch()
    (tmp_path / "packages-inside").mkdir()
    pins = (within.HERE / "requirements/inside.txt").read_text()
    (tmp_path / "packages-inside/pins.txt").write_text(pins)
    (tmp_path / "own-tests-0.32.0").mkdir()
    return tmp_path


def pytest_that_says(folder: Path, line: str, *cases: str) -> str:
    xml = report(folder, *cases)
    return program(folder, f'while [ "$1" != --junitxml ]; do shift; done; cp {xml} "$2"; echo "{line}"')


def test_a_set_passes_when_its_tests_were_about_this_connector(cache):
    own = Serverless("own", "0.32.0", own=True)

    def row(line: str, *cases: str) -> verdict.Row:
        python = pytest_that_says(cache, line, *cases)
        (made,) = own.rows(Tools(python, cache, cache / "out", cache))
        return made

    good = row("schedulers over RopewayConnector: 3", PASSED)
    assert good.good and good.tests == 1 and "| 1 passed " in verdict.table([good])
    assert not row("schedulers over RopewayConnector: 3", FAILED).good
    for line in ("schedulers over RopewayConnector: 0", "nothing"):
        assert row(line, PASSED).findings[0].wrong == ("no scheduler of the tests was over this connector",)
    with pytest.raises(Failed, match="needs Ropeway's package"):
        list(own.rows(Tools("python", cache, cache)))


def test_what_cannot_be_fetched_is_told_and_another_archive_is_refused(cache, tmp_path):
    own = Serverless("own", "0.32.0", own=True)
    (cache / "own-tests-0.32.0").rmdir()
    python = program(tmp_path, "echo 'ERROR: no network' >&2; exit 1")
    (row,) = own.rows(Tools(python, cache, cache / "out", cache))
    assert row.skipped == "pip install: ERROR: no network" and not row.good and not row.bad
    with pytest.raises(NotToBeHad, match="no network"):
        within.fetched("0.32.0", python, cache)
    python = program(tmp_path, "echo 'THESE PACKAGES DO NOT MATCH THE HASHES' >&2; exit 1")
    with pytest.raises(Failed, match="HASHES"):
        within.pip(python, ["download"])
