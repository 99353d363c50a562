"""Awaiting the engine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref

import pytest
from conftest import BLOCK, WAIT, pair, side

import ropeway
from ropeway import _loop


def test_everything_that_takes_time_can_be_awaited() -> None:
    async def exchange() -> None:
        producer, consumer = side(), side()
        producer.region.fill(0, BLOCK, 6)
        lease = producer.cache.lease([[0]])
        peer = await consumer.engine.connect(producer.engine.descriptor())
        grant = await peer.claim(lease.token)
        route = await peer.route(consumer.cache, "kv")
        report = await route.read(grant, [[1]], [[0]]).submit()
        assert report.bytes == BLOCK and consumer.region.read(BLOCK, 1) == b"\6"
        freed = asyncio.ensure_future(_await(lease.freed()))
        await asyncio.sleep(0.01)
        assert not freed.done()
        grant.release()
        assert (await freed).outcome == "done"

    asyncio.run(exchange())


async def _await(thing: object) -> object:
    return await thing  # type: ignore[misc]


def test_many_transfers_end_over_one_descriptor() -> None:
    all = pair([list(range(32))])
    events = [ropeway.Event() for _ in range(32)]

    async def read(block: int) -> int:
        transfer = all.route.read(all.grant, [[block]], [[block]]).submit(after=events[block])
        return (await transfer).bytes

    async def everything() -> None:
        reads = [asyncio.ensure_future(read(block)) for block in range(32)]
        await asyncio.sleep(0.01)
        before = len(os.listdir("/proc/self/fd"))
        threading.Thread(target=lambda: [event.fire() for event in events]).start()
        assert await asyncio.gather(*reads) == [BLOCK] * 32
        assert len(os.listdir("/proc/self/fd")) <= before, "no descriptor for each"
        watcher = _loop._watchers[asyncio.get_running_loop()]
        assert not watcher._waiting, "what has ended is forgotten"

    asyncio.run(everything())


def test_the_loop_goes_on_while_a_transfer_is_awaited() -> None:
    all = pair([[0]])
    event = ropeway.Event()

    async def both() -> int:
        transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
        awaiting = asyncio.ensure_future(_await(transfer))
        ticks = 0
        while not awaiting.done():
            await asyncio.sleep(0)
            ticks += 1
            if ticks == 100:
                event.fire()
        await awaiting
        return ticks

    assert asyncio.run(both()) >= 100


def test_a_cancelled_task_leaves_its_transfer_alone() -> None:
    all = pair([[0]])
    event = ropeway.Event()

    async def give_up() -> ropeway.Report:
        transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(transfer), 0.02)
        assert not transfer.is_done
        event.fire()
        return await transfer

    assert asyncio.run(give_up()).bytes == BLOCK


def test_tasks_and_threads_can_wait_for_the_same_transfer() -> None:
    all = pair([[0]])
    event = ropeway.Event()

    async def all_of_them() -> list[object]:
        transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
        tasks = [asyncio.ensure_future(_await(transfer)) for _ in range(3)]
        threads = [asyncio.to_thread(transfer.wait, WAIT) for _ in range(2)]
        asyncio.get_running_loop().call_later(0.05, event.fire)
        return await asyncio.gather(*tasks, *threads)

    assert [report.bytes for report in asyncio.run(all_of_them())] == [BLOCK] * 5


def test_a_transfer_is_awaited_on_several_loops() -> None:
    all = pair([[0]])
    event = ropeway.Event()
    transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
    reports: list[object] = []
    loops = [threading.Thread(target=lambda: reports.append(asyncio.run(_await(transfer)))) for _ in range(3)]
    for loop in loops:
        loop.start()
    event.fire()
    for loop in loops:
        loop.join()
    assert len(reports) == 3


def test_a_failure_is_raised_where_it_is_awaited() -> None:
    async def fail() -> None:
        lender, borrower = side(), side()
        token = lender.cache.lease([[0]]).token
        peer = await borrower.engine.connect(lender.engine.descriptor())
        answer = peer.claim(token)
        for _ in range(2):
            with pytest.raises(ropeway.StaleLeaseError):
                await answer

    asyncio.run(fail())


def test_a_finished_loop_is_let_go_with_its_descriptor() -> None:
    all = pair([[0]])
    gone: list[weakref.ref[object]] = []

    async def once() -> None:
        await all.route.read(all.grant, [[1]], [[0]]).submit()
        loop = asyncio.get_running_loop()
        gone.extend([weakref.ref(loop), weakref.ref(_loop._watchers[loop])])

    for _ in range(5):
        asyncio.run(once())
    gc.collect()
    assert [thing() for thing in gone] == [None] * 10


def test_an_answer_is_typed_for_annotations() -> None:
    assert ropeway.Pending[ropeway.Peer] is ropeway.Pending
