"""Mooncake's ``TransferEngine`` over Ropeway: the same calls, the same return codes, another engine beneath.

Calls give 0, or an address or a number that is not 0, and -1 (0 for those) when they fail, as in Mooncake; why is logged by
``ropeway.compat.mooncake`` and kept in :attr:`TransferEngine.last_error`. What differs is what a failure means: after one,
nothing of the transfer touches this side's memory any more.

A session (``host:port``) is one life of the process there. Once used, it fails for good when another process answers at the
address, and never gives bytes of the wrong one, until :meth:`TransferEngine.close_session` is called.

One batch must not write a byte twice. Metadata servers, other protocols than TCP, RDMA (which goes by the same ways as TCP)
and Ascend, and Mooncake's C++ engine object, are not to be had: they give an error that says so.
"""

from __future__ import annotations

import enum
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, TypeVar

import numpy

import ropeway
from ropeway import compat
from ropeway.compat._mail import Mail, TransferNotify
from ropeway.compat._owner import Local, Owner
from ropeway.compat._session import Batch, Session

__all__ = ["Read", "TransferEngine", "TransferNotify", "TransferOpcode", "Write"]

logger = logging.getLogger("ropeway.compat.mooncake")

KEY_FILE = "ROPEWAY_PSK_FILE"
TIMEOUT = "MC_TRANSFER_TIMEOUT"
_PROTOCOLS = ("tcp", "rdma", "ascend", "")
_LIMITS: Any = {
    "regions": 65_535,
    "caches": 65_535,
    "leases": 1 << 18,
    "grants_per_peer": 1 << 17,
    "transfers": 65_536,
    "transfers_per_peer": 4_096,
    "served_requests_per_peer": 4_096,
}
_CLOSE = 10.0
_T = TypeVar("_T")


class TransferOpcode(enum.IntEnum):
    """Which way a transfer goes."""

    Read = 0
    Write = 1


Read, Write = TransferOpcode.Read, TransferOpcode.Write
_Opcode = TransferOpcode


