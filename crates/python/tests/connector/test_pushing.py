"""The producer writes layer by layer: the calls that vLLM makes, and a proxy that is asked."""

from __future__ import annotations

import http.server
import json
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fakes
import pytest
from instances import Instance, beside_vllm, instance, until  # noqa: F401

Make = Callable[..., Instance]
PROMPT = 3 * fakes.BLOCK
LAYERS = [f"model.layers.{layer}.self_attn.attn" for layer in range(fakes.LAYERS)]


@contextmanager
def proxy(status: int = 200, after: float = 0.0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its origin, and what is posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path})
            time.sleep(after)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def output(scheduled: dict[str, int], new: list[Any] = [], known: list[tuple[str, Any, int]] = [],  # noqa: B006
           preempted: set[str] | None = None) -> Any:
    """What vLLM's scheduler says of a step."""
    names, blocks, computed = zip(*known, strict=True) if known else ((), (), ())
    return types.SimpleNamespace(
        num_scheduled_tokens=scheduled, scheduled_new_reqs=new, preempted_req_ids=preempted,
        scheduled_cached_reqs=types.SimpleNamespace(req_ids=names, new_block_ids=blocks, num_computed_tokens=computed))


def new(name: str, blocks: list[int], computed: int = 0) -> Any:
    return types.SimpleNamespace(req_id=name, block_ids=(blocks,), num_computed_tokens=computed)


def step(producer: Instance, told: Any, fill: Callable[[int], None] = lambda layer: None) -> None:
    """A step of vLLM's that computes."""
    producer.worker.bind_connector_metadata(producer.scheduler.build_connector_meta(told))
    for layer, name in enumerate(LAYERS):
        fill(layer)
        producer.worker.save_kv_layer(name, None, None)
    # Newer vLLM calls it after the step.
    producer.worker.start_load_kv(None)
    producer.worker.wait_for_save()


def idle(one: Instance) -> None:
    one.worker.bind_connector_metadata(one.scheduler.build_connector_meta(output({})))
    one.worker.start_load_kv(None)
    one.worker.wait_for_save()
    results = one.worker.get_transfer_results(set())
    one.sent |= results.finished_sending
    one.received |= results.finished_recving
    one.failed |= results.failed_recving
    one.scheduler.update_connector_output(results)


@pytest.fixture
def pair(instance: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Instance, Instance, str, list[Any]]]:  # noqa: F811
    monkeypatch.setattr(Instance, "step", idle)
    with proxy() as (origin, posted):
        consumer = instance("kv_consumer", mode="push", metaservers=[origin])
        yield instance("kv_producer", mode="push"), consumer, f"{origin}/v1/metaserver", posted


def wanted(consumer: Instance, url: str) -> None:
    params = {"do_remote_prefill": True, "do_remote_decode": False, "metaserver": url}
    request = fakes.Request("cmpl-d-0-0123abcd", PROMPT, params)
    consumer.scheduler.on_new_request(request)
    assert consumer.scheduler.get_num_new_matched_tokens(request, fakes.BLOCK) == (2 * fakes.BLOCK, True)
    consumer.scheduler.update_state_after_alloc(request, fakes.Blocks([5, 6, 7]), 2 * fakes.BLOCK)


def aimed(producer: Instance, params: dict[str, Any]) -> fakes.Request:
    request = fakes.Request("p", PROMPT, params, num_computed_tokens=PROMPT, status=types.SimpleNamespace(name="FINISHED_LENGTH_CAPPED"))
    producer.scheduler.on_new_request(request)
    assert producer.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
    return request


