"""What `python -m ropeway migrate-config` writes, taken by vLLM's own configuration."""

import json

import pytest
import vllm
from vllm.config import KVTransferConfig

from ropeway._ropeway import ConnectorConfig, migrate_config

# As people have it from vllm-ascend's examples.
FOUND = {
    "kv_connector": "MooncakeConnectorV1", "kv_buffer_device": "npu", "kv_role": "kv_producer", "kv_parallel_size": 1,
    "kv_port": "20001", "engine_id": "0", "kv_rank": 0,
    "kv_connector_extra_config": {"prefill": {"dp_size": 2, "tp_size": 2}, "decode": {"dp_size": 2, "tp_size": 2}},
}


def test_this_vllm_takes_what_was_written_for_it_and_refuses_what_it_was_written_from():
    with pytest.raises(ValueError, match="kv_rank|kv_parallel_size"):
        KVTransferConfig(**FOUND)
    form, why = migrate_config(json.dumps(FOUND), vllm.__version__)
    taken = KVTransferConfig(**json.loads(form))
    assert (taken.kv_connector, taken.kv_role) == ("RopewayConnector", "kv_producer")
    assert taken.kv_connector_extra_config["prefill"] == {"dp_size": 2, "tp_size": 2}
    assert any("kv_rank" in line for line in why)
    assert ConnectorConfig(form).produces


def test_each_child_of_several_connectors_is_written_for_it_too():
    names = ("RopewayConnector", "OffloadingConnector")
    parent = {"kv_connector": "MultiConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
        "connectors": [FOUND | {"kv_connector": name, "kv_role": "kv_both"} for name in names]}}
    form, _ = migrate_config(json.dumps(parent), vllm.__version__)
    children = json.loads(form)["kv_connector_extra_config"]["connectors"]
    assert tuple(KVTransferConfig(**child).kv_connector for child in children) == names
