"""The connector as vLLM calls it: two instances, each with a scheduler half and a worker half."""

from __future__ import annotations

import ctypes
import functools
import importlib
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

import fakes
import pytest
from instances import Instance, beside_vllm, instance, until  # noqa: F401

Make = Callable[..., Instance]


def ask(consumer: Instance, name: str, tokens: int, params: dict[str, Any]) -> fakes.Request:
    request = fakes.Request(name, tokens, params)
    consumer.scheduler.on_new_request(request)
    return request


def test_kv_of_a_prompt_comes_over_and_both_sides_have_their_blocks_back(instance: Make) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer")
    for layer in range(fakes.LAYERS):
        for block, byte in ((3, 17), (9, 34), (4, 51)):
            producer.fill(layer, block, byte + layer)
    params = producer.lend("p", 3 * fakes.BLOCK, [3, 9, 4])
    request = ask(consumer, "d", 3 * fakes.BLOCK, params)
    # The first block is cached already.
    assert consumer.scheduler.get_num_new_matched_tokens(request, fakes.BLOCK) == (2 * fakes.BLOCK, True)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5, 6, 7]), 2 * fakes.BLOCK)
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed, producer.sent) == ({"d"}, set(), {"p"})
    for layer in range(fakes.LAYERS):
        assert consumer.bytes_of(layer, 5) == bytes(fakes.BLOCK_BYTES)
        assert consumer.bytes_of(layer, 6) == bytes([34 + layer]) * fakes.BLOCK_BYTES
        assert consumer.bytes_of(layer, 7) == bytes([51 + layer]) * fakes.BLOCK_BYTES
    stats = consumer.worker.get_kv_connector_stats()
    assert stats.data["bytes_transferred"] == [2 * fakes.LAYERS * fakes.BLOCK_BYTES]


def test_blocks_of_another_size_are_put_in_order(instance: Make) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer", fakes.LongBlocksSpec)
    ctypes.memmove(producer.storage.data_ptr(), bytes(range(256)) * (fakes.LAYERS * fakes.LAYER_BYTES // 256),
                   fakes.LAYERS * fakes.LAYER_BYTES)
    for layer in range(fakes.LAYERS):
        producer.fill(layer, 3, 30 + layer)
    params = producer.lend("p", 3 * fakes.BLOCK, [3, 9, 4])
    request = ask(consumer, "d", 3 * fakes.BLOCK, params)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5, 6]), 3 * fakes.BLOCK)
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed) == ({"d"}, set())
    half = fakes.BLOCK * fakes.CONTENT * 4
    for layer in range(fakes.LAYERS):
        first, second, third = (producer.bytes_of(layer, block) for block in (3, 9, 4))
        # A block of ours has a head of two of theirs, and then the other head.
        long = consumer.bytes_of(layer, 10) + consumer.bytes_of(layer, 11)
        assert long == first[:half] + second[:half] + first[half:] + second[half:]
        assert consumer.bytes_of(layer, 12)[:half] == third[:half]
        assert consumer.bytes_of(layer, 13)[:half] == third[half:]


def recurrent(role: str) -> Instance:
    """Attention in the first layer; a state over blocks of the same size in the second."""
    one = Instance.__new__(Instance)
    one.storage = fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES)
    caches = fakes.CacheConfig(fakes.FullAttentionSpec, fakes.MambaSpec)
    tensors: dict[str, Any] = dict(fakes.kv_caches(one.storage))
    state = fakes.Tensor(one.storage, fakes.LAYER_BYTES, (fakes.BLOCKS, 2, 8), (fakes.BLOCK_BYTES // 4, 8, 1))
    tensors[caches.kv_cache_groups[1].layer_names[0]] = (state,)
    one.open(fakes.vllm_config(role), caches, tensors)
    return one


def test_a_recurrent_state_comes_over_as_it_was_before_the_last_token(beside_vllm: object) -> None:  # noqa: F811
    producer, consumer = recurrent("kv_producer"), recurrent("kv_consumer")
    for layer, block, byte in ((0, 3, 17), (0, 9, 34), (1, 4, 51), (1, 5, 68)):
        producer.fill(layer, block, byte)
    # The state's list: nothing for the first block, the state, and a spare block for speculation.
    params = producer.lend("p", 2 * fakes.BLOCK, [3, 9], [0, 4, 5])
    assert params["remote_num_tokens"] == 2 * fakes.BLOCK - 1
    request = ask(consumer, "d", 2 * fakes.BLOCK, params)
    tokens = 2 * fakes.BLOCK - 1
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (tokens, True)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5, 6], [0, 7, 8]), tokens)
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed, producer.sent) == ({"d"}, set(), {"p"})
    assert consumer.bytes_of(0, 5) == bytes([17]) * fakes.BLOCK_BYTES
    assert consumer.bytes_of(0, 6) == bytes([34]) * fakes.BLOCK_BYTES
    assert consumer.bytes_of(1, 7) == bytes([51]) * 64 + bytes(fakes.BLOCK_BYTES - 64)
    assert consumer.bytes_of(1, 8) == bytes(fakes.BLOCK_BYTES)
    producer.close()
    consumer.close()


