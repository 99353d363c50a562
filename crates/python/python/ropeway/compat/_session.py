"""What this side knows of one peer: its life, its ranges, and the ways to them."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy

import ropeway
from ropeway.compat._owner import NOTE, Index, Owner, lease_name

CONNECT = 30.0
"""Seconds for a connection and all that is asked over it before the first byte."""
_AGAIN = 0.005


class Session:
    """A peer by its address. The first connection pins the life of the process that answers: another life at the same
    address is refused, until the session is forgotten."""

    def __init__(self, engine: ropeway.Engine, owner: Owner, address: str, cluster_key: bool) -> None:
        self._engine, self._owner, self._address, self._cluster_key = engine, owner, address, cluster_key
        self._lock = threading.Lock()
        self._incarnation: str | None = None
        self._peer: ropeway.Peer | None = None
        self._seed = b""
        self._index = Index([])
        self._routes: dict[tuple[int, int], ropeway.Route] = {}
        self._grants: dict[tuple[int, str], ropeway.Grant] = {}

    @property
    def incarnation(self) -> str | None:
        """The life that is pinned, if there was a connection."""
        return self._incarnation

    def connect(self) -> ropeway.Peer:
        """The peer, connected."""
        with self._lock:
            return self._connected()

    def first_address(self) -> int:
        """Where the peer's first range begins; 0 without one."""
        with self._lock:
            self._read_note(self._connected())
            return int(self._index.starts[0]) if len(self._index.starts) else 0

    def forget_local(self, number: int) -> None:
        """A range of ours is gone."""
        with self._lock:
            self._routes = {key: route for key, route in self._routes.items() if key[0] != number}

    def plans(self, op: str, local: Any, remote: Any, lengths: Any) -> list[ropeway.Plan]:
        """A checked plan for each pair of ranges that the copies lie in; nothing has moved. What the peer registered or
        took back since it was asked last is asked for once."""
        try:
            return self._plans(op, local, remote, lengths)
        except (ropeway.OutOfBoundsError, ropeway.StaleLeaseError, ropeway.MismatchError, ropeway.ClosedError):
            with self._lock:
                self._read_note(self._connected())
            return self._plans(op, local, remote, lengths)

    def _plans(self, op: str, local: Any, remote: Any, lengths: Any) -> list[ropeway.Plan]:
        ours = self._owner.index
        left, from_left = ours.find(local, lengths)
        with self._lock:
            peer = self._connected()
            theirs = self._index
            right, from_right = theirs.find(remote, lengths)
            order, bounds = _groups(left * len(theirs.numbers) + right)
            pairs = [(ours.numbers[left[order[at]]], theirs.numbers[right[order[at]]]) for at in bounds[:-1]]
            self._claim(peer, {number for _, number in pairs}, op)
            self._find_ways(peer, pairs)
            ways = [(self._routes[pair], self._grants[pair[1], op]) for pair in pairs]
        rows = numpy.stack([from_left, from_right, lengths], axis=1)[order]
        plans = []
        for (route, grant), start, end in zip(ways, bounds[:-1], bounds[1:], strict=True):
            plan = route.read_raw if op == "read" else route.write_raw
            plans.append(plan(grant, rows[start:end]))
        return plans

    def _connected(self) -> ropeway.Peer:
        if self._peer is not None and self._peer.is_connected:
            return self._peer
        self._routes, self._grants, self._peer = {}, {}, None
        descriptor = ropeway.descriptor_of(self._address, cluster_key=self._cluster_key, incarnation=self._incarnation)
        peer = self._engine.connect(descriptor, CONNECT).wait()
        self._read_note(peer)
        self._incarnation, self._peer = peer.incarnation, peer
        return peer

    def _read_note(self, peer: ropeway.Peer) -> None:
        note = json.loads(peer.note(NOTE, CONNECT).wait())
        if note.get("version") != 1:
            raise ropeway.MismatchError(f"{self._address} has another version of ropeway.compat")
        self._seed = bytes.fromhex(note["seed"])
        self._index = Index([tuple(entry) for entry in note["ranges"]])
        known = set(self._index.numbers)
        self._grants = {
            key: grant for key, grant in self._grants.items() if key[0] in known and not grant.is_stale
        }
        self._routes = {key: route for key, route in self._routes.items() if key[1] in known}

    def _claim(self, peer: ropeway.Peer, numbers: set[int], op: str) -> None:
        """The peer grants soon after it sees us, so the first claims may be early."""
        wanted = {number: 0 for number in numbers if (number, op) not in self._grants}
        until = time.monotonic() + CONNECT
        while wanted:
            asked = []
            for number, attempt in wanted.items():
                name = lease_name(self._seed, number, op, self._engine.incarnation, attempt)
                asked.append((number, peer.claim_named(name, 1, CONNECT)))
            for number, pending in asked:
                try:
                    self._grants[number, op] = pending.wait()
                    del wanted[number]
                except ropeway.StaleLeaseError:
                    wanted[number] += 1
                except ropeway.Error as error:
                    if error.retry != "later" or time.monotonic() > until:
                        raise
            if wanted:
                time.sleep(_AGAIN)

    def _find_ways(self, peer: ropeway.Peer, pairs: list[tuple[int, int]]) -> None:
        asked = []
        for ours, theirs in pairs:
            if (ours, theirs) in self._routes:
                continue
            local = self._owner.of(ours)
            if local is None:
                raise ropeway.ClosedError("the range was unregistered meanwhile")
            asked.append(((ours, theirs), peer.route(local.cache, f"{NOTE}.{theirs}", timeout=CONNECT)))
        for pair, pending in asked:
            self._routes[pair] = pending.wait()


