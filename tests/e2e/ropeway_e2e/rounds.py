"""Asks an entry point (a proxy, a router) in rounds, and notes what the decode instance counts meanwhile."""

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from .checks import Asked
from .client import body_of, complete
from .instance import reset_prefix_cache
from .metrics import Metrics
from .prompts import ANSWER, Prompt, of, resolve, suite, timed
from .proxy import ClientGone, Proxy

CLIENTS = 4
STORM, STORM_CLIENTS = 240, 16
# Blocks come back at once, or when a lease of a vanished reader ends: NIXL's lasts 30 s.
GIVE_BACK_SECONDS = 60


@dataclass
class Entry:
    """Where requests go, and the two instances behind it."""

    url: str
    prefill: str
    decode: str
    # Where the entry is the built-in proxy.
    proxy: Proxy | None = None
    # How long blocks are waited for; not at all any more once they did not come.
    patience: float | None = None

    def reset(self) -> None:
        """Both instances forget their cached prompts; while blocks are held they refuse, so a moment is given."""
        self.given_back()
        for url in (self.prefill, self.decode):
            reset_prefix_cache(url)

    def given_back(self) -> dict[str, float]:
        """The shares of blocks still held, when they are all back or the time is over."""
        deadline = time.monotonic() + (GIVE_BACK_SECONDS if self.patience is None else self.patience)
        while True:
            held = {"prefill": Metrics.of(self.prefill).kv_usage(), "decode": Metrics.of(self.decode).kv_usage()}
            if not any(held.values()):
                return held
            if time.monotonic() > deadline:
                self.patience = 0
                return held
            time.sleep(0.2)


def ask(url: str, prompt: Prompt, references: dict[str, list[int]]) -> Asked:
    ids = resolve(prompt, references)
    return Asked(prompt.name, len(ids), references[prompt.name], complete(url, body_of(ids, ANSWER)))


def counted(decode: str, work) -> Asked:
    """Runs one request alone, and notes where the decode instance says its tokens came from."""
    before = Metrics.of(decode).prompt_tokens()
    asked = work()
    # The counters are published by another process: a moment after the answer.
    for _ in range(20):
        after = Metrics.of(decode).prompt_tokens()
        asked.sources = {name: after[name] - before[name] for name in after}
        if sum(asked.sources.values()) >= asked.length:
            break
        time.sleep(0.1)
    return asked


def control(entry: Entry, references: dict[str, list[int]]) -> Asked:
    """A prompt straight to the decode instance."""
    prompt = next(one for one in suite() if one.name == "half")
    return counted(entry.decode, lambda: ask(entry.decode, prompt, references))


def sequential(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    entry.reset()
    return [counted(entry.decode, lambda: ask(entry.url, prompt, references)) for prompt in suite()]


def concurrent(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    """All prompts, several clients at a time, with cold caches."""
    entry.reset()
    return at_once(entry, references)


def at_once(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(lambda prompt: ask(entry.url, prompt, references), suite()))


def primed(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    """Prompts that the decode instance has from requests of its own: full hits; and from their first half: part."""
    entry.reset()
    chosen = [one for one in suite() if one.name in ("4 blocks", "4 blocks+1", "some", "longest")]
    for prompt in chosen:
        known = list(prompt.tokens) if prompt.name != "longest" else list(prompt.tokens)[: len(prompt.tokens) // 2]
        complete(entry.decode, body_of(known, 1))
    return [ask(entry.url, prompt, references) for prompt in chosen]


def disconnects(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    """Clients that leave at once, between the legs, or after the first token; then answers must be right and blocks
    come back."""
    entry.reset()
    if entry.proxy:
        with left_between(entry.proxy):
            complete(entry.url, body_of(list(of("left between", 300).tokens), 200))
    work = [(of(f"left {index}", 400 + index), index % 2) for index in range(6)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(
            lambda one: complete(entry.url, body_of(list(one[0].tokens), 200), leave_after=one[1]), work))
    return some(entry, references, ("block+1", "some", "longest"))


def storm(entry: Entry, references: dict[str, list[int]]) -> list[Asked]:
    """Hundreds of clients, many at a time, who leave at any moment; then answers must be right and blocks come back."""
    entry.reset()
    chance = random.Random("ropeway storm")
    work = [(of(f"storm {index}", chance.randrange(8, 900)), chance.choice((0, 0, 0, 1, 3)), chance.uniform(0, 0.8))
            for index in range(STORM)]
    with ThreadPoolExecutor(STORM_CLIENTS) as clients:
        list(clients.map(
            lambda one: complete(entry.url, body_of(list(one[0].tokens), 60), leave_after=one[1], pause=one[2]), work))
    return some(entry, references, ("block+1", "some", "longest"))


@contextmanager
def left_between(proxy: Proxy) -> Iterator[None]:
    """Whoever asks meanwhile has left when the prefill instance answers: nobody tells a consumer of the lent blocks."""
    def leave() -> None:
        raise ClientGone

    proxy.between = leave
    try:
        yield
    finally:
        proxy.between = lambda: None


def some(entry: Entry, references: dict[str, list[int]], names: tuple[str, ...]) -> list[Asked]:
    return [ask(entry.url, prompt, references) for prompt in suite() if prompt.name in names]


ROUNDS = {"concurrent": concurrent, "primed": primed, "disconnects": disconnects, "storm": storm}


def times(entry: Entry, proxy: Proxy | None, count: int) -> dict[str, float | None]:
    """Medians over long prompts in milliseconds: to the first token, and of the decode leg cold and cached.

    The cold decode leg less the cached one is what moving KV costs; the proxy alone can see it.
    """
    if not count:
        return {}
    entry.reset()
    start = len(proxy.trips) if proxy else 0
    bodies = [body_of(list(prompt.tokens), 2) for prompt in timed(count)]
    cold = [complete(entry.url, body) for body in bodies]
    entry.given_back()
    cached = [complete(entry.url, body) for body in bodies]
    found = {"first_token_ms": median([one.first_s for one in cold])}
    if proxy:
        legs = proxy.trips[start:]
        found["prefill_leg_ms"] = median([trip.prefill_s for trip in legs[:count]])
        found["decode_leg_ms"] = median([trip.decode_first_s for trip in legs[:count]])
        found["decode_leg_cached_ms"] = median([trip.decode_first_s for trip in legs[count:]])
        found["first_token_cached_ms"] = median([one.first_s for one in cached])
    return found


def median(seconds: list[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return round(statistics.median(known) * 1000, 1) if known else None


def handshake(entry: Entry) -> dict[str, float | None]:
    """The first request that ever meets this pair, and the ones after it, which find the peers connected.

    Each instance has answered one by itself before, so that what a vLLM does once is not counted.
    """
    for url in (entry.prefill, entry.decode):
        complete(url, body_of(list(of("alone", 100).tokens), 2))
    bodies = [body_of(list(of(f"meet {index}", 100).tokens), 2) for index in range(4)]
    answers = [complete(entry.url, body).first_s for body in bodies]
    return {"request_1_ms": median(answers[:1]), "request_2_ms": median(answers[1:])}
