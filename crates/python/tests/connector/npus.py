"""torch_npu's part of torch, and caches in NPU memory as vllm-ascend lays them out, on the software CANN."""

from __future__ import annotations

import ctypes
import os
import types
from collections.abc import Callable
from typing import Any, ClassVar

import fakes

HUGE_FIRST = 0
TO_DEVICE, TO_HOST = 1, 2
ALREADY_INITIALIZED = 100_002
HEAD = fakes.CONTENT // 2
# float32, [blocks, tokens, heads, head].
PLANE_BLOCK = fakes.BLOCK * fakes.HEADS * HEAD * 4
PLANE_BYTES = 4 << 20


class Acl:
    """AscendCL, on the device that is current."""

    device = 0

    def __init__(self) -> None:
        self.functions = ctypes.CDLL(os.path.join(os.environ["ROPEWAY_CANN_PATH"], "lib64/libascendcl.so"))
        assert self.functions.aclInit(None) in (0, ALREADY_INITIALIZED)

    def call(self, name: str, *arguments: Any) -> None:
        """A thread's calls go to the device that it set last."""
        assert self.functions.aclrtSetDevice(Acl.device) == 0
        code = getattr(self.functions, name)(*arguments)
        assert code == 0, f"{name}: {code}"

    def handle(self, name: str, *arguments: Any) -> int:
        """What a function makes, through a pointer that comes first."""
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        assert made.value is not None
        return made.value


class Stream:
    """A compute stream, the current one while `current` says so."""

    current: Stream

    def __init__(self) -> None:
        self.acl = Acl()
        self.handle = self.acl.handle("aclrtCreateStream")

    @property
    def npu_stream(self) -> int:
        """Asked for it, torch_npu waits until everything in its queue has reached the device."""
        while Event.queued:
            Event.queued.pop(0)()
        return self.handle

    def fill_later(self, address: int, nbytes: int, byte: int, ms: int) -> None:
        """A kernel that writes KV long after it was launched."""
        self.acl.call("ropeway_sim_kernel_fill", ctypes.c_void_p(self.handle), ctypes.c_void_p(address),
                      ctypes.c_size_t(nbytes), ctypes.c_uint8(byte), ctypes.c_uint32(ms))


class Event:
    """torch.npu.Event: its recording is queued on the host first."""

    queued: ClassVar[list[Callable[[], None]]] = []

    def __init__(self) -> None:
        self.acl = Acl()
        self.npu_event = self.acl.handle("aclrtCreateEvent")

    def record(self) -> None:
        stream = Stream.current.handle
        self.queued.append(lambda: self.acl.call(
            "aclrtRecordEvent", ctypes.c_void_p(self.npu_event), ctypes.c_void_p(stream)))


class Storage:
    """Memory of the device, as torch_npu allocates it."""

    def __init__(self) -> None:
        self.acl, self.device = Acl(), Acl.device
        self.address = self.acl.handle("aclrtMalloc", ctypes.c_size_t(PLANE_BYTES), HUGE_FIRST)
        self.put(0, bytes(PLANE_BYTES))

    def data_ptr(self) -> int:
        return self.address

    def nbytes(self) -> int:
        return PLANE_BYTES

    def put(self, at: int, data: bytes) -> None:
        self._copy(ctypes.c_void_p(self.address + at), ctypes.create_string_buffer(data, len(data)), len(data), TO_DEVICE)

    def get(self, at: int, length: int) -> bytes:
        data = ctypes.create_string_buffer(length)
        self._copy(data, ctypes.c_void_p(self.address + at), length, TO_HOST)
        return data.raw

    def _copy(self, to: Any, source: Any, length: int, kind: int) -> None:
        Acl.device = self.device
        self.acl.call("aclrtMemcpy", to, ctypes.c_size_t(length), source, ctypes.c_size_t(length), kind)


class Tensor(fakes.Tensor):
    """A plane of a layer: a tensor of its own."""

    device = types.SimpleNamespace(type="npu")


def kv_caches(head_major: bool = False) -> dict[str, tuple[Tensor, Tensor]]:
    """K and V apart, token-major in memory unless told otherwise."""
    shape = (PLANE_BYTES // PLANE_BLOCK, fakes.BLOCK, fakes.HEADS, HEAD)
    strides = (fakes.BLOCK * fakes.HEADS * HEAD, fakes.HEADS * HEAD, HEAD, 1)
    if head_major:
        strides = (strides[0], HEAD, fakes.BLOCK * HEAD, 1)
    return {f"model.layers.{layer}.self_attn.attn":
            (Tensor(Storage(), 0, shape, strides), Tensor(Storage(), 0, shape, strides)) for layer in range(fakes.LAYERS)}


def modules() -> dict[str, types.ModuleType]:
    """What an NPU adds to torch."""
    npu = types.ModuleType("torch_npu")
    npu.get_npu_format = lambda tensor: 2  # type: ignore[attr-defined]
    return {"torch_npu": npu}
