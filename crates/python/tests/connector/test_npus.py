"""The connector on two NPUs of the software CANN, over hixl; nothing of it has run on a real one."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import fakes
import npus
import pytest
from instances import Instance, beside_vllm, until  # noqa: F401

CANN = os.environ.get("ROPEWAY_SIM_CANN", "")
pytestmark = pytest.mark.skipif(not CANN, reason="ROPEWAY_SIM_CANN names no software CANN (cargo xtask sim-cann)")
Make = Callable[..., "OnNpu"]


class OnNpu(Instance):
    """An instance whose worker has an NPU, and a compute stream there."""

    def __init__(self, device: int, role: str, head_major: bool = False, **own: Any) -> None:
        self.device = npus.Acl.device = device
        self.stream = npus.Stream()
        self.caches = npus.kv_caches(head_major)
        self.open(fakes.vllm_config(role, device="npu", transports=["hixl"], **own), fakes.CacheConfig(), self.caches)

    def step(self) -> None:
        npus.Acl.device, npus.Stream.current = self.device, self.stream
        super().step()

    def plane(self, layer: int, which: int) -> npus.Storage:
        storage: npus.Storage = self.caches[f"model.layers.{layer}.self_attn.attn"][which].storage
        return storage


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where NPUs that no other test has keep their memory."""
    return str(tmp_path_factory.mktemp("npus"))


@pytest.fixture
def on_npu(state: str, monkeypatch: pytest.MonkeyPatch, beside_vllm: dict[str, types.ModuleType]) -> Iterator[Make]:  # noqa: F811
    """Makes instances on one host, and closes them."""
    faulthandler.dump_traceback_later(180, exit=True)
    for name, value in {"ROPEWAY_CANN_PATH": CANN, "ROPEWAY_HCCN_CONF": f"{CANN}/etc/node0/hccn.conf",
                        "ROPEWAY_NODE": "node0", "ROPEWAY_SIM_STATE": state}.items():
        monkeypatch.setenv(name, value)
    beside_vllm["torch"].npu = types.SimpleNamespace(  # type: ignore[attr-defined]
        current_device=lambda: npus.Acl.device, Event=npus.Event, current_stream=lambda: npus.Stream.current)
    for name, module in npus.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    made: list[OnNpu] = []

    def make(device: int, role: str, **own: Any) -> OnNpu:
        made.append(OnNpu(device, role, **own))
        return made[-1]

    yield make
    for one in made:
        one.close()
    faulthandler.cancel_dump_traceback_later()


def ask(consumer: Instance, blocks: list[int], params: dict[str, Any]) -> None:
    request = fakes.Request("d", len(blocks) * fakes.BLOCK, params)
    consumer.scheduler.on_new_request(request)
    tokens, _ = consumer.scheduler.get_num_new_matched_tokens(request, 0)
    assert tokens == len(blocks) * fakes.BLOCK
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks(blocks), tokens)


def test_keys_and_values_apart_come_over_between_npus(on_npu: Make) -> None:
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer")
    for layer in range(fakes.LAYERS):
        for which in (0, 1):
            for block in (3, 9):
                data = bytes([16 * layer + 4 * which + block]) * npus.PLANE_BLOCK
                producer.plane(layer, which).put(block * npus.PLANE_BLOCK, data)
    ask(consumer, [5, 6], producer.lend("p", 2 * fakes.BLOCK, [3, 9]))
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed, producer.sent) == ({"d"}, set(), {"p"})
    for layer in range(fakes.LAYERS):
        for which in (0, 1):
            plane, base = consumer.plane(layer, which), 16 * layer + 4 * which
            assert plane.get(4 * npus.PLANE_BLOCK, 4 * npus.PLANE_BLOCK) == b"".join(
                bytes([byte]) * npus.PLANE_BLOCK for byte in (0, base + 3, base + 9, 0))


