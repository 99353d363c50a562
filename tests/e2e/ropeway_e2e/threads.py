"""vllm-ascend's MooncakeConnectorV1 over Ropeway's drop-in: its own schedulers, workers and threads, without an NPU, without a
model. Producer and consumer are processes of their own; what the consumer's caches hold afterwards is compared byte by byte.
"""

import random
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import ascend_wheel
from .checks import Finding
from .instance import Failed
from .processes import free_ports
from .ranks import Nursery, Rank
from .tools import NotToBeHad, Tools
from .verdict import Row

HERE = Path(__file__).resolve().parent.parent
CONNECTOR = f"MooncakeConnectorV1 {ascend_wheel.VERSION}"
TRANSPORTS = {"host": "drop-in, host memory", "npu": "drop-in, hixl (simulated)"}
# What may move bytes between memory of each kind, in processes of one host.
WAYS = {"host": {"cma", "tcp"}, "npu": {"hixl"}}
BLOCKS, DONE_SECONDS = 64, 60
TOOK = re.compile(r"KV cache transfer for request \S+ took ([\d.]+) ms")


@dataclass(frozen=True)
class Case:
    """A producer and a consumer."""

    model: str
    memory: str = "host"
    ranks: tuple[int, int] = (1, 1)
    # Tokens of a block: of the producer, of the consumer, of the blocks that their kernels know.
    blocks: tuple[int, int, int] = (128, 128, 128)
    kill: bool = False
    spoils: bool = False

    @property
    def label(self) -> str:
        blocks = "" if self.blocks[0] == self.blocks[1] else f", blocks {self.blocks[0]} to {self.blocks[1]}"
        return f"{self.model}, TP {self.ranks[0]} to {self.ranks[1]}{blocks}"


CASES = (
    Case("gqa", kill=True),
    Case("gqa", ranks=(2, 1)),
    Case("gqa", ranks=(4, 2)),
    Case("gqa", blocks=(128, 64, 64)),
    Case("mla", ranks=(2, 1)),
    Case("gqa", "npu", kill=True),
    Case("gqa", "npu", ranks=(2, 1)),
    Case("mla", "npu", ranks=(2, 2)),
    # Controls: one byte of each read is wrong.
    Case("gqa", spoils=True),
    Case("mla", "npu", spoils=True),
)


@dataclass
class Seen:
    """Of one round of requests."""

    requests: int = 0
    compared: int = 0
    tokens: int = 0
    cached: int = 0
    differ: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    producer: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ways: set[str] = field(default_factory=set)


class Instance:
    """All ranks of one side."""

    def __init__(self, nursery: Nursery, case: Case, side: int, life: int, ports: tuple[int, int]) -> None:
        self.case, self.side, self.tokens = case, side, case.blocks[side]
        # Another life has the same engine id, ports and addresses, and other bytes.
        self.seed = 10 * (side + 1) + life
        setup = {
            "role": ("kv_producer", "kv_consumer")[side], "ranks": case.ranks, "model": case.model, "memory": case.memory,
            "block_tokens": self.tokens, "kernel_tokens": case.blocks[2], "blocks": BLOCKS, "seed": self.seed,
            "port": ports[0], "engine_id": str(side), "engine_port": 0, "spoils": case.spoils and side == 1,
        }
        self.ranks: list[Rank] = []
        for rank in range(case.ranks[side]):
            own = {"name": f"{'PD'[side]}{rank}", "rank": rank, "device": rank + side * case.ranks[0]}
            if case.ranks[side] == 1:
                own["engine_port"] = ports[1]
            self.ranks.append(nursery.rank(setup | own))

    def wait_ready(self) -> None:
        for rank in self.ranks:
            rank.wait_ready()

    def step(self, meta: str) -> None:
        for rank in self.ranks:
            rank.ask("step", meta=meta)

    def check(self, pulls: list[dict[str, object]]) -> tuple[int, list[str]]:
        """Bytes that were compared, and what is wrong."""
        for rank in self.ranks:
            rank.send("check", pulls=pulls)
        answers = [rank.receive() for rank in self.ranks]
        return sum(one["bytes"] for one in answers), [line for one in answers for line in one["wrong"]]

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()


