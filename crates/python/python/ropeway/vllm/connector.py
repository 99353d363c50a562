"""The connector: each call of vLLM's interface becomes one of the native half. It decides nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropeway import _log
from ropeway import _ropeway as native
from ropeway.vllm import generations, metaserver, views
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("vllm.ropeway")
_COMPLETE = {"FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION"}


@dataclass
class StepMetadata(KVConnectorMetadata):
    """What the scheduler half tells the workers in a step."""

    messages: bytes = b""


@dataclass
class Handshake(KVConnectorHandshakeMetadata):
    """What a worker tells the scheduler half of its instance."""

    card: bytes = b""


def _checked(vllm_config: Any) -> native.ConnectorConfig:
    given = vllm_config.kv_transfer_config
    known = ("kv_role", "engine_id", "kv_port", "kv_load_failure_policy", "kv_connector_extra_config")
    fields = {name: getattr(given, name) for name in known if hasattr(given, name)}
    return native.ConnectorConfig(json.dumps(fields))


class RopewayConnector(generations.Results, KVConnectorBase_V1, SupportsHMA):
    """Lends the KV cache of computed prompts to other instances, and pulls theirs."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._config = _checked(vllm_config)
        # One of the two; vLLM calls each half only for what it does.
        self._scheduler: Any = None
        self._worker: Any = None
        if role == KVConnectorRole.SCHEDULER:
            _log.start("vllm.ropeway")
            for warning in self._config.warnings:
                _logger.warning("%s", warning)
            parallel = vllm_config.parallel_config
            for difference in self._undeclared(parallel):
                _logger.warning("kv_connector_extra_config: %s", difference)
            sizes = (parallel.tensor_parallel_size, parallel.pipeline_parallel_size,
                     getattr(parallel, "decode_context_parallel_size", 1))
            self._scheduler = native.ConnectorScheduler(
                self._config, engine_id=str(vllm_config.kv_transfer_config.engine_id), sizes=sizes,
                # Of models without experts each rank is an engine of its own, whose `data_parallel_rank` is 0.
                backoff=int(views.has_state(kv_cache_config)), dp_rank=parallel.data_parallel_index)
        else:
            from ropeway.vllm.worker import Worker

            self._worker = Worker(vllm_config, kv_cache_config, self._config)

    def _undeclared(self, parallel: Any) -> list[str]:
        """Sizes that the configuration declares of this instance and that it does not have."""
        if self._config.produces == self._config.consumes:
            return []
        return self._config.contradictions(
            self._config.produces, parallel.data_parallel_size, parallel.tensor_parallel_size,
            parallel.pipeline_parallel_size)

    # The scheduler half.

    def on_new_request(self, request: Any) -> None:
        params = request.kv_transfer_params
        if params:
            self._scheduler.on_new_request(request.request_id, json.dumps(params))
            if left_out := self._scheduler.left_out(request.request_id, request.num_prompt_tokens):
                generations.shorten(request, left_out)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if not generations.TELLS_OF_NEW:
            self.on_new_request(request)
        matched: tuple[int, bool] = self._scheduler.matched(
            request.request_id, request.num_prompt_tokens, num_computed_tokens)
        return matched

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if request.kv_transfer_params:
            ids = generations.select(self._kv_cache_config, blocks.get_block_ids())
            self._scheduler.allocated(request.request_id, ids, num_external_tokens)
            for name, url, body in self._scheduler.take_asks():
                metaserver.post(name, url, body, self._scheduler.ask_failed)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._config.pushes and self._config.produces:
            self._tell(scheduler_output)
        return StepMetadata(self._scheduler.build_meta())

    def _tell(self, step: Any) -> None:
        """Of the step's requests those whose KV is written elsewhere: their new blocks, and where the step ends."""
        for name in step.preempted_req_ids or ():
            self._scheduler.preempted(name)
        known = step.scheduled_cached_reqs
        requests = [(one.req_id, one.block_ids, one.num_computed_tokens) for one in step.scheduled_new_reqs]
        requests += zip(known.req_ids, known.new_block_ids, known.num_computed_tokens, strict=True)
        for name, blocks, computed in requests:
            if self._scheduler.is_pushing(name):
                more = generations.select(self._kv_cache_config, blocks) if blocks else []
                self._scheduler.computing(name, list(more), computed + step.num_scheduled_tokens[name])

    def update_connector_output(self, connector_output: Any) -> None:
        sent, received = connector_output.finished_sending, connector_output.finished_recving
        if sent or received:
            self._scheduler.update(list(sent or ()), list(received or ()))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._finished(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...],
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._finished(request, generations.select(self._kv_cache_config, block_ids))

    def _finished(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        if not request.kv_transfer_params:
            return False, None
        complete = request.status.name in _COMPLETE
        tokens = min(request.num_computed_tokens, request.num_prompt_tokens)
        keep, params = self._scheduler.finished(request.request_id, complete, list(block_ids), tokens)
        return keep, None if params is None else json.loads(params)

    def set_xfer_handshake_metadata(self, metadata: dict[Any, Handshake]) -> None:
        workers = list(metadata.values())
        if not all(isinstance(worker, Handshake) for worker in workers):
            raise TypeError("these are handshakes of another connector: MultiConnector hands over those of the first child that "
                            "has any, so name RopewayConnector before it")
        address = self._scheduler.show([worker.card for worker in workers])
        if address is not None:
            _logger.info("Ropeway lends at %s", address)

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Handshake]) -> None:
        self.set_xfer_handshake_metadata(metadata)

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        ids: tuple[int, ...] = self._kv_cache_config.transfer_group_ids
        return ids

    # The worker half.

    def get_mem_pool_context(self) -> Any:
        return self._worker.memory()

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._worker.register(kv_caches)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return Handshake(self._worker.native.handshake())

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._config.pushes:
            # Before the step computes: newer vLLM calls start_load_kv after it.
            self._worker.start(self._get_connector_metadata().messages)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if not self._config.pushes:
            self._worker.start(self._get_connector_metadata().messages)

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def on_kv_cache_written(self, layer_name: str) -> None:
        """vllm-ascend tells of a layer as soon as its cache is written, before its attention is computed."""
        self._worker.layer_written(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        if self._config.pushes:
            self._worker.layer_computed(layer_name)

    def wait_for_save(self) -> None:
        if self._config.pushes:
            self._worker.step_computed()

    def _polled(self) -> generations.Polled:
        polled: generations.Polled = self._worker.poll()
        return polled

    def get_kv_connector_stats(self) -> Any:
        return None if self._worker is None else self._worker.stats()

    # The API server.

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        from ropeway.vllm.stats import RopewayStats

        return RopewayStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: Any, per_engine_labelvalues: Any) -> Any:
        from ropeway.vllm.stats import RopewayMetrics

        return RopewayMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues,
                              alias=_checked(vllm_config).nixl_metrics)

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        return generations.layout(vllm_config)

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._scheduler is not None:
            self._scheduler.close()


generations.dress(RopewayConnector)
