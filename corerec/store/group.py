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


class Waiting:
    """A write that waits for its turn, and then what came of it."""

    __slots__ = ("done", "error", "result", "write")

    def __init__(self, write: Write[Any]) -> None:
        self.write = write
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def run(self, link: sqlite3.Connection) -> None:
        """Run the write, and keep what it returns."""
        self.result, self.error = self.write(link), None


class Turns:
    """Who writes next. Whoever gets the turn writes for all who wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held by the one who writes."""
        self._waiting: deque[Waiting] = deque()
        self._waiting_lock = threading.Lock()

    def take(self, write: Write[T], seconds: float, group: Callable[[list[Waiting]], None]) -> T:
        """Return what a write returns, once `group` has run it with those that wait beside it.

        Raises:
            TimeoutError: no turn within so many seconds; the write was not run.
        """
        mine = Waiting(write)
        with self._waiting_lock:
            self._waiting.append(mine)
        if not self.lock.acquire(timeout=seconds):
            if self._withdraw(mine):
                raise TimeoutError
            self.lock.acquire()  # somebody is writing it: stay for the answer
        try:
            while not mine.done:
                if not (found := self._next()):  # its writer was interrupted before it could say
                    raise Unavailable("the write was interrupted, it may have happened; try again")
                group(found)
        finally:
            self.lock.release()
        if mine.error is not None:
            raise mine.error
        return cast(T, mine.result)

    def _next(self) -> list[Waiting]:
        with self._waiting_lock:
            count = min(MAX_GROUP, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)]

    def _withdraw(self, mine: Waiting) -> bool:
        with self._waiting_lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return True
        return False


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
            one.error, one.done = Unavailable("the write was interrupted; try again"), True
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
