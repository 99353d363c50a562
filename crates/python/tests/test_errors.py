"""Exceptions: one class a kind, and what they carry."""

from __future__ import annotations

import pickle

import pytest
from conftest import WAIT, pair, side

import ropeway

KINDS = {
    name: value
    for name, value in vars(ropeway).items()
    if isinstance(value, type) and issubclass(value, ropeway.Error) and value is not ropeway.Error
}


def test_every_kind_has_a_class_named_for_it() -> None:
    assert len(KINDS) == 16
    for name, kind in KINDS.items():
        assert name == "".join(word.capitalize() for word in kind.kind.split("_")) + "Error"
        assert kind.__module__ == "ropeway" and kind.__doc__ and name in ropeway.__all__


def test_kinds_are_the_builtins_that_people_catch() -> None:
    assert issubclass(ropeway.TimedOutError, TimeoutError)
    assert issubclass(ropeway.LinkLostError, ConnectionError)
    assert issubclass(ropeway.ApiMisuseError, ValueError)
    assert not issubclass(ropeway.StaleLeaseError, OSError)


def test_a_stale_lease_is_told_with_its_attributes() -> None:
    all = pair([[0]])
    plan = all.route.read(all.grant, [[1]], [[0]])
    all.lease.revoke()
    assert all.lease.wait_free(WAIT).outcome == "revoked"
    with pytest.raises(ropeway.StaleLeaseError) as raised:
        while True:  # until the revocation has arrived
            plan.submit().wait(WAIT)
    error = raised.value
    assert (error.kind, error.retry, error.local, error.remote) == ("stale_lease", "never", "yes", "yes")
    assert error.quarantine == () and error.native is None
    assert str(error).startswith(error.operation)


def test_a_limit_is_a_typed_refusal_that_can_be_waited_out() -> None:
    all = pair([[0]], limits={"transfers_per_peer": 1})
    plan = all.route.read(all.grant, [[1]], [[0]])
    event = ropeway.Event()
    first = plan.submit(after=event)
    with pytest.raises(ropeway.FullError, match="transfers_per_peer") as raised:
        plan.submit()
    assert raised.value.retry == "later"
    peer = all.consumer.engine.peers()[0]
    assert not peer.wait_for_room(0.01)
    event.fire()
    assert first.wait(WAIT) is not None and peer.wait_for_room(WAIT)
    assert plan.submit().wait(WAIT) is not None


def test_the_systems_number_is_kept() -> None:
    taken = side(listen="127.0.0.1:0")
    port = taken.engine.descriptor()
    with pytest.raises(ropeway.ResourceError) as raised:
        ropeway.Engine(listen="192.0.2.1:1")  # not an address of any machine
    assert raised.value.native == 99 and port


def test_an_answer_raises_each_time_it_is_asked_for() -> None:
    lender, borrower = side(), side()
    token = lender.cache.lease([[0]]).token
    peer = borrower.engine.connect(lender.engine.descriptor()).wait()
    answer = peer.claim(token)
    for _ in range(2):
        with pytest.raises(ropeway.StaleLeaseError):
            answer.wait()


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(ropeway.ApiMisuseError, match="seconds"):
        ropeway.Engine().close(seconds)


def test_what_was_released_says_so() -> None:
    all = pair([[0]])
    plan = all.route.read(all.grant, [[1]], [[0]])
    all.grant.release()
    assert plan.submit().wait(WAIT) is not None, "the plan keeps the grant for itself"
    plan.release()
    for call in (plan.submit, lambda: all.route.read(all.grant, [[1]], [[0]])):
        with pytest.raises(ropeway.ClosedError, match="was released"):
            call()
    assert all.grant.is_stale


def test_errors_travel_between_processes() -> None:
    with pytest.raises(ropeway.ApiMisuseError) as raised:
        ropeway.Engine(limits={"peers": 0})
    copy = pickle.loads(pickle.dumps(raised.value))
    assert type(copy) is ropeway.ApiMisuseError
    assert (str(copy), copy.operation) == (str(raised.value), raised.value.operation)


def test_wrong_strings_are_refused_before_anything_happens() -> None:
    engine = ropeway.Engine()
    with pytest.raises(ropeway.ApiMisuseError, match="descriptor"):
        engine.connect("nobody")
    peer = engine.connect(ropeway.Engine(listen="127.0.0.1:0").descriptor(), timeout=WAIT)
    with pytest.raises(ropeway.Error):
        peer.wait()  # that engine was closed when it was dropped
