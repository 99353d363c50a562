"""A producer process and a consumer process exchange blocks over shared memory; run it, it starts both.

python examples/python/two_processes.py
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import ropeway

WAIT = 30.0
BLOCK = 128 << 10
BLOCKS = 64


def opened() -> tuple[ropeway.Engine, ropeway.Region, ropeway.Cache]:
    engine = ropeway.Engine(listen="127.0.0.1:0")
    region = engine.alloc(BLOCKS * BLOCK)
    cache = engine.cache("kv").group("g0").part("layers.0.k", region, block_bytes=BLOCK, blocks=BLOCKS).publish()
    return engine, region, cache


def produce(router: Connection) -> None:
    engine, region, cache = opened()
    region.fill(7 * BLOCK, 2 * BLOCK, 42)  # a prefill has filled blocks 7 and 8
    lease = cache.lease([[7, 8]])
    router.send((engine.descriptor(), lease.token))  # a router would carry these two strings
    freed = lease.wait_free(WAIT)
    print("producer: blocks 7 and 8 are free again:", freed.outcome if freed else "nobody came")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    router, theirs = context.Pipe()
    producer = context.Process(target=produce, args=(theirs,))
    producer.start()
    descriptor, token = router.recv()

    engine, region, cache = opened()
    peer = engine.connect(descriptor, WAIT).wait()
    grant = peer.claim(token, WAIT).wait()
    route = peer.route(cache, "kv", timeout=WAIT).wait()
    report = route.read(grant, [[0, 1]], [[7, 8]]).submit().wait(WAIT)
    assert report is not None, "not done in time"
    assert region.read(0, 2 * BLOCK) == b"*" * (2 * BLOCK)
    print(f"consumer: {report.bytes} bytes over {report.transport} in {report.elapsed * 1e6:.0f} us")
    grant.release()  # the producer may reuse its blocks
    producer.join()


if __name__ == "__main__":
    main()
