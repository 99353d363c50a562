"""The parts beneath the connector: registration, views, shared memory, results, statistics."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from typing import Any

import fakes
import pytest
from instances import beside_vllm  # noqa: F401

import ropeway


def module(name: str) -> Any:
    return importlib.import_module(f"ropeway.vllm.{name}")


def test_importing_it_imports_neither_vllm_nor_torch() -> None:
    code = "import sys, ropeway.vllm; print(sorted({'vllm', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_registered_by_name_and_a_second_time_is_well(beside_vllm: object) -> None:
    register = importlib.import_module("ropeway.vllm").register
    fakes.Factory.known.clear()
    register()
    register()
    assert fakes.Factory.known == {"RopewayConnector": ("ropeway.vllm.connector", "RopewayConnector")}


def test_layers_are_numbered_by_the_first_number_in_their_name(beside_vllm: object) -> None:
    views = module("views")
    assert views.layer_number("model.layers.17.self_attn.attn.2") == 17
    with pytest.raises(views.Unsupported, match="no number"):
        views.layer_number("model.layers.self_attn")


def test_groups_say_which_blocks_they_keep(beside_vllm: object) -> None:
    views = module("views")
    groups = fakes.CacheConfig(fakes.FullAttentionSpec, fakes.SlidingWindowSpec).kv_cache_groups
    first, second = views.describe_groups(groups)
    assert (first["keeps"], second["keeps"]) == ("All", {"Window": {"tokens": 40}})
    assert (first["block_slots"], second["list"]) == (fakes.BLOCK, 1)
    # Several specs of one group are of one kind.
    several = types.SimpleNamespace(kv_cache_specs={"a": fakes.SlidingWindowSpec()})
    assert views.describe_groups([types.SimpleNamespace(kv_cache_spec=several)])[0]["keeps"] == second["keeps"]
    state = views.describe_groups(fakes.CacheConfig(fakes.MambaSpec).kv_cache_groups)[0]
    assert state["keeps"] == {"State": {"spare": 1}} and state["block_slots"] == 1
    with pytest.raises(views.Unsupported, match="OtherSpec"):
        views.describe_groups([types.SimpleNamespace(kv_cache_spec=fakes.OtherSpec())])


def test_recurrent_states_lie_over_the_blocks_of_attention(beside_vllm: object) -> None:
    views = module("views")
    storage, config = fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES), fakes.CacheConfig(fakes.FullAttentionSpec, fakes.MambaSpec)
    assert views.has_state(config) and not views.has_state(fakes.CacheConfig())
    caches: dict[str, object] = dict(fakes.kv_caches(storage))
    block = fakes.BLOCK_BYTES // 4
    name = config.kv_cache_groups[1].layer_names[0]
    caches[name] = (fakes.Tensor(storage, 0, (fakes.BLOCKS, 2, 8), (block, 8, 1)),
                    fakes.Tensor(storage, 64, (fakes.BLOCKS, 4, 2, 3), (block, 6, 3, 1)))
    place = lambda tensor: (0, tensor.offset)  # noqa: E731
    described = views.describe_views(
        caches, config.kv_cache_groups, place, total_kv_heads=2, use_mla=False, tensor_parallel=2)
    states = [one for one in described if one["group"] == 1]
    assert [one["plane"] for one in states] == ["state0.of2", "state1.of2"]
    assert [one["axes"] for one in states] == [["Block", "Head", "Content"], ["Block", "Head", "Content", "Content"]]
    assert [one["heads"] for one in states] == [{"Split": [4]}, {"Split": [8]}]
    caches[name] = fakes.Tensor(storage, 0, (fakes.BLOCKS, 1, 1, 112), (block, 112, 112, 1))
    one = views.describe_views(caches, config.kv_cache_groups, place, total_kv_heads=2, use_mla=False)[-1]
    assert (one["plane"], one["heads"]) == ("state0.of1", {"Split": [1]})
    caches[name] = fakes.Tensor(storage, 0, (8,), (1,))
    with pytest.raises(views.Unsupported, match="shape"):
        views.describe_views(caches, config.kv_cache_groups, place, total_kv_heads=2, use_mla=False)


def test_only_blocks_of_transferred_groups_are_selected(beside_vllm: object) -> None:
    select = module("views").select
    config = types.SimpleNamespace(select_transfer_block_ids=lambda ids: ids[1:])
    assert select(config, ([1], [2])) == [[2]]
    assert select(config, ()) == []
    assert select(types.SimpleNamespace(), ([1], [2])) == [[1], [2]]


def test_views_are_described_where_they_lie(beside_vllm: object) -> None:
    views = module("views")
    storage, groups = fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES), fakes.CacheConfig().kv_cache_groups
    caches = fakes.kv_caches(storage) | {"shares.its.cache": None}
    place = lambda tensor: (0, tensor.offset)  # noqa: E731
    described = views.describe_views(caches, groups, place, total_kv_heads=4, use_mla=False)
    assert [(one["layer"], one["offset"]) for one in described] == [(0, 0), (1, fakes.LAYER_BYTES)]
    assert described[0]["heads"] == {"Split": [4]} and described[0]["plane"] == "kv"
    latent = views.describe_views(caches, groups, place, total_kv_heads=4, use_mla=True)
    assert latent[0]["heads"] == "Replicated" and latent[0]["plane"] == "latent"
    flat = {groups[0].layer_names[0]: fakes.Tensor(storage, 0, (64, 8), (8, 1))}
    with pytest.raises(views.Unsupported, match="shape"):
        views.describe_views(flat, groups, place, total_kv_heads=4, use_mla=False)


def test_the_cache_alone_is_put_into_shared_memory(beside_vllm: dict[str, types.ModuleType]) -> None:
    torch, size = beside_vllm["torch"], (1 << 20) + 5
    with ropeway.Engine() as engine:
        mode = module("memory").SharedZeros(engine)

        def zeros(*args: Any, **kwargs: Any) -> Any:
            return mode.__torch_function__(torch.zeros, (), args, kwargs)

        for args, kwargs in [((size,), {"dtype": "int8"}), (((size,),), {"dtype": "uint8", "device": "cpu"})]:
            tensor = zeros(*args, **kwargs)
            assert len(tensor.memory) == size and not any(tensor.memory[:64])
        assert len(mode.regions) == 2 and all(len(region) > size for region in mode.regions.values())
        for args, kwargs in [((size,), {"dtype": "float32"}), ((16,), {"dtype": "int8"}), ((size, 2), {"dtype": "int8"}),
                             ((size,), {"dtype": "int8", "device": "npu:0"}),
                             ((size,), {"dtype": "int8", "pin_memory": True})]:
            assert zeros(*args, **kwargs) == "torch's own"
        assert mode.__torch_function__(len, (), ("ab",)) == 2
        tensor = None
        mode.regions.clear()


def test_a_worker_shares_its_memory_on_the_cpu_where_that_is_wanted(beside_vllm: object) -> None:
    for own, expected in [({}, True), ({"shared_memory": False}, False)]:
        config = fakes.vllm_config("kv_both", **own)
        connector = module("connector").RopewayConnector(config, fakes.Role.WORKER, fakes.CacheConfig())
        assert (connector.get_mem_pool_context() is not None) == expected
        connector.shutdown()


def test_ranks_and_stripes_are_as_vllm_was_told(
    beside_vllm: dict[str, types.ModuleType], monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = fakes.vllm_config("kv_producer", worker_port=0)
    checked = module("connector")._checked(config)
    worker = module("worker").Worker(config, fakes.CacheConfig(), checked)
    assert (worker._topology()["stripe_tokens"], worker._pcp) == (1, 0)
    worker.close()
    groups, parallel = beside_vllm["vllm.distributed.parallel_state"], config.parallel_config
    vars(groups)["get_pcp_group"] = lambda: types.SimpleNamespace(rank_in_group=1)
    parallel.cp_kv_cache_interleave_size, parallel.prefill_context_parallel_size = 128, 2
    with pytest.raises(ValueError, match="prefill_context_parallel_size 2"):
        module("worker").Worker(config, fakes.CacheConfig(), checked)
    monkeypatch.setattr(module("generations"), "DEALS_PREFILL", True)
    worker = module("worker").Worker(config, fakes.CacheConfig(), checked)
    assert (worker._topology()["stripe_tokens"], worker._topology()["pcp"], worker._pcp) == (128, 2, 1)
    worker.close()


def test_layers_after_the_models_own_are_a_drafters(beside_vllm: object) -> None:
    config = fakes.vllm_config("kv_producer")
    worker = module("worker").Worker(config, fakes.CacheConfig(), module("connector")._checked(config))
    caches = fakes.kv_caches(fakes.Storage(fakes.LAYERS * fakes.LAYER_BYTES))
    assert worker._facts(caches)["draft_layers"] == 0
    config.model_config.hf_text_config.num_hidden_layers = fakes.LAYERS - 1
    assert worker._facts(caches)["draft_layers"] == 1
    worker.close()


def test_no_two_workers_of_a_host_take_one_port(
    beside_vllm: dict[str, types.ModuleType], monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []
    native = types.SimpleNamespace(open_worker_engine=lambda config, number, npu: numbers.append(number))
    monkeypatch.setattr(module("worker"), "native", native)
    groups = vars(beside_vllm["vllm.distributed.parallel_state"])
    for index in range(2):
        for stage in range(2):
            for rank in range(2):
                for name, at in (("get_pp_group", stage), ("get_tp_group", rank)):
                    groups[name] = lambda at=at: types.SimpleNamespace(rank_in_group=at)
                config = fakes.vllm_config("kv_producer", rank=index)
                config.parallel_config.tensor_parallel_size = config.parallel_config.pipeline_parallel_size = 2
                module("worker").Worker(config, fakes.CacheConfig(), None)
    assert numbers == list(range(8))


def test_of_a_failed_load_only_what_was_to_be_loaded_is_invalid(
    beside_vllm: object, caplog: pytest.LogCaptureFixture,
) -> None:
    config = fakes.vllm_config("kv_consumer")
    worker = module("worker").Worker(config, fakes.CacheConfig(), module("connector")._checked(config))
    failed = [("d", "why", [[4, 0, 5, 6]], fakes.BLOCK)]
    worker.native = types.SimpleNamespace(poll=lambda: (["p"], ["d"], failed, None), close=lambda: None)
    assert worker.poll() == ({"p"}, {"d"}, {"d"}, {5, 6})
    assert "request d did not come: why" in caplog.text
    worker.native.poll = lambda: ([], [], [], "memory is withheld")
    with pytest.raises(RuntimeError, match="withheld"):
        worker.poll()
    worker.close()


def test_statistics_add_up_and_become_metrics(beside_vllm: object) -> None:
    stats = module("stats")
    first = stats.RopewayStats(data={"bytes_transferred": [1 << 20], "xfer_time_seconds": [0.5]})
    both = first.aggregate(stats.RopewayStats(data={"bytes_transferred": [1 << 20], "num_failed_transfers": 2}))
    assert both.data["bytes_transferred"] == [1 << 20, 1 << 20] and not both.is_empty()
    assert (both.reduce()["Loads"], both.reduce()["Failed"]) == (2, 2)
    fakes.Metric.made.clear()
    metrics = stats.RopewayMetrics(None, {}, [], {0: []}, alias=True)
    metrics.observe(both.data)
    for prefix in ("vllm:ropeway_", "vllm:nixl_"):
        assert fakes.Metric.made[prefix + "bytes_transferred"].seen == [1 << 20, 1 << 20]
        assert fakes.Metric.made[prefix + "num_failed_transfers"].seen == [2]
    both.reset()
    assert both.is_empty()


def test_blocks_of_a_failed_load_are_counted_over_context_ranks_and_never_none(beside_vllm: object) -> None:
    config = fakes.vllm_config("kv_consumer")
    config.parallel_config.decode_context_parallel_size = 2
    worker = module("worker").Worker(config, fakes.CacheConfig(), module("connector")._checked(config))

    def invalid(ids: list[int], first: int) -> set[int]:
        worker.native = types.SimpleNamespace(poll=lambda: ([], ["d"], [("d", "why", [ids], first)], None), close=lambda: None)
        found: set[int] = worker.poll().invalid
        return found

    # A block stands for its tokens on two ranks.
    assert invalid([4, 5, 6, 7], 4 * fakes.BLOCK) == {6, 7}
    assert invalid([4, 5], 9 * fakes.BLOCK) == {4, 5}
    worker.close()


def test_a_group_that_context_parallelism_leaves_whole_says_so(beside_vllm: object) -> None:
    views = module("views")
    whole = type("Whole", (fakes.FullAttentionSpec,), {"dcp_sharded": False})
    contexts = [one["context"] for one in views.describe_groups(fakes.CacheConfig(fakes.FullAttentionSpec, whole).kv_cache_groups)]
    assert contexts == ["Striped", "Replicated"]
