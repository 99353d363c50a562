"""Looks at the native parts of a wheel: which versions of the system's symbols they need, and what is in it.

python check_wheel.py WHEEL POLICY

The HIXL shim is a shared object inside the extension, where auditwheel does not see it; it is cut out and looked at too.
"""

from __future__ import annotations

import io
import sys
import zipfile

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

ELF = b"\x7fELF\x02\x01\x01"
# manylinux_2_28: what AlmaLinux 8 has.
LIMITS = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (8, 0, 0)}
MACHINES = {"x86_64": "x64", "aarch64": "AArch64"}
FILES = ("ropeway/__init__.py", "ropeway/_ropeway.pyi", "ropeway/py.typed", "ropeway/_loop.py")


def needed(image: bytes) -> set[str]:
    """Versions such as GLIBC_2.17 that a shared object asks of others."""
    sections = ELFFile(io.BytesIO(image)).iter_sections()
    tables = (section for section in sections if isinstance(section, GNUVerNeedSection))
    return {auxiliary.name for table in tables for _, entries in table.iter_versions() for auxiliary in entries}


def too_new(versions: set[str]) -> list[str]:
    bad = []
    for version in sorted(versions):
        family, _, number = version.partition("_")
        limit = LIMITS.get(family)
        if limit is None or tuple(int(part) for part in number.split(".")) > limit:
            bad.append(version)
    return bad


def newest(versions: set[str]) -> str:
    found: dict[str, tuple[int, ...]] = {}
    for version in versions:
        family, _, number = version.partition("_")
        key = tuple(int(part) for part in number.split("."))
        found[family] = max(found.get(family, key), key)
    return ", ".join(f"{family}_{'.'.join(map(str, number))}" for family, number in sorted(found.items()))


def main(path: str, policy: str) -> None:
    machine = next(name for name in MACHINES if path.endswith(f"{policy}_{name}.whl"))
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        missing = [name for name in FILES if name not in names]
        extension = wheel.read("ropeway/_ropeway.abi3.so")
    if missing:
        sys.exit(f"the wheel lacks {', '.join(missing)}")
    start = extension.find(ELF, 1)
    if start < 0:
        sys.exit("the extension has no HIXL shim in it; was there a C++ compiler?")
    for what, image in (("extension", extension), ("HIXL shim", extension[start:])):
        got = ELFFile(io.BytesIO(image)).get_machine_arch()
        if got != MACHINES[machine]:
            sys.exit(f"the {what} is for {got}")
        versions = needed(image)
        bad = too_new(versions)
        if bad or not versions:
            sys.exit(f"the {what} needs {', '.join(bad) or 'nothing at all'}; at most {LIMITS} is to be had")
        print(f"{what}: needs at most {newest(versions)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
