"""The built-in proxy between fakes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from fake_vllm import FakeVllm, answer_of, kv_of
from ropeway_e2e.client import body_of, complete, fetch
from ropeway_e2e.proxy import METASERVER, NULL_KEYS, Pair, Proxy

PROMPT = list(range(10, 60))
EXPECTED = answer_of(kv_of(PROMPT), 8)


def until(fact, seconds: float = 20) -> bool:
    """Waits for a fact, with a watchdog."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_an_answer_comes_from_the_decode_instance_with_the_kv_of_the_prefill_instance():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        answer = complete(proxy.url, body_of(PROMPT, 8))
        assert answer.good and answer.tokens == EXPECTED
        assert decode.counted["external_kv_transfer"] == len(PROMPT)
        assert prefill.lent == {}
        trip = proxy.trips[0]
        assert trip.prefill_s and trip.decode_first_s and trip.params["remote_port"] == prefill.port


def test_the_prefill_leg_asks_for_one_token_at_once_and_the_decode_leg_for_what_the_client_asked():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        complete(proxy.url, body_of(PROMPT, 8, stream_options={"include_usage": True}))
        first, second = prefill.requests[0], decode.requests[0]
        assert (first["max_tokens"], first["stream"], "stream_options" in first) == (1, False, False)
        assert (second["max_tokens"], second["stream"], "stream_options" in second) == (8, True, True)


def test_keys_of_the_first_request_are_null_in_one_dialect_and_absent_in_the_other():
    for dialect, there in (("nixl", True), ("nixl-absent", False)):
        with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)], dialect) as proxy:
            assert complete(proxy.url, body_of(PROMPT, 8)).tokens == EXPECTED
            params = prefill.requests[0]["kv_transfer_params"]
            assert params["do_remote_decode"] is True and params["do_remote_prefill"] is False
            assert all((key in params) is there and params.get(key) is None for key in NULL_KEYS)


def test_an_answer_that_is_not_streamed_arrives_whole():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        said = json.loads(fetch(proxy.url, "/v1/completions", "POST", body_of(PROMPT, 8, stream=False)))
        assert said["choices"][0]["token_ids"] == EXPECTED


def test_a_request_whose_prefill_is_refused_is_tried_on_another_pair():
    with FakeVllm("refuse") as bad, FakeVllm() as prefill, FakeVllm() as decode:
        with Proxy([Pair(bad.url, decode.url), Pair(prefill.url, decode.url)]) as proxy:
            answer = complete(proxy.url, body_of(PROMPT, 8))
            assert answer.tokens == EXPECTED and proxy.trips[0].tries == 2


def test_a_request_whose_prefill_instance_is_gone_is_tried_on_another_pair():
    with FakeVllm() as gone:
        pass
    with FakeVllm() as prefill, FakeVllm() as decode:
        with Proxy([Pair(gone.url, decode.url), Pair(prefill.url, decode.url)]) as proxy:
            assert complete(proxy.url, body_of(PROMPT, 8)).tokens == EXPECTED


def test_a_prefill_without_parameters_is_refused_and_not_decoded():
    with FakeVllm("no_params") as prefill, FakeVllm() as decode:
        with Proxy([Pair(prefill.url, decode.url)]) as proxy:
            answer = complete(proxy.url, body_of(PROMPT, 8))
            assert "502" in answer.error and "no kv_transfer_params" in answer.error and decode.requests == []


def test_a_refused_decode_leg_is_tried_elsewhere_and_a_broken_stream_is_not():
    with FakeVllm() as prefill, FakeVllm("refuse") as bad, FakeVllm() as decode:
        with Proxy([Pair(prefill.url, bad.url), Pair(prefill.url, decode.url)]) as proxy:
            assert complete(proxy.url, body_of(PROMPT, 8)).tokens == EXPECTED
    with FakeVllm() as prefill, FakeVllm("break_off") as bad, FakeVllm() as decode:
        with Proxy([Pair(prefill.url, bad.url), Pair(prefill.url, decode.url)]) as proxy:
            answer = complete(proxy.url, body_of(PROMPT, 8))
            assert not answer.good and answer.tokens == EXPECTED[:3] and decode.requests == []


