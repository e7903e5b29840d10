"""Entries on their way: those that wait, and the RPCs that carry them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from corerec.errors import CoreRecError
from corerec.serving.budget import Budget

E = TypeVar("E")
R = TypeVar("R")


class Waiting(Generic[E, R]):
    """An entry that waits for its result."""

    __slots__ = ("budget", "entry", "future", "retried")

    def __init__(self, entry: E, budget: Budget) -> None:
        self.entry, self.budget, self.retried = entry, budget, False
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()


class Sent(Generic[E, R]):
    """A batch and the RPCs that ask for it."""

    __slots__ = ("answered", "batch", "open", "release", "timer")

    def __init__(self, release: str, batch: list[Waiting[E, R]]) -> None:
        self.release, self.batch, self.open, self.answered = release, batch, 1, False
        self.timer: asyncio.TimerHandle | None = None
        """When to look whether the batch is late."""


def fail(batch: Iterable[Waiting[Any, Any]], error: CoreRecError) -> None:
    """End every entry that has no result yet with an error."""
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def cancel_when_all_left(batch: list[Waiting[Any, Any]], call: Any) -> list[bool]:
    """Cancel the RPC once every caller of its entries is gone; the list then holds True."""
    remaining = len(batch)
    gone: list[bool] = []

    def left(future: asyncio.Future[Any]) -> None:
        nonlocal remaining
        if future.cancelled():
            remaining -= 1
            if not remaining:
                gone.append(True)
                call.cancel()

    for waiting in batch:
        waiting.future.add_done_callback(left)
    return gone
