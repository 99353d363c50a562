"""What the connector counts, as vLLM's connector statistics and as Prometheus metrics.

Suffixes and buckets of the metrics are those of vLLM's NIXL connector: a dashboard for that one needs another prefix, or
`metrics_alias: nixl`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0]
# Suffix, help, buckets.
HISTOGRAMS = (
    ("xfer_time_seconds", "From the submit of a load to its last byte.", _SECONDS),
    ("post_time_seconds", "Planning and submitting a load.", [0.001, *_SECONDS]),
    ("bytes_transferred", "Bytes of a load.", [2**power for power in range(11, 35, 2)]),
    ("num_descriptors", "Runs of memory that a load was moved in.",
     [10, 20, 30, 50, 75, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 50000]),
)
# Suffix, help, what is added up.
COUNTERS = (
    ("num_failed_transfers", "Loads, handshakes and leases that failed.",
     ("num_failed_transfers", "num_failed_handshakes", "num_failed_notifications")),
    ("num_failed_notifications", "Leases that were not granted.", ("num_failed_notifications",)),
    ("num_kv_expired_reqs", "Lent requests that nobody fetched in time.", ("num_kv_expired_reqs",)),
    ("num_notifications_after_expiry", "Claims that came after the end of the lease.",
     ("num_notifications_after_expiry",)),
)


@dataclass
class RopewayStats(KVConnectorStats):
    """A dict of lists (a sample for each load) and of numbers; what is not there was not seen."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> RopewayStats:
        for name, value in other.data.items():
            mine = self.data.get(name)
            self.data[name] = value if mine is None else mine + value
        return self

    def reduce(self) -> dict[str, int | float]:
        loads = len(self.data.get("bytes_transferred", ()))
        seconds = sum(self.data.get("xfer_time_seconds", ()))
        megabytes = sum(self.data.get("bytes_transferred", ())) / 2**20
        failed = sum(self.data.get(name, 0) for name in COUNTERS[0][2])
        line: dict[str, int | float] = {
            "Loads": loads,
            "Avg load (ms)": round(seconds / loads * 1e3, 3) if loads else 0,
            "Avg MB per load": round(megabytes / loads, 3) if loads else 0,
            "Throughput (MB/s)": round(megabytes / seconds, 1) if seconds else 0,
            "Failed": failed,
            "Expired": self.data.get("num_kv_expired_reqs", 0),
        }
        return line


class RopewayMetrics(KVConnectorPromMetrics):
    """The same as Prometheus metrics, `vllm:ropeway_...`, and `vllm:nixl_...` as well where that is asked for."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any,
                 *, alias: bool = False) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        prefixes = ["vllm:ropeway_", "vllm:nixl_"] if alias else ["vllm:ropeway_"]
        self._histograms: list[tuple[str, dict[int, Any]]] = []
        self._counters: list[tuple[tuple[str, ...], dict[int, Any]]] = []
        for prefix in prefixes:
            for suffix, text, buckets in HISTOGRAMS:
                metric = self._histogram_cls(
                    name=prefix + suffix, documentation=text, buckets=buckets, labelnames=labelnames)
                self._histograms.append((suffix, self._per_engine(metric)))
            for suffix, text, parts in COUNTERS:
                metric = self._counter_cls(name=prefix + suffix, documentation=text, labelnames=labelnames)
                self._counters.append((parts, self._per_engine(metric)))

    def _per_engine(self, metric: Any) -> dict[int, Any]:
        return {engine: metric.labels(*values) for engine, values in self.per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for suffix, metrics in self._histograms:
            for sample in transfer_stats_data.get(suffix, ()):
                metrics[engine_idx].observe(sample)
        for parts, metrics in self._counters:
            count = sum(transfer_stats_data.get(part, 0) for part in parts)
            if count:
                metrics[engine_idx].inc(count)
