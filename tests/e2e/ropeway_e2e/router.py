"""`vllm-router` in prefill-decode mode, in front of a pair."""

import os
from pathlib import Path

from .instance import Process
from .processes import free_ports


def launch(python: str, dialect: str, prefill: str, bootstrap_port: int | None, decode: str, log: Path) -> Process:
    """Starts the router of the same environment as `python`. It is not ready yet."""
    program = Path(python).with_name("vllm-router")
    port, prometheus = free_ports(2)
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(prometheus),
               "--prometheus-host", "127.0.0.1", "--vllm-pd-disaggregation", "--kv-connector", dialect,
               "--policy", "round_robin", "--prefill", prefill]
    command += [str(bootstrap_port)] if bootstrap_port is not None else []
    command += ["--decode", decode, "--log-level", "info"]
    return Process("vllm-router", command, environment(), port, log)


def environment() -> dict[str, str]:
    # Requests to loopback must not leave through a proxy of the surroundings.
    return {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
