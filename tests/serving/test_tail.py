"""A replica follows the store's catalogue: caught up before it serves, in order, between batches,
and on its feet without the store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corerec.errors import Unavailable
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.serving.tail import LiveCore, Tailer
from corerec.stages import RankEntry, Source, UserContext
from corerec.store import Event, Item, ItemChange, SqliteStore
from tests.serving.fakes import FakeRank, Faults, columns

EVERY = 0.02


class LiveRank(FakeRank):
    """Keeps what it was given, and by which thread."""

    def __init__(self, faults: Faults | None = None) -> None:
        super().__init__(faults or Faults())
        self.position = 0
        self.items: dict[int, Item | None] = {}
        self.applied: list[int] = []
        self.threads: set[str] = set()
        self.steps = 0
        """Steps of upkeep that are left."""
        self.events: list[list[int]] = []
        self.busy = False

    def apply(self, changes: Sequence[ItemChange]) -> None:
        assert not self.busy, "changed during a batch"
        self.threads.add(threading.current_thread().name)
        for change in changes:
            self.items[change.number] = change.item
            self.applied.append(change.position)
        self.position = changes[-1].position

    def maintain(self) -> bool:
        assert not self.busy
        self.steps = max(0, self.steps - 1)
        return self.steps > 0

    def add_events(self, events: np.ndarray) -> None:
        self.events += events.tolist()

    def run(self, entries):
        self.busy = True
        try:
            return super().run(entries)
        finally:
            self.busy = False


class LameStore(SqliteStore):
    """Cannot be read while it is told so."""

    lame = False

    def changes(self, after: int, limit: int = 1000) -> list[ItemChange]:
        if self.lame:
            raise Unavailable("the store is away")
        return super().changes(after, limit)


def entry() -> RankEntry:
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    return RankEntry(user=UserContext(), candidates=candidates, k=3)


def items(start: int, stop: int) -> list[Item]:
    return [Item(item_id=f"n{i}", title=f"t{i}") for i in range(start, stop)]


async def until(condition, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


class Running:
    """A batcher and its tailer over a store of their own."""

    def __init__(self, path: Path, faults: Faults | None = None) -> None:
        self.store = LameStore(path)
        self.writer = SqliteStore(path)
        self.core = LiveRank(faults)
        self.metrics = Metrics()
        self.batcher: Batcher = Batcher(self.core, stage="rank", metrics=self.metrics)
        self.tailer = Tailer(self.batcher, self.store, self.metrics, stage="rank", every=EVERY)

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"stage": "rank"}) or 0.0

    async def close(self) -> None:
        await self.tailer.close()
        await self.batcher.close()
        self.writer.close()


async def test_it_catches_up_before_it_serves_and_follows_after(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db")
    assert isinstance(running.core, LiveCore)
    running.writer.upsert_items(items(0, 2500)[:1000])
    running.writer.upsert_items(items(1000, 2000))
    running.writer.upsert_items(items(2000, 2500))
    await running.tailer.catch_up()
    assert len(running.core.items) == 2500
    running.tailer.start()
    (last,) = running.writer.delete_items(["n7"])
    await until(lambda: running.core.position == last.position)
    assert running.core.items[last.number] is None
    assert running.core.applied == sorted(set(running.core.applied))
    assert running.core.threads == {"rank-core"}
    assert running.metric("corerec_catalogue_position") == last.position
    await running.close()


async def test_upkeep_runs_in_steps_between_batches(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db", Faults(delay=0.002))
    running.core.steps = 200
    running.tailer.start()
    answers = 0
    while running.core.steps:
        await running.batcher.call(entry(), Budget(2))
        answers += 1
    assert answers > 5
    await running.close()


async def test_a_store_that_is_away_stops_nothing_and_shows_in_the_metrics(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db")
    await running.tailer.catch_up()
    running.tailer.start()
    assert running.tailer.lag < 0.5
    running.store.lame = True
    running.writer.upsert_items(items(0, 3))
    await until(lambda: running.metric("corerec_store_errors_total") >= 3)
    await until(lambda: running.metric("corerec_catalogue_lag_seconds") > 0.1)
    await running.batcher.call(entry(), Budget(2))
    assert not running.core.items
    running.store.lame = False
    await until(lambda: len(running.core.items) == 3)
    await until(lambda: running.metric("corerec_catalogue_lag_seconds") < 0.1)
    await running.close()


async def test_catching_up_waits_for_a_store_that_is_away(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db")
    running.writer.upsert_items(items(0, 3))
    running.store.lame = True
    caught = asyncio.create_task(running.tailer.catch_up())
    await asyncio.sleep(0.1)
    assert not caught.done()
    running.store.lame = False
    await asyncio.wait_for(caught, 3)
    assert len(running.core.items) == 3
    await running.close()


async def test_a_core_that_breaks_on_changes_answers_on(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db")
    await running.tailer.catch_up()
    good, broken = running.core.apply, threading.Event()
    broken.set()

    def apply(changes: Sequence[ItemChange]) -> None:
        if broken.is_set():
            raise RuntimeError("boom")
        good(changes)

    running.tailer._core.apply = apply
    running.tailer.start()
    running.writer.upsert_items(items(0, 1))
    await until(lambda: running.metric("corerec_store_errors_total") >= 1)
    await running.batcher.call(entry(), Budget(2))
    broken.clear()
    await until(lambda: len(running.core.items) == 1)
    await running.close()


async def test_events_reach_a_core_that_wants_them(tmp_path: Path) -> None:
    running = Running(tmp_path / "s.db")
    numbers = [c.number for c in running.writer.upsert_items(items(0, 3))]
    event = Event(user_id="u", item_id="n0", item_number=numbers[0], time_micros=5)
    running.writer.append_events([event])
    await running.tailer.catch_up()
    assert running.core.events == [[numbers[0], 5]]
    running.tailer.start()
    more = [Event(user_id="u", item_id="n2", item_number=numbers[2], time_micros=t) for t in (7, 6)]
    running.writer.append_events(more)
    await until(lambda: len(running.core.events) == 3)
    assert running.core.events[1:] == [[numbers[2], 7], [numbers[2], 6]]
    await running.close()