def _groups(keys: Any) -> tuple[Any, list[int]]:
    """An order in which equal keys are together, else as they came, and where each group begins, and the end."""
    if (keys == keys[0]).all():
        return numpy.arange(len(keys)), [0, len(keys)]
    order = numpy.argsort(keys, kind="stable")
    ends = numpy.flatnonzero(numpy.diff(keys[order])) + 1
    return order, [0, *ends.tolist(), len(keys)]


class Batch:
    """Transfers that are one call of the caller's."""

    def __init__(self, peer: ropeway.Peer, plans: list[ropeway.Plan], timeout: float) -> None:
        self.transfers: list[ropeway.Transfer] = []
        self._failed: ropeway.Error | None = None
        self._peer = peer
        until = time.monotonic() + timeout
        for plan in plans:
            while self._failed is None:
                try:
                    self.transfers.append(plan.submit(abandon_after=timeout))
                    break
                except ropeway.FullError as error:
                    if time.monotonic() > until:
                        self._failed = error
                    else:
                        peer.wait_for_room(0.1)
                except ropeway.Error as error:
                    self._failed = error

    @property
    def is_done(self) -> bool:
        """Whether all have ended."""
        return all(transfer.is_done for transfer in self.transfers)

    def wait(self, quiet: float) -> None:
        """Waits for the end of all, and raises the first failure when nothing of the batch can touch our memory any more:
        the caller will use it again. What is not so within `quiet` seconds costs the peer its connection."""
        failed = self._failed
        for transfer in self.transfers:
            if failed is not None:
                transfer.cancel()
            try:
                transfer.wait()
            except ropeway.Error as error:
                failed = failed or error
        if failed is None:
            return
        if not self._quiet(quiet):
            # What the link's end does not stop either, the engine keeps in quarantine.
            try:
                self._peer.close(quiet)
            except ropeway.Error:
                pass
            if not self._quiet(quiet):
                raise type(failed)(f"{failed}; its memory here is still in use") from failed
        raise failed

    def _quiet(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        return all(transfer.wait_quiet(max(0.0, until - time.monotonic())) for transfer in self.transfers)