def test_when_every_pair_refuses_the_client_is_told_what_each_said():
    with FakeVllm("refuse") as bad, Proxy([Pair(bad.url, bad.url)] * 2) as proxy:
        error = complete(proxy.url, body_of(PROMPT, 8)).error
        assert error.startswith("502") and error.count("refused by the fake") == 2


def test_a_client_that_leaves_ends_its_request_on_the_decode_instance():
    with FakeVllm() as prefill, FakeVllm(token_s=0.05) as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        left = complete(proxy.url, body_of(PROMPT, 10_000), leave_after=1)
        assert left.error == "left early"
        assert until(lambda: decode.aborted == 1 and decode.running == 0)


def test_in_the_mooncake_dialect_both_legs_carry_the_same_transfer_id():
    with FakeVllm() as prefill, FakeVllm() as decode:
        with Proxy([Pair(prefill.url, decode.url, prefill.url)], "mooncake") as proxy:
            # The fake cannot pull by a transfer id; what is sent is what counts here.
            complete(proxy.url, body_of(PROMPT, 8))
            assert until(lambda: prefill.requests and decode.requests)
            first, second = (one.requests[0]["kv_transfer_params"] for one in (prefill, decode))
            assert first["transfer_id"] == second["transfer_id"] and first["do_remote_decode"]
            assert (second["remote_engine_id"], second["remote_bootstrap_addr"]) == ("fake", prefill.url)


def test_layer_by_layer_the_decode_instance_is_asked_first_and_asks_for_the_prefill():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)], "layerwise") as proxy:
        answer = complete(proxy.url, body_of(PROMPT, 8))
        assert answer.good and answer.tokens == EXPECTED
        assert decode.counted["external_kv_transfer"] == len(PROMPT)
        first = prefill.requests[0]
        assert (first["max_tokens"], first["stream"]) == (1, False)
        assert first["kv_transfer_params"]["remote_port"] == decode.port
        assert "request_id" not in first["kv_transfer_params"]
        # The client has its answer a moment before.
        assert until(lambda: proxy.asking == {})
        assert proxy.trips[0].prefill_s and proxy.trips[0].params


def test_layer_by_layer_a_prefill_that_is_refused_is_told_to_the_decode_instance():
    with FakeVllm("refuse") as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)], "layerwise") as proxy:
        assert complete(proxy.url, body_of(PROMPT, 8)).error
        assert decode.counted["external_kv_transfer"] == 0 and until(lambda: proxy.asking == {})


def test_layer_by_layer_nobody_else_is_prefilled_for():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)], "layerwise") as proxy:
        said = complete(proxy.url, body_of(PROMPT, 8))
        assert said.good
        try:
            fetch(proxy.url, METASERVER, "POST", {"request_id": "cmpl-stranger-0"})
        except OSError as error:
            assert "404" in str(error)
        else:
            raise AssertionError("a stranger was served")
        assert len(prefill.requests) == 1


def test_layer_by_layer_requests_at_once_each_get_the_prefill_of_their_own_prompt():
    prompts = [list(range(start, start + 50)) for start in range(10, 90, 10)]
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)], "layerwise") as proxy:
        with ThreadPoolExecutor(len(prompts)) as clients:
            answers = list(clients.map(lambda prompt: complete(proxy.url, body_of(prompt, 8)), prompts))
        assert [one.tokens for one in answers] == [answer_of(kv_of(prompt), 8) for prompt in prompts]
        assert sorted(one["prompt"] for one in prefill.requests) == prompts


def test_layer_by_layer_the_metaserver_answers_a_refused_prefill_with_an_error_of_its_own():
    told = []

    class Decode(FakeVllm):
        def asked_for(self, body: dict, metaserver: str) -> str:
            try:
                return super().asked_for(body, metaserver)
            except Exception as error:
                told.append(str(error))
                raise

    with FakeVllm("refuse") as prefill, Decode() as decode, Proxy([Pair(prefill.url, decode.url)], "layerwise") as proxy:
        assert complete(proxy.url, body_of(PROMPT, 8)).error
        assert len(told) == 1 and "502" in told[0] and "refused by the fake" in told[0]
