"""The rounds and checks against fakes: all pass when nothing is wrong, and each fails when its fact is false."""

from dataclasses import replace

import pytest
from fake_vllm import BLOCK, FakeVllm, answer_of, kv_of
from ropeway_e2e import checks, prompts, rounds
from ropeway_e2e.checks import Asked, Seen, as_expected, judge
from ropeway_e2e.client import Answer, body_of, complete
from ropeway_e2e.metrics import Metrics
from ropeway_e2e.processes import Inside
from ropeway_e2e.proxy import Pair, Proxy
from ropeway_e2e.rounds import Entry

ROUNDS = ("sequential", "concurrent", "primed", "disconnects")
METRICS = ("vllm:fake_xfer_time_seconds",)


def references() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for prompt in prompts.suite():
        found[prompt.name] = answer_of(kv_of(prompts.resolve(prompt, found)), prompts.ANSWER)
    return found


def observe(prefill_wrong: tuple[str, ...] = (), decode_wrong: tuple[str, ...] = (), metrics=METRICS) -> Seen:
    """What a run sees of two fakes behind the built-in proxy."""
    seen = Seen(references=references(), idle_cores_alone=0.05)
    with FakeVllm(*prefill_wrong) as prefill, FakeVllm(*decode_wrong, metrics=metrics, token_s=0.001) as decode:
        with Proxy([Pair(prefill.url, decode.url)]) as proxy:
            entry = Entry(proxy.url, prefill.url, decode.url)
            seen.control = rounds.control(entry, seen.references)
            seen.sequential = rounds.sequential(entry, seen.references)
            seen.concurrent = rounds.concurrent(entry, seen.references)
            seen.primed = rounds.primed(entry, seen.references)
            seen.after_disconnects = rounds.disconnects(entry, seen.references)
            seen.held = entry.given_back()
            reading = Metrics.of(decode.url)
            seen.metrics_missing = [name for name in METRICS if not reading.has(name)]
    seen.alive, seen.idle_cores = {"decode": True}, {"prefill": 0.05, "decode": 0.06}
    return seen


def failed(seen: Seen, idle_cores_max: float | None = 0.02) -> set[str]:
    return {finding.check for finding in judge(seen, ROUNDS, idle_cores_max) if not finding.passed}


