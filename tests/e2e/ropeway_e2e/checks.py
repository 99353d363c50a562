"""What a proof judges. Each check is a function of what was seen, so that a fake can make each of them fail."""

from collections.abc import Callable
from dataclasses import dataclass, field

from .client import Answer
from .processes import Inside
from .prompts import BLOCK

EXTERNAL = "external_kv_transfer"
# How vLLM calls the processes that hold KV caches.
WORKER = "VLLM::Worker"
EXTERNAL_SHARE = 0.9
# Of the tokens of an answer: a model that only echoes or repeats does not depend on what is in its KV cache.
VARIED_SHARE = 0.2


@dataclass
class Asked:
    """A prompt, what it should give, what it gave, and where its tokens' KV came from on the decode instance."""

    prompt: str
    length: int
    expected: list[int]
    answer: Answer
    sources: dict[str, int] | None = None


@dataclass
class Seen:
    """Everything that was seen of one scenario behind one router."""

    sequential: list[Asked] = field(default_factory=list)
    concurrent: list[Asked] = field(default_factory=list)
    primed: list[Asked] = field(default_factory=list)
    after_disconnects: list[Asked] = field(default_factory=list)
    after_storm: list[Asked] = field(default_factory=list)
    # Requests that a fault hit; ones that had no part in it while it lasted, None where nobody asked; and ones after it.
    hit: list[Asked] = field(default_factory=list)
    meanwhile: list[Asked] | None = None
    after_fault: list[Asked] = field(default_factory=list)
    references: dict[str, list[int]] = field(default_factory=dict)
    # A prompt that went straight to the decode instance, without parameters of a transfer.
    control: Asked | None = None
    # By side, once the load is over and the deadline for giving blocks back has passed.
    held: dict[str, float] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    idle_cores_alone: float | None = None
    metrics_missing: list[str] = field(default_factory=list)
    # Loads of the sequential round and their bytes, by the connector's own metrics, where it counts them.
    loads: tuple[int, int] | None = None
    # What the KV of a token takes, where all layers hold the same of each; None elsewhere.
    token_bytes: int | None = None
    # Whether the last token of a prompt is never loaded.
    recurrent: bool = False
    alive: dict[str, bool] = field(default_factory=dict)
    # By side: its processes and how many workers it has; not asked of connectors that do not say what is beneath.
    inside: dict[str, list[Inside]] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    # What the harness itself could not do; any entry is a failure.
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """A check by its name, and what is wrong; nothing when it passed."""

    check: str
    wrong: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.wrong


def differing(asked: list[Asked]) -> list[str]:
    """Where answers differ from the reference: the prompt and the first token that does."""
    found = []
    for one in asked:
        got = one.answer.tokens
        if one.answer.error is not None:
            found.append(f"{one.prompt}: {one.answer.error}")
        elif got != one.expected:
            same = [a == b for a, b in zip(got, one.expected)]
            at = same.index(False) if False in same else len(same)
            found.append(f"{one.prompt}: token {at} of {len(one.expected)} differs: {got[at:at + 1]} "
                         f"for {one.expected[at:at + 1]}")
    return found


def references_distinct(seen: Seen) -> list[str]:
    """Answers that are alike would be alike also when KV is mixed up between requests."""
    by_answer: dict[tuple[int, ...], list[str]] = {}
    for name, tokens in seen.references.items():
        by_answer.setdefault(tuple(tokens), []).append(name)
    return [f"the same answer to {', '.join(names)}" for names in by_answer.values() if len(names) > 1]


def references_varied(seen: Seen) -> list[str]:
    """An answer that repeats itself shows little of the KV that it came from."""
    return [f"the answer to {name} has {len(set(tokens))} different tokens of {len(tokens)}"
            for name, tokens in seen.references.items() if len(set(tokens)) < VARIED_SHARE * len(tokens)]