def test_a_prompt_is_written_while_it_is_computed(pair: tuple[Instance, Instance, str, list[Any]]) -> None:
    producer, consumer, url, posted = pair
    wanted(consumer, url)
    until(lambda: posted, consumer)
    assert posted[0]["path"] == "/v1/metaserver"
    assert posted[0]["request_id"] == "cmpl-d-0", "as the proxy knows it"
    assert (posted[0]["do_remote_decode"], posted[0]["remote_cached_tokens"]) == (True, fakes.BLOCK)
    request = aimed(producer, posted[0])
    step(producer, output({"p": 20}, [new("p", [3, 9])]), lambda layer: [producer.fill(layer, block, 20 + block) for block in (3, 9)])
    # With a token that is generated: it is not sent.
    step(producer, output({"p": 29}, known=[("p", ([4],), 20)]), lambda layer: producer.fill(layer, 4, 24))
    assert producer.scheduler.request_finished_all_groups(request, ([3, 9, 4],)) == (True, None)
    until(lambda: consumer.received and producer.sent, producer, consumer)
    assert (consumer.received, consumer.failed, producer.sent) == ({"cmpl-d-0-0123abcd"}, set(), {"p"})
    for layer in range(fakes.LAYERS):
        assert [set(consumer.bytes_of(layer, block)) for block in (5, 6, 7)] == [{0}, {29}, {24}]
    assert consumer.worker.get_kv_connector_stats().data["bytes_transferred"] == [2 * fakes.LAYERS * fakes.BLOCK_BYTES]


def test_a_preempted_prompt_fails_its_load_and_is_not_read_any_more(pair: tuple[Instance, Instance, str, list[Any]]) -> None:
    producer, consumer, url, posted = pair
    wanted(consumer, url)
    until(lambda: posted, consumer)
    aimed(producer, posted[0])
    step(producer, output({"p": 32}, [new("p", [3, 9])]))
    step(producer, output({}, preempted={"p"}))
    until(lambda: consumer.received, producer, consumer)
    assert consumer.failed == consumer.received


def test_a_layer_that_is_told_of_early_is_not_told_of_twice(pair: tuple[Instance, Instance, str, list[Any]]) -> None:
    producer, consumer, url, posted = pair
    wanted(consumer, url)
    until(lambda: posted, consumer)
    aimed(producer, posted[0])
    producer.worker.bind_connector_metadata(producer.scheduler.build_connector_meta(output({"p": 48}, [new("p", [3, 9, 4])])))
    told: list[int] = []
    native = producer.worker._worker.native
    producer.worker._worker.native = types.SimpleNamespace(
        is_pushing=native.is_pushing, layer_computed=lambda number, begin: told.append(number))
    producer.worker.on_kv_cache_written(LAYERS[0])
    producer.worker.save_kv_layer(LAYERS[0], None, None)
    producer.worker.save_kv_layer(LAYERS[1], None, None)
    producer.worker._worker.native = native
    assert told == [0, 1]


def test_a_metaserver_that_refuses_fails_the_load_at_once(instance: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Instance, "step", idle)
    with proxy(404) as (origin, _):
        consumer = instance("kv_consumer", mode="push", metaservers=[origin])
        wanted(consumer, f"{origin}/v1/metaserver")
        until(lambda: consumer.received, consumer)
        assert consumer.failed == consumer.received


def test_a_refusal_that_comes_when_the_prompt_was_to_be_computed_fails_the_load(
    instance: Make, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    monkeypatch.setattr(Instance, "step", idle)
    monkeypatch.setattr("ropeway.vllm.metaserver._TELL_SECONDS", 0.2)
    with proxy(502, after=1.0) as (origin, _):
        consumer = instance("kv_consumer", mode="push", metaservers=[origin])
        wanted(consumer, f"{origin}/v1/metaserver")
        until(lambda: consumer.received, consumer)
        assert consumer.failed == consumer.received


def test_a_metaserver_that_is_not_named_is_not_told(instance: Make) -> None:  # noqa: F811
    with proxy() as (origin, posted):
        consumer = instance("kv_consumer", mode="push", metaservers=["http://127.0.0.1:1"])
        params = {"do_remote_prefill": True, "metaserver": f"{origin}/v1/metaserver"}
        request = fakes.Request("d", PROMPT, params)
        consumer.scheduler.on_new_request(request)
        assert consumer.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        assert posted == []
