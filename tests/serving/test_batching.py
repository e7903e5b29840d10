"""The batcher: bounded, in time, and no entry pays for its neighbour."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from corerec.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.stages import RankEntry, Source, UserContext
from tests.serving.fakes import FakeRank, Faults, columns


def entry(name: str, k: int = 3) -> RankEntry:
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    return RankEntry(request_id=name, user=UserContext(), candidates=candidates, k=k)


def batcher(faults: Faults, **limits: int) -> Batcher:
    return Batcher(FakeRank(faults), stage="rank", metrics=Metrics(), **limits)


async def until(condition, seconds: float = 2.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


async def test_a_lone_entry_is_computed_at_once() -> None:
    faults = Faults()
    stage = batcher(faults)
    answer = await stage.call(entry("a"), Budget(1.0))
    assert answer.result.candidates.numbers.tolist() == [9, 8, 7]
    assert faults.batches == [["a"]]
    await stage.close()


async def test_entries_that_wait_leave_together() -> None:
    faults = Faults(hold=threading.Event())
    stage = batcher(faults, max_batch=8)
    waiting = [stage.submit(entry(f"e{i}"), Budget(5.0)) for i in range(10)]
    await until(lambda: faults.batches)
    faults.hold.set()
    await asyncio.gather(*waiting)
    assert [len(b) for b in faults.batches] == [8, 2]
    assert sum(faults.batches, []) == [f"e{i}" for i in range(10)]
    await stage.close()


async def test_a_full_queue_refuses_at_once_and_the_rest_finish() -> None:
    faults = Faults(hold=threading.Event())
    stage = batcher(faults, max_queue=20, max_batch=4)
    running = stage.submit(entry("running"), Budget(5.0))
    await until(lambda: faults.batches)
    waiting = [stage.submit(entry(f"e{i}"), Budget(5.0)) for i in range(20)]
    for _ in range(10):
        started = time.monotonic()
        with pytest.raises(ResourceExhausted, match="holds at most 20 entries"):
            stage.submit(entry("late"), Budget(5.0))
        assert time.monotonic() - started < 0.01
    faults.hold.set()
    answers = await asyncio.gather(running, *waiting)
    assert len(answers) == 21
    assert "late" not in sum(faults.batches, [])
    await stage.close()


async def test_expired_entries_are_not_computed_and_neighbours_are() -> None:
    faults = Faults(hold=threading.Event())
    stage = batcher(faults)
    running = stage.submit(entry("running"), Budget(5.0))
    await until(lambda: faults.batches)
    late = [stage.submit(entry(f"late{i}"), Budget(0.02)) for i in range(3)]
    good = [stage.submit(entry(f"good{i}"), Budget(5.0)) for i in range(3)]
    await asyncio.sleep(0.05)
    faults.hold.set()
    await asyncio.gather(running, *good)
    for future in late:
        with pytest.raises(DeadlineExceeded):
            await future
    assert faults.batches[1] == ["good0", "good1", "good2"]
    await stage.close()


async def test_an_expired_budget_is_refused_before_the_queue() -> None:
    stage = batcher(Faults())
    with pytest.raises(DeadlineExceeded, match="before rank was begun"):
        stage.submit(entry("a"), Budget(0.0))
    await stage.close()


async def test_cancelled_entries_enter_no_batch_and_leave_nothing_in_flight() -> None:
    faults = Faults(hold=threading.Event())
    stage = batcher(faults)
    running = asyncio.ensure_future(stage.call(entry("running"), Budget(5.0)))
    await until(lambda: faults.batches)
    waiting = [asyncio.ensure_future(stage.call(entry(f"e{i}"), Budget(5.0))) for i in range(5)]
    await until(lambda: stage.in_flight == 6)
    for task in (*waiting, running):
        task.cancel()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    faults.hold.set()
    await until(lambda: stage.in_flight == 0, 1.0)
    await stage.call(entry("after"), Budget(1.0))
    assert faults.batches == [["running"], ["after"]]
    await stage.close()


async def test_a_bad_entry_is_refused_with_rule_and_value() -> None:
    stage = batcher(Faults())
    with pytest.raises(InvalidArgument, match=r"k must be in \[1, 2000\], got 0"):
        stage.submit(entry("a", k=0), Budget(1.0))
    await stage.close()


async def test_an_entry_that_breaks_the_core_spares_its_neighbours() -> None:
    class Fragile(FakeRank):
        def answer(self, given: RankEntry):
            if given.request_id == "bad":
                raise RuntimeError("boom")
            return super().answer(given)

    faults = Faults(hold=threading.Event())
    stage = Batcher(Fragile(faults), stage="rank", metrics=Metrics())
    first = stage.submit(entry("first"), Budget(5.0))
    await until(lambda: faults.batches)
    futures = [stage.submit(entry(name), Budget(5.0)) for name in ("a", "bad", "b")]
    faults.hold.set()
    outcomes = await asyncio.gather(first, *futures, return_exceptions=True)
    assert [type(o).__name__ for o in outcomes] == ["Answer", "Answer", "RuntimeError", "Answer"]
    await stage.close()


async def test_close_finishes_what_waits() -> None:
    faults = Faults(delay=0.05)
    stage = batcher(faults, max_batch=1)
    waiting = [stage.submit(entry(f"e{i}"), Budget(5.0)) for i in range(3)]
    await stage.close()
    assert all(f.done() and f.exception() is None for f in waiting)
