"""A plugin for pytest: points vLLM's own tests for connectors, written for NixlConnector, at RopewayConnector.

Three of their helpers are given what this connector needs and nothing else is changed: the connector's name in place of
NixlConnector's, as `kv_both`, and a model that is at hand; the object "ropeway" in what a consumer is told; and the word of a
worker to the scheduler half of a producer, which vLLM's engine passes on before it serves.
"""

import functools
import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import ropeway

NAME = "RopewayConnector"
schedulers = 0


@functools.cache
def handshake() -> tuple[Any, Any]:
    """A real worker half over one small layer, and its word."""
    import torch
    from tests.v1.kv_connector.unit import utils
    from vllm.distributed import parallel_state
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    from ropeway.vllm.connector import RopewayConnector

    layer, alone = "model.layers.0.self_attn.attn", SimpleNamespace(rank_in_group=0)
    spec = FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=64, dtype=torch.float32)
    caches = KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec([layer], spec)])
    with mock.patch.multiple(parallel_state, get_pp_group=lambda: alone, get_tp_group=lambda: alone):
        worker = RopewayConnector(utils.create_vllm_config(), KVConnectorRole.WORKER, caches)
    worker.register_kv_caches({layer: torch.zeros(8, 2, 16, 128)})
    return worker, worker.get_handshake_metadata()


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "cpu_test: as vLLM marks tests that need no accelerator")
    from tests.v1.kv_connector.unit import utils

    from ropeway.vllm import register

    register()
    make_config, make_request, make_scheduler = (
        utils.create_vllm_config, utils.create_request, utils.create_scheduler)

    @functools.wraps(make_config)
    def create_vllm_config(model: str = os.environ["ROPEWAY_E2E_MODEL"], **words: Any) -> Any:
        if words.get("kv_connector", "NixlConnector") == "NixlConnector":
            extra = {**(words.get("kv_connector_extra_config") or {}), "ropeway": {"port": 0}}
            words |= {"kv_connector": NAME, "kv_connector_extra_config": extra}
            words.setdefault("kv_role", "kv_both")
        return make_config(model=model, **words)

    @functools.wraps(make_request)
    def create_request(*values: Any, **words: Any) -> Any:
        request = make_request(*values, **words)
        if words.get("do_remote_prefill"):
            request.kv_transfer_params["ropeway"] = {
                "address": "127.0.0.1:1", "incarnation": "1", "lease": ropeway.lease_name(), "secret": "0" * 64}
        return request

    @functools.wraps(make_scheduler)
    def create_scheduler(*values: Any, **words: Any) -> Any:
        global schedulers
        scheduler = make_scheduler(*values, **words)
        if type(scheduler.connector).__name__ == NAME:
            schedulers += 1
            scheduler.connector.set_xfer_handshake_metadata_pp_aware({(0, 0): handshake()[1]})
        return scheduler

    utils.create_vllm_config, utils.create_request, utils.create_scheduler = (
        create_vllm_config, create_request, create_scheduler)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"schedulers over {NAME}: {schedulers}")
