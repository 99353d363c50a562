"""The worker half: tensors become regions, steps become messages, and ends become reports."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from ropeway import _log
from ropeway import _ropeway as native
from ropeway.vllm import generations, views
from ropeway.vllm.generations import Polled

_logger = logging.getLogger("vllm.ropeway")


def npu_of(vllm_config: Any) -> int | None:
    """The number of this worker's NPU among those that the process sees; None off NPUs."""
    if vllm_config.device_config.device_type != "npu":
        return None
    return int(torch.npu.current_device())


def _of_all_stages(shape: str) -> list[Any]:
    """What each pipeline stage has, in order: all of them register at the same time. Which of us read from a producer's worker,
    and so how many it has to wait for, depends on all.
    """
    from vllm.distributed.parallel_state import get_pp_group

    group = get_pp_group()
    shapes: list[Any] = [None] * group.world_size
    torch.distributed.all_gather_object(shapes, shape, group=group.cpu_group)
    return [json.loads(one) for one in shapes]


class Worker:
    """One worker. Its engine's threads start here, never at import."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, config: native.ConnectorConfig) -> None:
        from vllm.distributed import parallel_state as groups

        self._vllm, self._caches, self._config = vllm_config, kv_cache_config, config
        parallel = vllm_config.parallel_config
        stretches = getattr(parallel, "prefill_context_parallel_size", 1)
        if stretches > 1 and not generations.DEALS_PREFILL:
            raise views.Unsupported(f"prefill_context_parallel_size {stretches}: this vLLM does not deal the cache out over those ranks")
        self._pp, self._tp = groups.get_pp_group().rank_in_group, groups.get_tp_group().rank_in_group
        self._pcp = groups.get_pcp_group().rank_in_group if stretches > 1 else 0
        number = parallel.data_parallel_index * parallel.pipeline_parallel_size + self._pp
        number = (number * stretches + self._pcp) * parallel.tensor_parallel_size + self._tp
        _log.start("vllm.ropeway")
        self._npu = npu_of(vllm_config)
        self._engine = native.open_worker_engine(config, number, self._npu)
        self._zeros: Any = None
        self.native: Any = None
        # Layers that were told of before their attention was computed.
        self._written: set[str] = set()

    def memory(self) -> Any:
        """What vLLM allocates the cache under; None for its own way."""
        if not self._config.shared_memory or self._vllm.device_config.device_type != "cpu":
            return None
        from ropeway.vllm.memory import SharedZeros

        self._zeros = SharedZeros(self._engine)
        return self._zeros

    def register(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Registers each storage once, where it is, and describes the tensors in it."""
        regions: list[Any] = []
        numbers: dict[int, int] = {}

        def storage_of(tensor: torch.Tensor) -> tuple[int, int]:
            base = tensor.untyped_storage().data_ptr()
            if base not in numbers:
                shared = self._zeros.regions.get(base) if self._zeros is not None else None
                numbers[base] = len(regions)
                regions.append(shared if shared is not None else self._engine.register_tensor(tensor))
            return numbers[base], tensor.data_ptr() - base

        groups = views.transfer_groups(self._caches)
        if self._config.consumes and not generations.TELLS_FAILED and len(self._caches.kv_cache_groups) > 1:
            # Its scheduler looks failed blocks up in the one list of a request, and ends the engine where there are several.
            raise views.Unsupported(
                "this vLLM cannot be told of a failed load where a request has several lists of blocks: start it with "
                "--disable-hybrid-kv-cache-manager (not for models with recurrent state), or take vLLM 0.32")
        model = self._vllm.model_config
        described = {
            "facts": self._facts(kv_caches), "topology": self._topology(),
            "rank": {"pp": self._pp, "pcp": self._pcp, "tp": self._tp},
            "groups": views.describe_groups(groups),
            "views": views.describe_views(kv_caches, groups, storage_of,
                                          total_kv_heads=model.get_total_num_kv_heads(), use_mla=model.use_mla,
                                          tensor_parallel=self._vllm.parallel_config.tensor_parallel_size),
        }
        if self._config.consumes and self._vllm.parallel_config.pipeline_parallel_size > 1:
            described["stages"] = _of_all_stages(native.cache_shape(json.dumps(described), regions))
        self.native = native.ConnectorWorker(self._config, self._engine, json.dumps(described), regions)

    def start(self, messages: bytes) -> None:
        """The messages of a step. Blocks that it lends become readable, and loads begin, behind all that was launched before:
        kernels that write what is lent, and kernels that still use what is loaded into. On the CPU it is done by now.
        """
        if messages:
            self.native.start(messages, self._behind_all())

    def layer_written(self, name: str) -> None:
        """The KV of a layer is in the cache behind what was launched so far."""
        if self.native is not None and self.native.is_pushing():
            self._written.add(name)
            self.native.layer_computed(views.layer_number(name), self._behind_all())

    def layer_computed(self, name: str) -> None:
        """The same, told after the layer's attention."""
        if name not in self._written:
            self.layer_written(name)

    def step_computed(self) -> None:
        """All layers of the step are in the cache behind what was launched so far."""
        self._written.clear()
        if self.native is not None and self.native.is_pushing():
            self.native.step_computed(self._behind_all())

    def _behind_all(self) -> native.Event | None:
        return None if self._npu is None else self._launched()

    def _launched(self) -> native.Event:
        """Fires when the compute stream has done all that was launched on it so far."""
        event = torch.npu.Event()
        event.record()
        # torch_npu launches from a queue of its own, this recording too; asked for the stream's handle it waits until all of
        # it has reached the device. An event that is not recorded yet would pass for one that is over.
        _ = torch.npu.current_stream().npu_stream
        return self._engine.npu_event(event.npu_event, event)

    def poll(self) -> Polled:
        """What is over. Raises when this process must be started again."""
        sent, received, failed, fatal = self.native.poll()
        if fatal is not None:
            raise RuntimeError(fatal)
        for request, why, *_ in failed:
            _logger.warning("the KV of request %s did not come: %s", request, why)
        invalid: set[int] = set()
        for _, _, lists, first in failed:
            invalid |= self._invalid(lists, first) or self._invalid(lists, 0)
        return Polled(set(sent), set(received), {request for request, *_ in failed}, invalid)

    def _invalid(self, lists: list[list[int]], first: int) -> set[int]:
        """The blocks of the tokens from `first` on. Null blocks (0) are those of every request."""
        topology, groups = self._topology(), views.transfer_groups(self._caches)
        ranks = topology["dcp"] * topology["pcp"]
        return {block for ids, group in zip(lists, groups, strict=True)
                for block in ids[first // (group.kv_cache_spec.block_size * ranks):] if block}

    def stats(self) -> Any:
        """What was counted since the last call; None for nothing."""
        from ropeway.vllm.stats import RopewayStats

        counted = self.native.stats() if self.native is not None else None
        return None if counted is None else RopewayStats(data=json.loads(counted))

    def close(self) -> None:
        """Lets go of the cache."""
        if self.native is not None:
            self.native.close()
        self._engine.close()

    def _topology(self) -> dict[str, int]:
        parallel = self._vllm.parallel_config
        return {
            "tp": parallel.tensor_parallel_size, "pp": parallel.pipeline_parallel_size,
            "pcp": getattr(parallel, "prefill_context_parallel_size", 1),
            "dcp": getattr(parallel, "decode_context_parallel_size", 1),
            "stripe_tokens": getattr(parallel, "cp_kv_cache_interleave_size", 1),
        }

    def _facts(self, kv_caches: dict[str, torch.Tensor]) -> dict[str, Any]:
        import vllm

        model, caches = self._vllm.model_config, self._vllm.cache_config
        tensors = [one for cache in kv_caches.values() for one in (cache if isinstance(cache, (tuple, list)) else [cache])]
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        layout = getattr(self._caches, "kv_cache_layout", None) or "unnamed"
        layers = model.hf_text_config.num_hidden_layers
        # A stage sees its own layers only, and all must say the same.
        whole = self._vllm.parallel_config.pipeline_parallel_size == 1
        drafted = {number for number in map(views.layer_number, kv_caches) if number >= layers} if whole else ()
        return {
            "connector": 1, "model": model.model,
            "layers": layers,
            "kv_dtype": "+".join(dtypes), "device": self._vllm.device_config.device_type, "framework": "vllm",
            "framework_version": vllm.__version__, "block_tokens": caches.block_size, "layout": layout,
            "draft_layers": len(drafted),
        }
