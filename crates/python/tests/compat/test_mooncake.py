"""Mooncake's interface over Ropeway, between processes."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from far import BYTES, HOST, Far, blocks

import ropeway
from ropeway.compat.mooncake import Read, TransferEngine, TransferNotify, Write

WAIT = 60.0


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Near:
    """An engine here with one buffer of random bytes."""

    def __init__(self, nbytes: int = BYTES, insecure: bool = True) -> None:
        self.engine = TransferEngine(insecure=insecure)
        assert self.engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == 0, self.engine.last_error
        self.buffer = numpy.random.default_rng(7).integers(0, 256, nbytes, dtype=numpy.uint8)
        self.at = self.buffer.ctypes.data
        assert self.engine.register_memory(self.at, nbytes) == 0


@pytest.fixture
def near() -> Iterator[Near]:
    side = Near()
    yield side
    side.engine.close()


@pytest.fixture
def far() -> Iterator[Far]:
    with Far() as side:
        yield side


def test_written_bytes_are_there_and_no_others(near: Near, far: Far) -> None:
    assert near.engine.transfer_sync_write(far.session, near.at + 5, far.addresses[1] + 100, 3000) == 0
    assert far.bytes(1, 100, 3000) == near.buffer[5:3005].tobytes()
    assert far.bytes(1, 0, 100) == bytes(100) and far.bytes(1, 3100, 100) == bytes(100)
    assert far.bytes(0, 0, 4096) == bytes(4096)


def test_a_batch_over_several_ranges_of_the_peer_is_read_in_one_call(near: Near, far: Far) -> None:
    far.ask("fill", 0, 1), far.ask("fill", 1, 2)
    size, ids = 4096, range(0, 40, 3)
    there = [address for pair in zip(*(blocks(at, ids, size) for at in far.addresses), strict=True) for address in pair]
    here = blocks(near.at, range(len(there)), size)
    assert near.engine.batch_transfer_sync_read(far.session, here, there, [size] * len(there)) == 0
    want = numpy.tile(numpy.repeat(numpy.array([1, 2], numpy.uint8), size), len(ids))
    assert (near.buffer[: len(want)] == want).all()


def test_batches_begun_are_waited_for_by_number(near: Near, far: Far) -> None:
    engine, lists = near.engine, ([near.at], [far.addresses[0]], [BYTES])
    numbers = [engine.batch_transfer_async_write(far.session, *lists), engine.batch_transfer_async(far.session, *lists, Read)]
    assert 0 not in numbers and engine.get_batch_transfer_status(numbers) == 0
    assert far.bytes(0, 0, BYTES) == near.buffer.tobytes()
    assert engine.get_batch_transfer_status(numbers) == -1, "told of before"
    number = engine.transfer_submit_write(far.session, near.at, far.addresses[1], BYTES)
    while (status := engine.transfer_check_status(number)) == 0:
        time.sleep(0.001)
    assert status == 1 and far.bytes(1, 0, BYTES) == near.buffer.tobytes()


def test_memory_that_is_not_registered_is_refused_and_nothing_moves(near: Near, far: Far) -> None:
    other = numpy.zeros(100, numpy.uint8)
    for here, there, length in [
        (other.ctypes.data, far.addresses[0], 100),
        (near.at, far.addresses[0] - 1, 8),
        (near.at, far.addresses[0] + BYTES - 7, 8),
        (near.at + BYTES - 7, far.addresses[0], 8),
        (near.at, far.addresses[0] + BYTES, 1),
        (near.at, far.addresses[0] + 8, 2**64 - 8),
        (near.at, 2**64 - 1, 8),
    ]:
        good = (near.at, far.addresses[1], 16)
        lists = [list(pair) for pair in zip(good, (here, there, length), strict=True)]
        assert near.engine.batch_transfer_sync_write(far.session, *lists) == -1
        assert isinstance(near.engine.last_error, ropeway.OutOfBoundsError)
    assert far.bytes(0, 0, BYTES) == bytes(BYTES) and far.bytes(1, 0, 16) == bytes(16)
    assert near.engine.transfer_sync_write(far.session, near.at, far.addresses[0] + BYTES - 8, 8) == 0, "up to the end"


def test_lists_of_unequal_length_and_negative_numbers_are_refused(near: Near, far: Far) -> None:
    assert near.engine.batch_transfer_sync_write(far.session, [near.at], far.addresses, [8, 8]) == -1
    assert near.engine.batch_transfer_sync_write(far.session, [near.at], [far.addresses[0]], [-8]) == -1
    assert near.engine.batch_transfer_sync_write(far.session, [], [], []) == 0


def test_many_threads_share_an_engine(near: Near, far: Far) -> None:
    threads, size = 10, BYTES // 10 // 4096 * 4096

    def write(turn: int) -> int:
        here = blocks(near.at + turn * size, range(size // 4096), 4096)
        there = blocks(far.addresses[0] + turn * size, range(size // 4096), 4096)
        return near.engine.batch_transfer_sync_write(far.session, here, there, [4096] * len(here))

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            assert list(pool.map(write, range(threads))) == [0] * threads
    assert far.bytes(0, 0, threads * size) == near.buffer[: threads * size].tobytes()


def test_another_process_at_the_same_address_is_refused_until_the_session_is_closed(near: Near) -> None:
    with Far() as first:
        assert near.engine.transfer_sync_read(first.session, near.at, first.addresses[0], 8) == 0
        port = first.port
    before = near.buffer.tobytes()
    with Far(fill=66, port=port) as second:
        assert second.session == first.session
        for _ in range(3):
            assert near.engine.transfer_sync_read(second.session, near.at, second.addresses[0], 8) == -1
            assert isinstance(near.engine.last_error, ropeway.StaleLeaseError)
        assert near.engine.send_probe(second.session) == -1
        assert near.buffer.tobytes() == before
        near.engine.close_session(second.session)
        assert near.engine.transfer_sync_read(second.session, near.at, second.addresses[0], 8) == 0
        assert near.buffer[:8].tobytes() == bytes([66] * 8)


def test_a_peer_that_is_killed_amid_transfers_fails_them_and_those_after() -> None:
    size = 64 << 20
    near = Near(size)
    with Far(nbytes=size) as far:
        assert near.engine.send_probe(far.session) == 0
        results: list[int] = []

        def write() -> None:
            while not results or results[-1] == 0:
                lists = (blocks(near.at, range(1024), 65_536), blocks(far.addresses[0], range(1024), 65_536), [65_536] * 1024)
                results.append(near.engine.batch_transfer_sync_write(far.session, *lists))

        writer = threading.Thread(target=write)
        writer.start()
        while len(results) < 3:
            time.sleep(0.001)
        far.kill()
        writer.join(WAIT)
        assert not writer.is_alive() and results[-1] == -1
        assert near.engine.transfer_sync_write(far.session, near.at, far.addresses[0], 8) == -1
    assert near.engine.unregister_memory(near.at) == 0, "nothing holds our memory"
    near.engine.close()


def test_the_death_of_one_peer_is_nothing_to_the_others(near: Near, far: Far) -> None:
    """Each has leases of its own."""
    at = near.at
    with Far() as other:
        us = f"{HOST}:{near.engine.get_rpc_port()}"
        for side in (far, other):
            assert side.call("transfer_sync_write", us, side.addresses[0], at, 8) == 0
        other.kill()
    for _ in range(20):
        assert far.call("transfer_sync_read", us, far.addresses[0], at, 8) == 0
        time.sleep(0.01)


def test_what_a_peer_registers_later_is_found_and_what_it_took_back_is_refused(near: Near, far: Far) -> None:
    engine, (first, second) = near.engine, far.addresses
    assert engine.transfer_sync_write(far.session, near.at, first, 8) == 0
    assert far.call("unregister_memory", first) == 0
    assert engine.transfer_sync_write(far.session, near.at, first, 8) == -1
    assert engine.transfer_sync_write(far.session, near.at, second, 8) == 0
    assert far.call("register_memory", first, BYTES) == 0
    assert engine.transfer_sync_write(far.session, near.at + 50, first, 8) == 0
    assert far.bytes(0, 0, 8) == near.buffer[50:58].tobytes()


def test_our_own_memory_can_be_taken_back_and_registered_again(near: Near, far: Far) -> None:
    assert near.engine.transfer_sync_write(far.session, near.at, far.addresses[0], 8) == 0
    assert near.engine.register_memory(near.at + 8, 8) == -1, "it overlaps"
    assert near.engine.unregister_memory(near.at) == 0
    assert near.engine.unregister_memory(near.at) == -1
    assert near.engine.transfer_sync_write(far.session, near.at, far.addresses[0], 8) == -1
    assert near.engine.register_memory(near.at, BYTES) == 0
    assert near.engine.transfer_sync_write(far.session, near.at + 9, far.addresses[0], 8) == 0
    assert far.bytes(0, 0, 8) == near.buffer[9:17].tobytes()


def test_notifies_come_after_their_bytes_to_whom_they_are_for_once(near: Near, far: Far) -> None:
    with Far() as other:
        assert other.ask("notifies") == []
        near.engine.send_probe(other.session)
        for turn in range(3):
            notify = TransferNotify("near", str(turn))
            assert near.engine.transfer_sync(far.session, near.at, far.addresses[0], 8, Write, notify) == 0
        assert far.ask("notifies") == [["near", "0"], ["near", "1"], ["near", "2"]]
        assert far.ask("notifies") == [] and other.ask("notifies") == []
    us = f"{HOST}:{near.engine.get_rpc_port()}"
    assert far.ask("send", us, far.addresses[0], near.at, "back") == 0
    assert near.engine.get_notifies() == [TransferNotify("far", "back")]


def test_managed_buffers_are_registered_memory(near: Near, far: Far) -> None:
    engine = near.engine
    at = engine.allocate_managed_buffer(8192)
    assert at and engine.write_bytes_to_buffer(at, b"abcdef", 4) == 0
    assert engine.read_bytes_from_buffer(at, 6) == b"abcd\0\0"
    assert engine.transfer_sync_write(far.session, at, far.addresses[0], 4) == 0 and far.bytes(0, 0, 4) == b"abcd"
    assert engine.free_managed_buffer(at, 8192) == 0
    assert engine.write_bytes_to_buffer(at, b"abcdef", 4) == -1
    with pytest.raises(ropeway.OutOfBoundsError):
        engine.read_bytes_from_buffer(at, 6)


def test_the_first_buffer_of_a_peer_has_an_address(near: Near, far: Far) -> None:
    assert near.engine.get_first_buffer_address(far.session) == min(far.addresses)
    assert near.engine.get_first_buffer_address(f"{HOST}:1") == 0


def test_without_a_key_the_word_insecure_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROPEWAY_COMPAT", raising=False)
    monkeypatch.delenv("ROPEWAY_PSK_FILE", raising=False)
    engine = TransferEngine()
    assert engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == -1
    assert "ROPEWAY_PSK_FILE" in str(engine.last_error)
    assert engine.get_rpc_port() == -1


def test_only_holders_of_the_key_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {}
    for name in ("ours", "other"):
        keys[name] = tmp_path / name
        keys[name].write_bytes(name.encode() * 16)
        keys[name].chmod(0o600)
    monkeypatch.setenv("ROPEWAY_PSK_FILE", str(keys["ours"]))
    near = Near(insecure=False)
    with Far(env={"ROPEWAY_COMPAT": "mooncake"}) as friend:
        assert near.engine.transfer_sync_write(friend.session, near.at, friend.addresses[0], 8) == 0
    with Far(env={"ROPEWAY_PSK_FILE": str(keys["other"])}) as stranger:
        assert near.engine.transfer_sync_write(stranger.session, near.at, stranger.addresses[0], 8) == -1
        assert isinstance(near.engine.last_error, ropeway.DeniedError)
    monkeypatch.delenv("ROPEWAY_PSK_FILE")
    keyless = Near()
    assert keyless.engine.send_probe(f"{HOST}:{near.engine.get_rpc_port()}") == -1
    assert isinstance(keyless.engine.last_error, ropeway.DeniedError)
    keyless.engine.close()
    near.engine.close()


@pytest.mark.parametrize(
    ("metadata", "protocol"), [("etcd://127.0.0.1:2379", "tcp"), ("P2PHANDSHAKE", "nvlink"), ("P2PHANDSHAKE", "efa")]
)
def test_what_is_not_to_be_had_is_refused_by_name(metadata: str, protocol: str) -> None:
    engine = TransferEngine(insecure=True)
    assert engine.initialize(HOST, metadata, protocol, "") == -1
    assert isinstance(engine.last_error, ropeway.UnsupportedError)
    with pytest.raises(ropeway.UnsupportedError, match="store"):
        engine.get_engine()


def test_what_vllms_connector_calls_moves_a_cache(far: Far) -> None:
    """Its calls in its order: one engine, many tensors registered at once, writes from a pool of threads."""
    engine = TransferEngine(insecure=True)
    assert engine.initialize(HOST, "P2PHANDSHAKE", "tcp", "") == 0
    assert engine.get_rpc_port() > 0
    layers, block, ids = 16, 1 << 11, [3, 4, 5, 9, 12, 13]
    rng = numpy.random.default_rng(1)
    caches = [rng.integers(0, 256, 16 * block, dtype=numpy.uint8) for _ in range(layers)]
    assert engine.batch_register_memory([cache.ctypes.data for cache in caches], [cache.nbytes for cache in caches]) == 0
    runs = [(3, 0, 3), (9, 3, 1), (12, 4, 2)]
    assert sum(count for *_, count in runs) == len(ids)
    lists: tuple[list[int], list[int], list[int]] = ([], [], [])
    for layer, cache in enumerate(caches):
        for mine, theirs, count in runs:
            lists[0].append(cache.ctypes.data + mine * block)
            lists[1].append(far.addresses[0] + (layer * 16 + theirs) * block)
            lists[2].append(count * block)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(engine.batch_transfer_sync_write, far.session, *lists).result() == 0
    for layer, cache in enumerate(caches):
        want = b"".join(cache[block * at : block * (at + 1)].tobytes() for at in ids)
        assert far.bytes(0, layer * 16 * block, len(ids) * block) == want
    engine.close()


CALLS = """
    TransferOpcode allocate_managed_buffer batch_register_memory batch_transfer_async batch_transfer_async_read
    batch_transfer_async_write batch_transfer_sync batch_transfer_sync_read batch_transfer_sync_write batch_unregister_memory
    free_managed_buffer get_batch_transfer_status get_engine get_engine_ptr get_first_buffer_address get_local_topology
    get_notifies get_rpc_port initialize initialize_ext read_bytes_from_buffer register_memory send_probe transfer_check_status
    transfer_submit_write transfer_sync transfer_sync_read transfer_sync_write unregister_memory warmup_efa_segment
    write_bytes_to_buffer
