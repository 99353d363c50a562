"""The engine's interface, as one process uses it."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import BLOCK, WAIT, pair, side

import ropeway


def test_blocks_arrive_and_the_lease_ends_with_the_grant() -> None:
    all = pair([[3, 4]])
    all.producer.region.write(3 * BLOCK, b"k" * (2 * BLOCK))
    plan = all.route.read(all.grant, [[9, 8]], [[3, 4]])
    assert (plan.bytes, plan.descriptors) == (2 * BLOCK, 2)
    report = plan.submit().wait(WAIT)
    assert report is not None and report.bytes == 2 * BLOCK and report.transport == "loopback"
    assert all.consumer.region.read(8 * BLOCK, 2 * BLOCK) == b"k" * (2 * BLOCK)
    plan.release()
    assert not all.lease.is_free
    all.grant.release()
    freed = all.lease.wait_free(WAIT)
    assert freed is not None and freed.outcome == "done" and not freed.quarantined


def test_a_write_lands_in_the_lender_and_tells_it() -> None:
    all = pair([[5]], "write")
    all.consumer.region.fill(2 * BLOCK, BLOCK, 7)
    report = all.route.write(all.grant, [[2]], [[5]]).submit(notify=3).wait(WAIT)
    assert report is not None
    assert all.lease.wait_arrivals(1, WAIT) and all.lease.arrived(3) and not all.lease.failed(3)
    assert all.producer.region.read(5 * BLOCK, BLOCK) == b"\7" * BLOCK


def test_a_head_slice_moves_rows_only() -> None:
    producer, consumer = side(), side()
    lease = producer.cache.lease([[0]])
    peer = consumer.engine.connect(producer.engine.descriptor()).wait()
    rows = ropeway.Rect(offset=256, rows=8, row_bytes=256, row_stride=512)
    route = peer.route(consumer.cache, "kv", slices=[ropeway.Slice("layers.0.k", rows, rows)]).wait()
    producer.region.fill(0, BLOCK, 1)
    route.read(peer.claim(lease.token).wait(), [[0]], [[0]]).submit().wait(WAIT)
    assert consumer.region.read(0, BLOCK) == (b"\0" * 256 + b"\1" * 256) * 8


def test_raw_lists_move_between_whole_regions() -> None:
    producer, consumer = side(), side()
    lent = producer.engine.raw_cache("bytes", producer.region)
    ours = consumer.engine.raw_cache("bytes", consumer.region)
    lease = lent.lease([0])
    peer = consumer.engine.connect(producer.engine.descriptor()).wait()
    producer.region.write(100, b"raw")
    plan = peer.route(ours, "bytes").wait().read_raw(peer.claim(lease.token).wait(), [(7, 100, 3)])
    assert plan.submit().wait(WAIT) is not None
    assert consumer.region.read(7, 3) == b"raw"


def test_a_transfer_waits_for_its_event() -> None:
    all = pair([[0]])
    event = ropeway.Event()
    transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
    assert transfer.wait(0.05) is None and not transfer.is_done
    event.fire()
    report = transfer.wait(WAIT)
    assert report is not None and event.has_fired and transfer.is_done


def test_a_failed_event_fails_its_transfer() -> None:
    all = pair([[0]])
    event = ropeway.Event()
    transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
    event.fail("the step was lost")
    with pytest.raises(ropeway.Error, match="the step was lost"):
        transfer.wait(WAIT)
    assert event.failure == "the step was lost"


def test_completions_name_what_submit_gave_them() -> None:
    all = pair([[0]])
    all.route.read(all.grant, [[1]], [[0]]).submit(user_data=42).wait(WAIT)
    end = all.consumer.engine.completions.wait(WAIT)
    assert end is not None
    assert (end.kind, end.user_data, end.status, end.local, end.remote) == ("transfer", 42, "completed", "yes", "yes")
    assert all.consumer.engine.completions.drain() == []
    assert all.consumer.engine.completions.fileno() >= 0


def test_a_dropped_transfer_goes_on_and_reports_its_end() -> None:
    all = pair([[0]])
    event = ropeway.Event()
    transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
    number = transfer.id
    del transfer
    event.fire()
    end = all.consumer.engine.completions.wait(WAIT)
    assert end is not None and end.id == number and end.status == "completed"


def test_other_threads_go_on_while_one_waits() -> None:
    all = pair([[0]])
    event, waiting = ropeway.Event(), threading.Event()
    transfer = all.route.read(all.grant, [[1]], [[0]]).submit(after=event)
    reports: list[ropeway.Report | None] = []

    def wait() -> None:
        waiting.set()
        reports.append(transfer.wait())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait()
    time.sleep(0.05)  # into the engine, where a held interpreter would stop this thread for good
    event.fire()
    for thread in threads:
        thread.join()
    assert [report.bytes for report in reports if report is not None] == [BLOCK] * 3


def test_limits_are_named_and_unknown_ones_refused() -> None:
    engine = ropeway.Engine(limits={"peers": 8, "lease_ttl": 45})
    assert engine.limits["peers"] == 8 and engine.limits["lease_ttl"] == 45.0
    with pytest.raises(ropeway.ApiMisuseError, match="there is no limit 'paers'|\"paers\""):
        ropeway.Engine(limits={"paers": 8})
    with pytest.raises(ropeway.ApiMisuseError, match="no transport"):
        ropeway.Engine(transports=["pigeon"])
    with pytest.raises(ropeway.ApiMisuseError, match="host:port"):
        ropeway.Engine(listen="nowhere")


def test_engines_of_one_process_are_apart() -> None:
    engines = [side() for _ in range(4)]
    assert len({side.engine.incarnation for side in engines}) == 4
    assert engines[0].engine.close() == []
    with pytest.raises(ropeway.ClosedError):
        engines[0].engine.alloc(BLOCK)
    lease = engines[1].cache.lease([[0]])
    peer = engines[2].engine.connect(engines[1].engine.descriptor()).wait()
    assert peer.claim(lease.token).wait().rights == "read"
    assert [peer.incarnation for peer in engines[1].engine.peers()] == [engines[2].engine.incarnation]


def test_a_with_block_closes_the_engine() -> None:
    with ropeway.Engine() as engine:
        region = engine.alloc(BLOCK)
    with pytest.raises(ropeway.ClosedError):
        engine.alloc(BLOCK)
    assert region.read(0, 4) == b"\0" * 4  # the memory outlives the engine


def test_a_parts_range_moves_one_layer() -> None:
    def layered() -> tuple[ropeway.Engine, ropeway.Region, ropeway.Cache]:
        engine = ropeway.Engine()
        region = engine.alloc(8 * BLOCK)
        cache = engine.cache("kv").group("g0")
        for layer in range(2):
            cache.part(f"layers.{layer}.k", region, block_bytes=BLOCK, blocks=4, offset=layer * 4 * BLOCK)
        return engine, region, cache.publish()

    (lender, theirs, source), (borrower, ours, target) = layered(), layered()
    theirs.fill(0, 8 * BLOCK, 5)
    peer = borrower.connect(lender.descriptor()).wait()
    route = peer.route(target, "kv", parts="common").wait()
    assert route.parts == ["layers.0.k", "layers.1.k"] == source.parts
    grant = peer.claim(source.lease([[0]]).token)
    with pytest.raises(ropeway.StaleLeaseError):
        grant.wait()  # its lease was dropped at once
    lease = source.lease([[0]])
    route.plan("read", peer.claim(lease.token).wait(), [[0]], [[0]], parts=(1, 2)).submit().wait(WAIT)
    assert ours.read(0, 1) == b"\0" and ours.read(4 * BLOCK, 1) == b"\5"


def test_a_lease_can_be_claimed_by_a_name_that_was_told_before() -> None:
    lender, borrower = side(), side()
    name = ropeway.lease_name()
    peer = borrower.engine.connect(lender.engine.descriptor()).wait()
    with pytest.raises(ropeway.Error) as early:
        peer.claim_named(name).wait()
    assert early.value.retry == "later"
    lease = lender.cache.lease([[4, 9]], name=name)
    grant = peer.claim_named(name).wait()
    assert grant.blocks == [[4, 9]]
    grant.release()
    freed = lease.wait_free(WAIT)
    assert freed is not None and freed.outcome == "done"
    with pytest.raises(ropeway.ApiMisuseError, match="name"):
        peer.claim_named("nobody")


def test_a_note_is_read_by_peers() -> None:
    lender, borrower = side(), side()
    lender.engine.show_note("ranks", b"first")
    lender.engine.show_note("ranks", b"second")
    peer = borrower.engine.connect(lender.engine.descriptor()).wait()
    assert peer.note("ranks").wait() == b"second"
    with pytest.raises(ropeway.MismatchError):
        peer.note("nothing").wait()