def control_computed(seen: Seen) -> list[str]:
    """The counters must tell apart what was computed here from what came over."""
    if seen.control is None or seen.control.sources is None:
        return ["the control request was not sent"]
    sources, length = seen.control.sources, seen.control.length
    wrong = differing([seen.control])
    if sources["local_compute"] != length or sources[EXTERNAL]:
        wrong.append(f"{length} tokens were sent straight to the decode instance, which counts {sources}")
    return wrong


def sequential_outputs_equal(seen: Seen) -> list[str]:
    return differing(seen.sequential) if seen.sequential else ["nothing was asked"]


def prompts_transferred(seen: Seen) -> list[str]:
    """Every prompt used KV that came over: what its instance did not have, it did not compute."""
    wrong = []
    for one in seen.sequential:
        if one.sources is None:
            wrong.append(f"{one.prompt}: not counted")
        elif one.length > 1 and one.sources[EXTERNAL] == 0:
            wrong.append(f"{one.prompt}: {one.length} tokens, none came over: {one.sources}")
    return wrong


def tokens_transferred(seen: Seen) -> list[str]:
    moved, computed = token_totals(seen)
    if moved + computed == 0:
        return ["no prompt token was counted"]
    share = moved / (moved + computed)
    return [] if share >= EXTERNAL_SHARE else [f"{moved} tokens came over, {computed} were computed again"]


def token_totals(seen: Seen) -> tuple[int, int]:
    """Prompt tokens of the sequential round that came over, and that the decode instance computed."""
    counted = [one.sources for one in seen.sequential if one.sources is not None]
    return sum(one[EXTERNAL] for one in counted), sum(one["local_compute"] for one in counted)


def concurrent_outputs_equal(seen: Seen) -> list[str]:
    return differing(seen.concurrent)


def primed_outputs_equal(seen: Seen) -> list[str]:
    """Prompts that the decode instance has cached, wholly or in part."""
    return differing(seen.primed)


def right_after_disconnects(seen: Seen) -> list[str]:
    return differing(seen.after_disconnects)


def right_after_storm(seen: Seen) -> list[str]:
    return differing(seen.after_storm)


def never_wrong(seen: Seen) -> list[str]:
    """A request that lost its KV may fail, or be computed again; it may not give other tokens, nor none for ever."""
    wrong = [] if seen.hit else ["nothing was asked"]
    for one in seen.hit:
        got = one.answer.tokens
        if got != one.expected[: len(got)]:
            wrong.append(f"{one.prompt}: {got} for {one.expected}")
        elif one.answer.error is not None and "timed out" in one.answer.error:
            wrong.append(f"{one.prompt}: no answer after {one.answer.total_s:.0f} s")
    return wrong


def right_meanwhile(seen: Seen) -> list[str]:
    """Whoever needs nobody else is served while another request waits for a peer that is silent."""
    if seen.meanwhile is None:
        return []
    return differing(seen.meanwhile) if seen.meanwhile else ["nothing was asked"]


def right_after_fault(seen: Seen) -> list[str]:
    return differing(seen.after_fault) if seen.after_fault else ["nothing was asked"]


def blocks_given_back(seen: Seen) -> list[str]:
    if not seen.held:
        return ["nobody looked"]
    return [f"the {side} instance still holds {share:.2%} of its blocks" for side, share in seen.held.items() if share]


def metrics_there(seen: Seen) -> list[str]:
    return [f"no metric {name}" for name in seen.metrics_missing]


