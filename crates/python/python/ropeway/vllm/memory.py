"""Puts a KV cache on the CPU where another process of the host can map it."""

from __future__ import annotations

import math
import mmap
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Below this a tensor is no KV cache: block tables and the like are zeroed too.
_LEAST = 1 << 20


class SharedZeros(TorchFunctionMode):
    """While it is on, a large `torch.zeros(bytes, dtype=torch.int8)` on the CPU is a memfd's memory, registered whole.

    vLLM allocates the cache of a worker by one such call. Where it does not, nothing happens, and the tensors are registered
    like any others.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine
        self.regions: dict[int, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.zeros:
            nbytes = _kv_bytes(args, kwargs)
            if nbytes is not None:
                return self._shared(nbytes)
        return func(*args, **kwargs)

    def _shared(self, nbytes: int) -> torch.Tensor:
        region = self._engine.alloc(_whole_pages(nbytes), "shared")
        tensor = torch.frombuffer(region.memoryview(), dtype=torch.int8)[:nbytes]
        self.regions[tensor.untyped_storage().data_ptr()] = region
        return tensor


def _kv_bytes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The size, when it is a call for a flat byte tensor of the CPU that is large enough."""
    if kwargs.get("dtype") not in (torch.int8, torch.uint8) or set(kwargs) - {"dtype", "device", "size"}:
        return None
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != "cpu":
        return None
    size = args if args else (kwargs.get("size"),)
    if len(size) == 1 and isinstance(size[0], (tuple, list, torch.Size)):
        size = tuple(size[0])
    if len(size) != 1 or not isinstance(size[0], int):
        return None
    return size[0] if size[0] >= _LEAST else None


def _whole_pages(nbytes: int) -> int:
    return math.ceil(nbytes / mmap.PAGESIZE) * mmap.PAGESIZE
