"""The commands of README.md under "vLLM in five commands", run as they stand there.

What is put in their place: the wheel and the model at hand, free ports, and `vllm`, whose console script does not start in
the wheels for CPUs: a script of that name calls the same server, with what keeps a tiny model small.
"""

import json
import os
import re
import shlex
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .checks import EXTERNAL, Finding
from .instance import HERE, Failed, Process, Setup
from .metrics import Metrics
from .processes import free_ports
from .reference import model
from .router import environment
from .tools import Tools
from .verdict import Row

HEADING = "## vLLM in five commands"
WHEEL = re.compile(r"target/wheels/\S*\.whl")
PORT = re.compile(r"--port (\d+)")


@dataclass(frozen=True)
class Readme:
    """The README's way from `pip install` to an answer."""

    name: str
    vllm: str
    always: bool = False
    needs: tuple[str, ...] = ("ropeway",)

    @property
    def line(self) -> str:
        return f"the commands of README.md, as a new user runs them, vLLM {self.vllm}"

    def rows(self, tools: Tools) -> Iterator[Row]:
        python, package = tools.python, tools.ropeway()
        row, start = Row(self.name, "RopewayConnector", "any", "vllm-router", "README's commands", self.vllm), time.monotonic()
        commands = written((HERE.parent.parent / "README.md").read_text())
        # `cargo xtask e2e` leaves the wheel beside the folder that it is unpacked into.
        wheel = next(iter(sorted((package.parent / "e2e-wheel").glob("*.whl"))), None)
        if wheel is None:
            raise Failed(f"there is no wheel in {package.parent / 'e2e-wheel'}")
        folder = tools.logs / "readme"
        surroundings = user(folder / "venv", python) | {"MODEL": str(model("llama", python, tools.cache))}
        processes: list[Process] = []
        try:
            answer = follow(substituted(commands, wheel), surroundings, folder, processes)
            row.findings = [Finding("readme_answers", tuple(judged(answer, processes)))]
        except (Failed, OSError, subprocess.SubprocessError) as error:
            row.findings = [Finding("readme_answers", (str(error),))]
        finally:
            for process in reversed(processes):
                process.stop()
        row.tests, row.good = len(commands), not row.failed()
        row.seconds = round(time.monotonic() - start, 1)
        yield row


def written(text: str) -> list[str]:
    """The commands of the section's first block; lines that end in a backslash go on."""
    _, _, section = text.partition(f"\n{HEADING}\n")
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    if block is None:
        raise Failed(f"README.md has no commands under {HEADING!r}")
    lines = block.group(1).replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def substituted(commands: list[str], wheel: Path) -> list[str]:
    """The same with the wheel that is there and ports that are free."""
    text = WHEEL.sub(str(wheel), "\n".join(commands))
    ports = list(dict.fromkeys(PORT.findall(text)))
    for old, new in zip(ports, free_ports(len(ports))):
        text = re.sub(rf"\b{old}\b", str(new), text)
    return text.splitlines()


def user(folder: Path, python: str) -> dict[str, str]:
    """An environment over vLLM's, which stays as it is: what is installed goes into the one on top."""
    venv.create(folder, with_pip=True, clear=True)
    beneath = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                             capture_output=True, text=True, check=True).stdout
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "beneath.pth").write_text(beneath)
    programs = folder / "bin"
    (programs / "vllm-router").symlink_to(Path(python).with_name("vllm-router"))
    small = ("--dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 8 --max-num-batched-tokens 1024 "
             "--block-size 32 --kv-cache-memory-bytes 256M --host 127.0.0.1")
    server = programs / "vllm"
    server.write_text(f'#!/bin/sh\n[ "$1" = serve ] || exit 2\nmodel=$2; shift 2\n'
                      f'exec "{programs}/python" -m vllm.entrypoints.openai.api_server --model "$model" {small} "$@"\n')
    server.chmod(0o755)
    ours = Setup(python, folder).variables() | environment()
    return ours | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": ""}


def follow(commands: list[str], surroundings: dict[str, str], folder: Path, processes: list[Process],
           launch: Callable[..., Process] = Process) -> str:
    """Runs the commands in their order, the ones that end in `&` as servers; the output of the last one."""
    output = ""
    for at, command in enumerate(commands):
        if command.endswith("&"):
            port = PORT.search(command)
            if port is None:
                raise Failed(f"a server without a port: {command}")
            if "vllm serve" not in command:
                ready(processes)
            line = ["/bin/sh", "-c", f"exec {command.removesuffix('&')}"]
            processes.append(launch(f"command {at + 1}", line, surroundings, int(port.group(1)),
                                    folder / f"{at + 1}.log"))
            continue
        ready(processes)
        done = subprocess.run(["/bin/sh", "-c", command], env=surroundings, capture_output=True, text=True,
                              timeout=300, check=False, cwd=folder)
        if done.returncode != 0:
            raise Failed(f"command {at + 1} ended with {done.returncode}: {shlex.split(command)[0]}: "
                         f"{(done.stderr or done.stdout).strip()[-300:]}")
        output = done.stdout
    return output


def ready(processes: list[Process]) -> None:
    for process in processes:
        process.wait_ready()


def judged(answer: str, processes: list[Process]) -> list[str]:
    """An answer with text, and a decode instance that has the prompt from the other."""
    try:
        text = json.loads(answer)["choices"][0]["text"]
    except (ValueError, LookupError, TypeError):
        return [f"no answer: {answer[:200]}"]
    wrong = [] if text else ["the answer is empty"]
    sources = Metrics.of(processes[1].url).prompt_tokens()
    if not sources[EXTERNAL] or sources["local_compute"]:
        wrong.append(f"the decode instance counts {sources}")
    return wrong