class TransferEngine:
    """The engine of a process. Its methods may be called from any thread."""

    # Mooncake has it in both places.
    TransferOpcode = _Opcode

    def __init__(self, insecure: bool | None = None) -> None:
        """``insecure``: lets in everybody; None does as ``ROPEWAY_COMPAT`` says."""
        self._insecure = "insecure" in compat.words() if insecure is None else insecure
        self._engine: ropeway.Engine | None = None
        self._sessions: dict[str, Session] = {}
        self._batches: dict[int, Batch] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._failures = threading.local()
        self._failure: BaseException | None = None
        self._device: Literal["cpu", "npu"] = "cpu"
        self._timeout = 30.0

    @property
    def last_error(self) -> BaseException | None:
        """Why the last call of this thread that failed did, or of any thread; None before the first."""
        return getattr(self._failures, "last", self._failure)

    # Opening

    def initialize(self, local_hostname: str, metadata_server: str, protocol: str, device_name: str = "") -> int:
        """Opens the engine on a free port of ``local_hostname``. ``metadata_server`` must be P2PHANDSHAKE."""
        return self._try("initialize", lambda: self._open(local_hostname, metadata_server, protocol, device_name))

    def initialize_ext(
        self, local_hostname: str, metadata_server: str, protocol: str, device_name: str, metadata_type: str
    ) -> int:
        """As initialize. A metadata type is of no use to P2PHANDSHAKE."""
        del metadata_type
        return self.initialize(local_hostname, metadata_server, protocol, device_name)

    def _open(self, hostname: str, metadata: str, protocol: str, device_name: str) -> None:
        if self._engine is not None:
            raise ropeway.ApiMisuseError("this engine is initialized already")
        if metadata.upper() != "P2PHANDSHAKE":
            raise ropeway.UnsupportedError(f"metadata server {metadata!r}: only P2PHANDSHAKE is to be had")
        if protocol not in _PROTOCOLS:
            raise ropeway.UnsupportedError(f"protocol {protocol!r}: there are tcp, rdma and ascend")
        if protocol == "rdma":
            logger.warning("protocol rdma: there is no RDMA between hosts here; peers of other hosts are reached by tcp")
        key, npu = os.environ.get(KEY_FILE), None
        if key is None and not self._insecure:
            raise ropeway.DeniedError(
                f"Mooncake's interface has no secret: name a file with a key that all engines share in {KEY_FILE}, or "
                "write ROPEWAY_COMPAT=mooncake,insecure to let in everybody who reaches the port"
            )
        if key is None:
            logger.warning("insecure: whoever reaches this engine's port may read and write all registered memory")
        if protocol == "ascend":
            npu = ropeway.Npu(_device(device_name))
        self._timeout = max(5.0, float(os.environ.get(TIMEOUT, 30.0)))
        engine = ropeway.Engine(
            listen=_listen(hostname), cluster_key_file=key, insecure=key is None, npu=npu, limits=_LIMITS
        )
        self._cluster_key, self._device = key is not None, "cpu" if npu is None else "npu"
        self._owner, self._mail = Owner(engine), Mail(engine)
        self._engine = engine

    def get_rpc_port(self) -> int:
        """The port of the engine, for session ids; -1 before initialize."""
        return self._get("get_rpc_port", -1, lambda: int(self._opened().addresses[0].rpartition(":")[2]))

    def get_local_topology(self, device_name: str | None = None) -> str:
        """No devices are listed: Ropeway finds its ways by itself."""
        del device_name
        return '{"cpu:0": [[], []]}'

    def get_engine(self) -> NoReturn:
        """There is no C++ engine, which Mooncake's store asks for."""
        raise ropeway.UnsupportedError(
            "get_engine: Mooncake's C++ engine does not exist here, so its store cannot share one; give the store one of "
            "its own from Mooncake itself, in a process without ROPEWAY_COMPAT"
        )

    get_engine_ptr = get_engine

    def close(self) -> None:
        """Lets go of everything. Mooncake has no such call; the end of the process does it as well."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._owner.stop()
            self._sessions, self._batches = {}, {}
            for line in engine.close(_CLOSE):
                logger.warning("close: %s", line)

    # Memory

    def register_memory(self, buffer_addr: int, capacity: int, location: str = "*") -> int:
        """Opens ``capacity`` bytes to peers. They must stay mapped until they were unregistered."""
        return self.batch_register_memory([buffer_addr], [capacity], location)

    def batch_register_memory(
        self, buffer_addresses: Sequence[int], capacities: Sequence[int], location: str = "*"
    ) -> int:
        """As register_memory: all ranges or none."""
        return self._try("register_memory", lambda: self._register(buffer_addresses, capacities, location))

    def _register(self, addresses: Sequence[int], sizes: Sequence[int], location: str) -> None:
        engine, done = self._opened(), []
        try:
            for address, nbytes in zip(addresses, sizes, strict=True):
                address, nbytes = int(address), int(nbytes)
                clash = self._owner.overlap(address, nbytes)
                if clash is not None:
                    raise ropeway.ApiMisuseError(
                        f"{nbytes} bytes at {address:#x} overlap {clash.nbytes} at {clash.address:#x}, which are registered"
                    )
                device: Literal["cpu", "npu"] = "cpu" if location.startswith("cpu") else self._device
                self._owner.add(engine.register_address(address, nbytes, object(), device), address)
                done.append(address)
        except BaseException:
            self._unregister(done)
            raise

    def unregister_memory(self, buffer_addr: int) -> int:
        """Takes a range back. After 0 no peer touches it any more; after -1 call again: something still may."""
        return self.batch_unregister_memory([buffer_addr])

    def batch_unregister_memory(self, buffer_addresses: Sequence[int]) -> int:
        """As unregister_memory."""
        return self._try("unregister_memory", lambda: self._unregister(buffer_addresses))

    def _unregister(self, addresses: Sequence[int]) -> None:
        self._opened()
        for address in addresses:
            local = self._owner.at(int(address))
            if local is None:
                raise ropeway.OutOfBoundsError(f"no registered range begins at {int(address):#x}")
            with self._lock:
                sessions = list(self._sessions.values())
            for session in sessions:
                session.forget_local(local.number)
            self._owner.remove(local, _CLOSE)

    def allocate_managed_buffer(self, length: int) -> int:
        """Allocates registered memory that peers of this host can map; 0 when there is none."""

        def allocate() -> int:
            region = self._opened().alloc(length)
            address = region.address
            assert address is not None
            self._owner.add(region, address)
            return address

        return self._get("allocate_managed_buffer", 0, allocate)

    def free_managed_buffer(self, buffer_addr: int, length: int) -> int:
        """Gives it back."""
        del length
        return self.unregister_memory(buffer_addr)

    def write_bytes_to_buffer(self, dest_address: int, data: bytes | str, length: int) -> int:
        """Copies the first ``length`` bytes of ``data`` into registered memory."""

        def write() -> None:
            raw = data.encode() if isinstance(data, str) else bytes(data)
            if length > len(raw):
                raise ropeway.OutOfBoundsError(f"{length} bytes of {len(raw)}")
            local, offset = self._within(dest_address, length)
            local.region.write(offset, raw[:length])

        return self._try("write_bytes_to_buffer", write)

    def read_bytes_from_buffer(self, source_address: int, length: int) -> bytes:
        """Copies out of registered memory; raises OutOfBoundsError for other memory."""
        local, offset = self._within(source_address, length)
        return local.region.read(offset, length)

    def _within(self, address: int, length: int) -> tuple[Local, int]:
        self._opened()
        index = self._owner.index
        places, offsets = index.find(_words([address]), _words([length]))
        local = self._owner.of(index.numbers[int(places[0])])
        if local is None:
            raise ropeway.ClosedError("the range was unregistered meanwhile")
        return local, int(offsets[0])

    def get_first_buffer_address(self, segment_name: str) -> int:
        """Where the peer's first registered range begins; 0 when it has none or is not reached."""
        return self._get("get_first_buffer_address", 0, lambda: self._session(segment_name).first_address())

    # Transfers

    def transfer_sync(
        self,
        target_hostname: str,
        buffer: int,
        peer_buffer_address: int,
        length: int,
        opcode: int,
        notify: TransferNotify | None = None,
        transport_hint: str = "",
    ) -> int:
        """Moves ``length`` bytes between ``buffer`` here and ``peer_buffer_address`` there."""
        one = ([buffer], [peer_buffer_address], [length])
        return self.batch_transfer_sync(target_hostname, *one, opcode, notify, transport_hint)

    def transfer_sync_read(
        self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int, transport_hint: str = ""
    ) -> int:
        """From the peer to here."""
        return self.transfer_sync(target_hostname, buffer, peer_buffer_address, length, Read, None, transport_hint)

    def transfer_sync_write(
        self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int, transport_hint: str = ""
    ) -> int:
        """From here to the peer."""
        return self.transfer_sync(target_hostname, buffer, peer_buffer_address, length, Write, None, transport_hint)

    def batch_transfer_sync(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        opcode: int,
        notify: TransferNotify | None = None,
        transport_hint: str = "",
    ) -> int:
        """Moves all of a list. With ``notify`` the peer then finds it among its notifies."""
        del transport_hint

        def transfer() -> None:
            session, batch = self._submit(target_hostname, buffers, peer_buffer_addresses, lengths, opcode)
            batch.wait(_CLOSE)
            if notify is not None:
                self._mail.send(session.incarnation, notify)

        return self._try(f"transfer with {target_hostname}", transfer)

    def batch_transfer_sync_read(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        transport_hint: str = "",
    ) -> int:
        """From the peer to here."""
        lists = (buffers, peer_buffer_addresses, lengths)
        return self.batch_transfer_sync(target_hostname, *lists, Read, None, transport_hint)

    def batch_transfer_sync_write(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        transport_hint: str = "",
    ) -> int:
        """From here to the peer."""
        lists = (buffers, peer_buffer_addresses, lengths)
        return self.batch_transfer_sync(target_hostname, *lists, Write, None, transport_hint)

    def batch_transfer_async(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        opcode: int,
        transport_hint: str = "",
    ) -> int:
        """Begins to move a list, and gives its number, for get_batch_transfer_status; 0 when it cannot."""
        del transport_hint

        def submit() -> int:
            _, batch = self._submit(target_hostname, buffers, peer_buffer_addresses, lengths, opcode)
            with self._lock:
                number = next(self._numbers)
                self._batches[number] = batch
            return number

        return self._get(f"transfer with {target_hostname}", 0, submit)

    def batch_transfer_async_read(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        transport_hint: str = "",
    ) -> int:
        """From the peer to here."""
        lists = (buffers, peer_buffer_addresses, lengths)
        return self.batch_transfer_async(target_hostname, *lists, Read, transport_hint)

    def batch_transfer_async_write(
        self,
        target_hostname: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
        transport_hint: str = "",
    ) -> int:
        """From here to the peer."""
        lists = (buffers, peer_buffer_addresses, lengths)
        return self.batch_transfer_async(target_hostname, *lists, Write, transport_hint)

    def get_batch_transfer_status(self, batch_ids: Sequence[int]) -> int:
        """Waits for the end of all: 0 when all is in place. Their numbers are good for this once."""

        def wait() -> None:
            failed = None
            for batch in self._take(*batch_ids):
                try:
                    batch.wait(_CLOSE)
                except ropeway.Error as error:
                    failed = failed or error
            if failed is not None:
                raise failed

        return self._try("transfer", wait)

    def transfer_submit_write(
        self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int, transport_hint: str = ""
    ) -> int:
        """Begins to write, and gives a number for transfer_check_status; -1 when it cannot."""
        one = ([buffer], [peer_buffer_address], [length])
        return self.batch_transfer_async(target_hostname, *one, Write, transport_hint) or -1

    def transfer_check_status(self, batch_id: int) -> int:
        """1 when it is done, 0 before, -1 when it failed. The number is good until it is told of the end."""
        with self._lock:
            batch = self._batches.get(batch_id)
        if batch is not None and not batch.is_done:
            return 0
        return self._try("transfer", lambda: self._take(batch_id)[0].wait(_CLOSE)) or 1

    def _take(self, *numbers: int) -> list[Batch]:
        """All of them, or none."""
        with self._lock:
            for number in numbers:
                if number not in self._batches:
                    raise ropeway.ApiMisuseError(f"there is no batch {number}, or it was told of before")
            return [self._batches.pop(number) for number in dict.fromkeys(numbers)]

    def _submit(
        self, target: str, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int], opcode: int
    ) -> tuple[Session, Batch]:
        ours, theirs, sizes = _words(local), _words(remote), _words(lengths)
        if not len(ours) == len(theirs) == len(sizes):
            raise ropeway.ApiMisuseError(f"lists of {len(ours)}, {len(theirs)} and {len(sizes)} entries")
        session = self._session(target)
        peer = session.connect()
        op = "read" if _Opcode(opcode) is Read else "write"
        plans = session.plans(op, ours, theirs, sizes) if len(ours) else []
        return session, Batch(peer, plans, self._timeout)

    # Sessions and notifies

    def send_probe(self, peer_server_name: str) -> int:
        """0 when the peer is reached and is the one that was reached before."""
        return self._try(f"probe of {peer_server_name}", lambda: self._session(peer_server_name).connect())

    def warmup_efa_segment(self, segment_name: str) -> int:
        """Connects beforehand."""
        return self.send_probe(segment_name)

    def close_session(self, target_hostname: str) -> None:
        """Forgets a peer, and with it which life of it is the right one: for when the caller knows that it was restarted.
        Mooncake has no such call."""
        with self._lock:
            self._sessions.pop(target_hostname, None)

    def get_notifies(self) -> list[TransferNotify]:
        """Notifies of peers that came since the last call."""

        def take() -> list[TransferNotify]:
            self._opened()
            return self._mail.take()

        return self._get("get_notifies", [], take)

    def _session(self, target: str) -> Session:
        engine = self._opened()
        with self._lock:
            session = self._sessions.get(target)
            if session is None:
                session = self._sessions[target] = Session(engine, self._owner, target, self._cluster_key)
            return session

    def _opened(self) -> ropeway.Engine:
        if self._engine is None:
            raise ropeway.ApiMisuseError("the engine is not initialized, or was closed")
        return self._engine

    def _try(self, what: str, work: Callable[[], object]) -> int:
        return self._get(what, -1, lambda: work() and 0 or 0)

    def _get(self, what: str, failed: _T, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except Exception as error:  # Mooncake's callers know return codes only.
            self._failures.last = self._failure = error
            logger.error("%s: %s", what, error if isinstance(error, ropeway.Error) else repr(error))
            return failed


def _words(numbers: Sequence[int]) -> Any:
    """Addresses and lengths, as the engine takes them."""
    return numpy.asarray(numbers, dtype=numpy.uint64)


def _listen(hostname: str) -> str:
    """Where to listen: on a free port of the host. A port beside it means nothing to P2PHANDSHAKE, in Mooncake neither."""
    host = hostname
    if hostname.startswith("["):
        host = hostname[1:].partition("]")[0]
    elif hostname.count(":") == 1:
        host = hostname.partition(":")[0]
    return f"[{host}]:0" if ":" in host else f"{host}:0"


def _device(name: str) -> int:
    """The NPU that a device string names, else the current one of torch_npu."""
    digits = name.rpartition(":")[2].strip()
    if digits.isdigit():
        return int(digits)
    npu = getattr(sys.modules.get("torch"), "npu", None)
    return int(npu.current_device()) if npu is not None else 0
