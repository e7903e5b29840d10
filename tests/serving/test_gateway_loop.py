"""The gateway's event loop goes on while the store is read or written, however slow that is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from corerec.store import SqliteStore
from corerec.v1 import catalog_pb2, catalog_pb2_grpc, recommender_pb2_grpc
from corerec.v1 import recommender_pb2 as pb
from tests.serving.fakes import FakeCluster

SLOW = 0.5


class SlowStore(SqliteStore):
    """Takes half a second for everything that requests ask of it."""

    reads = 0

    def read_users_and_changes(self, ids, after: int, limit: int = 1000):
        type(self).reads += 1
        time.sleep(SLOW)
        return super().read_users_and_changes(ids, after, limit)

    def append_events(self, events):
        time.sleep(SLOW)
        return super().append_events(events)

    def upsert_items(self, items):
        time.sleep(SLOW)
        return super().upsert_items(items)

    def read_items(self, ids):
        time.sleep(SLOW)
        return super().read_items(ids)


class Ticker:
    """Measures the longest time for which the loop ran nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.monotonic() - before)


async def test_the_loop_runs_while_the_store_is_slow(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, default_deadline_ms=9000, tail_ms=1000)
    cluster.store_type = SlowStore
    await cluster.start()
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.run())
    try:
        async with cluster.channel() as channel:
            recommender = recommender_pb2_grpc.RecommenderServiceStub(channel)
            catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
            event, item = pb.Event(user_id="u9", item_id="i5"), catalog_pb2.Item(item_id="n")
            answers = await asyncio.gather(
                *(recommender.Recommend(pb.RecommendRequest(user_id=f"u{i}")) for i in range(8)),
                recommender.RecordEvents(pb.RecordEventsRequest(events=[event])),
                catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=[item])),
                catalog.GetItems(catalog_pb2.GetItemsRequest(item_ids=["i1"])),
            )
    finally:
        ticking.cancel()
        await cluster.stop()
    assert all(len(answer.items) == 10 for answer in answers[:8])
    assert ticker.longest < SLOW / 2


async def test_many_profiles_and_the_news_of_the_catalogue_are_one_read(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, default_deadline_ms=9000, tail_ms=60_000)
    cluster.store_type = SlowStore
    await cluster.start()
    SlowStore.reads = 0
    try:
        async with cluster.channel() as channel:
            stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
            asked = [pb.RecommendRequest(user_id=f"u{i}") for i in range(20)]
            answers = await asyncio.gather(*(stub.Recommend(request) for request in asked))
    finally:
        await cluster.stop()
    assert not any(answer.degraded for answer in answers)
    assert SlowStore.reads <= 3  # the first alone, those that came meanwhile together