def test_heads_that_lie_otherwise_are_put_in_order_on_the_device(on_npu: Make) -> None:
    """Token-major at the producer, head-major here: blocks land whole in the NPU's memory, and are copied from there."""
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer", head_major=True)
    row = npus.HEAD * 4

    def content(layer: int, which: int, block: int, token: int, head: int) -> bytes:
        return bytes([16 * layer + 8 * which + head, block, token, 7]) * (row // 4)

    for layer in range(fakes.LAYERS):
        for which in (0, 1):
            for block in (3, 9):
                rows = [content(layer, which, block, token, head)
                        for token in range(fakes.BLOCK) for head in range(fakes.HEADS)]
                producer.plane(layer, which).put(block * npus.PLANE_BLOCK, b"".join(rows))
    ask(consumer, [5, 6], producer.lend("p", 2 * fakes.BLOCK, [3, 9]))
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed, producer.sent) == ({"d"}, set(), {"p"})
    for layer in range(fakes.LAYERS):
        for which in (0, 1):
            for ours, theirs in ((5, 3), (6, 9)):
                rows = [content(layer, which, theirs, token, head)
                        for head in range(fakes.HEADS) for token in range(fakes.BLOCK)]
                assert consumer.plane(layer, which).get(ours * npus.PLANE_BLOCK, npus.PLANE_BLOCK) == b"".join(rows)
            for other in (4, 7):
                assert consumer.plane(layer, which).get(other * npus.PLANE_BLOCK, npus.PLANE_BLOCK) == bytes(npus.PLANE_BLOCK)


def test_blocks_that_the_device_may_still_write_are_never_given_back(on_npu: Make) -> None:
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer", head_major=True)
    ask(consumer, [5], producer.lend("p", fakes.BLOCK, [3]))
    script = npus.Acl().functions.ropeway_sim_faults
    # The device neither ends its copies nor says that it has.
    assert script(b"refuse op=aclrtSynchronizeStreamWithTimeout code=507010") == 0
    try:
        with pytest.raises(RuntimeError, match="may still write.*restart this process"):
            until(lambda: False, producer, consumer)
        assert not consumer.received
    finally:
        script(b"")


def test_blocks_in_an_order_of_the_devices_own_are_not_cut(on_npu: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["torch_npu"], "get_npu_format", lambda tensor: 29)
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer", head_major=True)
    ask(consumer, [5], producer.lend("p", fakes.BLOCK, [3]))
    until(lambda: consumer.received, producer, consumer)
    assert consumer.failed == {"d"}


def test_blocks_are_not_read_before_the_kernels_that_write_them_are_done(on_npu: Make) -> None:
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer")
    plane = producer.plane(0, 0)
    npus.Acl.device = 0
    producer.stream.fill_later(plane.address + 3 * npus.PLANE_BLOCK, npus.PLANE_BLOCK, 77, 400)
    ask(consumer, [5], producer.lend("p", fakes.BLOCK, [3]))
    until(lambda: consumer.received, producer, consumer)
    assert not consumer.failed
    assert consumer.plane(0, 0).get(5 * npus.PLANE_BLOCK, npus.PLANE_BLOCK) == bytes([77]) * npus.PLANE_BLOCK


def test_blocks_are_not_loaded_into_before_the_kernels_that_use_them_are_done(on_npu: Make) -> None:
    producer, consumer = on_npu(0, "kv_producer"), on_npu(1, "kv_consumer")
    producer.plane(0, 0).put(3 * npus.PLANE_BLOCK, bytes([51]) * npus.PLANE_BLOCK)
    npus.Acl.device = 1
    # As of the request that had the block before: what it still writes must not come over what is loaded.
    consumer.stream.fill_later(consumer.plane(0, 0).address + 5 * npus.PLANE_BLOCK, npus.PLANE_BLOCK, 9, 400)
    ask(consumer, [5], producer.lend("p", fakes.BLOCK, [3]))
    until(lambda: consumer.received, producer, consumer)
    done = npus.Event()
    npus.Acl.device, npus.Stream.current = 1, consumer.stream
    done.acl.call("aclrtSynchronizeStream", ctypes.c_void_p(consumer.stream.handle))
    assert consumer.plane(0, 0).get(5 * npus.PLANE_BLOCK, npus.PLANE_BLOCK) == bytes([51]) * npus.PLANE_BLOCK


def test_the_generation_of_the_npu_is_part_of_what_must_agree(on_npu: Make) -> None:
    producer = on_npu(0, "kv_producer")
    card = producer.worker.get_handshake_metadata().card
    assert b'"device":"ascend-a3"' in card, card
