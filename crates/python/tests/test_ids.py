"""Block ids: lists, tuples, and buffers of integers."""

from __future__ import annotations

import array

import numpy
import pytest
from conftest import Pair, pair

import ropeway


class HostTensor:
    """A torch tensor of the host: no buffer itself, but `numpy()` gives one."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def numpy(self) -> numpy.ndarray:
        return numpy.array(self.ids)


@pytest.fixture(scope="module")
def lent() -> Pair:
    return pair([list(range(32))])


@pytest.mark.parametrize(
    "ids",
    [
        [[2, 5]],
        ((2, 5),),
        [2, 5],
        [range(2, 8, 3)],
        [numpy.array([2, 5], dtype=numpy.int64)],
        [numpy.array([2, 5], dtype=numpy.int32)],
        [numpy.array([2, 5], dtype=numpy.uint32)],
        [numpy.array([2, 5], dtype=numpy.uint64)],
        numpy.array([2, 5]),
        numpy.array([2, 0, 0, 5])[::3],
        [numpy.int64(2), numpy.int64(5)],
        [array.array("i", [2, 5])],
        [array.array("L", [2, 5])],
        [memoryview(array.array("q", [2, 5]))],
        [HostTensor([2, 5])],
        HostTensor([2, 5]),
    ],
)
def test_every_spelling_of_ids_means_the_same(lent: Pair, ids: object) -> None:
    plan = lent.route.read(lent.grant, [[0, 1]], ids)
    again = lent.route.read(lent.grant, [[0, 1]], [[2, 5]])
    assert (plan.bytes, plan.runs) == (again.bytes, again.runs)
    with pytest.raises(ropeway.OutOfBoundsError):  # so the ids were read: 2 or 5 twice
        lent.route.read(lent.grant, [[2, 5, 2, 5]], [list(range(4))])


@pytest.mark.parametrize("bad", [[[-1]], [[1 << 32]], [numpy.array([-1])], [numpy.array([1 << 63], numpy.uint64)]])
def test_ids_that_are_none_name_their_place(lent: Pair, bad: object) -> None:
    with pytest.raises(ropeway.OutOfBoundsError, match="at place 0"):
        lent.route.read(lent.grant, [[0]], bad)


@pytest.mark.parametrize(
    "bad", [[numpy.zeros(2)], [numpy.zeros((2, 2), int)], [numpy.zeros(2, ">i8")], [numpy.zeros(2, numpy.int16)]]
)
def test_buffers_of_other_things_are_refused(lent: Pair, bad: object) -> None:
    with pytest.raises(ropeway.ApiMisuseError, match="a buffer of"):
        lent.route.read(lent.grant, [[0]], bad)


@pytest.mark.parametrize("bad", [[["a"]], [[1.5]], None, 7, [None]])
def test_no_ids_at_all_are_type_errors(lent: Pair, bad: object) -> None:
    with pytest.raises(TypeError):
        lent.route.read(lent.grant, [[0]], bad)


def test_a_block_outside_the_lease_is_denied(lent: Pair) -> None:
    with pytest.raises(ropeway.DeniedError):
        lent.route.read(lent.grant, [[0]], [[40]])
    with pytest.raises(ropeway.OutOfBoundsError):
        lent.route.read(lent.grant, [[64]], [[0]])
