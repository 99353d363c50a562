"""vllm-ascend's own files, from its wheel: downloaded, not installed, and looked at before each use."""

import base64
import csv
import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

from .tools import NotToBeHad

VERSION = "0.23.0"
PACKAGE = "vllm_ascend"


def ready(python: str, cache: Path) -> Path:
    """A folder to import `vllm_ascend` from: its Python files, each as the wheel's own list of digests has it.

    The native files stay away, and the wheel's metadata: vLLM would take the machine for one with NPUs.
    """
    folder = cache / f"vllm-ascend-{VERSION}"
    if not (folder / "RECORD").exists():
        fetch(python, folder)
    if changed := other(folder):
        raise NotToBeHad(f"{folder}: {len(changed)} files are not the wheel's, as {changed[0]}; delete the folder")
    return folder / "site"


def fetch(python: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    load = folder / "wheel"
    load.mkdir(parents=True)
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
               "--python-version", "3.12", "--platform", "manylinux_2_34_x86_64", "--dest", str(load),
               f"vllm-ascend=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(load.glob("*.whl"))
    if done.returncode or len(found) != 1:
        last = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise NotToBeHad(f"pip download vllm-ascend=={VERSION}: {last}")
    with zipfile.ZipFile(found[0]) as wheel:
        wheel.extractall(folder / "site", [name for name in wheel.namelist() if source(name)])
        record = wheel.read(f"{PACKAGE}-{VERSION}.dist-info/RECORD")
    shutil.rmtree(load)
    # The last thing, so that what breaks off before is not taken for whole.
    (folder / "RECORD").write_bytes(record)


def source(name: str) -> bool:
    return name.startswith(f"{PACKAGE}/") and name.endswith(".py")


def other(folder: Path) -> list[str]:
    """Files that are missing, changed, or none of the wheel's."""
    with (folder / "RECORD").open(newline="") as lines:
        listed = {name: digest for name, digest, _ in csv.reader(lines) if source(name)}
    there = {str(path.relative_to(folder / "site")) for path in (folder / "site").rglob("*.py")}
    return sorted(there.symmetric_difference(listed)
                  | {name for name in there & set(listed) if digest_of(folder / "site" / name) != listed[name]})


def digest_of(path: Path) -> str:
    """As RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
