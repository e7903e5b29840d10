"""CatalogService over real gRPC: what comes, changes and goes is seen, and what went stays away."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from corerec.errors import InvalidArgument, Unavailable
from corerec.stages import RerankResult, RetrieveResult, Source
from corerec.store import Item, SqliteStore
from corerec.v1 import catalog_pb2 as pb
from corerec.v1 import catalog_pb2_grpc, common_pb2, recommender_pb2
from tests.redis_server import RedisServer, find_redis_server
from tests.serving.fakes import ITEMS, FakeCluster, columns

UNAVAILABLE, PARTIAL = 2, 6


class LameStore(SqliteStore):
    """Cannot be used while it is told so, and can be told to be slow."""

    lame = False
    hold: threading.Event | None = None

    def _gate(self) -> None:
        if self.lame:
            raise Unavailable("the store is away")

    def read_users_and_changes(self, ids, after: int, limit: int = 1000):
        self._gate()
        return super().read_users_and_changes(ids, after, limit)

    def upsert_items(self, items):
        self._gate()
        if self.hold is not None:
            self.hold.wait(10)
        return super().upsert_items(items)

    def delete_items(self, ids):
        self._gate()
        return super().delete_items(ids)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[FakeCluster]:
    running = FakeCluster(tmp_path, tail_ms=50, max_catalogue_writes=4, default_deadline_ms=3000)
    running.store_type = LameStore
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def channel(cluster: FakeCluster) -> AsyncIterator[grpc.aio.Channel]:
    async with cluster.channel() as opened:
        yield opened


@pytest.fixture
def catalog(channel: grpc.aio.Channel) -> catalog_pb2_grpc.CatalogServiceStub:
    return catalog_pb2_grpc.CatalogServiceStub(channel)


async def recommend(channel, user: str = "", **fields):
    stub = channel.unary_unary(
        "/corerec.v1.RecommenderService/Recommend",
        request_serializer=recommender_pb2.RecommendRequest.SerializeToString,
        response_deserializer=recommender_pb2.RecommendResponse.FromString,
    )
    return await stub(recommender_pb2.RecommendRequest(user_id=user, **fields), timeout=3)


async def upsert(catalog, *items: pb.Item) -> pb.UpsertItemsResponse:
    return await catalog.UpsertItems(pb.UpsertItemsRequest(items=items), timeout=3)


async def delete(catalog, *ids: str) -> pb.DeleteItemsResponse:
    return await catalog.DeleteItems(pb.DeleteItemsRequest(item_ids=ids), timeout=3)


def finds(cluster: FakeCluster, *numbers: int) -> None:
    """Let retrieval find these numbers before its own."""

    def mangle(result: RetrieveResult) -> RetrieveResult:
        own = np.concatenate([np.array(numbers, np.int64), result.candidates.numbers])
        return RetrieveResult(candidates=columns(own[:500], Source.TWO_TOWER), position=1)

    cluster.faults["retrieval"].mangle = mangle


async def test_what_is_stored_is_read_back_with_its_number_and_position(catalog) -> None:
    item = pb.Item(
        item_id="new",
        title="New",
        category="c",
        born_micros=5,
        attributes={"price": "3"},
        lists={"tags": pb.Values(values=["x", "y"])},
        vectors={"text": pb.Vector(values=np.array([1, 2], "<f4").tobytes())},
    )
    stored = await upsert(catalog, item, pb.Item(item_id="i3", title="Changed"))
    assert list(stored.item_numbers) == [ITEMS, 3]
    found = await catalog.GetItems(pb.GetItemsRequest(item_ids=["i3", "new", "i4"]), timeout=3)
    assert [own.item_number for own in found.items] == [3, ITEMS, 4]
    assert found.items[1].item == item
    assert found.items[0].item.title == "Changed"
    assert found.items[0].item.born_micros == 1_700_000_000_000_000  # the data's now
    assert [own.position for own in found.items] == [stored.position, stored.position - 1, 0]
    assert found.items[2].item.title == "Title 4"
    assert found.items[2].item.category == "c4"


async def test_changes_come_in_order_each_item_once_at_its_newest(catalog) -> None:
    await upsert(catalog, *(pb.Item(item_id=f"n{i}", title="first") for i in range(5)))
    await upsert(catalog, pb.Item(item_id="n1", title="second"))
    await delete(catalog, "n3")
    seen, after = {}, 0
    while True:
        page = await catalog.ListChanges(
            pb.ListChangesRequest(after_position=after, page_size=2), timeout=3
        )
        if not page.changes:
            break
        positions = [change.position for change in page.changes]
        assert positions == sorted(positions)
        assert positions[0] > after
        after = positions[-1]
        for change in page.changes:
            assert change.item_id not in seen
            seen[change.item_id] = change.item.title if change.HasField("item") else None
    assert seen == {"n0": "first", "n2": "first", "n4": "first", "n1": "second", "n3": None}
    assert page.position == after


async def test_an_item_that_a_shard_knew_first_is_recommended_named_and_recorded(
    cluster, channel, catalog
) -> None:
    await recommend(channel)
    finds(cluster, ITEMS)
    writer = SqliteStore(Path(cluster.config.store))
    writer.upsert_items([Item(item_id="new", title="New")])  # through another gateway
    answer = await recommend(channel, page_size=100)
    writer.close()
    assert not answer.degraded
    explain = channel.unary_unary(
        "/corerec.v1.RecommenderService/Explain",
        request_serializer=recommender_pb2.ExplainRequest.SerializeToString,
        response_deserializer=recommender_pb2.ExplainResponse.FromString,
    )
    told = await explain(recommender_pb2.ExplainRequest(item_ids=["new"]), timeout=3)
    assert told.traces[0].title == "New"
    assert told.traces[0].retrieve_position == 1
    record = channel.unary_unary(
        "/corerec.v1.RecommenderService/RecordEvents",
        request_serializer=recommender_pb2.RecordEventsRequest.SerializeToString,
        response_deserializer=recommender_pb2.RecordEventsResponse.FromString,
    )
    event = recommender_pb2.Event(user_id="u9", item_id="new")
    done = await record(recommender_pb2.RecordEventsRequest(events=[event]), timeout=3)
    assert done.stored_count == 1


async def test_a_number_that_nobody_gave_is_the_stages_fault(cluster, channel) -> None:
    finds(cluster, ITEMS + 7)
    answer = await recommend(channel)
    assert [(d.stage, d.reason) for d in answer.degraded] == [("retrieve", 4)]
    assert len(answer.items) == 10


async def test_a_deleted_item_is_in_no_answer_from_the_acknowledgement_on(
    cluster, channel, catalog
) -> None:
    before = [item.item_id for item in (await recommend(channel)).items]
    stop, late = asyncio.Event(), []
    gone: dict[str, float] = {}

    async def ask() -> None:
        while not stop.is_set():
            sent = time.monotonic()
            answer = await recommend(channel, page_size=100)
            for item in answer.items:
                if gone.get(item.item_id, math.inf) < sent:
                    late.append(item.item_id)

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    for item_id in before:
        done = await delete(catalog, item_id)
        gone[item_id] = time.monotonic()
        assert done.deleted_count == 1
    await asyncio.sleep(0.2)
    stop.set()
    await asyncio.gather(*askers)
    assert not late
    # The stages still answer with them; it is the gateway that leaves them out.
    after = {item.item_id for item in (await recommend(channel, page_size=100)).items}
    assert not after & set(before)


async def test_a_delete_through_another_gateway_is_seen_before_its_acknowledgement(
    tmp_path: Path, cluster, channel, catalog
) -> None:
    """Two gateways of one store; the second one's tail is stopped, so that it must look itself."""
    from gateway.process import process

    async def connect(config, metrics):
        from gateway.process import remote_stages

        return remote_stages(config, metrics, lambda name: cluster.endpoints[name])

    other = process(cluster.config, str(cluster.release_path), connect=connect)
    await other.start()
    try:
        async with grpc.aio.insecure_channel(other.address) as there:
            wanted = (await recommend(there)).items[0].item_id
            tails = [t for t in asyncio.all_tasks() if t.get_name() == "gateway-tail"]
            assert len(tails) == 2
            for tail in tails:
                tail.cancel()
            await delete(catalog, wanted)
            answer = await recommend(there, page_size=100)  # anonymous: reads no profile
            assert wanted not in {item.item_id for item in answer.items}
    finally:
        await other.drain()


