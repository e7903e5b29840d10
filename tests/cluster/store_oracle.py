"""What a store must have after writers were killed, told from the writers' log; and a follower."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import Unavailable
from corerec.stages import MAX_HISTORY
from corerec.store import ItemChange, Store
from tests.cluster.store_writer import BASE

Row = tuple[int, int, str, str | None]
"""Position, number, id, and title; None for the title of a deleted item."""
ABSENT = "(never there)"


class Oracle:
    """The writes that were acknowledged, and those that may have happened."""

    def __init__(self, log: Path, threads: int) -> None:
        self._log, self._read = log, 0
        self._plans: dict[str, tuple[int, dict[str, Any]]] = {}
        self._open: list[dict[str, dict[str, Any]]] = [{} for _ in range(threads)]
        # The one item that is there from the start has no title.
        self._titles: set[str] = {""}
        self._possible: dict[str, set[str | None]] = {BASE: {""}}
        self._acked: dict[int, Row] = {}
        self._newest: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._times: dict[int, tuple[str, bool]] = {}
        self.acknowledged = 0

    def read(self) -> None:
        """Take what the log has to say since the last time."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            for raw in file:
                self._read += len(raw)
                line = json.loads(raw)
                assert "wrong" not in line, line
                if "plan" in line:
                    self._tried(line["key"], line["thread"], line["plan"])
                else:
                    self._acknowledged(line["key"], line["acked"])

    def pending(self) -> list[list[dict[str, Any]]]:
        """Return for each thread what it got no answer to: at most one write, to be repeated."""
        found = [
            [dict(t) for t in {json.dumps(p): p for p in o.values()}.values()] for o in self._open
        ]
        assert all(len(plans) <= 1 for plans in found)
        return found

    def check(self, store: Store) -> None:
        """Raise AssertionError unless the store has all that was acknowledged and nothing else."""
        self.check_items(everything(store))
        self.check_events(store)

    def check_items(self, changes: list[ItemChange]) -> None:
        """Check the catalogue: its states, its numbers, and the order of positions."""
        rows = {c.item_id: row_of(c) for c in changes}
        assert len(rows) == len(changes) == len({c.number for c in changes})
        for item_id, possible in self._possible.items():
            row = rows.pop(item_id, None)
            assert (row[3] if row else ABSENT) in possible, (item_id, row, possible)
            if row and item_id in self._numbers:
                assert row[1] == self._numbers[item_id], (item_id, row)
                assert row[0] >= self._newest[item_id], (item_id, row)
        assert not rows, f"items that nobody wrote: {rows}"

    def check_events(self, store: Store) -> None:
        """Check the log of events and the histories: each batch whole, each event once."""
        stored: list[int] = []
        seq = 0
        while True:
            seq, table = store.events_after(seq)
            if not len(table):
                break
            stored += table[:, 1].tolist()
        found = set(stored)
        assert len(found) == len(stored), "an event is there twice"
        missing = {t for t, (_, acked) in self._times.items() if acked} - found
        assert not missing, f"acknowledged events are missing: {sorted(missing)}"
        assert not found - set(self._times), "events that nobody wrote"
        assert all(len({t + i for i in range(3)} & found) == 3 for t in found if t % 3 == 0)
        assert len(found) % 3 == 0
        by_user: dict[str, list[int]] = {}
        for moment in sorted(found):
            by_user.setdefault(self._times[moment][0], []).append(moment)
        users = list(by_user)
        for user, state in zip(users, store.read_users(users), strict=True):
            assert state.times.tolist() == by_user[user][-MAX_HISTORY:], user
            assert np.all(state.items == 0)

    def check_seen(self, seen: list[Row]) -> None:
        """Check what a follower saw: only what was written, each at its acknowledged position."""
        for row in seen:
            assert row[3] is None or row[3] in self._titles, row
            assert self._acked.get(row[0], row) == row

    def _tried(self, key: str, thread: int, plan: dict[str, Any]) -> None:
        self._plans[key] = (thread, plan)
        self._open[thread][key] = plan
        if plan["kind"] == "add":
            for moment in plan["times"]:
                self._times.setdefault(moment, (plan["user"], False))
            return
        self._titles.add(plan["title"])
        for item_id in plan["ids"]:
            possible = self._possible.setdefault(item_id, {ABSENT})
            possible |= _effects(plan, possible)

    def _acknowledged(self, key: str, acked: list[Any]) -> None:
        self.acknowledged += 1
        thread, plan = self._plans.pop(key)
        self._open[thread].clear()  # a thread goes on when its write, or its repetition, is acked
        if plan["kind"] == "add":
            assert acked[0] in (0, 3)
            for moment in plan["times"]:
                self._times[moment] = (plan["user"], True)
            return
        for item_id in plan["ids"]:
            self._possible[item_id] = _effects(plan, self._possible[item_id])
        title = plan["title"] if plan["kind"] == "put" else None
        assert [row[0] for row in acked] == sorted(row[0] for row in acked)
        for position, number, item_id in acked:
            assert position not in self._acked, f"position {position} was given twice"
            assert position > self._newest.get(item_id, 0)
            assert self._numbers.setdefault(item_id, number) == number
            self._acked[position] = (position, number, item_id, title)
            self._newest[item_id] = position


class Follower:
    """Tails the changes of a store in a thread, as a replica does, across its failures."""

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._opened, self._dice = opened, random.Random(5)
        self.state: dict[int, Row] = {}
        self.seen: list[Row] = []
        self.position = 0
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        """Read on until nothing new comes, and end."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failed:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._follow(polls=self._dice.randrange(1, 200)):
                time.sleep(0.002)
        except BaseException as error:
            self._failed = error

    def _follow(self, polls: int) -> bool:
        """Follow with one opening of the store for some polls; return whether all is read."""
        with contextlib.suppress(Unavailable), contextlib.closing(self._opened()) as store:
            for _ in range(polls):
                last = self._stop.is_set()
                changes = store.changes(self.position, self._dice.randrange(1, 40))
                for change in changes:
                    assert change.position > self.position
                    self.position = change.position
                    self.state[change.number] = row_of(change)
                    self.seen.append(row_of(change))
                if last and not changes:
                    return True
                time.sleep(0.001)
        return False


def row_of(change: ItemChange) -> Row:
    """Return what tells one change from another."""
    title = change.item.title if change.item else None
    return change.position, change.number, change.item_id, title


def everything(store: Store) -> list[ItemChange]:
    """Return all items that ever changed, read in pages; positions must ascend."""
    found: list[ItemChange] = []
    position = 0
    while more := store.changes(position, 17):
        for change in more:
            assert change.position > position
            position = change.position
        found += more
    assert store.position() == position
    return found


def _effects(plan: dict[str, Any], before: set[str | None]) -> set[str | None]:
    if plan["kind"] == "put":
        return {plan["title"]}
    return {ABSENT if state == ABSENT else None for state in before}
