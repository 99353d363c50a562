"""Notifies: short words beside a transfer, which the receiver asks for when its program does."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from dataclasses import dataclass

import ropeway

logger = logging.getLogger("ropeway.compat.mooncake")

_NOTE = "mooncake.mail"
_KEPT = 512
"""Words that are kept for all peers together; older ones that nobody has asked for are lost."""
_BYTES = 200_000
_TIMEOUT = 5.0


@dataclass
class TransferNotify:
    """A name and a message."""

    name: str = ""
    msg: str = ""


class Mail:
    """Words are shown in a note of the sender, numbered; the receiver reads the notes of its peers."""

    def __init__(self, engine: ropeway.Engine) -> None:
        self._engine = engine
        self._sent: deque[tuple[int, str, str, str]] = deque(maxlen=_KEPT)
        self._next = 1
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def send(self, to: str | None, notify: TransferNotify) -> None:
        """Shows a word to the peer of that life."""
        with self._lock:
            self._sent.append((self._next, to or "", str(notify.name), str(notify.msg)))
            self._next += 1
            note = json.dumps(list(self._sent)).encode()
            while len(note) > _BYTES:
                self._sent.popleft()
                note = json.dumps(list(self._sent)).encode()
            self._engine.show_note(_NOTE, note)

    def take(self) -> list[TransferNotify]:
        """What peers have for us that was not taken yet."""
        with self._lock:
            asked = [(peer.incarnation, _ask(peer)) for peer in self._engine.peers() if peer.is_connected]
            found: list[TransferNotify] = []
            for life, pending in asked:
                try:
                    words = json.loads(pending.wait()) if pending is not None else []
                except ropeway.Error as error:
                    # A peer that never sent one has no note.
                    if not isinstance(error, ropeway.MismatchError):
                        logger.warning("notifies of peer %s: %s", life, error)
                    continue
                seen = self._seen.get(life, 0)
                if words and seen and words[0][0] > seen + 1:
                    logger.warning("peer %s: %d notifies were not asked for in time", life, words[0][0] - seen - 1)
                for number, to, name, msg in words:
                    if number > seen:
                        self._seen[life] = number
                        if to == self._engine.incarnation:
                            found.append(TransferNotify(name, msg))
            return found


def _ask(peer: ropeway.Peer) -> ropeway.Pending[bytes] | None:
    try:
        return peer.note(_NOTE, _TIMEOUT)
    except ropeway.Error:
        return None
