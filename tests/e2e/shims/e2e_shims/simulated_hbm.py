"""RopewayConnector with the KV cache in the memory of a simulated NPU, mapped where the host can touch it.

vLLM computes on the CPU and writes there as into any memory. The connector takes it for what it is, memory of an NPU: it
registers it so, opens an engine with the NPU, waits for events of a compute stream, and moves blocks by hixl. What torch_npu
answers it is answered here, from the software CANN.
"""

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import torch

from ropeway.vllm import connector, memory, worker

PAGE = 2 << 20
HUGE_FIRST = 0
ALREADY_INITIALIZED = 100_002


class Acl:
    """AscendCL on the device of this process."""

    device = 0
    stream = None

    def __init__(self):
        self.library = ctypes.CDLL(str(Path(os.environ["ROPEWAY_CANN_PATH"]) / "lib64" / "libascendcl.so"))
        if (code := self.library.aclInit(None)) not in (0, ALREADY_INITIALIZED):
            raise OSError(f"aclInit: {code}")

    def call(self, name, *arguments):
        # A thread's calls go to the device that it set last.
        for function, given in (("aclrtSetDevice", (Acl.device,)), (name, arguments)):
            if code := getattr(self.library, function)(*given):
                raise OSError(f"{function}: {code}")

    def made(self, name, *arguments):
        """The handle or address that a function gives through its first argument."""
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle.value


class Event:
    """torch.npu.Event, on the one stream of this process."""

    def __init__(self):
        self.acl = Acl()
        self.npu_event = self.acl.made("aclrtCreateEvent")

    def record(self):
        if Acl.stream is None:
            Acl.stream = self.acl.made("aclrtCreateStream")
        self.acl.call("aclrtRecordEvent", ctypes.c_void_p(self.npu_event), ctypes.c_void_p(Acl.stream))

    def __del__(self):
        self.acl.call("aclrtDestroyEvent", ctypes.c_void_p(self.npu_event))


class InHbm(memory.SharedZeros):
    def _shared(self, nbytes):
        whole = -(-nbytes // PAGE) * PAGE
        acl = Acl()
        address = acl.made("aclrtMalloc", ctypes.c_size_t(whole), HUGE_FIRST)
        held = (ctypes.c_uint8 * nbytes).from_address(address)
        tensor = torch.frombuffer(held, dtype=torch.int8).zero_()
        self.regions[tensor.untyped_storage().data_ptr()] = self._engine.register_address(address, whole, held, "npu")
        return tensor


class Worker(worker.Worker):
    def memory(self):
        self._zeros = InHbm(self._engine)
        return self._zeros


def npu_of(vllm_config):
    """Each side has an NPU of its own."""
    Acl.device = 0 if vllm_config.kv_transfer_config.kv_role == "kv_producer" else 1
    return Acl.device


# Nothing is queued on the host here.
torch.npu = SimpleNamespace(Event=Event, current_stream=lambda: SimpleNamespace(npu_stream=Acl.stream))
worker.npu_of = npu_of
worker.Worker = Worker
RopewayConnector = connector.RopewayConnector