def test_a_producer_leaves_the_last_token_of_a_recurrent_prompt_out_once(beside_vllm: object) -> None:  # noqa: F811
    producer = recurrent("kv_producer")
    params = {"do_remote_decode": True, "do_remote_prefill": False}
    request = fakes.Request("p", 20, params)
    for _ in range(2):
        producer.scheduler.on_new_request(request)
        assert (request.num_prompt_tokens, request.max_tokens) == (19, 1)
        assert request.prompt_token_ids == request._all_token_ids == list(range(19))
    # Nothing can be taken off embeddings, nor off a request that is served here.
    embeddings, plain = fakes.Request("e", 20, params), fakes.Request("q", 20)
    embeddings.prompt_token_ids = None
    for other in (embeddings, plain):
        producer.scheduler.on_new_request(other)
        assert (other.num_prompt_tokens, other.max_tokens) == (20, 16)
    producer.close()


class Stages:
    """An instance of two pipeline stages with a layer each, in this process."""

    def __init__(self, role: str, modules: dict[str, types.ModuleType]) -> None:
        connector = importlib.import_module("ropeway.vllm.connector").RopewayConnector
        config = fakes.vllm_config(role)
        config.parallel_config.pipeline_parallel_size = 2
        modules["torch"].distributed = types.SimpleNamespace(all_gather_object=self.gather)  # type: ignore[attr-defined]
        self.storages, self.workers = [], []
        for stage in range(2):
            at = types.SimpleNamespace(rank_in_group=stage, world_size=2, cpu_group=stage)
            vars(modules["vllm.distributed.parallel_state"])["get_pp_group"] = lambda at=at: at
            name, caches = f"model.layers.{stage}.self_attn.attn", fakes.CacheConfig()
            caches.kv_cache_groups[0].layer_names = [name]
            self.storages.append(fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES))
            self.workers.append(connector(config, fakes.Role.WORKER, caches))
            self.workers[stage].register_kv_caches({name: fakes.kv_caches(self.storages[stage])[name]})
        self.scheduler = connector(config, fakes.Role.SCHEDULER, caches)
        self.scheduler.set_xfer_handshake_metadata_pp_aware(
            {(stage, 0): worker.get_handshake_metadata() for stage, worker in enumerate(self.workers)})
        self.seen: dict[str, list[set[str]]] = {name: [set(), set()] for name in ("sent", "received", "failed")}

    @staticmethod
    def gather(out: list[Any], shape: str, group: int) -> None:
        """What each stage says: the other has the other layer."""
        other = shape.replace(f'"layers":[{group}]', f'"layers":[{1 - group}]')
        assert other != shape
        out[group], out[1 - group] = shape, other

    def step(self) -> None:
        meta = self.scheduler.build_connector_meta(None)
        for stage, worker in enumerate(self.workers):
            worker.bind_connector_metadata(meta)
            worker.start_load_kv(None)
            results = worker.get_transfer_results(set())
            self.seen["sent"][stage] |= results.finished_sending
            self.seen["received"][stage] |= results.finished_recving
            self.seen["failed"][stage] |= results.failed_recving

    def place(self, stage: int, block: int) -> int:
        return self.storages[stage].data_ptr() + stage * fakes.LAYER_BYTES + block * fakes.BLOCK_BYTES

    def close(self) -> None:
        for half in (*self.workers, self.scheduler):
            half.shutdown()


