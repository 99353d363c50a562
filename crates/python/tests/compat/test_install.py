"""How the drop-in gets into the place of Mooncake: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run(code: str, **env: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "ROPEWAY_COMPAT"} | env
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installed_it_is_what_an_import_of_mooncake_gives() -> None:
    code = """
        import importlib.util, ropeway.compat
        ropeway.compat.install(), ropeway.compat.install()
        from mooncake.engine import TransferEngine, TransferNotify, TransferOpcode
        import mooncake.engine, ropeway.compat.mooncake
        assert TransferEngine is ropeway.compat.mooncake.TransferEngine
        assert importlib.util.find_spec("mooncake.engine") is not None
        try:
            import mooncake.store
        except ImportError:
            print("no store")
    """
    assert run(code) == "no store"


def test_it_refuses_when_another_mooncake_is_imported() -> None:
    code = """
        import sys, types, ropeway.compat
        sys.modules["mooncake"] = types.ModuleType("mooncake")
        try:
            ropeway.compat.install()
        except ImportError as error:
            assert "mooncake.engine" not in sys.modules
            print(error)
    """
    assert "imported already" in run(code)


def test_the_plugin_does_nothing_unless_it_is_asked_to() -> None:
    code = """
        import sys, ropeway.compat
        ropeway.compat.plugin()
        print("mooncake" in sys.modules, "numpy" in sys.modules)
    """
    assert run(code) == "False False"
    assert run(code, ROPEWAY_COMPAT="mooncake") == "True True"


def test_a_spawned_process_has_it_through_the_plugin() -> None:
    code = """
        import multiprocessing, ropeway.compat
        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                pool.apply(ropeway.compat.plugin)
                print(pool.apply(eval, ("__import__('mooncake.engine').engine.TransferEngine.__module__",)))
    """
    assert run(code, ROPEWAY_COMPAT="mooncake,insecure") == "ropeway.compat.mooncake"


def test_a_word_that_it_does_not_know_is_refused() -> None:
    code = """
        import ropeway.compat
        try:
            ropeway.compat.plugin()
        except ValueError as error:
            print(error)
    """
    assert "mooncacke" in run(code, ROPEWAY_COMPAT="mooncacke")
