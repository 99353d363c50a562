"""What a single instance answers: the expected tokens, its times, what it burns idle. Kept until anything changes."""

import hashlib
import json
import os
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from . import models
from .client import body_of, complete
from .instance import Failed, Setup, launch, reset_prefix_cache
from .processes import idle_cores
from .prompts import ANSWER, resolve, suite, timed
from .rounds import median

# Raised when what a reference holds changes.
FORM = 2


@dataclass
class Reference:
    answers: dict[str, list[int]]
    first_token_ms: float | None
    idle_cores: float


def model(kind: str, python: str, cache: Path) -> Path:
    """A tiny model, made now unless it is kept."""
    folder = models.folder_of(kind, cache)
    if not models.is_whole(folder):
        print(f"making the model {folder.name}", flush=True)
        subprocess.run([python, "-m", "ropeway_e2e.models", kind, str(folder)], check=True,
                       env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    return folder


def reference(kind: str, vllm: str, python: str, cache: Path, logs: Path) -> Reference:
    """The kept reference, or one from an instance that is started for it."""
    folder = model(kind, python, cache)
    setup = Setup(python, folder, models.data_type(kind))
    prompts = [(one.name, one.tokens, one.after) for one in suite() + timed(3)]
    what = json.dumps([FORM, vllm, setup.command(0)[1:], prompts, ANSWER])
    kept = cache / "references" / f"{kind}-{vllm}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.json"
    # Anything that cannot be read is made anew.
    with suppress(OSError, ValueError, TypeError):
        return Reference(**json.loads(kept.read_text()))
    made = measure(setup, logs / f"reference-{kind}-{vllm}.log")
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(made)))
    draft.rename(kept)
    return made


def measure(setup: Setup, log: Path) -> Reference:
    print(f"asking a single instance of {setup.model.name} for the reference", flush=True)
    server = launch("reference", setup, log)
    try:
        server.wait_ready()
        answers: dict[str, list[int]] = {}
        for prompt in suite():
            # Cold each time, so that prefixes in common are computed as a lone request would.
            reset_prefix_cache(server.url)
            answer = complete(server.url, body_of(resolve(prompt, answers), ANSWER))
            if not answer.good or len(answer.tokens) != ANSWER:
                raise Failed(f"the reference for {prompt.name}: {answer}")
            answers[prompt.name] = answer.tokens
        times = [complete(server.url, body_of(list(prompt.tokens), 2)).first_s for prompt in timed(3)]
        (idle,) = idle_cores([server.pid])
        return Reference(answers, median(times), idle)
    finally:
        server.stop()
