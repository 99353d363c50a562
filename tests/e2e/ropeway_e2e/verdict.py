"""The table: connector, transport, router, model; equal or not, tokens that came over, times, idle cores."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .checks import Finding


@dataclass
class Row:
    """One scenario behind one router."""

    scenario: str
    connector: str
    transport: str
    router: str
    model: str
    vllm: str
    # As it must be: all passed, or in a control exactly those failed that must.
    good: bool = False
    control: bool = False
    # Why it did not run, where something that it needs cannot be had.
    skipped: str = ""
    outputs_equal: bool = False
    prompts: int = 0
    # Of a row without a pair of instances: how many tests passed, or commands were run.
    tests: int | None = None
    tokens_external: int = 0
    tokens_local: int = 0
    times_ms: dict[str, float | None] = field(default_factory=dict)
    # Of the sequential round, by prompt.
    first_token_ms: dict[str, float | None] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    params: dict | None = None
    seconds: float = 0.0

    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.passed]

    @property
    def bad(self) -> bool:
        return not self.good and not self.skipped

    @property
    def word(self) -> str:
        if self.skipped:
            return "skipped"
        if self.control:
            return "fails, as it must" if self.good else "CONTROL NOT AS EXPECTED"
        return "pass" if self.good else "FAIL"


HEADS = ("connector", "transport", "router", "model", "vLLM", "verdict", "outputs", "tokens ext/local",
         "TTFT ms", "single ms", "decode leg ms", "cached ms", "moved ms", "1st/2nd request ms", "idle cores P/D/single")


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def cells(row: Row) -> list[str]:
    times = row.times_ms
    if row.tests is not None:
        head = [row.connector, row.transport, row.router, row.model, row.vllm, row.word, f"{row.tests} passed"]
        return head + ["-"] * (len(HEADS) - len(head))
    return [
        row.connector, row.transport, row.router, row.model, row.vllm, row.word,
        "-" if row.skipped else f"{'equal' if row.outputs_equal else 'DIFFER'} ({row.prompts})", f"{row.tokens_external}/{row.tokens_local}",
        number(times.get("first_token_ms")), number(times.get("single_first_token_ms")),
        number(times.get("decode_leg_ms")), number(times.get("decode_leg_cached_ms")),
        number(times.get("connector_transfer_ms"), 1),
        f"{number(times.get('request_1_ms'))}/{number(times.get('request_2_ms'))}",
        "/".join(number(row.idle_cores.get(side), 2) for side in ("prefill", "decode", "single")),
    ]


def table(rows: list[Row]) -> str:
    """The table as text, in Markdown, then what was wrong, line by line."""
    lines = [list(HEADS), *(cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEADS))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        for finding in row.failed():
            text.append(f"{row.scenario} behind {row.router}: {finding.check}:")
            text += [f"    {line}" for line in finding.wrong[:6]]
            text += [f"    and {len(finding.wrong) - 6} more"] if len(finding.wrong) > 6 else []
    passed, skipped = sum(row.good for row in rows), sum(bool(row.skipped) for row in rows)
    # In the form that a reader of test runs looks for.
    last = f"{passed} passed, {len(rows) - passed - skipped} failed" + (f", {skipped} skipped" if skipped else "")
    return "\n".join([*text, "", last])


def save(rows: list[Row], folder: Path) -> None:
    """Both forms; written after each row, so that a run that breaks off has left what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (folder / "verdict.txt").write_text(table(rows) + "\n")
