"""The time that one request has left. A budget only shrinks: no hop can give time back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from corerec.errors import DeadlineExceeded


class Budget:
    """A moment by which an answer is due, on this process's monotonic clock."""

    __slots__ = ("due",)

    def __init__(self, seconds: float) -> None:
        self.due = time.monotonic() + seconds

    @classmethod
    def of(cls, remaining: float | None, default: float, most: float) -> Budget:
        """Return the budget of a call: its deadline, or `default` without one, at most `most`."""
        return cls(min(default if remaining is None else remaining, most))

    @property
    def remaining(self) -> float:
        """Seconds left; negative when the time is over."""
        return self.due - time.monotonic()

    @property
    def micros(self) -> int:
        """Microseconds left, at least 0."""
        return max(0, int(self.remaining * 1e6))

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.due

    def share(self, fraction: float, reserve: float = 0.0) -> Budget:
        """Return a budget of `fraction` of what is left after keeping back `reserve` seconds."""
        own, now = Budget.__new__(Budget), time.monotonic()
        own.due = now + max(0.0, (self.due - now - reserve) * fraction)
        return own

    def limit(self, future: asyncio.Future[Any], late: str) -> asyncio.TimerHandle:
        """End `future` with DeadlineExceeded(late) when the time is over before it.

        Cancel what this returns once the future is done.
        """
        loop = asyncio.get_running_loop()
        return loop.call_later(max(0.0, self.remaining), _end, future, late)

    def check(self, what: str) -> None:
        """Raise DeadlineExceeded, naming `what` could not be begun, when the time is over."""
        if self.expired:
            raise DeadlineExceeded(f"the budget ran out before {what}")


def _end(future: asyncio.Future[Any], late: str) -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded(late))
