"""vLLM's KV tensors and groups, as the native half wants them described."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


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


def describe_groups(groups: Iterable[Any]) -> list[dict[str, Any]]:
    """Each group's rules about block ids."""
    return [_group(index, group.kv_cache_spec) for index, group in enumerate(groups)]


def _group(index: int, spec: Any) -> dict[str, Any]:
    if hasattr(spec, "kv_cache_specs"):
        spec = next(iter(spec.kv_cache_specs.values()))
    if not hasattr(spec, "head_size"):
        raise Unsupported(f"group {index}: a cache of kind {type(spec).__name__} is not supported yet")
    window = getattr(spec, "sliding_window", None) if _is_window(spec) else None
    return {
        "name": f"g{index}", "list": index, "block_slots": spec.block_size, "tokens_per_slot": 1,
        "keeps": {"Window": {"tokens": window}} if window else "All", "context": "Striped",
    }


def _is_window(spec: Any) -> bool:
    # FullAttentionSpec may name a window too (with hybrid caches off); it keeps all blocks all the same.
    return any(kind.__name__ == "SlidingWindowSpec" for kind in type(spec).__mro__)


def describe_views(
    kv_caches: dict[str, Any], groups: Sequence[Any], storage_of: Any, *, total_kv_heads: int, use_mla: bool,
) -> list[dict[str, Any]]:
    """Each layer's tensor. `storage_of` gives a tensor's number of its storage and its offset there in bytes."""
    views = []
    for index, group in enumerate(groups):
        for name in group.layer_names:
            if name not in kv_caches:
                continue
            tensor = kv_caches[name]
            storage, offset = storage_of(tensor)
            views.append(_view(name, tensor, index, storage, offset, total_kv_heads, use_mla))
    return views


def _view(
    name: str, tensor: Any, group: int, storage: int, offset: int, total_kv_heads: int, use_mla: bool,
) -> dict[str, Any]:
    if not hasattr(tensor, "stride"):
        raise Unsupported(f"layer {name!r}: caches that are {type(tensor).__name__}s are not supported yet")
    shape, strides = list(tensor.shape), list(tensor.stride())
    if len(shape) != 4:
        raise Unsupported(f"layer {name!r}: a cache of shape {tuple(shape)} is not supported yet")
    return {
        "layer": layer_number(name), "plane": "latent" if use_mla else "kv", "group": group, "storage": storage,
        "offset": offset, "element_bytes": tensor.element_size(), "shape": shape, "strides": strides,
        "axes": ["Block", "Head", "Slot", "Content"],
        "heads": "Replicated" if use_mla else {"Split": [total_kv_heads]}, "format": "Rows",
    }
