"""Memory: whose it is, how long it is kept, and how Python sees it."""

from __future__ import annotations

import array
import fcntl
import gc
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import numpy
import pytest
from conftest import BLOCK, BLOCKS, WAIT, side

import ropeway

Eventually = Callable[[Callable[[], object]], None]


class Storage:
    """What a torch storage shows of itself."""

    def __init__(self, memory: numpy.ndarray) -> None:
        self.memory = memory

    def data_ptr(self) -> int:
        return self.memory.ctypes.data

    def nbytes(self) -> int:
        return self.memory.nbytes


class Tensor:
    """What a torch tensor shows of itself: a view somewhere in a storage."""

    def __init__(self, storage: Storage, offset: int, device: str = "cpu") -> None:
        self.storage, self.offset, self.device = storage, offset, SimpleNamespace(type=device)

    def untyped_storage(self) -> Storage:
        return self.storage

    def data_ptr(self) -> int:
        return self.storage.data_ptr() + self.offset


def test_a_registered_buffer_is_the_regions_memory() -> None:
    engine = ropeway.Engine()
    memory = numpy.zeros((4, BLOCK), dtype=numpy.uint8)
    region = engine.register(memory)
    region.write(BLOCK, b"block")
    assert bytes(memory[1, :5]) == b"block"
    memory[2, 0] = 9
    assert region.read(2 * BLOCK, 1) == b"\x09" and region.address == memory.ctypes.data


def test_a_registered_buffer_cannot_be_resized_until_the_region_is_gone(eventually: Eventually) -> None:
    engine = ropeway.Engine()
    memory = bytearray(BLOCK)
    region = engine.register(memory)
    with pytest.raises(BufferError):
        memory.extend(b"more")
    del region

    def resized() -> bool:
        try:
            memory.extend(b"more")
        except BufferError:
            return False
        return True

    eventually(resized)


@pytest.mark.parametrize("buffer", [b"read-only", bytearray(), numpy.zeros((8, 8))[:, ::2]])
def test_unfit_buffers_are_refused(buffer: object) -> None:
    with pytest.raises(ropeway.ApiMisuseError, match="writable, in one piece"):
        ropeway.Engine().register(buffer)


def test_a_tensors_whole_storage_is_registered_and_kept(eventually: Eventually) -> None:
    engine = ropeway.Engine()
    storage = Storage(numpy.zeros(8 * BLOCK, dtype=numpy.uint8))
    alive = weakref.ref(storage)
    tensor = Tensor(storage, 3 * BLOCK)
    region = engine.register_tensor(tensor)
    assert (region.nbytes, len(region), region.device) == (8 * BLOCK, 8 * BLOCK, "cpu")
    assert region.offset_of(tensor) == 3 * BLOCK
    with pytest.raises(ropeway.OutOfBoundsError):
        region.offset_of(region.address + region.nbytes)
    del storage, tensor
    gc.collect()
    assert alive() is not None
    cache = engine.cache("kv").group("g0").part("k", region, block_bytes=BLOCK, blocks=8).publish()
    del region
    gc.collect()
    assert alive() is not None, "the cache keeps it"
    del cache
    eventually(lambda: alive() is None)


def test_a_tensor_on_another_device_is_refused() -> None:
    tensor = Tensor(Storage(numpy.zeros(8)), 0, "cuda")
    with pytest.raises(ropeway.ApiMisuseError, match="cuda"):
        ropeway.Engine().register_tensor(tensor)


def test_a_keep_alive_drops_while_another_thread_closes(eventually: Eventually) -> None:
    """The janitor needs the interpreter for it; a close that kept the interpreter would never end."""
    dropped = threading.Event()

    class Owner:
        def __init__(self) -> None:
            self.memory = bytearray(BLOCK)

        def __del__(self) -> None:
            dropped.set()

    for _ in range(20):
        dropped.clear()
        engine = ropeway.Engine()
        owner = Owner()
        address = engine.register(owner.memory).address
        region = engine.register_address(address, BLOCK, owner)
        del owner
        closing = threading.Thread(target=region.close)
        closing.start()
        del region
        assert engine.close(WAIT) == []
        closing.join()
        eventually(dropped.is_set)


def test_a_keep_alive_is_dropped_when_registering_fails(eventually: Eventually) -> None:
    engine = ropeway.Engine(limits={"regions": 1})
    kept = engine.alloc(BLOCK)
    storage = Storage(numpy.zeros(BLOCK, dtype=numpy.uint8))
    alive = weakref.ref(storage)
    with pytest.raises(ropeway.FullError):
        engine.register_tensor(Tensor(storage, 0))
    del storage
    eventually(lambda: gc.collect() is not None and alive() is None)
    assert kept.nbytes == BLOCK


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_a_regions_memory_is_a_numpy_array_without_a_copy(kind: str) -> None:
    region = ropeway.Engine().alloc(BLOCK, kind)
    numbers = numpy.frombuffer(region.memoryview(), dtype=numpy.int32)
    numbers[:] = 7
    assert region.read(0, 8) == b"\7\0\0\0" * 2
    region.write(4, b"\1\0\0\0")
    assert numbers[1] == 1 and numbers.ctypes.data == region.address


def test_a_view_keeps_its_memory_after_engine_and_region_are_gone() -> None:
    engine = ropeway.Engine()
    view = engine.alloc(1 << 20).memoryview()
    engine.close()
    del engine
    gc.collect()
    view[-1] = 3
    assert view[-1] == 3 and view.nbytes == 1 << 20


def test_a_memfd_of_another_allocator_is_adopted() -> None:
    descriptor = os.memfd_create("cache", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, BLOCK * BLOCKS)
    theirs = mmap.mmap(descriptor, BLOCK * BLOCKS)
    engine = ropeway.Engine()
    region = engine.adopt_memfd(descriptor)
    theirs[5:8] = b"abc"
    assert region.read(5, 3) == b"abc" and region.nbytes == BLOCK * BLOCKS
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK, "nobody can cut it any more"
    os.close(descriptor)
    region.write(0, array.array("B", b"xyz"))
    assert theirs[:3] == b"xyz"
    for number in (-1, 1 << 20):
        with pytest.raises(ropeway.Error):
            engine.adopt_memfd(number)


def test_reads_and_writes_past_the_end_are_refused() -> None:
    region = ropeway.Engine().alloc(BLOCK)
    for call in (
        lambda: region.read(0, BLOCK + 1),
        lambda: region.read(BLOCK, 1),
        lambda: region.read(1 << 63, 1),
        lambda: region.write(BLOCK - 1, b"ab"),
        lambda: region.fill(1, BLOCK, 0),
    ):
        with pytest.raises(ropeway.OutOfBoundsError):
            call()


def test_a_region_is_closed_and_suspended_by_name() -> None:
    lender = side()
    lender.region.suspend()
    with pytest.raises(ropeway.ClosedError, match="suspended"):
        lender.cache.lease([[0]])
    lender.region.resume()
    lease = lender.cache.lease([[0]])
    lender.region.close()
    assert lease.is_free
    with pytest.raises(ropeway.ClosedError):
        lender.cache.lease([[0]])


def test_an_npu_is_asked_for_by_name_and_its_absence_said() -> None:
    with pytest.raises(ropeway.ApiMisuseError, match="no NPU"):
        ropeway.Engine().alloc(BLOCK, "npu")
    with pytest.raises(ropeway.Error):
        ropeway.Engine(npu=ropeway.Npu(0, cann_path="/nowhere", node="here"))
