"""What a proof that starts no pair of instances is run with."""

from dataclasses import dataclass
from pathlib import Path

from .instance import Failed


class NotToBeHad(Exception):
    """What a proof needs is not there, and cannot be fetched: told as a skip, no failure."""


@dataclass(frozen=True)
class Tools:
    """An interpreter with vLLM, the harness's cache, a folder for logs, and Ropeway's package and the software CANN."""

    python: str
    cache: Path
    logs: Path
    package: Path | None = None
    cann: Path | None = None

    def ropeway(self) -> Path:
        """The folder of the package. Raises Failed."""
        if self.package is None:
            raise Failed("this needs Ropeway's package: --ropeway names the folder")
        return self.package