def test_each_stage_takes_its_layers_and_nobody_waits_for_the_others(
    beside_vllm: dict[str, types.ModuleType],  # noqa: F811
) -> None:
    producer, consumer = Stages("kv_producer", beside_vllm), Stages("kv_consumer", beside_vllm)
    for stage in range(2):
        ctypes.memset(producer.place(stage, 3), 17 + stage, fakes.BLOCK_BYTES)
    params = Instance.lend(producer, "p", fakes.BLOCK, [3])  # type: ignore[arg-type]
    request = fakes.Request("d", fakes.BLOCK, params)
    consumer.scheduler.on_new_request(request)
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (fakes.BLOCK, True)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5]), fakes.BLOCK)
    # A worker of the producer is done when the stage that reads from it is.
    until(lambda: all(consumer.seen["received"]) and all(producer.seen["sent"]), producer, consumer)  # type: ignore[arg-type]
    assert consumer.seen["failed"] == [set(), set()]
    for stage in range(2):
        assert ctypes.string_at(consumer.place(stage, 5), fakes.BLOCK_BYTES) == bytes([17 + stage]) * fakes.BLOCK_BYTES
    producer.close()
    consumer.close()


def test_a_load_that_cannot_be_is_told_as_received_and_as_failed(instance: Make) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer", connect_timeout=1)
    params = producer.lend("p", fakes.BLOCK, [3])
    producer.close()
    request = ask(consumer, "d", fakes.BLOCK, params)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5]), fakes.BLOCK)
    until(lambda: consumer.received, consumer)
    assert (consumer.received, consumer.failed) == ({"d"}, {"d"})


def test_an_aborted_request_gives_the_producer_its_blocks_back(instance: Make) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer")
    params = producer.lend("p", fakes.BLOCK, [3])
    request = ask(consumer, "d", fakes.BLOCK, params)
    request.status = types.SimpleNamespace(name="FINISHED_ABORTED")
    assert consumer.scheduler.request_finished_all_groups(request, ([],)) == (False, None)
    until(lambda: producer.sent, producer, consumer)
    assert consumer.received == set()


def test_each_rank_of_a_model_without_experts_listens_at_a_port_of_its_own(instance: Make) -> None:
    # vLLM runs such ranks as engines of their own, with a `data_parallel_rank` of 0 each.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    ranks = [instance("kv_producer", rank=rank, port=port) for rank in range(2)]
    lent = [rank.lend("p", fakes.BLOCK, [3])["ropeway"]["address"] for rank in ranks]
    assert [int(address.rpartition(":")[2]) for address in lent] == [port, port + 1]


def test_a_broken_prompt_is_not_lent(instance: Make) -> None:
    producer = instance("kv_producer")
    request = fakes.Request("p", fakes.BLOCK, {"do_remote_decode": True},
                            num_computed_tokens=fakes.BLOCK, status=types.SimpleNamespace(name="FINISHED_ABORTED"))
    producer.scheduler.on_new_request(request)
    assert producer.scheduler.request_finished_all_groups(request, ([3],)) == (False, None)


@pytest.mark.parametrize("strange", [
    float("nan"), float("inf"), 10**400, "\ud800", {"\udfff": 1},
    functools.reduce(lambda inner, _: [inner], range(200), 1),
], ids=["not a number", "infinite", "long", "half a letter", "half a name", "deep"])
def test_parameters_that_json_has_no_word_for_cost_the_request_its_pull_and_no_instance(
        instance: Make, strange: object) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer")
    params = producer.lend("p", fakes.BLOCK, [3])
    request = ask(consumer, "d", fakes.BLOCK, params | {"strange": strange})
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    request = ask(consumer, "e", fakes.BLOCK, params)
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (fakes.BLOCK, True)


