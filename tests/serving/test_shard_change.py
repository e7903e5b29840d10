"""Row 15: the number of shards changes while retrieval is asked and items come and go."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.serving.budget import Budget
from corerec.serving.contracts import RETRIEVE
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RetrieveResult
from corerec.store import Item, SqliteStore
from retrieval_svc.shard import shard_name
from tests.serving.test_shards import K, Sharded, entries, same


async def test_shards_become_more_and_fewer_and_no_answer_tells(
    tiny_release: Path, tmp_path: Path
) -> None:
    """New shards and their front stand beside the old; then callers move; then the old go."""
    path, opened = str(tmp_path / "s.db"), Release.open(tiny_release)
    store = SqliteStore(Path(path))
    store.seed(opened)
    asked = entries()
    wanted = RetrievalCore.load(opened).run(asked)
    running = await Sharded(tiny_release, 2, 1, store=path).start()
    fronts = StaticEndpoints([running.front.address])
    client: RemoteStage = RemoteStage(RETRIEVE, fronts, Metrics())
    answers: list[RetrieveResult] = []
    gone: dict[int, float] = {}
    returned: list[int] = []
    stop = asyncio.Event()

    async def ask(caller: int) -> None:
        turn = caller
        while not stop.is_set():
            began, turn = time.monotonic(), turn + 1
            found = await client.call(opened.id, asked[turn % len(asked)], Budget(10))
            answers.append(found)
            numbers = found.candidates.numbers.tolist()
            returned.extend(n for n in numbers if gone.get(n, began) < began)
            await asyncio.sleep(0.005)

    async def write() -> None:
        """Upsert items and delete those of before; a shard looks every 20 ms, and has a second."""
        turn = 0
        while not stop.is_set():
            made = store.upsert_items([Item(item_id=f"n{turn}-{i}") for i in range(4)])
            await asyncio.sleep(0.1)
            store.delete_items([change.item_id for change in made[:2]])
            due = time.monotonic() + 1.0
            gone.update((change.number, due) for change in made[:2])
            turn += 1

    tasks = [asyncio.create_task(ask(i)) for i in range(4)] + [asyncio.create_task(write())]
    for shards in (4, 1, 3):
        await asyncio.sleep(0.3)
        fresh = await Sharded(tiny_release, shards, 1, store=path).start()
        fronts.set([running.front.address, fresh.front.address])
        await asyncio.sleep(0.3)
        fronts.set([fresh.front.address])
        await running.stop()
        running = fresh
    stop.set()
    await asyncio.gather(*tasks)
    ids = [change.item_id for change in store.changes(0, 1000) if change.item is not None]
    store.delete_items(ids)
    last = store.position()
    due = time.monotonic() + 10
    while (await client.call(opened.id, asked[0], Budget(10))).position < last:
        assert time.monotonic() < due
        await asyncio.sleep(0.02)
    for entry, one in zip(asked, wanted, strict=True):
        same(one, await client.call(opened.id, entry, Budget(10)))
    await client.close()
    await running.stop()
    store.close()
    assert len(answers) > 100
    assert {found.coverage for found in answers} == {1.0}
    assert {len(found.candidates.numbers) for found in answers} == {K}
    assert all(len(np.unique(found.candidates.numbers)) == K for found in answers)
    assert not returned


def test_shards_of_another_number_are_other_applications() -> None:
    of_two = {shard_name(shard, 2) for shard in range(2)}
    of_four = {shard_name(shard, 4) for shard in range(4)}
    assert of_two == {"retrieval-shard-0-of-2", "retrieval-shard-1-of-2"}
    assert not of_two & of_four