def loads_counted(seen: Seen) -> list[str]:
    """The connector's own metrics tell of each load, and of the bytes of the blocks that came over."""
    if seen.loads is None:
        return []
    # vLLM computes the last token of a prompt that came over whole, and counts it so: of one token it counts no other.
    moved = [one.sources[EXTERNAL] or 1 for one in seen.sequential
             if one.sources and (one.sources[EXTERNAL] or one.length == 1 and not seen.recurrent)]
    loads, counted = seen.loads
    wrong = [] if loads == len(moved) else [f"{len(moved)} prompts came over, the metrics tell of {loads} loads"]
    if seen.token_bytes is not None:
        blocks = sum(-(-tokens // BLOCK) for tokens in moved)
        most = blocks * BLOCK * seen.token_bytes
        least = sum(moved) * seen.token_bytes
        if not least <= counted <= most:
            wrong.append(f"{sum(moved)} tokens came over, {least} to {most} bytes; the metrics tell of {counted}")
    return wrong


def engine_beneath(seen: Seen, thread: str | None, foreign: str | None) -> list[str]:
    """The engine that is meant does the work in every worker, and the one that it stands for is not even loaded."""
    wrong = [] if seen.inside else ["nobody looked"]
    for side, processes in seen.inside.items():
        workers = [one for one in processes if WORKER in one.title]
        if len(workers) != seen.workers[side]:
            titles = ", ".join(one.title[:40] for one in processes)
            wrong.append(f"the {side} instance has {len(workers)} workers, not {seen.workers[side]}: {titles}")
        wrong += [f"{one.title} of the {side} instance has no thread `{thread}`"
                  for one in workers if thread is not None and thread not in one.threads]
        if foreign is not None:
            wrong += [f"{one.title[:40]} of the {side} instance has loaded {library}"
                      for one in processes for library in sorted(one.libraries) if foreign in library]
    return wrong


def instances_alive(seen: Seen) -> list[str]:
    return [f"the {side} instance is no longer healthy" for side, good in seen.alive.items() if not good]


def harness_whole(seen: Seen) -> list[str]:
    return list(seen.broken)


def idle_quiet(seen: Seen, most: float | None) -> list[str]:
    """Idle instances burn no more than one without a connector, where the connector promises that."""
    if most is None:
        return []
    bar = (seen.idle_cores_alone or 0.0) + most
    return [f"the idle {side} instance keeps {cores:.2f} cores busy, {bar:.2f} are allowed"
            for side, cores in seen.idle_cores.items() if cores > bar]


ALWAYS: tuple[Callable[[Seen], list[str]], ...] = (
    references_distinct, references_varied, control_computed, sequential_outputs_equal, prompts_transferred,
    tokens_transferred, blocks_given_back, metrics_there, loads_counted, instances_alive, harness_whole,
)
BY_ROUND: dict[str, Callable[[Seen], list[str]]] = {
    "concurrent": concurrent_outputs_equal, "primed": primed_outputs_equal, "disconnects": right_after_disconnects,
    "storm": right_after_storm,
}


def judge(seen: Seen, rounds: tuple[str, ...], idle_cores_max: float | None, thread: str | None = None,
          foreign: str | None = None) -> list[Finding]:
    """All checks of the rounds that were run. A round that ran and asked nothing has not passed."""
    found = [Finding(check.__name__, tuple(check(seen))) for check in ALWAYS]
    asked = {"concurrent": seen.concurrent, "primed": seen.primed, "disconnects": seen.after_disconnects,
             "storm": seen.after_storm}
    for name, check in BY_ROUND.items():
        if name in rounds:
            found.append(Finding(check.__name__, tuple(check(seen)) if asked[name] else ("nothing was asked",)))
    if thread is not None or foreign is not None:
        found.append(Finding("engine_beneath", tuple(engine_beneath(seen, thread, foreign))))
    found.append(Finding("idle_quiet", tuple(idle_quiet(seen, idle_cores_max))))
    return found


def judge_fault(seen: Seen) -> list[Finding]:
    """The checks of what befell a pair."""
    checks = (never_wrong, right_meanwhile, right_after_fault, blocks_given_back, instances_alive, harness_whole)
    return [Finding(check.__name__, tuple(check(seen))) for check in checks]


def as_expected(findings: list[Finding], must_fail: frozenset[str]) -> bool:
    """Whether exactly those checks failed that must."""
    return {finding.check for finding in findings if not finding.passed} == set(must_fail)
