"""Instances of the connector, each with both halves in this process."""

from __future__ import annotations

import ctypes
import importlib
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import fakes
import pytest

WAIT = 60.0


class Instance:
    """Both halves, over memory of its own."""

    def __init__(self, role: str, *specs: type, **own: Any) -> None:
        self.storage = fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES)
        block = specs[0].block_size if specs else fakes.BLOCK
        self.open(fakes.vllm_config(role, **own), fakes.CacheConfig(*specs), fakes.kv_caches(self.storage, block))

    def open(self, config: Any, caches: fakes.CacheConfig, tensors: Any) -> None:
        """Starts both halves over these tensors."""
        connector = importlib.import_module("ropeway.vllm.connector")
        self.worker = connector.RopewayConnector(config, fakes.Role.WORKER, caches)
        self.worker.register_kv_caches(tensors)
        self.scheduler = connector.RopewayConnector(config, fakes.Role.SCHEDULER, caches)
        self.scheduler.set_xfer_handshake_metadata_pp_aware({(0, 0): self.worker.get_handshake_metadata()})
        self.sent: set[str] = set()
        self.received: set[str] = set()
        self.failed: set[str] = set()

    def step(self) -> None:
        """What vLLM does in a step, connector only."""
        self.worker.bind_connector_metadata(self.scheduler.build_connector_meta(None))
        self.worker.start_load_kv(None)
        results = self.worker.get_transfer_results(set())
        self.sent |= results.finished_sending
        self.received |= results.finished_recving
        self.failed |= results.failed_recving
        self.scheduler.update_connector_output(results)

    def bytes_of(self, layer: int, block: int) -> bytes:
        start = layer * fakes.LAYER_BYTES + block * fakes.BLOCK_BYTES
        return bytes(self.storage.bytes[start:start + fakes.BLOCK_BYTES])

    def fill(self, layer: int, block: int, byte: int) -> None:
        start = layer * fakes.LAYER_BYTES + block * fakes.BLOCK_BYTES
        ctypes.memset(self.storage.data_ptr() + start, byte, fakes.BLOCK_BYTES)

    def lend(self, name: str, tokens: int, *blocks: list[int]) -> dict[str, Any]:
        """Computes a prompt and finishes; gives what the client gets."""
        params = {"do_remote_decode": True, "do_remote_prefill": False}
        status = types.SimpleNamespace(name="FINISHED_LENGTH_CAPPED")
        request = fakes.Request(name, tokens, params, num_computed_tokens=tokens, status=status)
        self.scheduler.on_new_request(request)
        kept, answer = self.scheduler.request_finished_all_groups(request, blocks)
        assert kept and answer is not None
        return dict(answer)

    def close(self) -> None:
        self.worker.shutdown()
        self.scheduler.shutdown()


@pytest.fixture
def beside_vllm() -> Iterator[dict[str, types.ModuleType]]:
    with fakes.beside_vllm() as modules:
        yield modules


@pytest.fixture
def instance(beside_vllm: object) -> Iterator[Callable[..., Instance]]:
    """Makes instances, and closes them."""
    made: list[Instance] = []

    def make(role: str, *specs: type, **own: Any) -> Instance:
        made.append(Instance(role, *specs, **own))
        return made[-1]

    yield make
    for one in made:
        one.close()


def until(condition: Callable[[], object], *instances: Instance) -> None:
    """Steps the instances until it is so."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "nothing came of it"
        for one in instances:
            one.step()
        time.sleep(0.002)
