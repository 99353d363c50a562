"""What the connector needs of vLLM and torch, without them: enough to be called as vLLM calls it."""

from __future__ import annotations

import ctypes
import enum
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BLOCK = 16
BLOCKS = 64
HEADS, CONTENT, LAYERS = 2, 8, 2
# float32, [blocks, heads, tokens, content], one layer after another.
BLOCK_BYTES = HEADS * BLOCK * CONTENT * 4
LAYER_BYTES = BLOCKS * BLOCK_BYTES


class Storage:
    """Bytes of the process, as torch's untyped storages are."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = (ctypes.c_ubyte * nbytes)()

    def data_ptr(self) -> int:
        return ctypes.addressof(self.bytes)

    def nbytes(self) -> int:
        return len(self.bytes)


class Tensor:
    """A view of a storage."""

    dtype = "torch.float32"
    device = types.SimpleNamespace(type="cpu")

    def __init__(self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def stride(self) -> tuple[int, ...]:
        return self.strides

    def element_size(self) -> int:
        return 4

    def data_ptr(self) -> int:
        return int(self.storage.data_ptr()) + self.offset

    def untyped_storage(self) -> Any:
        return self.storage


def kv_caches(storage: Storage, block: int = BLOCK) -> dict[str, Tensor]:
    """With blocks of so many tokens; the bytes of a layer stay the same."""
    shape, strides = (BLOCKS * BLOCK // block, HEADS, block, CONTENT), (HEADS * block * CONTENT, block * CONTENT, CONTENT, 1)
    return {f"model.layers.{layer}.self_attn.attn":
            Tensor(storage, layer * LAYER_BYTES, shape, strides) for layer in range(LAYERS)}


class FullAttentionSpec:
    block_size, head_size, sliding_window = BLOCK, CONTENT // 2, None


class LongBlocksSpec(FullAttentionSpec):
    block_size = 2 * BLOCK


class SlidingWindowSpec(FullAttentionSpec):
    sliding_window = 40


class MambaSpec:
    """A state of two values of eight for each layer."""

    block_size, shapes, dtypes, num_speculative_blocks = BLOCK, ((2, 8),), ("torch.float32",), 1


class OtherSpec:
    block_size = BLOCK


class CacheConfig:
    """vLLM's KVCacheConfig, with one group of all layers unless told otherwise."""

    def __init__(self, *specs: type) -> None:
        names = [f"model.layers.{layer}.self_attn.attn" for layer in range(LAYERS)]
        specs = specs or (FullAttentionSpec,)
        self.kv_cache_groups = [types.SimpleNamespace(kv_cache_spec=spec(), layer_names=names[index::len(specs)])
                                for index, spec in enumerate(specs)]
        self.transfer_group_ids = tuple(range(len(specs)))


def vllm_config(role: str, device: str = "cpu", rank: int = 0, **own: Any) -> Any:
    extra = {"ropeway": own}
    transfer = types.SimpleNamespace(
        kv_role=role, engine_id="e", kv_connector_extra_config=extra, kv_load_failure_policy="fail")
    return types.SimpleNamespace(
        kv_transfer_config=transfer,
        device_config=types.SimpleNamespace(device_type=device),
        cache_config=types.SimpleNamespace(block_size=BLOCK),
        parallel_config=types.SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_rank=0, data_parallel_index=rank,
            data_parallel_size=1),
        model_config=types.SimpleNamespace(
            model="m", use_mla=False, get_total_num_kv_heads=lambda: HEADS,
            hf_text_config=types.SimpleNamespace(num_hidden_layers=LAYERS)))


@dataclass
class Request:
    """What the scheduler half looks at."""

    request_id: str
    num_prompt_tokens: int
    kv_transfer_params: dict[str, Any] | None = None
    num_computed_tokens: int = 0
    status: Any = None
    max_tokens: int = 16

    def __post_init__(self) -> None:
        self.prompt_token_ids: list[int] | None = list(range(self.num_prompt_tokens))
        self._all_token_ids = list(self.prompt_token_ids)


class Blocks:
    def __init__(self, *ids: list[int]) -> None:
        self.ids = ids

    def get_block_ids(self) -> tuple[list[int], ...]:
        return self.ids


