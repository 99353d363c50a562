"""Where the generations of vLLM's interface differ: chosen by what is there, never by version."""

from __future__ import annotations

from typing import Any, NamedTuple

from vllm.distributed.kv_transfer.kv_connector.v1 import base

from ropeway.vllm.views import select

__all__ = ["DEALS_PREFILL", "TELLS_FAILED", "TELLS_OF_NEW", "Polled", "Results", "dress", "layout", "select", "shorten"]

_RESULTS: Any = getattr(base, "KVConnectorTransferResults", None)
# Head-major blocks, K and V apart by head: a share of heads is one run of memory.
_HEAD_MAJOR = "LBHNC" if _RESULTS is not None else "HND"
# Whether a failed load is told by its request, and not by the blocks that hold nothing valid.
TELLS_FAILED = _RESULTS is not None
# Whether the scheduler half hears of a request as it arrives, and not only when it is asked about it.
TELLS_OF_NEW = hasattr(base.KVConnectorBase_V1, "on_new_request")


def _deals_prefill() -> bool:
    try:
        from vllm.v1.worker.cp_utils import get_total_cp_world_size
    except ImportError:
        return False
    return get_total_cp_world_size is not None


# Whether prefill context parallelism deals the cache out over its ranks; newer vLLM gives each rank all of it.
DEALS_PREFILL = _deals_prefill()


class Polled(NamedTuple):
    """Requests that are over, and the blocks that hold nothing valid because their load failed."""

    sent: set[str]
    received: set[str]
    failed: set[str]
    invalid: set[int]


class Results:
    """How a worker tells what is over."""

    def _polled(self) -> Polled:
        raise NotImplementedError

    if _RESULTS is not None:

        def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
            polled = self._polled()
            return _RESULTS(
                finished_sending=polled.sent, finished_recving=polled.received, failed_recving=polled.failed)

    else:
        _invalid: frozenset[int] = frozenset()

        def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
            polled = self._polled()
            # vLLM asks for it next, in the same step.
            self._invalid |= polled.invalid
            return polled.sent, polled.received

        def get_block_ids_with_load_errors(self) -> set[int]:
            invalid, self._invalid = self._invalid, frozenset()
            return set(invalid)


def layout(vllm_config: Any) -> str | None:
    """The layout to ask vLLM for; None where it makes no difference."""
    model = vllm_config.model_config
    return None if model is None or model.use_mla else _HEAD_MAJOR


def shorten(request: Any, tokens: int) -> None:
    """Takes the last tokens off a prompt that is not computed yet. What the model says after it is for nobody."""
    if request.prompt_token_ids is None:
        return
    del request.prompt_token_ids[-tokens:], request._all_token_ids[-tokens:]
    request.num_prompt_tokens -= tokens
    # Blocks were named after the whole prompt: no token may follow it here.
    request.max_tokens = 1


def dress(connector: Any) -> None:
    """Gives the connector what only some generations ask of it."""
    try:
        from vllm.v1.metrics.cache_hit_source import CacheHitSource
    except ImportError:
        return
    connector._cache_hit_source = CacheHitSource.P2P
