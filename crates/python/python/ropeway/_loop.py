"""Awaiting the engine: one eventfd per event loop, which the engine's threads write to without the interpreter."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Protocol

from ropeway._ropeway import _Bells


class _Awaitable(Protocol):
    def _look(self, bells: _Bells, number: int, /) -> tuple[bool, Any]: ...


class _Watcher:
    """What one event loop waits for, by the numbers that the bells ring."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._bells = _Bells()
        self._waiting: dict[int, tuple[_Awaitable, asyncio.Future[Any]]] = {}
        self._last = 0
        loop.add_reader(self._bells.fileno(), self._rung)

    def watch(self, thing: _Awaitable, future: asyncio.Future[Any]) -> None:
        self._last += 1
        number = self._last
        self._look(number, thing, future)
        if not future.done():
            self._waiting[number] = (thing, future)
            # Also when the awaiting task is cancelled: nobody looks for it then.
            future.add_done_callback(lambda _: self._waiting.pop(number, None))

    def _rung(self) -> None:
        for number in self._bells.take():
            entry = self._waiting.get(number)
            if entry is not None and not entry[1].done():
                self._look(number, *entry)

    def _look(self, number: int, thing: _Awaitable, future: asyncio.Future[Any]) -> None:
        try:
            over, value = thing._look(self._bells, number)
        except Exception as error:
            future.set_exception(error)
        else:
            if over:
                future.set_result(value)


_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watcher] = weakref.WeakKeyDictionary()


def watch(thing: _Awaitable) -> asyncio.Future[Any]:
    """A future of the running loop that ends as the thing does."""
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    if watcher is None:
        watcher = _watchers.setdefault(loop, _Watcher(loop))
    future = loop.create_future()
    watcher.watch(thing, future)
    return future
