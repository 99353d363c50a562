"""One rank of an instance: caches filled with names, and vllm-ascend's connector, unmodified, over them."""

from __future__ import annotations

import base64
import ctypes
import pickle
import types
from typing import Any

import torch
from ropeway.compat import mooncake
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    MLAAttentionSpec,
)
from vllm.v1.request import RequestStatus
from vllm_ascend.distributed.kv_transfer.kv_p2p.mooncake_connector import MooncakeConnector
from vllm_ascend.distributed.kv_transfer.utils.mooncake_transfer_engine import global_te

from . import fakes, memory, names
from .names import Plane, Pull

DTYPE = torch.bfloat16
ELEMENT = 2
MODELS = {
    # Grouped-query attention: K and V apart, [block, token, head, dim].
    "gqa": (Plane("k", 4, 64 * ELEMENT), Plane("v", 4, 64 * ELEMENT)),
    # Latent attention: latent and rope apart, whole on each rank.
    "mla": (Plane("latent", 1, 512 * ELEMENT, True), Plane("rope", 1, 64 * ELEMENT, True)),
}
LAYERS = 3


class Instance:
    """Of `setup`: role, rank, ranks (of producer and consumer), model, block and kernel tokens, blocks, seed, port, engine id,
    memory (host or npu), device, the port of the engine or 0, and what spoils it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup = types.SimpleNamespace(**setup)
        one = self.setup
        self.ranks = one.ranks[0] if one.role == "kv_producer" else one.ranks[1]
        self.planes = MODELS[one.model]
        self.config = self._config()
        fakes.become(one.device, one.rank, self.ranks, self.config)
        self.source = memory.Hbm(one.device) if one.memory == "npu" else memory.Host()
        self.tensors: list[tuple[int, Plane, range, torch.Tensor]] = []
        self.caches = self._caches()
        self._engine()
        spec = self._spec()
        self.connector = MooncakeConnector(self.config, KVConnectorRole.WORKER, spec)
        self.connector.register_kv_caches(self.caches)
        self.scheduler = MooncakeConnector(self.config, KVConnectorRole.SCHEDULER, spec) if one.rank == 0 else None

    def _caches(self) -> dict[str, tuple[torch.Tensor, ...]]:
        one, caches = self.setup, {}
        for layer in range(LAYERS):
            planes = []
            for plane in self.planes:
                heads = plane.heads_of(one.rank, self.ranks)
                raw = self.source.bytes(one.blocks * one.block_tokens * len(heads) * plane.width)
                held = raw.view(one.blocks, one.block_tokens, len(heads), plane.width)
                held.numpy()[:] = names.whole(one.seed, layer, plane, one.blocks, one.block_tokens, heads)
                self.tensors.append((layer, plane, heads, held))
                planes.append(raw.view(DTYPE).view(-1, one.kernel_tokens, len(heads), plane.width // ELEMENT))
            caches[f"model.layers.{layer}.self_attn.attn"] = tuple(planes)
        return caches

    def _engine(self) -> None:
        """With HBM, vllm-ascend opens the drop-in itself, as it does on NPUs: protocol `ascend`. Ordinary memory is no NPU's,
        so there it is handed one that was opened for it, in the place where it keeps the one of its process."""
        one = self.setup
        if one.engine_port:
            mooncake._listen = lambda host: f"{host}:{one.engine_port}"
        if one.spoils:
            mooncake.TransferEngine.batch_transfer_sync_read = spoiled(mooncake.TransferEngine.batch_transfer_sync_read)
        if one.memory == "host":
            engine = mooncake.TransferEngine()
            if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""):
                raise OSError(f"the engine did not open: {engine.last_error}")
            global_te.transfer_engine = engine

    def _config(self) -> Any:
        """What the connector reads of vLLM's configuration; the part about transfers is vLLM's own."""
        one = self.setup
        sizes = {side: {"dp_size": 1, "tp_size": size} for side, size in zip(("prefill", "decode"), one.ranks, strict=True)}
        heads = self.planes[0].heads
        text = types.SimpleNamespace(num_key_value_heads=heads, num_hidden_layers=LAYERS, model_type=one.model)
        return types.SimpleNamespace(
            kv_transfer_config=KVTransferConfig(
                kv_connector="MooncakeConnectorV1", kv_role=one.role, kv_port=one.port, engine_id=one.engine_id,
                kv_connector_extra_config=sizes),
            parallel_config=types.SimpleNamespace(
                tensor_parallel_size=self.ranks, pipeline_parallel_size=1, data_parallel_size=1, data_parallel_rank=0,
                data_parallel_rank_local=0, data_parallel_size_local=1, decode_context_parallel_size=1,
                prefill_context_parallel_size=1),
            model_config=types.SimpleNamespace(
                hf_text_config=text, hf_config=text, is_deepseek_mla=one.model == "mla",
                get_total_num_hidden_layers=lambda: LAYERS, get_total_num_kv_heads=lambda: heads),
            scheduler_config=types.SimpleNamespace(disable_hybrid_kv_cache_manager=False),
            cache_config=types.SimpleNamespace(block_size=one.block_tokens),
            speculative_config=None, additional_config=None)

    def _spec(self) -> Any:
        one, first = self.setup, self.planes[0]
        local = len(first.heads_of(one.rank, self.ranks))
        if one.model == "mla":
            size = sum(plane.width for plane in self.planes) // ELEMENT
            spec = MLAAttentionSpec(block_size=one.block_tokens, num_kv_heads=1, head_size=size, dtype=DTYPE)
        else:
            spec = FullAttentionSpec(
                block_size=one.block_tokens, num_kv_heads=local, head_size=first.width // ELEMENT, dtype=DTYPE)
        tensors = [KVCacheTensor(size=sum(part.nbytes for part in planes), shared_by=[name])
                   for name, planes in self.caches.items()]
        return KVCacheConfig(one.blocks, tensors, [KVCacheGroupSpec(list(self.caches), spec)])

    # What vLLM would call

    def finish(self, request: str, tokens: int, blocks: list[int]) -> dict[str, Any]:
        """The producer's scheduler: a request has computed its prompt."""
        asked = {"do_remote_decode": True, "do_remote_prefill": False}
        done = asked_of(request, tokens, asked, status=RequestStatus.FINISHED_LENGTH_CAPPED)
        self.scheduler.get_num_new_matched_tokens(done, 0)
        self.scheduler.update_state_after_alloc(done, Blocks(blocks, blocks), 0)
        held, params = self.scheduler.request_finished_all_groups(done, (blocks,))
        return {"held": held, "params": params, "meta": self._meta()}

    def admit(self, request: str, tokens: int, computed: int, blocks: list[int], params: dict[str, Any]) -> dict[str, Any]:
        """The consumer's scheduler: a request comes with parameters; the blocks of `computed` tokens were cached."""
        wanted = asked_of(request, tokens, params)
        external, later = self.scheduler.get_num_new_matched_tokens(wanted, computed)
        fresh = blocks[computed // self.setup.block_tokens:]
        self.scheduler.update_state_after_alloc(wanted, Blocks(blocks, fresh), external)
        return {"external": external, "later": later, "meta": self._meta()}

    def _meta(self) -> str:
        return base64.b64encode(pickle.dumps(self.scheduler.build_connector_meta(None))).decode()

    def step(self, meta: str) -> dict[str, Any]:
        """A worker is given what its scheduler built."""
        self.connector.bind_connector_metadata(pickle.loads(base64.b64decode(meta)))
        self.connector.start_load_kv(None)
        return {}

    def poll(self) -> dict[str, Any]:
        """What a worker reports after each step."""
        sent, received = self.connector.get_finished(set())
        return {"sent": sorted(sent), "received": sorted(received),
                "failed_blocks": sorted(self.connector.get_block_ids_with_load_errors())}

    def ways(self) -> list[str]:
        """The transports that the drop-in found to the peers it has asked."""
        sessions = global_te.transfer_engine._sessions.values()
        return sorted({route.transport for session in sessions for route in session._routes.values()})

    def check(self, pulls: list[dict[str, Any]]) -> dict[str, Any]:
        """Every byte of every cache against what these pulls, and nothing else, should have made of it."""
        made, compared, found = [Pull(**pull) for pull in pulls], 0, []
        for layer, plane, heads, held in self.tensors:
            count, wrong = names.wrong(held.numpy(), self.setup.seed, layer, plane, heads, made)
            compared += count
            found += wrong
        return {"bytes": compared, "wrong": found}


class Blocks:
    """vLLM's KVCacheBlocks of one group."""

    def __init__(self, every: list[int], fresh: list[int]) -> None:
        self._every, self._fresh = every, fresh

    def get_block_ids(self) -> tuple[list[int]]:
        return (self._every,)

    def get_unhashed_block_ids_all_groups(self) -> list[list[int]]:
        return [self._fresh]


def asked_of(request: str, tokens: int, params: dict[str, Any], **more: Any) -> Any:
    """A request as a scheduler sees it."""
    return types.SimpleNamespace(request_id=request, prompt_token_ids=list(range(tokens)), num_prompt_tokens=tokens,
                                 output_token_ids=[1], kv_transfer_params=params, **more)


def spoiled(read: Any) -> Any:
    """A read after which one byte is wrong: what a comparison must notice."""
    def wrapped(self: Any, session: str, ours: Any, theirs: Any, lengths: Any, hint: str = "") -> int:
        code = read(self, session, ours, theirs, lengths, hint)
        if code == 0:
            last = ctypes.c_uint8.from_address(ours[-1] + lengths[-1] // 2)
            last.value ^= 1
        return code

    return wrapped


