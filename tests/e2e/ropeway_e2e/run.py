"""Runs a scenario: a pair is started once, and each router in front of it gives a row of the verdict."""

import shutil
import time
from pathlib import Path

from . import checks, models, rounds
from .checks import Seen
from .client import body_of, complete
from .faults import FAULTS
from .instance import Failed
from .metrics import Metrics
from .pair import Instances
from .processes import idle_cores, inside, resident_bytes
from .prompts import ANSWER, resolve, suite
from .proxy import Proxy
from .reference import Reference, model, reference
from .rounds import Entry
from .scenarios import Anything, Other, Scenario
from .tools import Tools
from .verdict import Row


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Run:
    """What all scenarios of a run have in common."""

    def __init__(self, pythons: dict[str, str], cache: Path, out: Path, package: Path | None = None,
                 cann: Path | None = None) -> None:
        self.pythons, self.cache, self.out, self.package, self.cann = pythons, cache, out, package, cann
        # Tokens of scenarios that ran before, for those that trust them.
        self.tokens: dict[str, dict[str, list[int]]] = {}

    def other(self, proof: Other) -> list[Row]:
        """The rows of what starts no pair of instances."""
        say(f"{proof.name}: {proof.line}")
        rows, logs = [], self.out / "logs"
        for row in proof.rows(Tools(self.pythons[proof.vllm], self.cache, logs, self.package, self.cann)):
            say(f"{proof.name}: {row.model} over {row.transport}, {row.router}: {row.word}, {row.seconds:.0f} s")
            rows.append(row)
        if not any(row.bad for row in rows):
            shutil.rmtree(logs / proof.name, ignore_errors=True)
        return rows

    def scenario(self, scenario: Anything) -> list[Row]:
        """A row for each router; one that says why when the pair did not come up."""
        if not isinstance(scenario, Scenario):
            return self.other(scenario)
        say(f"{scenario.name}: {scenario.connector.name} over {scenario.connector.transport}, {scenario.model}")
        python, logs = self.pythons[scenario.vllm], self.out / "logs" / scenario.name
        instances = None
        try:
            known = reference(scenario.model, scenario.vllm, python, self.cache, self.out / "logs")
            made = model(scenario.model, python, self.cache)
            instances = Instances(scenario, python, made, logs, self.cache, self.package, self.cann)
            say(f"{scenario.name}: both instances are up after {instances.wait_ready():.0f} s")
            rows = [self.behind(instances, router, known, first=router == scenario.routers[0])
                    for router in scenario.routers]
            rows += [self.struck(instances, fault, known) for fault in scenario.faults]
        except (Failed, OSError) as error:
            rows = [broken(scenario, scenario.routers[0], str(error))]
        finally:
            if instances is not None:
                instances.stop()
        if instances is not None and all(row.good for row in rows):
            instances.forget()
        return rows

    def behind(self, instances: Instances, router: str, known: Reference, first: bool) -> Row:
        scenario, start = instances.scenario, time.monotonic()
        row, seen = row_of(scenario, router), Seen(idle_cores_alone=known.idle_cores)
        try:
            with instances.entry(router) as (entry, proxy):
                if first:
                    # Nobody has met anybody yet.
                    row.times_ms |= rounds.handshake(entry)
                self.observe(scenario, entry, proxy, known, seen, row)
            seen.idle_cores = idle(instances)
            seen.inside = {side: inside(process.pid) for side, process in sides(instances).items()}
            seen.workers = dict(zip(sides(instances), scenario.tensor_parallel))
            row.idle_cores = seen.idle_cores | {"single": known.idle_cores}
            row.memory_bytes = {side: resident_bytes(process.pid) for side, process in sides(instances).items()}
        except (Failed, OSError) as error:
            seen.broken.append(str(error))
        seen.alive = {side: process.answers() for side, process in sides(instances).items()}
        connector = scenario.connector
        row.findings = checks.judge(seen, scenario.rounds, connector.idle_cores_max, connector.engine_thread,
                                    connector.foreign_library)
        row.control = bool(scenario.must_fail)
        row.good = checks.as_expected(row.findings, scenario.must_fail)
        row.prompts = len(seen.sequential) + len(seen.concurrent) + len(seen.primed) + len(seen.after_disconnects) + len(
            seen.after_storm)
        equal = ("_outputs_equal", "right_after_disconnects", "right_after_storm")
        row.outputs_equal = row.prompts > 0 and not any(f.check.endswith(equal) for f in row.failed())
        row.tokens_external, row.tokens_local = checks.token_totals(seen)
        row.seconds = round(time.monotonic() - start, 1)
        say(f"{scenario.name} behind {router}: {row.word}, {row.seconds:.0f} s")
        return row

    def observe(self, scenario: Scenario, entry: Entry, proxy: Proxy | None, known: Reference, seen: Seen,
                row: Row) -> None:
        """Every round of the scenario, in the order in which later ones depend on none before."""
        seen.references = self.expected(scenario, entry, known)
        entry.reset()
        seen.control = rounds.control(entry, known.answers)
        before = Metrics.of(entry.decode)
        seen.sequential = rounds.sequential(entry, seen.references)
        if scenario.connector.load_bytes is not None and scenario.tensor_parallel == (1, 1):
            seen.loads = loads_between(before, Metrics.of(entry.decode), scenario.connector.load_bytes)
            seen.token_bytes = models.token_bytes(scenario.model)
            seen.recurrent = scenario.model in models.RECURRENT
        row.first_token_ms = {one.prompt: rounds.median([one.answer.first_s]) for one in seen.sequential}
        for name in scenario.rounds:
            if name in rounds.ROUNDS:
                found = rounds.ROUNDS[name](entry, seen.references)
                setattr(seen, {"disconnects": "after_disconnects", "storm": "after_storm"}.get(name, name), found)
        row.times_ms |= rounds.times(entry, proxy, scenario.timed)
        row.times_ms["single_first_token_ms"] = known.first_token_ms
        seen.held = entry.given_back()
        after = Metrics.of(entry.decode)
        seen.metrics_missing = [name for name in scenario.connector.metrics if not after.has(name)]
        row.times_ms["connector_transfer_ms"] = mean_between(before, after, scenario.connector.transfer_time)
        if proxy and proxy.trips:
            row.params = next((trip.params for trip in reversed(proxy.trips) if trip.params), None)
        self.tokens[scenario.name] = {one.prompt: one.answer.tokens for one in seen.sequential}

    def struck(self, instances: Instances, name: str, known: Reference) -> Row:
        """What a fault of the pair shows."""
        row, start = row_of(instances.scenario, f"{instances.scenario.routers[0]}, {name}"), time.monotonic()
        seen = Seen(references=known.answers)
        try:
            FAULTS[name](instances, known, seen)
        except (Failed, OSError) as error:
            seen.broken.append(str(error))
        seen.alive = {side: process.answers() for side, process in sides(instances).items()}
        row.findings = checks.judge_fault(seen)
        row.good = checks.as_expected(row.findings, frozenset())
        row.prompts = len(seen.hit) + len(seen.meanwhile or ()) + len(seen.after_fault)
        row.outputs_equal = not any(f.check == "never_wrong" or "right_" in f.check for f in row.failed())
        row.seconds = round(time.monotonic() - start, 1)
        errors = {one.answer.error for one in seen.hit if one.answer.error}
        longest = max((one.answer.total_s for one in seen.hit), default=0)
        say(f"{instances.scenario.name}, {name}: {row.word}, {row.seconds:.0f} s; of {len(seen.hit)} requests that it hit, "
            f"{sum(one.answer.error is not None for one in seen.hit)} failed, the last after {longest:.0f} s: {errors}")
        return row

    def expected(self, scenario: Scenario, entry: Entry, known: Reference) -> dict[str, list[int]]:
        """The tokens to expect: of a single instance, of a trusted scenario, or of this pair's first pass."""
        if scenario.reference == "single":
            return known.answers
        if scenario.reference != "itself":
            if scenario.reference not in self.tokens:
                raise Failed(f"the tokens of `{scenario.reference}` are the reference, and it has not run")
            return self.tokens[scenario.reference]
        found = {one.prompt: one.answer.tokens for one in rounds.sequential(entry, known.answers)}
        # A second turn starts from the answer of this pair, not of the single instance.
        for prompt in suite():
            if prompt.after is not None:
                found[prompt.name] = complete(entry.url, body_of(resolve(prompt, found), ANSWER)).tokens
        return found


