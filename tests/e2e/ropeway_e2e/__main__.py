"""The harness by itself. `cargo xtask e2e` makes the environments and calls it.

    python3 -m ropeway_e2e needs [--all] [--only NAME]
    python3 -m ropeway_e2e run --cache DIR --out DIR --python VERSION=PATH ... [--ropeway DIR] [--cann DIR] [--all]
                                [--only NAME]
"""

import argparse
import signal
import sys
from pathlib import Path

from . import scenarios, verdict
from .run import Run


def main() -> int:
    arguments = parse()
    try:
        chosen = scenarios.chosen(arguments.only, arguments.all)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.command == "list":
        for one in chosen:
            print(f"{one.name:<18} {one.line}")
        return 0
    if arguments.command == "needs":
        print("\n".join(scenarios.needs(chosen)))
        return 0
    # A harness that is asked to end still ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pythons = dict(pair.split("=", 1) for pair in arguments.python)
    run, rows = Run(pythons, arguments.cache, arguments.out, arguments.ropeway, arguments.cann), []
    for one in chosen:
        rows += run.scenario(one)
        verdict.save(rows, arguments.out)
    print(f"\n{verdict.table(rows)}")
    for one in scenarios.EVERYTHING:
        if one not in chosen:
            print(f"skipped: {one.name}: {scenarios.left_out(one, arguments.only)}")
    for row in rows:
        if row.skipped:
            print(f"skipped: {row.scenario}: {row.skipped}")
    return 0 if any(row.good for row in rows) and not any(row.bad for row in rows) else 1


def absolute(path: str) -> Path:
    """Programs are started in other folders than this one."""
    return Path(path).absolute()


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ropeway_e2e")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "needs", "run"):
        command = commands.add_parser(name)
        command.add_argument("--all", action="store_true")
        command.add_argument("--only", action="append", default=[], metavar="NAME")
        if name == "run":
            command.add_argument("--cache", type=absolute, required=True)
            command.add_argument("--out", type=absolute, required=True)
            command.add_argument("--python", action="append", default=[], metavar="VERSION=PATH")
            command.add_argument("--ropeway", type=absolute, metavar="DIR")
            command.add_argument("--cann", type=absolute, metavar="DIR")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
