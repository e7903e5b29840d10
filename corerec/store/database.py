"""One SQLite file: how it is opened, checked, read and written; what SQLite says becomes ours."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from corerec.errors import Unavailable
from corerec.release.durable import sync_directory
from corerec.store.group import Turns, Waiting, Write, run_group
from corerec.store.schema import SCHEMA_VERSION, STEPS

T = TypeVar("T")

CHECK_BYTES = 64 * 1024 * 1024
"""Files up to this size are checked at every opening: pages, tables against their indexes."""
CACHE_KIBIBYTES = 32 * 1024
"""Most memory that each of the two connections keeps pages in."""


class Database:
    """A reader and a writer connection to one file, each used by one thread at a time."""

    def __init__(self, path: Path, *, busy_seconds: float, check_file: bool | None) -> None:
        """Open the file, or make it.

        Raises:
            Unavailable: it cannot be opened, is damaged, or was made by another version.
        """
        self.path = path
        self._busy_seconds = busy_seconds
        self._closed = False
        self._read_lock, self._turns = threading.Lock(), Turns()
        self._reading = _Reading(self._begin_reading, self._end_reading)
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            try:
                self._prepare(check_file)
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
                self._inode = path.stat().st_ino
                sync_directory(path.parent)
            except BaseException:
                self._writer.close()
                raise

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Lend the reader connection, for this thread alone."""
        return self._reading

    def _begin_reading(self) -> sqlite3.Connection:
        if not self._read_lock.acquire(timeout=self._busy_seconds):
            raise Unavailable(self._no_turn("read"))
        if self._closed:
            self._read_lock.release()
            self._check_open()
        return self._reader

    def _end_reading(self, error: BaseException | None) -> None:
        self._read_lock.release()
        if isinstance(error, sqlite3.Error):
            raise Unavailable(self._explained(error)) from error

    @contextmanager
    def writing(self, *, commit: bool = True) -> Iterator[sqlite3.Connection]:
        """Lend the writer connection in a transaction: durable at the end, undone on any error.

        For long ones; `write` is for those that may share a transaction.
        """
        with self._held_to_write(), self._translated():
            self._check_open()
            self._check_in_place()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT" if commit else "ROLLBACK")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def write(self, task: Write[T]) -> T:
        """Return what a task returns that wrote in a transaction: durable, undone when it raises.

        Tasks of threads that wait for their turn together share one transaction and its flush.
        """
        try:
            return self._turns.take(task, self._busy_seconds, self._write_group)
        except TimeoutError:
            raise Unavailable(self._no_turn("write")) from None
        except sqlite3.Error as error:
            raise Unavailable(self._explained(error)) from error

    def _write_group(self, group: list[Waiting]) -> None:
        try:
            self._check_open()
            self._check_in_place()
            run_group(self._writer, group)
        except (Unavailable, sqlite3.Error) as error:
            text = str(error) if isinstance(error, Unavailable) else self._explained(error)
            for one in group:
                if not one.done:
                    one.error, one.done = Unavailable(text), True

    def close(self) -> None:
        """Close both connections; a second call does nothing."""
        self._turns.acquire(-1)
        try:
            with self._read_lock:
                if not self._closed:
                    self._closed = True
                    self._reader.close()
                    self._writer.close()
        finally:
            self._turns.release()

    def _connect(self) -> sqlite3.Connection:
        link = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            # FULL: a commit is on the disk when it returns, also if the power goes.
            link.execute("PRAGMA synchronous=FULL")
            link.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
        except BaseException:
            link.close()
            raise
        return link

    def _prepare(self, check_file: bool | None) -> None:
        if check_file is None:
            check_file = self.path.stat().st_size <= CHECK_BYTES
        if check_file:
            (said,) = self._writer.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise Unavailable(self._damaged(said))
        (mode,) = self._writer.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise Unavailable(f"store {self.path}: must be on a disk that allows SQLite's WAL mode")
        self._bring_up_to_date()

    def _bring_up_to_date(self) -> None:
        """Make the tables, or those that a store of an older version lacks; all or none."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            foreign = (
                version == 0 and self._writer.execute("SELECT 1 FROM sqlite_master").fetchone()
            )
            if foreign or not 0 <= version <= SCHEMA_VERSION:
                raise Unavailable(
                    f"store {self.path}: must be a CoreRec store of version {SCHEMA_VERSION} or "
                    f"older, got version {version}; use another file"
                )
            for step in range(version, SCHEMA_VERSION):
                for statement in STEPS[step].split(";"):
                    self._writer.execute(statement)
            if version != SCHEMA_VERSION:
                self._writer.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"store {self.path}: is closed")

    def _check_in_place(self) -> None:
        # Writing to a file that was deleted would succeed and lose everything.
        try:
            inode = os.stat(self.path).st_ino  # noqa: PTH116  # Path.stat takes twice as long
        except OSError:
            inode = -1
        if inode != self._inode:
            raise Unavailable(
                f"store {self.path}: the file was deleted or replaced while in use; "
                "put it back and restart"
            )

    @contextmanager
    def _held_to_write(self) -> Iterator[None]:
        try:
            self._turns.acquire(self._busy_seconds)
        except TimeoutError:
            raise Unavailable(self._no_turn("write")) from None
        try:
            yield
        finally:
            self._turns.release()

    def _no_turn(self, what: str) -> str:
        return f"store {self.path}: no turn to {what} within {self._busy_seconds} s; try again"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(self._explained(error)) from error
        except OSError as error:
            raise Unavailable(f"store {self.path}: cannot be opened: {error}") from error

    def _explained(self, error: sqlite3.Error) -> str:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return self._damaged(str(error))
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return (
                f"store {self.path}: another process held the write lock for more than "
                f"{self._busy_seconds} s; try again"
            )
        if name.startswith("SQLITE_FULL"):
            return f"store {self.path}: the disk is full; nothing was written"
        if name.startswith("SQLITE_IOERR"):
            return f"store {self.path}: {error} ({name}); see whether its disk is full or failing"
        return f"store {self.path}: {error} ({name or type(error).__name__})"

    def _damaged(self, said: str) -> str:
        return (
            f"store {self.path}: the file is damaged ({said}); restore it from a backup, or "
            "move it away to start with an empty one"
        )


class _Reading:
    """What `reading` lends; written out and made once, as it is on the path of every request."""

    __slots__ = ("_begin", "_end")

    def __init__(
        self,
        begin: Callable[[], sqlite3.Connection],
        end: Callable[[BaseException | None], None],
    ) -> None:
        self._begin, self._end = begin, end

    def __enter__(self) -> sqlite3.Connection:
        return self._begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end(error)
