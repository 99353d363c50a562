"""A prefill and a decode instance of one scenario, on ports of their own, and what is put in front of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import models, router
from .instance import Failed, Process, Setup, launch
from .processes import free_ports
from .proxy import Pair, Proxy
from .rounds import Entry
from .scenarios import Scenario

ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


class Instances:
    """Both processes. `logs` is kept when anything was wrong, and removed by `forget` when nothing was."""

    def __init__(self, scenario: Scenario, python: str, model: Path, logs: Path) -> None:
        self.scenario, self.python, self.model, self.logs = scenario, python, model, logs
        self.bootstrap: int | None = None
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
        environment = {name: filled(value, ports)
                       for name, value in (connector.environment | self.scenario.environment).items()}
        transfer = filled(connector.config, ports) | {"kv_role": ROLES[side]}
        parallel = self.scenario.tensor_parallel[0 if side == "prefill" else 1]
        setup = Setup(self.python, self.model, models.data_type(self.scenario.model), parallel, transfer, environment)
        return launch(f"{side} of {self.scenario.name}", setup, self.logs / f"{side}.log")

    def wait_ready(self) -> float:
        """Seconds until both were healthy."""
        return max(self.prefill.wait_ready(), self.decode.wait_ready())

    def stop(self) -> None:
        for process in (self.decode, self.prefill):
            process.stop()

    def forget(self) -> None:
        shutil.rmtree(self.logs, ignore_errors=True)

    @contextmanager
    def entry(self, name: str) -> Iterator[tuple[Entry, Proxy | None]]:
        """The front named by a scenario: `proxy`, `proxy-absent` (keys absent, not null) or `vllm-router`."""
        prefill, decode = self.prefill.url, self.decode.url
        dialect = self.scenario.connector.dialect
        if name == "vllm-router":
            bootstrap = self.bootstrap if dialect == "mooncake" else None
            process = router.launch(self.python, dialect, prefill, bootstrap, decode, self.logs / "router.log")
            try:
                process.wait_ready(60)
                yield Entry(process.url, prefill, decode), None
            finally:
                process.stop(5)
        elif name in ("proxy", "proxy-absent"):
            dialect = "nixl-absent" if name == "proxy-absent" else dialect
            with Proxy([Pair(prefill, decode, f"http://127.0.0.1:{self.bootstrap}")], dialect) as proxy:
                yield Entry(proxy.url, prefill, decode), proxy
        else:
            raise Failed(f"no router is called `{name}`")


def filled(value, ports: dict[str, str]):
    """The same value with the ports put in, wherever a string names one."""
    if isinstance(value, dict):
        return {key: filled(one, ports) for key, one in value.items()}
    if isinstance(value, str):
        for name, port in ports.items():
            value = value.replace(f"{{{name}}}", port)
    return value