def instructions(work: Callable[[], object]) -> int:
    """How many of Python's instructions it takes."""
    counted = 0

    def count(frame: types.FrameType, event: str, _argument: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return count

    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(None)
    return counted


def test_python_does_no_more_for_a_prompt_of_many_blocks_than_for_one_of_few(instance: Make) -> None:
    producer, consumer = instance("kv_producer"), instance("kv_consumer")

    def whole_life(name: str, blocks: int) -> None:
        ids, tokens = list(range(blocks)), blocks * fakes.BLOCK
        params = producer.lend(name, tokens, ids)
        producer.scheduler.build_connector_meta(None)
        request = ask(consumer, name, tokens, params)
        loaded, _ = consumer.scheduler.get_num_new_matched_tokens(request, 0)
        assert loaded == tokens
        consumer.scheduler.update_state_after_alloc(request, fakes.Blocks(ids), loaded)
        assert len(consumer.scheduler.build_connector_meta(None).messages) > 2 * blocks

    whole_life("first", 10)
    few, many = (
        instructions(functools.partial(whole_life, f"of {blocks}", blocks)) for blocks in (10, 10_000))
    assert few == many


def test_a_request_without_parameters_is_left_alone(instance: Make) -> None:
    consumer = instance("kv_consumer")
    request = fakes.Request("d", fakes.BLOCK)
    consumer.scheduler.on_new_request(request)
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5]), 0)
    assert consumer.scheduler.request_finished_all_groups(request, ([5],)) == (False, None)


def test_what_vllm_does_not_hand_over_is_not_waited_for(instance: Make) -> None:
    consumer = instance("kv_consumer")
    request = ask(consumer, "d", fakes.BLOCK, {"do_remote_prefill": True, "remote_block_ids": [[1]]})
    assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)


def test_handshakes_of_another_child_are_refused_by_name(instance: Make) -> None:
    producer = instance("kv_producer")
    with pytest.raises(TypeError, match="name RopewayConnector before"):
        producer.scheduler.set_xfer_handshake_metadata_pp_aware({(0, 0): object()})


def test_an_unknown_key_is_refused_by_name(instance: Make) -> None:
    with pytest.raises(ValueError, match="transport"):
        instance("kv_consumer", transport=["shm"])


def test_the_api_server_learns_names_without_an_instance(beside_vllm: object) -> None:
    connector = importlib.import_module("ropeway.vllm.connector").RopewayConnector
    assert connector.get_required_kvcache_layout(fakes.vllm_config("kv_both")) == "LBHNC"
    assert connector.build_kv_connector_stats({"bytes_transferred": [1]}).data == {"bytes_transferred": [1]}
    assert connector._cache_hit_source == "p2p"


def test_older_interfaces_hear_of_blocks_that_hold_nothing() -> None:
    with fakes.beside_vllm(without=("KVConnectorTransferResults", "on_new_request")):
        connector = importlib.import_module("ropeway.vllm.connector").RopewayConnector
        generations = importlib.import_module("ropeway.vllm.generations")
        assert connector.get_required_kvcache_layout(fakes.vllm_config("kv_both")) == "HND"
        assert not hasattr(connector, "get_transfer_results")
        consumer = connector(fakes.vllm_config("kv_consumer", connect_timeout=1), fakes.Role.WORKER, fakes.CacheConfig())
        consumer.register_kv_caches(fakes.kv_caches(fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES)))
        consumer._worker.poll = lambda: generations.Polled({"a"}, {"b"}, {"b"}, {7, 8})
        assert consumer.get_finished(set()) == ({"a"}, {"b"})
        assert consumer.get_block_ids_with_load_errors() == {7, 8}
        assert consumer.get_block_ids_with_load_errors() == set()
        consumer.shutdown()
        # Of several lists of blocks such a vLLM cannot be told; who only lends has nothing to tell.
        caches = fakes.CacheConfig(fakes.FullAttentionSpec, fakes.SlidingWindowSpec)
        tensors = fakes.kv_caches(fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES))
        for role in ("kv_producer", "kv_consumer"):
            one = connector(fakes.vllm_config(role), fakes.Role.WORKER, caches)
            if role == "kv_producer":
                one.register_kv_caches(tensors)
            else:
                with pytest.raises(ValueError, match="--disable-hybrid-kv-cache-manager"):
                    one.register_kv_caches(tensors)
            one.shutdown()


def test_older_interfaces_tell_of_a_request_when_they_ask_about_it(instance: Make) -> None:
    params = instance("kv_producer").lend("p", fakes.BLOCK, [3])
    with fakes.beside_vllm(without=("on_new_request",)):
        consumer = Instance("kv_consumer")
        request = fakes.Request("d", fakes.BLOCK, params)
        assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (fakes.BLOCK, True)
        consumer.close()
