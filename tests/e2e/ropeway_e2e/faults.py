"""What befalls a pair behind the built-in proxy: each fault is a further row of its scenario."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import rounds
from .checks import Asked, Seen
from .pair import Instances
from .prompts import suite
from .reference import Reference

AFTERWARDS = ("block+1", "some", "longest")
# Of the prompts that are asked at once, the one at whose decode leg the decode instance dies.
DEADLY_LEG = 3
# A request whose prefill instance is stopped waits for it by now.
WAITING_SECONDS = 2


def prefill_killed(instances: Instances, known: Reference, seen: Seen) -> None:
    """The prefill instance is killed when it has answered and lent its blocks, and started again."""
    with instances.entry(instances.scenario.routers[0]) as (entry, proxy):
        entry.reset()
        proxy.between = instances.prefill.kill
        seen.hit = rounds.some(entry, known.answers, ("some",))
    instances.prefill = instances.start("prefill")
    instances.prefill.wait_ready()
    afterwards(instances, known, seen)


def prefill_stopped(instances: Instances, known: Reference, seen: Seen) -> None:
    """The prefill instance stops in its tracks when it has lent its blocks, and goes on once the request is over.

    It lives and its connections stay: nothing but time tells of it. The decode instance serves others meanwhile.
    """
    with instances.entry(instances.scenario.routers[0]) as (entry, proxy):
        entry.reset()
        proxy.between = instances.prefill.pause
        try:
            with ThreadPoolExecutor(1) as other:
                asked = other.submit(rounds.some, entry, known.answers, ("some",))
                while not instances.prefill.paused and not asked.done():
                    time.sleep(0.01)
                time.sleep(WAITING_SECONDS)
                seen.meanwhile = straight(instances.decode.url, known)
                seen.hit = asked.result()
        finally:
            instances.prefill.resume()
    afterwards(instances, known, seen)


def decode_killed(instances: Instances, known: Reference, seen: Seen) -> None:
    """The decode instance is killed with several requests under way, and started again."""
    legs, lock = 0, threading.Lock()

    def between() -> None:
        nonlocal legs
        with lock:
            legs += 1
            if legs == DEADLY_LEG:
                instances.decode.kill()

    with instances.entry(instances.scenario.routers[0]) as (entry, proxy):
        entry.reset()
        proxy.between = between
        seen.hit = rounds.at_once(entry, known.answers)
    instances.decode = instances.start("decode")
    instances.decode.wait_ready()
    afterwards(instances, known, seen)


def afterwards(instances: Instances, known: Reference, seen: Seen) -> None:
    with instances.entry(instances.scenario.routers[0]) as (entry, _):
        seen.after_fault = rounds.some(entry, known.answers, AFTERWARDS)
        seen.held = entry.given_back()


def straight(url: str, known: Reference) -> list[Asked]:
    """A prompt that needs nobody else."""
    return [rounds.ask(url, prompt, known.answers) for prompt in suite() if prompt.name == "half"]


Fault = Callable[[Instances, Reference, Seen], None]
FAULTS: dict[str, Fault] = {
    "P killed": prefill_killed, "P stopped": prefill_stopped, "D killed": decode_killed,
}