"""


def test_no_call_of_mooncake_0_3_13_is_missing() -> None:
    assert [name for name in CALLS.split() if not hasattr(TransferEngine, name)] == []


def test_a_range_that_is_not_free_yet_keeps_no_peer_from_the_others() -> None:
    near, other = Near(), numpy.zeros(BYTES, dtype=numpy.uint8)
    assert near.engine.register_memory(other.ctypes.data, BYTES) == 0
    owner = near.engine._owner
    local = owner.at(near.at)
    assert local is not None

    class Busy:
        """Closes, and says once that something still touches it."""

        times = 0

        def close(self, timeout: float) -> None:
            local.region.close(timeout)
            self.times += 1
            if self.times == 1:
                raise ropeway.TimedOutError("busy")

    busy = local._replace(region=Busy())  # type: ignore[arg-type]
    with pytest.raises(ropeway.TimedOutError):
        owner.remove(busy, 1.0)
    # It is nobody's any more, and not to be registered again yet; a peer that comes now gets what is left.
    assert owner.of(local.number) is None and owner.at(near.at) is busy
    assert owner.overlap(near.at + 1, 1) is busy
    owner._grant("0123456789abcdef")
    assert {number for number, _ in owner._leases["0123456789abcdef"]} == {local.number + 1}
    owner.remove(busy, 1.0)
    assert owner.at(near.at) is None


def test_a_number_that_is_unknown_costs_the_others_nothing(far: Far) -> None:
    near = Near()
    batch = near.engine.batch_transfer_async_read(far.session, [near.at], [far.addresses[0]], [64])
    assert batch > 0
    assert near.engine.get_batch_transfer_status([batch, batch + 1]) == -1
    assert near.engine.get_batch_transfer_status([batch, batch]) == 0
    assert near.engine.get_batch_transfer_status([batch]) == -1
