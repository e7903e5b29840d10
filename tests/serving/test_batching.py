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


class Weighed(FakeRank):
    """A core whose entries weigh what they ask for."""

    def weight(self, given: RankEntry) -> int:
        return given.k


async def test_a_batch_is_bounded_by_weight_and_what_is_too_heavy_goes_alone() -> None:
    faults, metrics = Faults(hold=threading.Event()), Metrics()
    stage = Batcher(Weighed(faults), stage="rank", metrics=metrics, max_batch=4, max_weight=100)
    waiting = [stage.submit(entry("first"), Budget(5.0))]
    await until(lambda: faults.batches)
    weights = [60, 40, 1, 500, 30, 30, 30, 10, 1]
    waiting += [stage.submit(entry(f"{k}", k), Budget(5.0)) for k in weights]
    faults.hold.set()
    await asyncio.gather(*waiting)
    assert faults.batches[1:] == [
        ["60", "40"],
        ["1"],  # 500 does not fit beside it, and nothing overtakes
        ["500"],
        ["30", "30", "30", "10"],
        ["1"],
    ]
    total = metrics.registry.get_sample_value("corerec_batch_weight_sum", {"stage": "rank"})
    assert total == 3 + sum(weights)
    await stage.close()


async def test_what_is_submitted_in_one_turn_of_the_loop_is_one_batch() -> None:
    faults = Faults()
    stage = batcher(faults)
    await asyncio.gather(*(stage.submit(entry(f"e{i}"), Budget(5.0)) for i in range(5)))
    assert [len(batch) for batch in faults.batches] == [5]
    await stage.close()


async def test_the_core_goes_on_while_results_are_handed_out_and_one_thread_does_it_all() -> None:
    threads = set()

    class Named(FakeRank):
        def answer(self, given: RankEntry):
            threads.add(threading.current_thread())
            return super().answer(given)

    faults = Faults()
    stage = Batcher(Named(faults), stage="rank", metrics=Metrics(), max_batch=2)
    await asyncio.gather(*(stage.call(entry(f"e{i}"), Budget(5.0)) for i in range(9)))
    await stage.on_thread(lambda: threads.add(threading.current_thread()))
    (own,) = threads
    assert own.name == "rank-core"
    assert sum(faults.batches, []) == [f"e{i}" for i in range(9)]
    await stage.close()
    assert not own.is_alive()


class Placed(FakeRank):
    """Notes where each entry is computed, and finds out whether anything else runs meanwhile."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(Faults())
        self.places: dict[str, str] = {}
        self.seconds, self.inside, self.overlaps = seconds, 0, 0

    def alone(self, seconds: float) -> None:
        self.inside += 1
        self.overlaps += self.inside > 1
        time.sleep(seconds)
        self.inside -= 1

    def answer(self, given: RankEntry):
        self.places[given.request_id] = threading.current_thread().name
        self.alone(self.seconds)
        return super().answer(given)


async def test_what_is_likely_to_be_quick_is_computed_in_the_loop_and_the_rest_on_the_thread() -> (
    None
):
    core = Placed()
    stage = Batcher(
        core, stage="rank", metrics=Metrics(), max_batch=4, inline_seconds=0.05, max_queue=100
    )
    for i in range(5):
        await stage.call(entry(f"q{i}"), Budget(5.0))
    assert core.places.pop("q0") == "rank-core"  # nothing is known of the first
    assert set(core.places.values()) == {threading.current_thread().name}
    core.seconds = 0.2
    await stage.call(entry("suddenly slow"), Budget(5.0))
    core.places.clear()
    answers = await asyncio.gather(*(stage.call(entry(f"s{i}"), Budget(9.0)) for i in range(6)))
    assert len(answers) == 6
    assert set(core.places.values()) == {"rank-core"}
    await stage.close()


async def test_nothing_is_computed_in_the_loop_while_the_core_is_changed_on_its_thread() -> None:
    core = Placed()
    stage = Batcher(core, stage="rank", metrics=Metrics(), inline_seconds=0.05)
    await stage.call(entry("first"), Budget(5.0))
    left = asyncio.ensure_future(stage.on_thread(lambda: core.alone(0.1)))
    await asyncio.sleep(0.01)
    left.cancel()  # who began the change does not wait, and it goes on all the same
    await stage.call(entry("meanwhile"), Budget(5.0))
    assert core.places["meanwhile"] == "rank-core"
    await stage.call(entry("afterwards"), Budget(5.0))
    assert core.places["afterwards"] == threading.current_thread().name
    assert not core.overlaps
    await stage.close()


async def test_a_batch_that_fails_in_the_loop_ends_alone_and_closing_finishes_what_waits() -> None:
    core = FakeRank(Faults())
    stage = Batcher(core, stage="rank", metrics=Metrics(), max_batch=2, inline_seconds=1.0)
    await stage.call(entry("first"), Budget(5.0))
    broken, run = True, core.run

    def breaks(entries):
        if broken:
            raise ValueError("broken")
        return run(entries)

    core.run = breaks
    with pytest.raises(ValueError, match="broken"):
        await stage.call(entry("bad"), Budget(5.0))
    broken = False
    waiting = [stage.submit(entry(f"e{i}"), Budget(5.0)) for i in range(5)]
    await stage.close()
    assert all(future.result().result.candidates.numbers.size == 3 for future in waiting)


async def test_work_on_the_thread_returns_raises_and_may_be_left() -> None:
    stage = batcher(Faults())
    assert await stage.on_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await stage.on_thread(lambda: 1 // 0)
    left = asyncio.ensure_future(stage.on_thread(lambda: time.sleep(0.05)))
    await asyncio.sleep(0.01)
    left.cancel()
    assert await stage.on_thread(lambda: 8) == 8
    await stage.close()


async def test_a_panic_of_the_core_ends_its_batch_and_not_the_thread() -> None:
    class Panics(FakeRank):
        def answer(self, given: RankEntry):
            if given.request_id == "bad":
                raise KeyboardInterrupt("a panic is no Exception either")
            return super().answer(given)

    stage = Batcher(Panics(Faults()), stage="rank", metrics=Metrics())
    with pytest.raises(RuntimeError, match="KeyboardInterrupt: a panic"):
        await stage.call(entry("bad"), Budget(5.0))
    assert (await stage.call(entry("good"), Budget(5.0))).result.candidates.numbers.size == 3
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
