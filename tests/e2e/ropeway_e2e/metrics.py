"""Counters and gauges, as a server prints them for Prometheus."""

import re

from .client import fetch

LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")


class Metrics:
    """One reading of a server's `/metrics`."""

    def __init__(self, text: str) -> None:
        self.values: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if match := LINE.match(line):
                name, labels, value = match.groups()
                self.values.append((name, dict(LABEL.findall(labels or "")), float(value)))

    @classmethod
    def of(cls, url: str) -> "Metrics":
        return cls(fetch(url, "/metrics", timeout=60).decode())

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of a name that carry these labels; 0 when there are none."""
        return sum(value for other, had, value in self.values
                   if other == name and labels.items() <= had.items())

    def has(self, name: str) -> bool:
        """Whether a metric is there: also as a counter (`_total`) or a histogram (`_count`)."""
        return any(other in (name, f"{name}_total", f"{name}_count") for other, _, _ in self.values)

    def prompt_tokens(self) -> dict[str, int]:
        """Prompt tokens so far by where their KV came from. The one counter that a failed load corrects."""
        name = "vllm:prompt_tokens_by_source_total"
        return {source: int(self.total(name, source=source)) for source in SOURCES}

    def kv_usage(self) -> float:
        """The share of the KV cache that is held, summed over engines."""
        return self.total("vllm:kv_cache_usage_perc")

    def mean(self, histogram: str) -> float | None:
        """The mean of a histogram; None without observations."""
        count = self.total(f"{histogram}_count")
        return self.total(f"{histogram}_sum") / count if count else None
