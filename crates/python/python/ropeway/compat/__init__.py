"""Ropeway in the place of other transfer engines, for programs that are written for those.

``ROPEWAY_COMPAT=mooncake`` makes ``from mooncake.engine import TransferEngine`` give
:class:`ropeway.compat.mooncake.TransferEngine` in every process of vLLM, which loads the package's plugin at its start; other
programs call :func:`install` before they import Mooncake. Both sides of a transfer must use it: it does not speak Mooncake's
protocol, only its Python interface.

Who may connect: Mooncake's interface names a peer by ``host:port`` and knows no secret, so there is none to hand on. All
processes are given a key instead, in the file that ``ROPEWAY_PSK_FILE`` names (32 bytes or more, mode 0600): whoever holds it
may read and write all registered memory, as with Mooncake anybody may who reaches the port. To run like that without a key
it takes the word ``insecure``: ``ROPEWAY_COMPAT=mooncake,insecure``, which warns.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types

__all__ = ["install", "plugin"]

VARIABLE = "ROPEWAY_COMPAT"
_NAMES = ("mooncake", "mooncake.engine")


def words() -> list[str]:
    """The words of ``ROPEWAY_COMPAT``."""
    return [word for word in os.environ.get(VARIABLE, "").lower().replace(",", " ").split() if word]


def plugin() -> None:
    """For vLLM's ``vllm.general_plugins``: installs what ``ROPEWAY_COMPAT`` names, and nothing unless it is set."""
    asked = words()
    unknown = set(asked) - {"mooncake", "insecure"}
    if unknown:
        raise ValueError(f"{VARIABLE} has {', '.join(sorted(unknown))}; it takes mooncake, and insecure beside it")
    if "mooncake" in asked:
        install()


def install() -> None:
    """Has ``mooncake`` and ``mooncake.engine`` imported from here, in this process, from now on. Installing twice is well.

    Raises ImportError when the real ``mooncake`` is imported already: classes of it may be in use.
    """
    for name in _NAMES:
        found = sys.modules.get(name)
        if found is not None and not getattr(found, "__ropeway__", False):
            where = getattr(found, "__file__", None) or "elsewhere"
            raise ImportError(f"{name} is imported already, from {where}; call ropeway.compat.install() before that")
    if all(name in sys.modules for name in _NAMES):
        return
    from ropeway.compat import mooncake

    package, engine = (_module(name) for name in _NAMES)
    for name in mooncake.__all__:
        setattr(engine, name, getattr(mooncake, name))
    package.__path__ = []
    package.engine = engine  # type: ignore[attr-defined]
    sys.modules.update({"mooncake": package, "mooncake.engine": engine})


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name, "Ropeway in the place of Mooncake; see ropeway.compat.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=name == "mooncake")
    module.__ropeway__ = True  # type: ignore[attr-defined]
    return module
