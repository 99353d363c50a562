"""What vllm-ascend expects of an NPU's machine, and of a vLLM that started it. Its own files stay as they are.

* `torch_npu` and `torch.npu`: a device that can be set and synchronized, and the two operators with which V1 puts landed heads
  in order: each does on the CPU what its name says.
* vLLM's process groups: size and rank only. Nothing is sent over them.
* vllm-ascend's configuration object: the one option that the threads read.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import torch


class Npu(types.ModuleType):
    """`torch.npu`."""

    def __init__(self) -> None:
        super().__init__("torch.npu")
        self.device = 0

    def is_available(self) -> bool:
        """No: other packages ask too, and would take the CPU for an NPU."""
        return False

    def current_device(self) -> int:
        return self.device

    def set_device(self, device: Any) -> None:
        """The tensors say that they are on the CPU, so there is nothing to choose."""

    def synchronize(self, device: Any = None) -> None:
        """Nothing runs by itself here."""


def paged_cache_load(key_cache: Any, value_cache: Any, block_table: Any, lengths: Any, *, seq_starts: Any, key: Any,
                     value: Any) -> None:
    """Blocks, in the order of the table, into one row of tokens."""
    assert seq_starts.tolist() == [0] and lengths.tolist() == [key.shape[0]]
    rows = block_table[0].long()
    for cache, into in ((key_cache, key), (value_cache, value)):
        into.copy_(cache[rows].reshape(into.shape))


def reshape_and_cache(*, key: Any, value: Any, key_cache: Any, value_cache: Any, slot_indices: Any) -> None:
    """Tokens into the slots of a cache."""
    for tokens, cache in ((key, key_cache), (value, value_cache)):
        cache.view(-1, *cache.shape[2:])[slot_indices.long()] = tokens.view(-1, *cache.shape[2:])


def install() -> None:
    """To be called before anything of vllm_ascend is imported."""
    fake = types.ModuleType("torch_npu")
    fake.__spec__ = importlib.machinery.ModuleSpec("torch_npu", None)
    fake.atb = types.SimpleNamespace(npu_paged_cache_load=paged_cache_load)
    fake._npu_reshape_and_cache = reshape_and_cache
    torch.npu = Npu()
    sys.modules |= {"torch_npu": fake, "torch.npu": torch.npu}


def become(device: int, rank: int, ranks: int, config: Any) -> None:
    """This process is that rank of an instance."""
    import vllm_ascend.ascend_config as ascend_config
    from vllm.distributed import parallel_state

    def group(size: int, at: int) -> Any:
        return types.SimpleNamespace(world_size=size, rank_in_group=at, rank=at, ranks=list(range(size)))

    torch.npu.device = device
    parallel_state._TP = group(ranks, rank)
    parallel_state._PP = parallel_state._PCP = parallel_state._DCP = parallel_state._DP = group(1, 0)
    ascend_config._ASCEND_CONFIG = types.SimpleNamespace(
        enable_kv_nz=False, ascend_compilation_config=None, eplb_config=None, vllm_config=config)
