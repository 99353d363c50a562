"""vLLM's KV tensors and groups, as the native half wants them described."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
# By the number of axes, of a layer that is one tensor.
_AXES = {
    3: ["Block", "Slot", "Content"],
    4: ["Block", "Head", "Slot", "Content"],
    5: ["KeyValue", "Block", "Slot", "Head", "Content"],
}
_APART = ["Block", "Slot", "Head", "Content"]
# ACL_FORMAT_FRACTAL_NZ.
_FRACTAL = 29


class Unsupported(ValueError):
    """A cache that this connector does not know how to describe."""


def layer_number(name: str) -> int:
    """The first number in a layer's name, which is its number in the whole model."""
    found = _LAYER.search(name)
    if found is None:
        raise Unsupported(f"layer {name!r} has no number in its name")
    return int(found.group(1))


def transfer_groups(kv_cache_config: Any) -> list[Any]:
    """The groups whose blocks are lent and pulled: where vLLM does not say, all of them."""
    return list(getattr(kv_cache_config, "transfer_groups", None) or kv_cache_config.kv_cache_groups)


def select(kv_cache_config: Any, block_ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The lists of block ids of those groups."""
    choose = getattr(kv_cache_config, "select_transfer_block_ids", None)
    return list(choose(block_ids) if choose is not None and block_ids else block_ids)


def has_state(kv_cache_config: Any) -> bool:
    """Whether a group keeps a recurrent state instead of tokens."""
    return any(_is_state(_one(group.kv_cache_spec)) for group in transfer_groups(kv_cache_config))


def _is_state(spec: Any) -> bool:
    return hasattr(spec, "shapes") and hasattr(spec, "dtypes")


def _one(spec: Any) -> Any:
    """Several specs of one group are of one kind."""
    return next(iter(spec.kv_cache_specs.values())) if hasattr(spec, "kv_cache_specs") else spec


def describe_groups(groups: Iterable[Any]) -> list[dict[str, Any]]:
    """Each group's rules about block ids."""
    return [_group(index, group.kv_cache_spec) for index, group in enumerate(groups)]


def _group(index: int, spec: Any) -> dict[str, Any]:
    spec = _one(spec)
    if _is_state(spec):
        return {
            "name": f"g{index}", "list": index, "block_slots": 1, "tokens_per_slot": 1,
            "keeps": {"State": {"spare": spec.num_speculative_blocks}}, "context": "Replicated",
        }
    if not hasattr(spec, "head_size"):
        raise Unsupported(f"group {index}: a cache of kind {type(spec).__name__} is not supported yet")
    window = getattr(spec, "sliding_window", None) if _is_window(spec) else None
    return {
        "name": f"g{index}", "list": index, "block_slots": spec.block_size, "tokens_per_slot": 1,
        "keeps": {"Window": {"tokens": window}} if window else "All",
        # Newer vLLM says which groups decode context parallelism leaves whole.
        "context": "Striped" if getattr(spec, "dcp_sharded", True) else "Replicated",
    }


def _is_window(spec: Any) -> bool:
    # FullAttentionSpec may name a window too (with hybrid caches off); it keeps all blocks all the same.
    return any(kind.__name__ == "SlidingWindowSpec" for kind in type(spec).__mro__)


def describe_views(
    kv_caches: dict[str, Any], groups: Sequence[Any], storage_of: Any, *, total_kv_heads: int, use_mla: bool,
    tensor_parallel: int = 1,
) -> list[dict[str, Any]]:
    """Each layer's tensor. `storage_of` gives a tensor's number of its storage and its offset there in bytes."""
    views = []
    for index, group in enumerate(groups):
        for name in group.layer_names:
            if name not in kv_caches:
                continue
            state = _is_state(_one(group.kv_cache_spec))
            planes = (_states(name, kv_caches[name], tensor_parallel) if state
                      else _planes(name, kv_caches[name], use_mla))
            for plane, tensor, axes, split in planes:
                total = tensor.shape[1] * tensor_parallel if state else total_kv_heads
                storage, offset = storage_of(tensor)
                views.append({
                    "layer": layer_number(name), "plane": plane, "group": index, "storage": storage, "offset": offset,
                    "element_bytes": tensor.element_size(), "shape": list(tensor.shape),
                    "strides": list(tensor.stride()), "axes": axes,
                    "heads": {"Split": [total]} if split else "Replicated", "format": _format(tensor),
                })
    return views


def _states(name: str, cache: Any, tensor_parallel: int) -> list[tuple[str, Any, list[str], bool]]:
    """The tensors of a layer's recurrent state, each split over ranks along its first axis or within it: how, differs from
    model to model, so each plane's name says over how many, and others find none of that name. vLLM 0.32 hands over the
    bytes of all of them as one.
    """
    tensors = cache if isinstance(cache, (tuple, list)) else [cache]
    if any(len(tensor.shape) < 2 for tensor in tensors):
        raise _unsupported(name, cache)
    return [(f"state{index}.of{tensor_parallel}", tensor, ["Block", "Head"] + ["Content"] * (len(tensor.shape) - 2), True)
            for index, tensor in enumerate(tensors)]


def _planes(name: str, cache: Any, use_mla: bool) -> list[tuple[str, Any, list[str], bool]]:
    """What a layer's cache consists of: each plane's name, tensor and axes, and whether its heads are split over ranks.

    vLLM on the CPU has one tensor for a layer; vllm-ascend has several, each [block, token, head, content].
    """
    if not isinstance(cache, (tuple, list)):
        axes = _AXES.get(len(getattr(cache, "shape", ())))
        if axes is None or (axes[0] == "KeyValue" and cache.shape[0] != 2):
            raise _unsupported(name, cache)
        return [("latent" if use_mla else "kv", cache, axes, not use_mla)]
    if any(len(tensor.shape) != 4 for tensor in cache):
        raise _unsupported(name, cache)
    planes = _names(cache, use_mla)
    if planes is None:
        raise _unsupported(name, cache)
    return [(plane, tensor, _APART, plane in ("k", "v", "kv")) for plane, tensor in zip(planes, cache, strict=True)]


def _names(cache: Sequence[Any], use_mla: bool) -> list[str] | None:
    """The planes of a layer that is several tensors. An indexer's scale is known by its content of one value."""
    tail: list[str] = []
    if len(cache) > 2:
        tail = ["indexer", "scale"] if cache[-1].shape[-1] == 1 else ["indexer"]
    whole, apart = ("latent", ["latent", "rope"]) if use_mla else ("kv", ["k", "v"])
    return {1: [whole, *tail], 2: [*apart, *tail]}.get(len(cache) - len(tail))


def _format(tensor: Any) -> str:
    """Whether an NPU keeps the rows as they are, or in its fractal order, which moves by whole blocks only."""
    if tensor.device.type != "npu":
        return "Rows"
    torch_npu: Any = importlib.import_module("torch_npu")
    return "Fractal" if torch_npu.get_npu_format(tensor) == _FRACTAL else "Rows"


def _unsupported(name: str, cache: Any) -> Unsupported:
    tensors = cache if isinstance(cache, (tuple, list)) else [cache]
    shapes = ", ".join(str(tuple(getattr(tensor, "shape", ()))) for tensor in tensors)
    return Unsupported(f"layer {name!r}: a {type(cache).__name__} of shape {shapes} is not supported yet")
