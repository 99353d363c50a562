"""Tests that run inside vLLM's environment, without a server: vLLM's own for connectors, and ours against its classes."""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checks import Finding
from .instance import HERE, Failed
from .reference import model
from .tools import NotToBeHad, Tools
from .verdict import Row

UNIT = "tests/v1/kv_connector/unit"
# The source archive of a version: vLLM's wheels hold no tests. Another archive under that name is refused.
SOURCES = {"0.32.0": "sha256:d2c957d5eee3d0985012151315ddc62cbe0cd368fc96a5fc3510438d9dddf2ad"}
SUPPORT = ("__init__", "conftest", "utils")
# What is pointed at this connector; README.md says what each is about, and why the others are left out.
OWN_TESTS = (
    "test_remote_prefill_lifecycle", "test_remote_decode_lifecycle", "test_kv_load_failure_recovery",
    "test_invalid_blocks_correctness", "test_error_propagation", "test_cache_pollution_prevention",
)
USED = re.compile(r"schedulers over RopewayConnector: (\d+)")


@dataclass(frozen=True)
class Serverless:
    """A set of tests: vLLM's own, or the files of `inside/`."""

    name: str
    vllm: str
    own: bool
    always: bool = False
    needs: tuple[str, ...] = ("ropeway",)

    @property
    def line(self) -> str:
        what = "vLLM's tests for connectors, from its source archive" if self.own else "our tests, on vLLM's classes"
        return f"{what}, vLLM {self.vllm}, no server"

    def rows(self, tools: Tools) -> Iterator[Row]:
        """One row: every test passed, and enough of them were about this connector."""
        what = "vLLM's own tests" if self.own else "our tests inside"
        row, start = Row(self.name, "RopewayConnector", "-", "-", what, self.vllm), time.monotonic()
        try:
            row.tests, wrong = self.run(tools)
            row.findings, row.good = [Finding("tests_pass", tuple(wrong))], not wrong
        except NotToBeHad as why:
            row.skipped = str(why)
        row.seconds = round(time.monotonic() - start, 1)
        yield row

    def run(self, tools: Tools) -> tuple[int, list[str]]:
        """How many tests passed, and what is wrong. Raises NotToBeHad."""
        python, cache, package, out = tools.python, tools.cache, tools.ropeway(), tools.logs
        packages = installed("inside", python, cache)
        place = fetched(self.vllm, python, cache) if self.own else HERE / "inside"
        words: list[str] = []
        if self.own:
            words = ["-p", "e2e_shims.own_tests", *(f"{UNIT}/{name}.py" for name in OWN_TESTS)]
        out.mkdir(parents=True, exist_ok=True)
        report, log = out / f"{self.name}.xml", out / f"{self.name}.log"
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(place), "--tb=short", "-q",
                   "--junitxml", str(report), *words]
        with log.open("wb") as file:
            subprocess.run(command, cwd=place, stdout=file, stderr=subprocess.STDOUT, timeout=900, check=False,
                           env=variables([place, HERE / "shims", package, packages]) |
                           {"ROPEWAY_E2E_MODEL": str(model("llama", python, cache))})
        passed, wrong = read(report, log)
        if self.own and not any(int(count) for count in USED.findall(log.read_text(errors="replace"))):
            wrong.append("no scheduler of the tests was over this connector")
        return passed, wrong


def variables(path: Sequence[Path]) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1", "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1",
    }


def read(report: Path, log: Path) -> tuple[int, list[str]]:
    """How many tests passed, and what is wrong."""
    try:
        cases = list(xml.parse(report).getroot().iter("testcase"))
    except (OSError, xml.ParseError) as error:
        return 0, [f"pytest left no report: {error}; see {log}"]
    bad = [f"{one.get('classname')}::{one.get('name')}" for one in cases
           if any(one.find(kind) is not None for kind in ("failure", "error", "skipped"))]
    return len(cases) - len(bad), bad or ([] if cases else [f"no test ran; see {log}"])


def installed(name: str, python: str, cache: Path) -> Path:
    """A folder with what `requirements/NAME.txt` pins, beside the environment and not in it. Raises NotToBeHad."""
    pins = HERE / "requirements" / f"{name}.txt"
    place, stamp = cache / f"packages-{name}", cache / f"packages-{name}" / "pins.txt"
    if not stamp.exists() or stamp.read_text() != pins.read_text():
        shutil.rmtree(place, ignore_errors=True)
        pip(python, ["install", "--quiet", "--no-deps", "--target", str(place), "--requirement", str(pins)])
        stamp.write_text(pins.read_text())
    return place


def fetched(version: str, python: str, cache: Path) -> Path:
    """A folder with vLLM's tests for connectors, from its source archive. Raises NotToBeHad."""
    place = cache / f"own-tests-{version}"
    if place.exists():
        return place
    tools = installed("sdist", python, cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        draft = Path(folder)
        pins = draft / "pins.txt"
        pins.write_text(f"vllm=={version} --hash={SOURCES[version]}\n")
        # pip asks an archive for its version before it keeps it; vLLM adds the device to it unless told.
        pip(python, ["download", "--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--dest", folder,
                     "--requirement", str(pins)],
            variables([tools]) | {"VLLM_VERSION_OVERRIDE": version, "VLLM_TARGET_DEVICE": "empty"})
        whole = draft / "whole"
        # The archive's own conftest.py above these asks for packages that they do not need: left out.
        (whole / UNIT).mkdir(parents=True)
        for above in (whole / UNIT).relative_to(whole).parents:
            if above != Path("."):
                (whole / above / "__init__.py").touch()
        with tarfile.open(draft / f"vllm-{version}.tar.gz") as archive:
            for name in (*SUPPORT, *OWN_TESTS):
                file = archive.extractfile(f"vllm-{version}/{UNIT}/{name}.py")
                (whole / UNIT / f"{name}.py").write_bytes(file.read())
        whole.rename(place)
    return place


def pip(python: str, words: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *words], env=environment, text=True,
                          capture_output=True, timeout=900, check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise Failed(done.stderr.strip()[-400:])
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise NotToBeHad(f"pip {words[0]}: {lines[-1]}")
