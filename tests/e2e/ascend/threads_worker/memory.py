"""Tensors in ordinary memory, or in the simulated HBM of the software CANN where the host can touch it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

_PAGE = 2 << 20
_HUGE_FIRST = 0


class Hbm:
    """Memory of a simulated NPU, by the calls that torch_npu makes."""

    def __init__(self, device: int) -> None:
        self._acl = ctypes.CDLL(str(Path(os.environ["ROPEWAY_CANN_PATH"]) / "lib64" / "libascendcl.so"))
        self._call("aclInit", None)
        self._call("aclrtSetDevice", device)

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._acl, name)(*arguments):
            raise OSError(f"{name}: {code}")

    def bytes(self, size: int) -> torch.Tensor:
        """Aligned to huge pages, as vllm-ascend allocates its caches."""
        at = ctypes.c_void_p()
        self._call("aclrtMalloc", ctypes.byref(at), ctypes.c_size_t(size + _PAGE), _HUGE_FIRST)
        start = -(-at.value // _PAGE) * _PAGE
        return torch.frombuffer((ctypes.c_uint8 * size).from_address(start), dtype=torch.uint8)


class Host:
    """Ordinary memory."""

    def bytes(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)
