"""The connector's statistics, held against vLLM's own classes and against the metrics of its NixlConnector."""

import functools
import pickle
import re
from pathlib import Path

import prometheus_client as prometheus
import pytest
from vllm.config import DeviceConfig, KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorLogging, KVConnectorProm
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.stats import NixlPromMetrics
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

from ropeway.vllm import register
from ropeway.vllm.connector import RopewayConnector

register()
LOADS = {
    "xfer_time_seconds": [0.004, 0.25], "post_time_seconds": [0.0005, 0.002], "bytes_transferred": [3 << 20, 1 << 20],
    "num_descriptors": [12, 44], "num_failed_transfers": 2, "num_failed_notifications": 1, "num_failed_handshakes": 4,
    "num_kv_expired_reqs": 3, "num_notifications_after_expiry": 5, "dropped_samples": 0,
}
LABELS, VALUES = ["model_name", "engine"], {0: ["m", "0"], 1: ["m", "1"]}


def config(connector="RopewayConnector", **own):
    extra = {"ropeway": own} if own else {}
    return VllmConfig(device_config=DeviceConfig("cpu"), kv_transfer_config=KVTransferConfig(
        kv_connector=connector, kv_role="kv_both", kv_connector_extra_config=extra))


def stats(**data):
    return RopewayConnector.build_kv_connector_stats(dict(data or LOADS))


def types(registry):
    """The classes that vLLM hands over, on a registry of the test's own."""
    kinds = (prometheus.Gauge, prometheus.Counter, prometheus.Histogram)
    return {kind: functools.partial(kind, registry=registry) for kind in kinds}


def text(registry, prefix=""):
    """What a scrape says, without help, and without the times at which series were made."""
    lines = prometheus.generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if not line.startswith("# HELP") and "_created" not in line
                  and (line.startswith("# TYPE vllm:" + prefix) or line.startswith("vllm:" + prefix)))


def published(**own):
    registry = prometheus.CollectorRegistry()
    kinds = types(registry)

    class Prom(KVConnectorProm):
        """vLLM's own, which takes its classes from attributes."""

        _gauge_cls, _counter_cls, _histogram_cls = (
            staticmethod(kinds[kind]) for kind in (prometheus.Gauge, prometheus.Counter, prometheus.Histogram))

    prom = Prom(config(**own), LABELS, VALUES)
    return registry, prom


def of_nixl():
    """The text of vLLM's NixlConnector that saw the same."""
    registry = prometheus.CollectorRegistry()
    metrics = NixlPromMetrics(config(), types(registry), LABELS, VALUES)
    seen = {name: value if isinstance(value, list) else [1] * value for name, value in LOADS.items()}
    seen |= {"transfer_duration": seen["xfer_time_seconds"], "post_duration": seen["post_time_seconds"]}
    metrics.observe(seen, 1)
    return text(registry)


def test_metrics_are_those_of_nixl_under_another_prefix():
    registry, prom = published()
    prom.observe(stats().data, 1)
    ours = text(registry)
    assert [line.replace("vllm:ropeway_", "vllm:nixl_") for line in ours] == of_nixl()
    assert any(re.fullmatch(r'vllm:ropeway_bytes_transferred_sum\{engine="1",model_name="m"\} 4\.19\d+e\+06', line)
               for line in ours), ours


def test_the_page_names_every_metric():
    page = (Path(__file__).parents[3] / "docs/VLLM.md").read_text()
    named = set(re.findall(r"^\| `vllm:(ropeway_\w+)` \| (\w+) \|", page, re.MULTILINE))
    types = (line.split() for line in text(published()[0]) if line.startswith("# TYPE"))
    assert named == {(name.removeprefix("vllm:").removesuffix("_total"), kind) for _, _, name, kind in types}


def test_the_alias_adds_the_names_of_nixl_and_keeps_its_own():
    registry, prom = published(metrics_alias="nixl")
    prom.observe(stats().data, 1)
    assert text(registry, "nixl_") == of_nixl()
    assert len(text(registry, "ropeway_")) == len(of_nixl())
    assert text(published()[0], "nixl_") == []


def test_an_engine_that_saw_nothing_has_its_series_at_zero():
    registry, prom = published()
    prom.observe(stats(num_failed_transfers=1).data, 1)
    assert 'vllm:ropeway_num_failed_transfers_total{engine="0",model_name="m"} 0.0' in text(registry)
    assert 'vllm:ropeway_xfer_time_seconds_count{engine="1",model_name="m"} 0.0' in text(registry)


def test_statistics_of_ranks_are_merged_by_vllm():
    def output(data):
        return ModelRunnerOutput(req_ids=[], req_id_to_index={}, kv_connector_output=KVConnectorOutput(
            kv_connector_stats=data and pickle.loads(pickle.dumps(stats(**data)))))

    ranks = [{"bytes_transferred": [1], "num_failed_transfers": 1}, None, {"bytes_transferred": [2, 3]}]
    merged = KVOutputAggregator(3).aggregate([output(rank) for rank in ranks])
    assert merged.kv_connector_output.kv_connector_stats.data == {"bytes_transferred": [1, 2, 3],
                                                                  "num_failed_transfers": 1}


def test_a_log_line_sums_up_an_interval_and_the_next_starts_anew():
    logging, lines = KVConnectorLogging(config().kv_transfer_config), []
    for _ in range(2):
        logging.observe(dict(LOADS))
    logging.log(lambda form, *values: lines.append(form % values))
    logging.log(lambda form, *values: lines.append(form % values))
    assert len(lines) == 1 and "Loads=4" in lines[0] and "Avg MB per load=2.0" in lines[0], lines
    assert "Failed=14" in lines[0] and "Expired=6" in lines[0], lines


def test_nothing_seen_is_empty_and_failures_alone_are_not():
    assert stats(bytes_transferred=[], num_failed_transfers=0).is_empty()
    assert not stats(num_kv_expired_reqs=1).is_empty()
    one = stats()
    one.reset()
    assert one.is_empty() and one.reduce()["Loads"] == 0


def test_a_parent_of_several_connectors_tells_their_statistics_apart():
    from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiConnector

    built = MultiConnector.build_kv_connector_stats({"RopewayConnector": dict(LOADS)})
    twice = built.aggregate(MultiConnector.build_kv_connector_stats({"RopewayConnector": dict(LOADS)}))
    assert twice.data["RopewayConnector"].data["bytes_transferred"] == 2 * LOADS["bytes_transferred"]


@pytest.mark.parametrize("alias", ["nixle", "prometheus"])
def test_an_alias_that_is_none_is_refused_with_what_there_is(alias):
    with pytest.raises(ValueError, match="metrics_alias is .*; it must be none or nixl"):
        published(metrics_alias=alias)
