"""Stubs, documentation and types."""

from __future__ import annotations

import doctest
import inspect
import os
import subprocess
import sys
from pathlib import Path

import ropeway

TESTS = Path(__file__).resolve().parent
PACKAGE = Path(ropeway.__file__).resolve().parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Where the package is not installed but on the path, mypy is told so too.
    environment = dict(os.environ, MYPYPATH=str(PACKAGE.parent)) if "site-packages" not in str(PACKAGE) else None
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=TESTS, env=environment)


def test_the_stubs_say_what_the_module_is() -> None:
    config = TESTS.parent / "pyproject.toml"
    allowed = TESTS / "stubtest.allow"
    done = python("-m", "mypy.stubtest", "--mypy-config-file", str(config), "--allowlist", str(allowed), "ropeway")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_and_its_examples_are_strictly_typed() -> None:
    examples = TESTS.parents[2] / "examples" / "python"
    done = python("-m", "mypy", "--strict", "-p", "ropeway")
    assert done.returncode == 0, done.stdout + done.stderr
    done = python("-m", "mypy", "--strict", *map(str, sorted(examples.glob("*.py"))))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (PACKAGE / "py.typed").is_file()


def test_every_public_thing_says_what_it_is() -> None:
    bare = []
    for name in ropeway.__all__:
        thing = getattr(ropeway, name)
        if not inspect.isclass(thing):
            continue
        if not thing.__doc__:
            bare.append(name)
        if issubclass(thing, ropeway.Error):
            continue
        members = vars(thing).items()
        bare += [f"{name}.{key}" for key, value in members if not key.startswith("_") and not value.__doc__]
    assert not bare


def test_the_packages_example_is_right() -> None:
    assert doctest.testmod(ropeway).failed == 0
    assert doctest.testmod(ropeway).attempted > 5
