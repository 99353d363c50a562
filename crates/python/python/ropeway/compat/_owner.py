"""Registered memory as its owner sees it, and the leases on it that stand for every peer."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import weakref
from typing import Any, Literal, NamedTuple

import numpy

import ropeway


logger = logging.getLogger("ropeway.compat.mooncake")

NOTE = "mooncake"
RIGHTS: tuple[Literal["read", "write"], ...] = ("read", "write")
_PAUSE = 0.02
"""Seconds between looks for new peers."""


class Local(NamedTuple):
    """A registered range. Its number is never used again, so that a peer cannot mistake one for another."""

    number: int
    address: int
    nbytes: int
    region: ropeway.Region
    cache: ropeway.Cache


class Index:
    """Ranges in order of address, for looking up many addresses at a time."""

    def __init__(self, ranges: list[tuple[int, int, int]]) -> None:
        """Of (number, address, bytes)."""
        ranges = sorted(ranges, key=lambda entry: entry[1])
        self.numbers = [entry[0] for entry in ranges]
        self.starts = numpy.array([entry[1] for entry in ranges], dtype=numpy.uint64)
        self.bytes = numpy.array([entry[2] for entry in ranges], dtype=numpy.uint64)

    def find(self, addresses: Any, lengths: Any) -> tuple[Any, Any]:
        """Of each address its range's place and the offset in it; raises OutOfBoundsError for what lies in none."""
        if not len(self.starts):
            raise ropeway.OutOfBoundsError("no memory is registered")
        places = numpy.searchsorted(self.starts, addresses, side="right").astype(numpy.int64) - 1
        known = numpy.maximum(places, 0)
        offsets, sizes = addresses - self.starts[known], self.bytes[known]
        bad = (places < 0) | (lengths > sizes) | (offsets > sizes - numpy.minimum(lengths, sizes))
        if bad.any():
            first = int(numpy.argmax(bad))
            raise ropeway.OutOfBoundsError(
                f"{int(lengths[first])} bytes at {int(addresses[first]):#x} (copy {first}) lie in no one registered range; "
                f"{int(bad.sum())} of {len(addresses)} copies are so"
            )
        return places, offsets


def lease_name(seed: bytes, number: int, rights: str, incarnation: str, attempt: int) -> str:
    """The name of the lease on a range for one peer, which both sides know without a word."""
    text = f"{number} {rights} {incarnation} {attempt}".encode()
    return ropeway.lease_name(hashlib.blake2b(text, key=seed, digest_size=24).digest())


class Owner:
    """The ranges that one engine registers. Every peer that connects gets a lease of its own on each, to read and to write:
    when a peer is lost its leases end, and nobody else's."""

    def __init__(self, engine: ropeway.Engine) -> None:
        self._engine = engine
        self._seed = secrets.token_bytes(32)
        self._ranges: dict[int, Local] = {}
        # Taken away from peers, and not closed yet.
        self._closing: dict[int, Local] = {}
        self._next = 0
        self._leases: dict[str, dict[tuple[int, str], tuple[ropeway.Lease, int]]] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self.index = Index([])
        self._show()
        watch = threading.Thread(target=_watch, args=(weakref.ref(self), self._stop), name="ropeway-compat", daemon=True)
        watch.start()

    def add(self, region: ropeway.Region, address: int) -> None:
        """Opens a region to peers."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            cache = self._engine.raw_cache(f"{NOTE}.{number}", region)
            self._ranges[number] = Local(number, address, region.nbytes, region, cache)
            self._changed()

    def overlap(self, address: int, nbytes: int) -> Local | None:
        """A range that has bytes in common with this one."""
        with self._lock:
            return next((at for at in self._kept() if at.address < address + nbytes and address < at.address + at.nbytes), None)

    def at(self, address: int) -> Local | None:
        """The range that begins there."""
        with self._lock:
            return next((at for at in self._kept() if at.address == address), None)

    def _kept(self) -> list[Local]:
        return [*self._ranges.values(), *self._closing.values()]

    def of(self, number: int) -> Local | None:
        """The range of that number, if it is still registered."""
        with self._lock:
            return self._ranges.get(number)

    def first(self) -> int:
        """Where the first range begins; 0 without one."""
        with self._lock:
            return next((at.address for at in self._ranges.values()), 0)

    def remove(self, local: Local, timeout: float) -> None:
        """Takes a range away from peers, and waits until none can touch it any more; raises TimedOutError else, and can be
        called again."""
        with self._lock:
            if self._ranges.pop(local.number, None) is not None:
                self._changed()
            self._closing[local.number] = local
            for held in self._leases.values():
                for rights in RIGHTS:
                    held.pop((local.number, rights), None)
        local.region.close(timeout)
        with self._lock:
            self._closing.pop(local.number, None)

    def stop(self) -> None:
        """Grants no more."""
        self._stop.set()

    def look(self) -> None:
        """Grants leases to peers that have none yet, and forgets those of peers that are gone."""
        here = {peer.incarnation for peer in self._engine.peers()}
        with self._lock:
            for incarnation in list(self._leases):
                if incarnation not in here:
                    del self._leases[incarnation]
            for incarnation in here:
                self._grant(incarnation)

    def _grant(self, incarnation: str) -> None:
        held = self._leases.setdefault(incarnation, {})
        if len(held) == len(self._ranges) * len(RIGHTS) and not any(lease.is_free for lease, _ in held.values()):
            return
        for local in self._ranges.values():
            for rights in RIGHTS:
                lease, attempt = held.get((local.number, rights), (None, -1))
                if lease is None or lease.is_free:
                    held[local.number, rights] = self._lend(local, rights, incarnation, attempt + 1)

    def _lend(self, local: Local, rights: Literal["read", "write"], incarnation: str, attempt: int) -> tuple[ropeway.Lease, int]:
        """A name is good for one lease, so one of an earlier connection is passed over."""
        while True:
            name = lease_name(self._seed, local.number, rights, incarnation, attempt)
            try:
                forever = float("inf")
                lease = local.cache.lease([[0]], rights, ttl=forever, first_contact_grace=forever, name=name)
                return lease, attempt
            except ropeway.ApiMisuseError:
                attempt += 1
                if attempt > 10_000:
                    raise

    def _changed(self) -> None:
        ranges = [(at.number, at.address, at.nbytes) for at in self._ranges.values()]
        self.index = Index(ranges)
        self._show()

    def _show(self) -> None:
        ranges = [(at.number, at.address, at.nbytes) for at in self._ranges.values()]
        note = json.dumps({"version": 1, "seed": self._seed.hex(), "ranges": ranges})
        self._engine.show_note(NOTE, note.encode())


def _watch(owner: weakref.ref[Owner], stop: threading.Event) -> None:
    """The thread that grants. It does not keep the owner."""
    said = ""
    while not stop.wait(_PAUSE):
        at = owner()
        if at is None:
            return
        try:
            at.look()
        except ropeway.ClosedError:
            return
        except ropeway.Error as error:
            if str(error) != said:
                said = str(error)
                logger.error("peers cannot be let in: %s", error)
        del at
