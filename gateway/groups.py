"""Requests start in groups, and only so many groups are under way.

What starts together meets again in every stage, which computes a batch for less than its entries
one by one. Without a bound small groups would take turns on the same cores and all be late. Large
ones lose less by taking turns than cores do by waiting, so there may be more of these. Nothing
waits while there is room.
"""

from __future__ import annotations

import asyncio
import time

from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics

_WAIT_SHARE = 0.125
"""Of the time that a request has left: so long it waits at most, whatever those before do."""


class Group:
    """Requests that started together.

    It makes room when the first of them has its answer: the others follow, and one that hangs holds
    nobody up. Who is given up or refused does not count, unless nobody is left.
    """

    __slots__ = ("_groups", "_left", "ended", "size")

    def __init__(self, groups: Groups) -> None:
        self._groups, self.ended, self.size, self._left = groups, False, 0, 0

    def leave(self, *, answered: bool) -> None:
        """Note that a request has its answer, or ends without one."""
        self._left += 1
        if not self.ended and (answered or self._left == self.size):
            self.ended = True
            self._groups.ended()


class Groups:
    """The groups under way and the requests that wait for the next. Belongs to the event loop."""

    def __init__(self, few: int, most: int, full: int, metrics: Metrics) -> None:
        """Let `few` groups of any size be under way, and up to `most` when `full` requests wait.

        0 few sets no bound.
        """
        self._few, self._most, self._full = few, max(few, most), full
        self._under_way = 0
        self._forming: Group | None = None
        self._waiting: list[tuple[asyncio.Future[Group], float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._sizes, self._waits = metrics.group_size, metrics.group_wait_seconds

    def start(self) -> Group | None:
        """Return the group of a request that may start now; None: it has to `wait`."""
        group = self._forming
        if group is None or group.ended:
            if self._waiting or (self._few and self._under_way >= self._few):
                return None
            group = self._begin()
        group.size += 1
        return group

    async def wait(self, budget: Budget) -> Group:
        """Return the group that a request starts in, with all that wait, once there is room."""
        now = time.monotonic()
        future: asyncio.Future[Group] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, now))
        if self._has_room():
            self._release()
        else:
            self._look_by(now, _WAIT_SHARE * max(0.0, budget.due - now))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # begun just now
                future.result().leave(answered=False)
            raise

    def ended(self) -> None:
        """Let those that wait start, when a group made room."""
        self._under_way -= 1
        if self._has_room():
            self._release()

    def _has_room(self) -> bool:
        """Whether what waits may start, as one group."""
        if self._under_way < self._few:
            return True
        return self._under_way < self._most and len(self._waiting) >= self._full

    def _begin(self) -> Group:
        """Begin a group; what arrives in this turn of the loop belongs to it."""
        self._under_way += 1
        self._forming = group = Group(self)
        asyncio.get_running_loop().call_soon(self._close, group)
        return group

    def _close(self, group: Group) -> None:
        if self._forming is group:
            self._forming = None
        self._sizes.observe(group.size)

    def _look_by(self, now: float, after: float) -> None:
        """Release those that wait after so many seconds, room or not."""
        due = now + after
        if self._timer is not None:
            if due >= self._due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_later(after, self._release)

    def _release(self) -> None:
        """Start all that wait, as one group."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        wanted = [one for one in waiting if not one[0].done()]  # others' callers left
        if not wanted:
            return
        group, now = self._begin(), time.monotonic()
        group.size = len(wanted)
        for future, arrived in wanted:
            self._waits.observe(now - arrived)
            future.set_result(group)
