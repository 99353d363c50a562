"""Buffers of a process: in host memory, or in an NPU's as torch_npu allocates it, through AscendCL."""

from __future__ import annotations

import ctypes
import os

import numpy

HUGE_FIRST = 0
TO_DEVICE, TO_HOST = 1, 2
ALREADY_INITIALIZED = 100_002


class Host:
    """Ordinary memory."""

    def __init__(self, nbytes: int) -> None:
        self._array = numpy.zeros(nbytes, numpy.uint8)
        self.address = self._array.ctypes.data

    def put(self, start: int, data: bytes) -> None:
        self._array[start : start + len(data)] = numpy.frombuffer(data, numpy.uint8)

    def get(self, start: int, length: int) -> bytes:
        return self._array[start : start + length].tobytes()


class Hbm:
    """Memory of an NPU, of the CANN in ROPEWAY_CANN_PATH."""

    def __init__(self, nbytes: int, device: int) -> None:
        self._device = device
        self._acl = ctypes.CDLL(os.path.join(os.environ["ROPEWAY_CANN_PATH"], "lib64/libascendcl.so"))
        assert self._acl.aclInit(None) in (0, ALREADY_INITIALIZED)
        self._here()
        address = ctypes.c_void_p()
        assert self._acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(nbytes), HUGE_FIRST) == 0
        assert address.value is not None
        self.address = address.value
        self.put(0, bytes(nbytes))

    def put(self, start: int, data: bytes) -> None:
        self._copy(self.address + start, ctypes.create_string_buffer(data, len(data)), len(data), TO_DEVICE)

    def get(self, start: int, length: int) -> bytes:
        data = ctypes.create_string_buffer(length)
        self._copy(data, self.address + start, length, TO_HOST)
        return data.raw

    def _copy(self, to: object, source: object, length: int, kind: int) -> None:
        self._here()
        pointers = [one if isinstance(one, ctypes.Array) else ctypes.c_void_p(one) for one in (to, source)]  # type: ignore[arg-type]
        size = ctypes.c_size_t(length)
        assert self._acl.aclrtMemcpy(pointers[0], size, pointers[1], size, kind) == 0

    def _here(self) -> None:
        """A thread's calls go to the device that it set last."""
        assert self._acl.aclrtSetDevice(self._device) == 0
