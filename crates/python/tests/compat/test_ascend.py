"""What vllm-ascend's connectors call, over hixl, between two processes with an NPU each of the software CANN."""

from __future__ import annotations

import faulthandler
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from far import HOST, Far, blocks, random_bytes
from memory import Hbm

import ropeway
from ropeway.compat.mooncake import TransferEngine

CANN = os.environ.get("ROPEWAY_SIM_CANN", "")
NBYTES = 4 << 20
pytestmark = pytest.mark.skipif(not CANN, reason="ROPEWAY_SIM_CANN names no software CANN (cargo xtask sim-cann)")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where NPUs that no other test has keep their memory. This process opens them once."""
    return str(tmp_path_factory.mktemp("npus"))


@pytest.fixture(autouse=True)
def machine(state: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One host, as both processes see it."""
    faulthandler.dump_traceback_later(180, exit=True)
    for name, value in {
        "ROPEWAY_CANN_PATH": CANN,
        "ROPEWAY_HCCN_CONF": f"{CANN}/etc/node0/hccn.conf",
        "ROPEWAY_NODE": "node0",
        "ROPEWAY_SIM_STATE": state,
    }.items():
        monkeypatch.setenv(name, value)
    # As torch_npu answers in a worker that runs on the third of its host's NPUs.
    npu = types.SimpleNamespace(current_device=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(npu=npu))  # type: ignore[arg-type]
    yield
    faulthandler.cancel_dump_traceback_later()


class Consumer:
    """A decode worker: an engine and two caches in its NPU's memory."""

    def __init__(self) -> None:
        self.engine = TransferEngine(insecure=True)
        assert self.engine.initialize(HOST, "P2PHANDSHAKE", "ascend", "") == 0, self.engine.last_error
        assert self.engine.get_rpc_port() > 0
        self.caches = [Hbm(NBYTES, 2) for _ in range(2)]
        for cache in self.caches:
            assert self.engine.register_memory(cache.address, NBYTES) == 0, self.engine.last_error

    def transports(self) -> set[str]:
        """What its routes go by."""
        return {route.transport for session in self.engine._sessions.values() for route in session._routes.values()}


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    side = Consumer()
    yield side
    side.engine.close()


def lists(here: list[int], there: list[int], pairs: list[tuple[int, int]]) -> tuple[list[int], list[int], list[int]]:
    """Addresses and lengths of blocks (ours, theirs) of MLA: 128 KiB of the one cache, 16 KiB of the other."""
    found: tuple[list[int], list[int], list[int]] = ([], [], [])
    for at, size in enumerate((131_072, 16_384)):
        found[0].extend(blocks(here[at], [ours for ours, _ in pairs], size))
        found[1].extend(blocks(there[at], [theirs for _, theirs in pairs], size))
        found[2].extend([size] * len(pairs))
    return found


PAIRS = [(3, 9), (4, 10), (5, 11), (20, 1), (30, 30), (0, 31)]
"""Blocks of ours and of theirs: a run, and single ones."""


def test_a_decode_worker_reads_a_prompt_from_a_prefill_worker_over_hixl(consumer: Consumer) -> None:
    with Far(nbytes=NBYTES, npu=1) as far:
        far.ask("random", 0, 5), far.ask("random", 1, 6)
        local = [cache.address for cache in consumer.caches]
        result = consumer.engine.batch_transfer_sync_read(far.session, *lists(local, far.addresses, PAIRS))
        assert result == 0, consumer.engine.last_error
        assert consumer.transports() == {"hixl"}
    for cache, seed, size in zip(consumer.caches, (5, 6), (131_072, 16_384), strict=True):
        want, theirs = bytearray(NBYTES), random_bytes(seed, NBYTES)
        for here, there in PAIRS:
            want[here * size : (here + 1) * size] = theirs[there * size : (there + 1) * size]
        assert cache.get(0, NBYTES) == bytes(want), "these blocks and no other byte"


def test_a_layerwise_prefill_worker_writes_into_a_decode_worker_over_hixl(consumer: Consumer) -> None:
    us = f"{HOST}:{consumer.engine.get_rpc_port()}"
    with Far(nbytes=NBYTES, npu=1) as far:
        far.ask("random", 0, 7), far.ask("random", 1, 8)
        local = [cache.address for cache in consumer.caches]
        # The 128 bytes that make the link come first, as vllm-ascend sends them.
        assert far.call("batch_transfer_sync_write", us, [far.addresses[0]], [local[0]], [128]) == 0
        written = lists(far.addresses, local, [(theirs, ours) for ours, theirs in PAIRS])
        assert far.call("batch_transfer_sync_write", us, *written) == 0
    for cache, seed, size in zip(consumer.caches, (7, 8), (131_072, 16_384), strict=True):
        theirs = random_bytes(seed, NBYTES)
        for here, there in PAIRS:
            assert cache.get(here * size, size) == theirs[there * size : (there + 1) * size]


def test_a_prefill_worker_that_is_gone_fails_the_read_and_leaves_the_cache_as_it_was(consumer: Consumer) -> None:
    local = [cache.address for cache in consumer.caches]
    with Far(fill=9, nbytes=NBYTES, npu=1) as far:
        assert consumer.engine.send_probe(far.session) == 0
        session, addresses = far.session, far.addresses
    assert consumer.engine.batch_transfer_sync_read(session, *lists(local, addresses, PAIRS)) == -1
    assert isinstance(consumer.engine.last_error, ropeway.Error)
    assert consumer.caches[0].get(0, NBYTES) == bytes(NBYTES)


def test_an_npu_that_is_not_there_is_an_error_by_name() -> None:
    engine = TransferEngine(insecure=True)
    assert engine.initialize(HOST, "P2PHANDSHAKE", "ascend", "npu:9") == -1
    assert "9" in str(engine.last_error)