class Pair:
    """Both sides, and the requests that went through them."""

    def __init__(self, nursery: Nursery, case: Case) -> None:
        self.nursery, self.case = nursery, case
        # Ports of threads of several ranks are neighbours.
        first, second, engine = free_ports(3)
        self.ports = ((spread(first), engine), (spread(second), 0))
        self.lives = 0
        self.producer, self.consumer = self.start(0), self.start(1)
        self.random = random.Random(case.label)
        self.pulls: list[dict[str, object]] = []
        self.refresh()

    def start(self, side: int) -> Instance:
        self.lives += 1
        return Instance(self.nursery, self.case, side, self.lives, self.ports[side])

    def refresh(self) -> None:
        """All blocks are free, in no order. Within a life of the pair none is used twice."""
        self.free = [self.random.sample(range(BLOCKS), BLOCKS) for _ in range(2)]

    def wait_ready(self) -> None:
        self.producer.wait_ready()
        self.consumer.wait_ready()

    def kill(self) -> None:
        self.producer.kill()
        self.consumer.kill()

    def ask(self, name: str, tokens: int, computed: int, seen: Seen) -> dict[str, object]:
        """A request's way through both schedulers, to the consumer's threads."""
        lists = []
        for side, free in zip((self.producer, self.consumer), self.free):
            lists.append([free.pop() for _ in range(-(-tokens // side.tokens))])
        producer, consumer = self.producer, self.consumer
        done = producer.ranks[0].ask("finish", request=name, tokens=tokens, blocks=lists[0])
        producer.step(done["meta"])
        taken = consumer.ranks[0].ask("admit", request=name, tokens=tokens, computed=computed, blocks=lists[1],
                                      params=done["params"])
        consumer.step(taken["meta"])
        seen.requests, seen.tokens, seen.cached = seen.requests + 1, seen.tokens + taken["external"], seen.cached + computed
        return {"request": name, "first": computed, "end": tokens, "ours": lists[1], "theirs": lists[0],
                "their_slots": producer.tokens, "their_seed": producer.seed}

    def settle(self, names: list[str], seen: Seen) -> None:
        """Until every rank of both sides has reported every request, as vLLM waits for each of them."""
        until = time.monotonic() + DONE_SECONDS
        for side, word in ((self.consumer, "received"), (self.producer, "sent")):
            for rank in side.ranks:
                left = set(names)
                while left and time.monotonic() < until:
                    report = rank.ask("poll")
                    left -= set(report[word])
                    seen.failed += [f"{rank.name}: block {block}" for block in report["failed_blocks"]]
                    time.sleep(0.005)
                if left:
                    seen.late.append(f"{rank.name} has not {word} {', '.join(sorted(left))}")

    def round(self, sizes: list[tuple[int, int]], together: bool, seen: Seen) -> None:
        names = []
        for tokens, computed in sizes:
            names.append(f"{self.case.model}-{len(self.pulls)}")
            self.pulls.append(self.ask(names[-1], tokens, computed, seen))
            if not together:
                self.settle(names[-1:], seen)
        if together:
            self.settle(names, seen)

    def look(self, seen: Seen, pulls: list[dict[str, object]]) -> None:
        """Every byte of both sides."""
        seen.compared, wrong = self.consumer.check(pulls)
        seen.stray = [line for line in wrong if "no request owns" in line]
        seen.differ = [line for line in wrong if line not in seen.stray]
        seen.producer = self.producer.check([])[1]
        seen.ways = {way for rank in self.consumer.ranks for way in rank.ask("ways")}


def spread(port: int) -> int:
    """Below the range that systems choose from; several ranks take the ports behind it."""
    return 10_000 + port % 10_000 // 8 * 8


def sizes(case: Case) -> list[tuple[int, int]]:
    """Of prompts: tokens, and how many of them the consumer has already."""
    block = max(case.blocks)
    return [(1, 0), (block - 1, 0), (block, 0), (block + 1, 0), (3 * block + 7, 0), (2 * block + 1, block),
            (4 * block, 2 * block)]


def judge(seen: Seen, memory: str) -> list[Finding]:
    meant = bool(seen.ways) and seen.ways <= WAYS[memory]
    return [
        Finding("engine_beneath", () if meant else (f"bytes went by {sorted(seen.ways)}",)),
        Finding("compared", () if seen.compared else ("no byte was compared",)),
        Finding("bytes_equal", tuple(seen.differ)),
        Finding("nothing_else_written", tuple(seen.stray)),
        Finding("producer_untouched", tuple(seen.producer)),
        Finding("reported_by_both", tuple(seen.late)),
        Finding("none_failed", tuple(seen.failed)),
    ]


def judge_restart(lost: Seen, again: Seen, memory: str) -> list[Finding]:
    """`lost`: requests to a restarted producer, from a consumer that knew the life before."""
    unfailed = () if len(lost.failed) >= lost.requests > 0 else (f"{lost.requests} requests, failed: {lost.failed}",)
    return [
        Finding("restarted_fails", unfailed),
        Finding("nothing_stale", tuple(lost.differ + lost.stray)),
        Finding("restarted_reported", tuple(lost.late)),
        *(Finding(f"new_consumer_{one.check}", one.wrong) for one in judge(again, memory)),
    ]


@dataclass(frozen=True)
class Threads:
    """All cases, by processes of their own: no server, no model."""

    name: str
    vllm: str
    always: bool = False
    needs: tuple[str, ...] = ("ropeway", "cann")

    @property
    def line(self) -> str:
        return f"{CONNECTOR} by itself over the drop-in, vLLM {self.vllm}, no server"

    def rows(self, tools: Tools) -> Iterator[Row]:
        return rows(self, tools)


def rows(scenario: Threads, tools: Tools) -> Iterator[Row]:
    """A row for each case; they say why where something cannot be had."""
    logs = tools.logs / scenario.name
    package = tools.ropeway()
    try:
        site = ascend_wheel.ready(tools.python, tools.cache)
    except NotToBeHad as why:
        yield skipped(scenario, CASES[0], str(why))
        return
    hbm = {"ROPEWAY_CANN_PATH": str(tools.cann), "ROPEWAY_SIM_HOST_VISIBLE": "1"} if tools.cann else {}
    nursery = Nursery(tools.python, [package, site, HERE / "ascend"], hbm, logs)
    try:
        nursery.wait_ready()
        for case in CASES:
            if case.memory == "npu" and tools.cann is None:
                yield skipped(scenario, case, "no software CANN was given")
            else:
                yield from of_case(nursery, scenario, case, logs)
    except Failed as error:
        yield row(scenario, CASES[0], "-", [Finding("harness_whole", (str(error),))], Seen())
    finally:
        nursery.stop()


def of_case(nursery: Nursery, scenario: Threads, case: Case, logs: Path) -> Iterator[Row]:
    start, seen = time.monotonic(), Seen()
    for log in logs.glob("[PD]?.log"):
        log.unlink()
    pair = Pair(nursery, case)
    try:
        pair.wait_ready()
        pair.round(sizes(case), False, seen)
        pair.round(sizes(case), True, seen)
        pair.look(seen, pair.pulls)
        made = row(scenario, case, "-", judge(seen, case.memory), seen)
        made.times_ms["connector_transfer_ms"] = took(logs)
        made.seconds = round(time.monotonic() - start, 1)
        yield made
        if case.kill:
            start = time.monotonic()
            made = killed(pair, scenario)
            made.seconds = round(time.monotonic() - start, 1)
            yield made
    except (Failed, OSError) as error:
        yield row(scenario, case, "-", [Finding("harness_whole", (str(error),))], seen)
    finally:
        pair.kill()


def killed(pair: Pair, scenario: Threads) -> Row:
    """The producer is killed and comes back at the same address, with the same id; then the consumer comes back too."""
    lost, again, small = Seen(), Seen(), [(130, 0), (200, 0)]
    before = list(pair.pulls)
    pair.producer.kill()
    pair.producer = pair.start(0)
    pair.producer.wait_ready()
    pair.round(small, False, lost)
    pair.look(lost, before)
    pair.consumer.kill()
    pair.consumer = pair.start(1)
    pair.consumer.wait_ready()
    pair.pulls = []
    pair.refresh()
    pair.round(small, False, again)
    pair.look(again, pair.pulls)
    return row(scenario, pair.case, "producer restarted", judge_restart(lost, again, pair.case.memory), again)


def took(logs: Path) -> float | None:
    """The median of what the consumer's own log says of each transfer."""
    found = [float(one) for log in logs.glob("D?.log") for one in TOOK.findall(log.read_text(errors="replace"))]
    return statistics.median(found) if found else None


def row(scenario: Threads, case: Case, what: str, findings: list[Finding], seen: Seen) -> Row:
    transport = TRANSPORTS[case.memory] + (", spoiled" if case.spoils else "")
    made = Row(scenario.name, CONNECTOR, transport, what, case.label, scenario.vllm)
    failed = {one.check for one in findings if not one.passed}
    made.findings, made.control = findings, case.spoils
    made.good = failed == ({"bytes_equal"} if case.spoils else set())
    made.prompts, made.tokens_external, made.tokens_local = seen.requests, seen.tokens, seen.cached
    made.outputs_equal = seen.compared > 0 and not seen.differ
    return made


def skipped(scenario: Threads, case: Case, why: str) -> Row:
    made = row(scenario, case, "-", [], Seen())
    made.good, made.skipped = False, why
    return made