async def test_reranking_that_is_down_and_the_popular_list_leave_deleted_items_out(
    cluster, channel, catalog
) -> None:
    await delete(catalog, "i999", "i998")
    cluster.faults["retrieval"].error = Unavailable("gone")
    cluster.faults["rerank"].error = Unavailable("gone")
    answer = await recommend(channel, page_size=100)
    found = {item.item_id for item in answer.items}
    assert len(found) == 100
    assert not found & {"i999", "i998"}
    assert {d.stage for d in answer.degraded} == {"retrieve", "rerank"}


async def test_the_block_list_holds_for_live_items_when_reranking_is_down(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[block]\nitems = ["soon"]\ncreators = ["bad"]\n')
    cluster = await FakeCluster(tmp_path, tail_ms=50, rules=str(rules)).start()
    try:
        async with cluster.channel() as channel:
            catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
            for stage in ("ranking", "rerank"):
                cluster.faults[stage].error = Unavailable("gone")
            finds(cluster, ITEMS, ITEMS + 1, 999)
            items = [pb.Item(item_id=name) for name in ("soon", "fine")]
            await upsert(catalog, *items, pb.Item(item_id="i999", creator="bad"))
            await asyncio.sleep(0.2)
            found = {item.item_id for item in (await recommend(channel)).items}
            assert "fine" in found
            assert not found & {"soon", "i999"}
            cluster.faults["retrieval"].error = Unavailable("gone")
            answer = await recommend(channel, page_size=100)  # the popular list has i999 first
            assert "i999" not in {item.item_id for item in answer.items}
            await upsert(catalog, pb.Item(item_id="i999", creator="good"))
            await asyncio.sleep(0.2)
            answer = await recommend(channel, page_size=100)
            assert answer.items[0].item_id == "i999"
    finally:
        await cluster.stop()


async def test_a_deleted_item_comes_back_when_it_is_upserted_again(
    cluster, channel, catalog
) -> None:
    (first, *_) = (await recommend(channel)).items
    await delete(catalog, first.item_id)
    assert first.item_id not in {i.item_id for i in (await recommend(channel)).items}
    await upsert(catalog, pb.Item(item_id=first.item_id, title="Again"))
    await asyncio.sleep(0.2)
    assert (await recommend(channel)).items[0].item_id == first.item_id


@pytest.mark.parametrize(
    ("call", "request_", "text"),
    [
        ("UpsertItems", pb.UpsertItemsRequest(), "items must number in [1, 1000], got 0"),
        (
            "UpsertItems",
            pb.UpsertItemsRequest(items=[pb.Item(item_id="a"), pb.Item(item_id="a")]),
            "items must differ in item_id, got 'a' twice",
        ),
        ("UpsertItems", pb.UpsertItemsRequest(items=[pb.Item()]), "item_id must"),
        (
            "UpsertItems",
            pb.UpsertItemsRequest(items=[pb.Item(item_id="a", title="x" * 1025)]),
            "item 'a': title must",
        ),
        (
            "UpsertItems",
            pb.UpsertItemsRequest(
                items=[pb.Item(item_id="a", vectors={"v": pb.Vector(values=b"abc")})]
            ),
            "vectors['v'] must be float32, got 3 bytes",
        ),
        (
            "UpsertItems",
            pb.UpsertItemsRequest(
                items=[
                    pb.Item(
                        item_id="a",
                        vectors={"v": pb.Vector(values=np.array([np.nan], "<f4").tobytes())},
                    )
                ]
            ),
            "vector 'v' must be finite",
        ),
        ("DeleteItems", pb.DeleteItemsRequest(), "item_ids must number in [1, 1000], got 0"),
        ("GetItems", pb.GetItemsRequest(item_ids=[""]), "item_ids must have [1, 256] bytes"),
        ("ListChanges", pb.ListChangesRequest(after_position=-1), "after_position must be >= 0"),
        ("ListChanges", pb.ListChangesRequest(page_size=1001), "page_size must be in [1, 1000]"),
    ],
)
async def test_limits_have_rule_and_value(catalog, call, request_, text) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(catalog, call)(request_, timeout=3)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()


async def test_items_that_are_not_there_are_not_found(catalog) -> None:
    await delete(catalog, "i5")
    for item_id, text in (("nope", "is not in the catalogue"), ("i5", "was deleted")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await catalog.GetItems(pb.GetItemsRequest(item_ids=["i6", item_id]), timeout=3)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert f"item '{item_id}' {text}" in caught.value.details()
    assert (await delete(catalog, "i5", "nope")).deleted_count == 0


async def test_without_the_store_writes_are_refused_and_answers_go_on(
    cluster, channel, catalog
) -> None:
    cluster.store.lame = True
    for write in (upsert(catalog, pb.Item(item_id="new")), delete(catalog, "i1")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await write
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    answer = await recommend(channel, "u1")
    assert len(answer.items) == 10
    assert [(d.stage, d.reason) for d in answer.degraded] == [("profile", UNAVAILABLE)]
    await asyncio.sleep(0.2)
    answer = await recommend(channel)  # nobody, but the catalogue may be behind
    assert len(answer.items) == 10
    assert [(d.stage, d.reason) for d in answer.degraded] == [("profile", UNAVAILABLE)]
    assert "may miss the newest changes" in answer.degraded[0].note
    cluster.store.lame = False
    await asyncio.sleep(0.2)
    changes = await catalog.ListChanges(pb.ListChangesRequest(), timeout=3)
    assert not changes.changes  # what was refused is not there
    assert not (await recommend(channel, "u1")).degraded


async def test_waiting_writes_are_bounded(cluster, catalog) -> None:
    cluster.store.hold = threading.Event()

    def write(i: int) -> asyncio.Future[pb.UpsertItemsResponse]:
        return asyncio.ensure_future(upsert(catalog, pb.Item(item_id=f"w{i}", title="t")))

    calls = [write(0)]
    await asyncio.sleep(0.2)  # it is being written: what follows waits
    calls += [write(i) for i in range(1, 20)]
    await asyncio.sleep(0.3)
    cluster.store.hold.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert {o.code() for o in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(refused) == 20 - 5  # one that is being written and four that wait
    stored = (await catalog.ListChanges(pb.ListChangesRequest(), timeout=3)).changes
    assert len(stored) == 5


async def test_many_callers_writes_are_all_kept_and_each_gets_its_own_numbers(tmp_path) -> None:
    running = await FakeCluster(tmp_path, tail_ms=50, default_deadline_ms=5000).start()
    async with running.channel() as opened:
        stub = catalog_pb2_grpc.CatalogServiceStub(opened)

        async def one(caller: int) -> tuple[str, int]:
            item = pb.Item(item_id=f"m{caller % 40}", title=str(caller))
            answer = await upsert(stub, item)
            return item.item_id, answer.item_numbers[0]

        numbers = await asyncio.gather(*(one(caller) for caller in range(120)))
        by_id: dict[str, set[int]] = {}
        for item_id, number in numbers:
            by_id.setdefault(item_id, set()).add(number)
        assert all(len(own) == 1 for own in by_id.values())
        assert {n for own in by_id.values() for n in own} == set(range(ITEMS, ITEMS + 40))
    await running.stop()


async def test_conditions_reach_retrieval_and_hold_without_it(cluster, channel) -> None:
    where = [common_pb2.Predicate(attribute="category", any_of=["c3"])]
    seen = []

    def answer(entry):
        seen.append(entry.where)
        numbers = np.arange(3, ITEMS, 7, dtype=np.int64)
        return RetrieveResult(candidates=columns(numbers, Source.TWO_TOWER))

    core_answers = cluster.faults["retrieval"]
    core_answers.answer = answer
    got = await recommend(channel, page_size=100, where=where)
    assert seen[0][0].any_of == ("c3",)
    assert {item.item_number % 7 for item in got.items} == {3}
    cluster.faults["retrieval"].error = Unavailable("gone")
    got = await recommend(channel, page_size=100, where=where)
    assert {item.item_number % 7 for item in got.items} == {3}
    assert [d.stage for d in got.degraded] == ["retrieve"]


async def test_a_condition_that_retrieval_refuses_is_told_to_the_caller(cluster, channel) -> None:
    cluster.faults["retrieval"].error = InvalidArgument("unknown attribute 'colour'")
    where = [common_pb2.Predicate(attribute="colour", any_of=["red"])]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommend(channel, where=where)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown attribute 'colour'" in caught.value.details()


async def test_no_item_that_meets_a_condition_is_an_empty_list_and_no_fault(
    cluster, channel
) -> None:
    cluster.faults["retrieval"].answer = lambda entry: RetrieveResult(
        candidates=columns(np.empty(0, np.int64), Source.TWO_TOWER)
    )
    where = [common_pb2.Predicate(attribute="category", any_of=["none"])]
    got = await recommend(channel, where=where)
    assert not got.items
    assert not got.degraded


async def test_a_pinned_item_that_meets_no_condition_stays_out(cluster, channel) -> None:
    def pin(result: RerankResult) -> RerankResult:
        pinned = [result.items[0]._replace(number=n, source=Source.PINNED) for n in (10, 11)]
        return RerankResult(items=[*pinned, *result.items[2:]])

    cluster.faults["rerank"].mangle = pin
    where = [common_pb2.Predicate(attribute="category", any_of=["c3"])]  # 10 is of c3, 11 of c4
    got = await recommend(channel, where=where)
    assert [i.item_number for i in got.items if i.source == Source.PINNED] == [10]


async def test_redis_that_goes_away_and_comes_back_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """Row 14, on a real server."""
    server = RedisServer(find_redis_server(), tmp_path)
    running = FakeCluster(tmp_path, store=server.url, tail_ms=50, default_deadline_ms=3000)
    await running.start()
    try:
        async with running.channel() as channel:
            catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
            acked = await upsert(catalog, pb.Item(item_id="kept", title="Kept"))
            await delete(catalog, "i7")
            assert not (await recommend(channel, "u1")).degraded
            await asyncio.to_thread(server.kill)
            for write in (upsert(catalog, pb.Item(item_id="lost")), delete(catalog, "i8")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await write
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            answer = await recommend(channel, "u1")
            assert len(answer.items) == 10
            assert {d.stage for d in answer.degraded} == {"profile"}
            await asyncio.to_thread(server.start)
            deadline = time.monotonic() + 10
            while (await recommend(channel, "u1")).degraded:
                assert time.monotonic() < deadline, "the store was never used again"
                await asyncio.sleep(0.05)
            page = await catalog.ListChanges(pb.ListChangesRequest(), timeout=3)
            assert [c.item_id for c in page.changes] == ["kept", "i7"]
            assert page.changes[0].item_number == acked.item_numbers[0]
    finally:
        await running.stop()
        server.kill()
