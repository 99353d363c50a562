"""What the tests share."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

import ropeway

BLOCK = 4096
BLOCKS = 64
WAIT = 60.0


class Side(NamedTuple):
    """An engine with one cache of one part."""

    engine: ropeway.Engine
    region: ropeway.Region
    cache: ropeway.Cache


def side(kind: str = "shared", **options: object) -> Side:
    engine = ropeway.Engine(**options)
    region = engine.alloc(BLOCK * BLOCKS, kind)
    cache = engine.cache("kv").group("g0").part("layers.0.k", region, block_bytes=BLOCK, blocks=BLOCKS).publish()
    return Side(engine, region, cache)


class Pair(NamedTuple):
    """A producer, a consumer, and the way from one to the other."""

    producer: Side
    consumer: Side
    lease: ropeway.Lease
    grant: ropeway.Grant
    route: ropeway.Route


def pair(ids: object, rights: str = "read", **options: object) -> Pair:
    producer, consumer = side(**options), side(**options)
    lease = producer.cache.lease(ids, rights)
    peer = consumer.engine.connect(producer.engine.descriptor()).wait()
    grant = peer.claim(lease.token).wait()
    return Pair(producer, consumer, lease, grant, peer.route(consumer.cache, "kv").wait())


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Ends a test that hangs, and says where."""
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until something is so; the watchdog bounds it."""
    import time

    def wait(condition: Callable[[], object]) -> None:
        while not condition():
            time.sleep(0.005)

    return wait
