"""A prefill and a decode instance of one scenario, on ports of their own, and what is put in front of them."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import models, router
from .instance import HERE, Failed, Process, Setup, launch
from .processes import free_ports
from .proxy import Pair, Proxy
from .rounds import Entry
from .scenarios import Scenario

ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


class Instances:
    """Both processes. `logs` is kept when anything was wrong, and removed by `forget` when nothing was."""

    def __init__(self, scenario: Scenario, python: str, model: Path, logs: Path, cache: Path,
                 package: Path | None = None, cann: Path | None = None) -> None:
        self.scenario, self.python, self.model, self.logs, self.cache = scenario, python, model, logs, cache
        if scenario.connector.ropeway and package is None:
            raise Failed(f"{scenario.name} needs Ropeway's package: --ropeway names the folder")
        # The key is good for this pair only, and its NPUs are nobody else's.
        self.package, self.cann, self.key_file, self.npus = package, cann, logs / "key", logs / "npus"
        shutil.rmtree(self.npus, ignore_errors=True)
        self.npus.mkdir(parents=True)
        new_key(self.key_file)
        self.bootstrap: int | None = None
        (self.metaserver,) = free_ports(1)
        self.prefill = self.start("prefill")
        try:
            self.decode = self.start("decode")
        except BaseException:
            self.prefill.stop()
            raise

    def start(self, side: str) -> Process:
        """Starts one side anew; also again, after it was killed. It is not ready yet."""
        connector = self.scenario.connector
        names = ("side_port", "bootstrap_port")
        ports = {name: str(port) for name, port in zip(names, free_ports(len(names)))}
        if side == "prefill":
            self.bootstrap = int(ports["bootstrap_port"])
        ports |= {"metaserver_port": str(self.metaserver), "key_file": str(self.key_file), "cann": str(self.cann), "npus": str(self.npus)}
        environment = {name: filled(value, ports)
                       for name, value in (connector.environment | self.scenario.environment).items()}
        transfer = filled(connector.config, ports) | {"kv_role": ROLES[side]}
        parallel = self.scenario.tensor_parallel[0 if side == "prefill" else 1]
        path = [str(HERE / "shims" / folder) for folder in connector.before]
        path += [str(self.package)] if connector.ropeway else []
        setup = Setup(self.python, self.model, models.data_type(self.scenario.model), parallel, transfer, environment,
                      self.scenario.arguments[0 if side == "prefill" else 1], path=tuple(path))
        return launch(f"{side} of {self.scenario.name}", setup, self.logs / f"{side}.log")

    def wait_ready(self) -> float:
        """Seconds until both were healthy."""
        return max(self.prefill.wait_ready(), self.decode.wait_ready())

    def stop(self) -> None:
        for process in (self.decode, self.prefill):
            process.resume()
            process.stop()

    def forget(self) -> None:
        shutil.rmtree(self.logs, ignore_errors=True)

    @contextmanager
    def entry(self, name: str) -> Iterator[tuple[Entry, Proxy | None]]:
        """The front named by a scenario: `proxy`, `proxy-absent` (keys absent, not null), or a program of `router`."""
        prefill, decode = self.prefill.url, self.decode.url
        dialect = self.scenario.connector.dialect
        log = self.logs / f"{name}.log"
        if name in ("vllm-router", "kthena-like"):
            if name == "vllm-router":
                bootstrap = self.bootstrap if dialect == "mooncake" else None
                process = router.launch(self.python, dialect, prefill, bootstrap, decode, log)
            else:
                process = router.launch_kthena_like(self.cache, dialect, prefill, decode, log)
            try:
                process.wait_ready(60)
                yield Entry(process.url, prefill, decode), None
            finally:
                process.stop(5)
        elif name == "proxy-layerwise":
            with Proxy([Pair(prefill, decode)], "layerwise", port=self.metaserver) as proxy:
                yield Entry(proxy.url, prefill, decode, proxy), proxy
        elif name in ("proxy", "proxy-absent"):
            dialect = "nixl-absent" if name == "proxy-absent" else dialect
            with Proxy([Pair(prefill, decode, f"http://127.0.0.1:{self.bootstrap}")], dialect) as proxy:
                yield Entry(proxy.url, prefill, decode, proxy), proxy
        else:
            raise Failed(f"no router is called `{name}`")


def new_key(file: Path) -> None:
    """A key that no run before had, for its owner's eyes only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(secrets.token_bytes(32))


def filled(value, ports: dict[str, str]):
    """The same value with the ports put in, wherever a string names one."""
    if isinstance(value, dict):
        return {key: filled(one, ports) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, ports) for one in value]
    if isinstance(value, str):
        for name, port in ports.items():
            value = value.replace(f"{{{name}}}", port)
    return value
