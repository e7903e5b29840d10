"""Group commit: writes of threads that wait for their turn together share one transaction.

A commit waits for the disk, several milliseconds on many; a group pays for it once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from corerec.errors import Unavailable

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

MAX_GROUP = 128
"""Most writes of a group: the first of them waits for all."""
_INTERRUPTED = "the write was interrupted, it may or may not have happened; try again"


class Waiting:
    """Someone who waits for a turn: to have a write run, or (None) to write without others."""

    __slots__ = ("done", "error", "result", "wake", "write")

    def __init__(self, write: Write[Any] | None) -> None:
        self.write = write
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.wake = threading.Lock()
        """Released when the write is done, or when it is this one's turn."""
        self.wake.acquire()

    def run(self, link: sqlite3.Connection) -> None:
        """Run the write, and keep what it returns."""
        self.result, self.error = cast(Write[Any], self.write)(link), None


class Turns:
    """Who writes next. Whoever has the turn writes for those who wait, and passes it on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[Waiting] = deque()

    def take(self, write: Write[T], seconds: float, group: Callable[[list[Waiting]], None]) -> T:
        """Return what a write returns, once `group` has run it with those that wait beside it.

        Raises:
            TimeoutError: no turn within so many seconds; the write was not run.
        """
        mine = Waiting(write)
        self._wait(mine, seconds)
        if not mine.done:
            found = [mine, *self._beside()]
            try:
                group(found)
            finally:
                self.release()
                for one in found[1:]:
                    if not one.done:  # an interrupt came between the commit and the word of it
                        one.error, one.done = Unavailable(_INTERRUPTED), True
                    one.wake.release()
        if mine.error is not None:
            raise mine.error
        return cast(T, mine.result)

    def acquire(self, seconds: float) -> None:
        """Take the turn, to write without others until `release`. Raises TimeoutError."""
        self._wait(Waiting(None), seconds)

    def release(self) -> None:
        """Pass the turn on to who waits longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().wake.release()
            else:
                self._taken = False

    def waiting(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def _wait(self, mine: Waiting, seconds: float) -> None:
        """Wait until the write is done, or it is this one's turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            self._waiting.append(mine)
        try:
            if mine.wake.acquire(timeout=seconds):
                return
        except BaseException:  # an interrupt: nobody would use the turn when it comes
            if not self._withdraw(mine):
                mine.wake.acquire()
                if not mine.done:
                    self.release()
            raise
        if self._withdraw(mine):
            raise TimeoutError
        mine.wake.acquire()  # somebody is writing it, or has just passed the turn on

    def _withdraw(self, mine: Waiting) -> bool:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return True
        return False

    def _beside(self) -> list[Waiting]:
        found: list[Waiting] = []
        with self._lock:
            while self._waiting and self._waiting[0].write and len(found) + 1 < MAX_GROUP:
                found.append(self._waiting.popleft())
        return found


def run_group(link: sqlite3.Connection, group: list[Waiting]) -> None:
    """Run writes in one transaction: each is whole or undone, all are durable when this returns.

    Raises sqlite3.Error when the transaction cannot begin. One that fails later is undone, and its
    writes are run again one by one: whatever it was does not concern all of them.
    """
    link.execute("BEGIN IMMEDIATE")
    try:
        if len(group) == 1:
            _alone(link, group[0])
        else:
            for one in group:
                _beside_others(link, one)
            link.execute("COMMIT")
    except sqlite3.Error:
        _undo(link)
        if len(group) == 1:
            raise
        for one in group:
            try:
                run_group(link, [one])
            except sqlite3.Error as error:
                one.error, one.done = error, True
        return
    except BaseException:
        _undo(link)
        for one in group:
            one.error, one.done = Unavailable(_INTERRUPTED), True
        raise
    for one in group:
        one.done = True


def _alone(link: sqlite3.Connection, one: Waiting) -> None:
    try:
        one.run(link)
    except sqlite3.Error:
        raise
    except Exception as error:
        one.error = error
        _undo(link)
    else:
        link.execute("COMMIT")


def _beside_others(link: sqlite3.Connection, one: Waiting) -> None:
    link.execute("SAVEPOINT one")
    try:
        one.run(link)
    except sqlite3.Error:
        raise
    except Exception as error:
        one.error = error
        link.execute("ROLLBACK TO one")
    link.execute("RELEASE one")


def _undo(link: sqlite3.Connection) -> None:
    if link.in_transaction:
        link.execute("ROLLBACK")
