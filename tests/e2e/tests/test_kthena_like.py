"""The router in Go, between fakes."""

import json
import shutil

import pytest
from fake_vllm import FakeVllm, answer_of, kv_of
from ropeway_e2e import router
from ropeway_e2e.client import body_of, complete, fetch
from ropeway_e2e.instance import Failed

PROMPT = list(range(10, 60))
EXPECTED = answer_of(kv_of(PROMPT), 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", ["nixl", "mooncake"])
def test_an_answer_comes_with_the_kv_of_the_prefill_instance_streamed_or_not(kind, cache, tmp_path):
    with FakeVllm() as prefill, FakeVllm() as decode:
        process = router.launch_kthena_like(cache, kind, prefill.url, decode.url, tmp_path / "log")
        try:
            process.wait_ready(60)
            answer = complete(process.url, body_of(PROMPT, 8))
            assert answer.good and answer.tokens == EXPECTED
            said = fetch(process.url, "/v1/completions", "POST", body_of(PROMPT, 8, stream=False))
            assert json.loads(said)["choices"][0]["token_ids"] == EXPECTED
            assert decode.counted["external_kv_transfer"] == 2 * len(PROMPT) and prefill.lent == {}
        finally:
            process.stop(5)


def test_a_router_that_cannot_be_built_is_told(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(router, "GO", tmp_path)
    with pytest.raises(Failed, match="cannot be built"):
        router.kthena_like(cache)
