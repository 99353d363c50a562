"""Moves KV-cache blocks from a producer (prefill) rank to a consumer (decode) rank.

An :class:`Engine` owns regions of memory. A cache names strided parts of regions whose blocks are addressed by id. The owner
of blocks gives out a lease; its token travels to the other side, which connects, claims a grant, matches both caches once in a
route, and turns block ids into a plan. A submitted plan is a transfer: wait for it, or await it.

    >>> import ropeway
    >>> producer, consumer = ropeway.Engine(), ropeway.Engine()
    >>> def cache(engine):
    ...     region = engine.alloc(64 << 10)
    ...     return region, engine.cache("kv").group("g0").part("layers.0.k", region, block_bytes=4096, blocks=16).publish()
    >>> (theirs, source), (ours, target) = cache(producer), cache(consumer)
    >>> theirs.fill(3 * 4096, 4096, 7)
    >>> lease = source.lease([[3]])
    >>> peer = consumer.connect(producer.descriptor()).wait()
    >>> grant = peer.claim(lease.token).wait()
    >>> route = peer.route(target, "kv").wait()
    >>> report = route.read(grant, [[5]], [[3]]).submit().wait()
    >>> report.bytes, ours.read(5 * 4096, 2)
    (4096, b'\\x07\\x07')
    >>> grant.release()
    >>> lease.wait_free(30).outcome
    'done'
"""

from ropeway._ropeway import (
    ApiMisuseError,
    Cache,
    CacheBuilder,
    CancelledError,
    ClosedError,
    Completion,
    Completions,
    DeniedError,
    Engine,
    Error,
    Event,
    ForkedError,
    Freed,
    FullError,
    Grant,
    InternalError,
    Lease,
    LinkLostError,
    MismatchError,
    Npu,
    OutOfBoundsError,
    Peer,
    PeerGoneError,
    Pending,
    Plan,
    ProtocolError,
    Quarantined,
    Rect,
    Region,
    Report,
    ResourceError,
    Route,
    Slice,
    StaleLeaseError,
    TimedOutError,
    Transfer,
    UnsupportedError,
    __version__,
    descriptor_of,
    lease_name,
)

__all__ = [
    "ApiMisuseError",
    "Cache",
    "CacheBuilder",
    "CancelledError",
    "ClosedError",
    "Completion",
    "Completions",
    "DeniedError",
    "Engine",
    "Error",
    "Event",
    "ForkedError",
    "Freed",
    "FullError",
    "Grant",
    "InternalError",
    "Lease",
    "LinkLostError",
    "MismatchError",
    "Npu",
    "OutOfBoundsError",
    "Peer",
    "PeerGoneError",
    "Pending",
    "Plan",
    "ProtocolError",
    "Quarantined",
    "Rect",
    "Region",
    "Report",
    "ResourceError",
    "Route",
    "Slice",
    "StaleLeaseError",
    "TimedOutError",
    "Transfer",
    "UnsupportedError",
    "__version__",
    "descriptor_of",
    "lease_name",
]
