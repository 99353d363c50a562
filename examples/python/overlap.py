"""asyncio: many requests pull their blocks at the same time, on one event loop and one descriptor.

python examples/python/overlap.py
"""

from __future__ import annotations

import asyncio

import ropeway

BLOCK = 64 << 10
BLOCKS = 256
REQUESTS = 16
PER_REQUEST = BLOCKS // REQUESTS


def opened() -> tuple[ropeway.Engine, ropeway.Region, ropeway.Cache]:
    engine = ropeway.Engine()
    region = engine.alloc(BLOCKS * BLOCK)
    cache = engine.cache("kv").group("g0").part("layers.0.k", region, block_bytes=BLOCK, blocks=BLOCKS).publish()
    return engine, region, cache


async def pull(request: int, peer: ropeway.Peer, route: ropeway.Route, token: str) -> int:
    """One request: claims the lease, reads the blocks, and lets the lease go."""
    blocks = [range(request * PER_REQUEST, (request + 1) * PER_REQUEST)]
    grant = await peer.claim(token)
    plan = route.read(grant, blocks, blocks)
    report = await plan.submit()
    plan.release()
    grant.release()
    return report.bytes


async def main() -> None:
    (producer, theirs, source), (consumer, ours, target) = opened(), opened()
    for block in range(BLOCKS):
        theirs.fill(block * BLOCK, BLOCK, block)
    leases = [source.lease([range(request * PER_REQUEST, (request + 1) * PER_REQUEST)]) for request in range(REQUESTS)]

    peer = await consumer.connect(producer.descriptor())
    route = await peer.route(target, "kv")
    pulls = (pull(request, peer, route, lease.token) for request, lease in enumerate(leases))
    moved = sum(await asyncio.gather(*pulls))
    for lease in leases:
        freed = await lease.freed()
        assert freed.outcome == "done"
    assert all(ours.read(block * BLOCK, 1) == bytes([block]) for block in range(BLOCKS))
    print(f"{REQUESTS} requests pulled {moved} bytes; every lease is done")


if __name__ == "__main__":
    asyncio.run(main())
