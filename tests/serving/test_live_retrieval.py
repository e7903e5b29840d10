"""A retrieval replica whose catalogue changes while it is asked as much as it can answer."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.live_index import LiveIndex
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.serving.tail import Tailer
from corerec.stages import RetrieveEntry, UserContext
from corerec.store import Item, SqliteStore

RATE, BATCH = 200, 10


def items(start: int, stop: int) -> list[Item]:
    return [Item(item_id=f"n{i}", title=f"Item {i}") for i in range(start, stop)]


def most_allowed(core: RetrievalCore) -> int:
    """Return the limit of the two-tower's delta, which alone knows new items."""
    (source,) = [own for own in core.sources if own.kind == "two_tower"]
    live = source.index._live
    assert isinstance(live, LiveIndex)
    return live.limit


async def test_the_delta_stays_bounded_and_is_merged_though_queries_never_pause(
    tmp_path: Path, tiny_release: Path
) -> None:
    """A burst of three times the bound, and then 200 items a second, beside eight callers."""
    release = Release.open(tiny_release)
    store = SqliteStore(tmp_path / "s.db")
    store.seed(release)
    core = RetrievalCore.load(release)
    core.warm()
    limit = most_allowed(core)
    metrics = Metrics()
    batcher: Batcher = Batcher(core, stage="retrieve", metrics=metrics)
    tailer = Tailer(batcher, store, metrics, stage="retrieve", every=0.05)
    await tailer.catch_up()
    tailer.start()
    writer = SqliteStore(tmp_path / "s.db")
    seen: list[int] = []
    answers, stop = 0, asyncio.Event()

    async def ask(caller: int) -> None:
        nonlocal answers
        rng = np.random.default_rng(caller)
        while not stop.is_set():
            history = rng.integers(0, 100, 20)
            user = UserContext(user_id=f"u{caller}", items=history, times=history * 10**6)
            await batcher.call(RetrieveEntry(user=user, k=100), Budget(30))
            # Between two batches: in the middle of an upsert there are a few more.
            seen.append(await batcher.on_thread(lambda: core.counts["delta_items"]))
            answers += 1

    callers = [asyncio.create_task(ask(i)) for i in range(8)]
    last = await asyncio.to_thread(writer.upsert_items, items(0, 3 * limit))
    written, began = 3 * limit, time.monotonic()
    while time.monotonic() < began + 3:
        last = await asyncio.to_thread(writer.upsert_items, items(written, written + BATCH))
        written += BATCH
        await asyncio.sleep(BATCH / RATE)
    while core.position < last[-1].position:
        assert time.monotonic() < began + 60, "it never caught up"
        await asyncio.sleep(0.01)
    while core.counts["delta_items"]:
        assert time.monotonic() < began + 60, "nothing is merged while queries come"
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*callers)
    await tailer.close()
    await batcher.close()
    writer.close()
    assert limit / 2 < max(seen) <= limit
    assert answers > 50
