"""Entries on their way: those that wait, and the RPCs that carry them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from corerec.errors import CoreRecError, DeadlineExceeded
from corerec.serving.budget import Budget
from corerec.serving.replica import Replica
from corerec.serving.stream_client import Sending

E = TypeVar("E")
R = TypeVar("R")


class Waiting(Generic[E, R]):
    """An entry that waits for its result."""

    __slots__ = ("arrived", "attempts", "budget", "entry", "future", "retried", "weight")

    def __init__(self, entry: E, weight: int, budget: Budget) -> None:
        self.entry, self.weight, self.budget, self.retried = entry, weight, budget, False
        self.arrived = time.monotonic()
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.attempts: list[Attempt[E, R]] = []
        """RPCs under way that carry it."""

    async def result(self, late: str) -> R:
        """Return the entry's result. An RPC that nobody waits for any more is cancelled.

        Raises:
            CoreRecError: the status that the entry ended with; DeadlineExceeded(late).
        """
        timer = self.budget.limit(self.future, late)
        try:
            return await self.future
        except (DeadlineExceeded, asyncio.CancelledError):
            for attempt in list(self.attempts):  # one that nobody waits for leaves the list
                attempt.one_left()
            raise
        finally:
            timer.cancel()


class Sent(Generic[E, R]):
    """A batch and the RPCs that ask for it."""

    __slots__ = ("answered", "batch", "open", "release", "timer")

    def __init__(self, release: str, batch: list[Waiting[E, R]]) -> None:
        self.release, self.batch, self.open, self.answered = release, batch, 0, False
        self.timer: asyncio.TimerHandle | None = None
        """When to look whether the batch is late."""


class Attempt(Generic[E, R]):
    """One RPC with those entries of a batch that still wait."""

    __slots__ = (
        "abandon",
        "batch",
        "replica",
        "second",
        "sending",
        "sent",
        "started",
        "timer",
        "wanted",
    )

    def __init__(
        self,
        sent: Sent[E, R],
        batch: list[Waiting[E, R]],
        replica: Replica,
        abandon: Callable[[Attempt[E, R]], None],
        *,
        second: bool,
    ) -> None:
        """`abandon` is called when nobody waits for it any more."""
        self.sent, self.batch, self.replica, self.second = sent, batch, replica, second
        self.started = time.monotonic()
        self.sending: Sending | None = None
        self.timer: asyncio.TimerHandle | None = None
        """When it is over for all that wait, where another attempt may have answered them."""
        self.wanted, self.abandon = len(batch), abandon
        sent.open += 1
        replica.in_flight += 1
        replica.sent += 1
        for waiting in batch:
            waiting.attempts.append(self)

    def one_left(self) -> None:
        """Note that the caller of one entry is gone; without any, cancel the RPC."""
        self.wanted -= 1
        if not self.wanted and self.sending is not None:
            self.sending.cancel()
            self.abandon(self)

    def end(self) -> None:
        """Let everything go, also of each other: the collector has nothing to find."""
        self.sent.open -= 1
        self.replica.in_flight -= 1
        for waiting in self.batch:
            waiting.attempts.remove(self)
        if self.timer is not None:
            self.timer.cancel()
        if not self.second and self.sent.timer is not None:
            self.sent.timer.cancel()


def fail(batch: Iterable[Waiting[Any, Any]], error: CoreRecError) -> None:
    """End every entry that has no result yet with an error."""
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
