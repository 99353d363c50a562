"""Routers that are programs: `vllm-router`, and one in Go that carries requests as Kthena's does."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from .instance import Failed, Process
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


GO = Path(__file__).resolve().parents[2] / "kthena"


def kthena_like(cache: Path) -> Path:
    """Builds the router of `tests/kthena`, quickly when nothing changed. It needs Go and none of its modules."""
    program = cache / "kthena-like"
    build = ["go", "build", "-buildvcs=false", "-o", str(program), "./router"]
    try:
        # Another version of Go is not fetched for it.
        done = subprocess.run(build, cwd=GO, env={**os.environ, "GOTOOLCHAIN": "local"}, capture_output=True,
                              text=True, timeout=500)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"the router in Go cannot be built: {error}") from error
    if done.returncode != 0:
        raise Failed(f"the router in Go cannot be built: {done.stderr[-2000:]}")
    return program


def launch_kthena_like(cache: Path, kind: str, prefill: str, decode: str, log: Path) -> Process:
    """Starts it as a ModelServer of the connector type `kind` would. It is not ready yet."""
    (port,) = free_ports(1)
    command = [str(kthena_like(cache)), "--port", str(port), "--type", kind,
               "--prefill", urlsplit(prefill).netloc, "--decode", urlsplit(decode).netloc]
    return Process("kthena-like", command, environment(), port, log)


def environment() -> dict[str, str]:
    # Requests to loopback must not leave through a proxy of the surroundings.
    return {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