def sides(instances: Instances) -> dict[str, object]:
    return {"prefill": instances.prefill, "decode": instances.decode}


def idle(instances: Instances) -> dict[str, float]:
    """Cores that each side keeps busy with nothing to do."""
    used = idle_cores([process.pid for process in sides(instances).values()])
    return dict(zip(sides(instances), used))


def loads_between(before: Metrics, after: Metrics, histogram: str) -> tuple[int, int]:
    """Loads that a histogram of bytes counted meanwhile, and their bytes."""
    count, total = (after.total(f"{histogram}_{what}") - before.total(f"{histogram}_{what}") for what in ("count", "sum"))
    return int(count), int(total)


def mean_between(before: Metrics, after: Metrics, histogram: str | None) -> float | None:
    """The mean in milliseconds of what a histogram of seconds took in meanwhile."""
    if histogram is None:
        return None
    count = after.total(f"{histogram}_count") - before.total(f"{histogram}_count")
    total = after.total(f"{histogram}_sum") - before.total(f"{histogram}_sum")
    return round(total / count * 1000, 2) if count else None


def row_of(scenario: Scenario, router: str) -> Row:
    connector = scenario.connector
    return Row(scenario.name, connector.name, connector.transport, router, scenario.model, scenario.vllm)


def broken(scenario: Scenario, router: str, why: str) -> Row:
    row = row_of(scenario, router)
    row.findings = [checks.Finding("harness_whole", (why,))]
    return row