@pytest.fixture(scope="module")
def good() -> Seen:
    return observe()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A fake gives its blocks back soon or never."""
    monkeypatch.setattr(rounds, "GIVE_BACK_SECONDS", 10)


def test_two_instances_that_do_everything_right_pass_every_check(good):
    assert failed(good) == set()
    assert len(good.sequential) == len(prompts.suite()) and checks.token_totals(good)[1] == 0


def test_spoiled_kv_fails_every_comparison_of_tokens_and_nothing_else():
    seen = observe(decode_wrong=("spoil",))
    wrong = {"sequential_outputs_equal", "concurrent_outputs_equal", "primed_outputs_equal",
             "right_after_disconnects"}
    assert failed(seen) == wrong
    assert "token 0 of 24 differs" in checks.sequential_outputs_equal(seen)[0]


def test_right_tokens_that_were_computed_again_fail_the_counts_of_tokens():
    assert failed(observe(decode_wrong=("recompute",))) == {"prompts_transferred", "tokens_transferred"}


def test_blocks_that_never_come_back_are_seen():
    assert failed(observe(prefill_wrong=("leak",))) == {"blocks_given_back"}


def test_a_stream_that_breaks_off_is_a_wrong_answer():
    wrong = failed(observe(decode_wrong=("break_off",)))
    assert {"sequential_outputs_equal", "concurrent_outputs_equal", "right_after_disconnects"} <= wrong


def test_a_metric_that_is_not_there_is_seen():
    assert failed(observe(metrics=())) == {"metrics_there"}


def test_metrics_that_count_other_loads_or_bytes_than_came_over_are_seen(good):
    moved = [one for one in good.sequential if one.sources["external_kv_transfer"]]
    bytes_of = sum(-(-one.sources["external_kv_transfer"] // prompts.BLOCK) for one in moved) * prompts.BLOCK * 10
    true = {"loads": (len(moved), bytes_of), "token_bytes": 10}
    assert failed(Seen(**vars(good) | true)) == set()
    for wrong in ({"loads": (len(moved) - 1, bytes_of)}, {"loads": (0, 0)}, {"loads": (len(moved), bytes_of + 1)},
                  {"token_bytes": 11}):
        assert failed(Seen(**vars(good) | true | wrong)) == {"loads_counted"}, wrong
    # A model with recurrent state loads nothing of one token.
    alone = next(one for one in good.sequential if one.length == 1)
    loaded = replace(alone, sources=alone.sources | {"external_kv_transfer": 0, "local_compute": 1})
    asked = [loaded if one is alone else one for one in good.sequential]
    fewer = {"sequential": asked, "loads": (len(moved) - (alone in moved), 0), "token_bytes": None}
    assert "loads_counted" not in failed(Seen(**vars(good) | fewer | {"recurrent": True}))
    assert "loads_counted" in failed(Seen(**vars(good) | fewer))
    # Models whose layers differ have no such sum; their loads are counted all the same.
    assert failed(Seen(**vars(good) | true | {"token_bytes": None, "loads": (0, 0)})) == {"loads_counted"}


def test_answers_that_are_alike_are_no_references(good):
    seen = Seen(**vars(good) | {"references": good.references | {"one": good.references["two"]}})
    assert failed(seen) == {"references_distinct"}


def test_answers_that_echo_one_token_are_no_references(good):
    seen = Seen(**vars(good) | {"references": good.references | {"one": [7] * prompts.ANSWER}})
    assert failed(seen) == {"references_varied"}


def test_counters_that_do_not_tell_sources_apart_are_no_evidence(good):
    control = Asked("half", 500, [1], Answer(tokens=[1], finish="length"),
                    {"local_compute": 0, "local_cache_hit": 0, "external_kv_transfer": 500})
    assert failed(Seen(**vars(good) | {"control": control})) == {"control_computed"}
    assert failed(Seen(**vars(good) | {"control": None})) == {"control_computed"}


def test_one_prompt_that_was_computed_again_is_seen_although_the_share_is_high(good):
    spoilt = [one for one in good.sequential if one.prompt != "two"]
    two = Asked("two", 2, [1], Answer(tokens=[1], finish="length"),
                {"local_compute": 2, "local_cache_hit": 0, "external_kv_transfer": 0})
    assert failed(Seen(**vars(good) | {"sequential": [*spoilt, two]})) == {"prompts_transferred"}


def test_an_idle_instance_that_spins_fails_only_where_quiet_is_promised(good):
    seen = Seen(**vars(good) | {"idle_cores": {"prefill": 0.05, "decode": 0.98}})
    assert failed(seen) == {"idle_quiet"} and failed(seen, None) == set()


def beneath(prefill: list[Inside], workers: int = 2) -> list[str]:
    seen = Seen(inside={"prefill": prefill}, workers={"prefill": workers})
    return checks.engine_beneath(seen, "ours", "/theirs/engine.")


def test_another_engine_than_the_one_that_is_meant_is_seen_in_any_process_of_an_instance():
    server = Inside("python -m server", set(), {"/lib/libc.so"})
    good = [Inside(f"VLLM::Worker_TP{rank}", {"python", "ours"}, {"/site/ours.so"}) for rank in (0, 1)]
    assert beneath([server, *good]) == []
    (wrong,) = beneath([server, good[0], Inside("VLLM::Worker_TP1", {"python"}, {"/site/ours.so"})])
    assert wrong == "VLLM::Worker_TP1 of the prefill instance has no thread `ours`"
    (wrong,) = beneath([server, good[0]])
    assert wrong.startswith("the prefill instance has 1 workers, not 2: python -m server, VLLM::Worker_TP0")
    loaded = Inside("python -m server", set(), {"/site/theirs/engine.cpython-311.so"})
    (wrong,) = beneath([loaded, *good])
    assert wrong == "python -m server of the prefill instance has loaded /site/theirs/engine.cpython-311.so"
    assert checks.engine_beneath(Seen(), "ours", None) == ["nobody looked"]
    assert "engine_beneath" in {finding.check for finding in judge(Seen(), (), None, foreign="x")}
    assert "engine_beneath" not in {finding.check for finding in judge(Seen(), (), None)}, "where nothing is said of it"


def test_a_dead_instance_and_a_broken_harness_fail(good):
    assert failed(Seen(**vars(good) | {"alive": {"prefill": False}})) == {"instances_alive"}
    assert failed(Seen(**vars(good) | {"broken": ["no router"]})) == {"harness_whole"}


def test_a_round_that_asked_nothing_has_not_passed(good):
    for name, check in (("concurrent", "concurrent_outputs_equal"), ("primed", "primed_outputs_equal"),
                        ("after_disconnects", "right_after_disconnects")):
        assert failed(Seen(**vars(good) | {name: []})) == {check}
    assert {"sequential_outputs_equal", "tokens_transferred"} <= failed(Seen(**vars(good) | {"sequential": []}))


def test_a_control_passes_only_when_exactly_what_must_fail_failed(good):
    found = judge(good, ROUNDS, None)
    assert as_expected(found, frozenset()) and not as_expected(found, frozenset({"tokens_transferred"}))
    leaky = judge(Seen(**vars(good) | {"held": {"decode": 0.1}}), ROUNDS, None)
    assert as_expected(leaky, frozenset({"blocks_given_back"})) and not as_expected(leaky, frozenset())


def test_a_request_that_lost_its_prefill_instance_may_fail_and_may_not_give_other_tokens():
    names, known = ("some",), references()
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        proxy.between = lambda: prefill.__exit__()
        lost = rounds.some(Entry(proxy.url, prefill.url, decode.url), known, names)
    assert lost[0].answer.error is not None
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        after = rounds.some(Entry(proxy.url, prefill.url, decode.url), known, names)
    seen = Seen(hit=lost, after_fault=after, held={"decode": 0.0}, alive={"prefill": True})

    def wrong(**changes) -> set[str]:
        findings = checks.judge_fault(Seen(**vars(seen) | changes))
        return {finding.check for finding in findings if not finding.passed}

    assert wrong() == set()
    stale = Asked("some", 300, [1, 2], Answer(tokens=[1, 3], error="broke off"))
    hung = Asked("some", 300, [1, 2], Answer(error="TimeoutError: timed out"))
    assert wrong(hit=[stale]) == wrong(hit=[hung]) == wrong(hit=[]) == {"never_wrong"}
    assert wrong(after_fault=[stale]) == wrong(after_fault=lost) == wrong(after_fault=[]) == {"right_after_fault"}
    assert wrong(meanwhile=after) == set()
    assert wrong(meanwhile=[hung]) == wrong(meanwhile=[]) == {"right_meanwhile"}
    assert wrong(held={"decode": 0.1}) == {"blocks_given_back"}


def test_a_client_that_leaves_between_the_legs_leaves_blocks_lent_that_nobody_asks_for():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        entry = Entry(proxy.url, prefill.url, decode.url, proxy, patience=0)
        with rounds.left_between(proxy):
            assert complete(entry.url, body_of([1, 2, 3], 8)).error is not None
        assert len(prefill.lent) == 1 and not decode.requests
        assert entry.given_back()["prefill"] > 0
        assert complete(entry.url, body_of([1, 2, 3], 8)).error is None, "the next client is served"
        left = len(decode.requests)
        rounds.disconnects(entry, references())
    # Another may have left at that moment by chance.
    assert len(prefill.lent) >= 2 and len(decode.requests) > left, "each round has one such client"


def test_after_a_storm_of_clients_that_leave_others_are_asked(monkeypatch):
    monkeypatch.setattr(rounds, "STORM", 20)
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        asked = rounds.storm(Entry(proxy.url, prefill.url, decode.url, proxy, patience=0), references())
    assert [one.prompt for one in asked] == ["block+1", "some", "longest"] and all(one.answer.good for one in asked)
    assert len(prefill.requests) > 10


def test_the_prompts_meet_short_lengths_block_edges_and_the_longest_that_fits():
    lengths = {len(prompts.resolve(one, references())) for one in prompts.suite()}
    edges = {1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 1}
    assert edges <= lengths and max(lengths) + prompts.ANSWER <= prompts.MODEL_LENGTH < max(lengths) + 32
    shared = [one.tokens for one in prompts.suite() if one.name.startswith("shared")]
    assert len({tokens[: 3 * BLOCK] for tokens in shared}) == 1 and len(set(shared)) == 3


def test_times_tell_the_cold_decode_leg_from_the_cached_one():
    with FakeVllm() as prefill, FakeVllm() as decode, Proxy([Pair(prefill.url, decode.url)]) as proxy:
        found = rounds.times(Entry(proxy.url, prefill.url, decode.url), proxy, 2)
        assert set(found) == {"first_token_ms", "prefill_leg_ms", "decode_leg_ms", "decode_leg_cached_ms",
                              "first_token_cached_ms"}
        assert all(value > 0 for value in found.values()) and len(proxy.trips) == 4