class Base:
    """KVConnectorBase_V1 of the newest vLLM."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        self._kv_cache_config, self.role = kv_cache_config, role
        self._metadata: Any = None

    def bind_connector_metadata(self, metadata: Any) -> None:
        self._metadata = metadata

    def _get_connector_metadata(self) -> Any:
        return self._metadata

    def on_new_request(self, request: Any) -> None:
        raise NotImplementedError

    def get_finished(self, finished_req_ids: set[str]) -> tuple[None, None]:
        return None, None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set()


class Role(enum.Enum):
    SCHEDULER = 0
    WORKER = 1


@dataclass
class Results:
    finished_sending: set[str]
    finished_recving: set[str]
    failed_recving: set[str]


@dataclass
class Stats:
    data: dict[str, Any] = field(default_factory=dict)


class Metric:
    """A counter or a histogram of prometheus_client."""

    made: dict[str, Metric] = {}

    def __init__(self, name: str, documentation: str, labelnames: list[str], buckets: Any = None) -> None:
        self.seen: list[float] = []
        Metric.made[name] = self

    def labels(self, *values: str) -> Metric:
        return self

    def observe(self, value: float) -> None:
        self.seen.append(value)

    inc = observe


class PromMetrics:
    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any) -> None:
        self._histogram_cls = self._counter_cls = Metric
        self.per_engine_labelvalues = per_engine_labelvalues


class Factory:
    known: dict[str, tuple[str, str]] = {}

    @classmethod
    def register_connector(cls, name: str, module: str, class_name: str) -> None:
        if name in cls.known:
            raise ValueError(name)
        cls.known[name] = (module, class_name)


class FlatTensor:
    """What `torch.zeros(n, dtype=int8)` gives."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __getitem__(self, which: slice) -> FlatTensor:
        return FlatTensor(self.memory[which])

    def untyped_storage(self) -> FlatTensor:
        return self

    def data_ptr(self) -> int:
        return ctypes.addressof(ctypes.c_ubyte.from_buffer(self.memory))


class FunctionMode:
    def __enter__(self) -> FunctionMode:
        return self

    def __exit__(self, *_: object) -> None:
        return


def zeros(*_: Any, **__: Any) -> str:
    return "torch's own"


def modules() -> dict[str, types.ModuleType]:
    """All of them by name, packages before what is in them."""
    only = types.SimpleNamespace(rank_in_group=0)
    v1 = "vllm.distributed.kv_transfer.kv_connector.v1"
    contents: dict[str, dict[str, Any]] = {
        "torch": {"int8": "int8", "uint8": "uint8", "Size": tuple, "zeros": zeros, "Tensor": Tensor,
                  "device": lambda name: types.SimpleNamespace(type=str(name).partition(":")[0]),
                  "frombuffer": lambda memory, dtype: FlatTensor(memory)},
        "torch.overrides": {"TorchFunctionMode": FunctionMode},
        "vllm": {"__version__": "0.0"},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"get_tp_group": lambda: only, "get_pp_group": lambda: only},
        "vllm.distributed.kv_transfer": {},
        "vllm.distributed.kv_transfer.kv_connector": {},
        "vllm.distributed.kv_transfer.kv_connector.factory": {"KVConnectorFactory": Factory},
        v1: {},
        f"{v1}.base": {"KVConnectorBase_V1": Base, "KVConnectorRole": Role, "KVConnectorTransferResults": Results,
                       **{name: type(name, (), {}) for name in
                          ("KVConnectorHandshakeMetadata", "KVConnectorMetadata", "SupportsHMA")}},
        f"{v1}.metrics": {"KVConnectorStats": Stats, "KVConnectorPromMetrics": PromMetrics},
        "vllm.v1": {}, "vllm.v1.metrics": {},
        "vllm.v1.metrics.cache_hit_source": {"CacheHitSource": types.SimpleNamespace(P2P="p2p")},
    }
    made = {}
    for name, content in contents.items():
        made[name] = types.ModuleType(name)
        made[name].__path__ = []
        vars(made[name]).update(content)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, made[name])
    return made


@contextmanager
def beside_vllm(*, without: tuple[str, ...] = ()) -> Iterator[dict[str, types.ModuleType]]:
    """While it lasts, vLLM and torch can be imported, and the connector is imported anew. `without`: names that this
    generation of the interface has not."""
    fresh = modules()
    base = fresh["vllm.distributed.kv_transfer.kv_connector.v1.base"]
    old = type("Base", (Base,), {})
    if "on_new_request" in without:
        old = type("Base", (), {name: value for name, value in vars(Base).items() if name != "on_new_request"})
    base.KVConnectorBase_V1 = old  # type: ignore[attr-defined]
    for name in without:
        if hasattr(base, name):
            delattr(base, name)

    def ours(name: str) -> bool:
        return name.partition(".")[0] in {"vllm", "torch"} or name.startswith("ropeway.vllm")

    before = {name: module for name, module in sys.modules.items() if ours(name)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(fresh)
    try:
        yield fresh
    finally:
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)
