"""Kept answers over real gRPC: who gets one, who does not, and that nothing deleted is in one."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from corerec.errors import Unavailable
from corerec.stages import RetrieveResult
from corerec.v1 import catalog_pb2, catalog_pb2_grpc, common_pb2
from corerec.v1 import recommender_pb2 as pb
from tests.serving.fakes import FakeCluster
from tests.serving.test_catalog import LameStore, delete, upsert


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[FakeCluster]:
    running = FakeCluster(
        tmp_path,
        tail_ms=50,
        default_deadline_ms=3000,
        response_cache_seconds=30.0,
        response_cache_entries=8,
    )
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


async def recommend(channel: grpc.aio.Channel, timeout: float = 3.0, **fields):
    call = channel.unary_unary(
        "/corerec.v1.RecommenderService/Recommend",
        request_serializer=pb.RecommendRequest.SerializeToString,
        response_deserializer=pb.RecommendResponse.FromString,
    )
    return await call(pb.RecommendRequest(**fields), timeout=timeout)


def kept(answer: pb.RecommendResponse) -> bool:
    return [report.stage for report in answer.stages] == ["cache"]


def asked(cluster: FakeCluster) -> int:
    """How many entries retrieval has computed."""
    return sum(map(len, cluster.faults["retrieval"].batches))


def counted(cluster: FakeCluster, outcome: str) -> float:
    labels = {"cache": "response", "outcome": outcome}
    found = cluster.gateway.metrics.registry.get_sample_value("corerec_cache_lookups_total", labels)
    assert found is not None
    return found


async def test_the_second_identical_request_is_answered_without_a_stage(cluster, channel) -> None:
    fields = {"page_size": 7, "attributes": {"a": "1", "b": "2"}, "recent_item_ids": ["i1"]}
    first = await recommend(channel, **fields)
    again = await recommend(channel, **fields | {"attributes": {"b": "2", "a": "1"}})
    assert not kept(first)
    assert kept(again)
    assert again.items == first.items
    assert (again.release, again.coverage) == (first.release, first.coverage)
    assert again.request_id not in ("", first.request_id)
    assert asked(cluster) == 1
    assert (counted(cluster, "hit"), counted(cluster, "miss")) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"page_size": 8},
        {"attributes": {"a": "2"}},
        {"recent_item_ids": ["i2"]},
        {"include_seen": True},
        {"request_time_micros": 5},
        {"where": [common_pb2.Predicate(attribute="category", any_of=["c1"])]},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_request_that_differs_in_anything_has_an_answer_of_its_own(
    cluster, channel, other
) -> None:
    await recommend(channel, page_size=7)
    assert not kept(await recommend(channel, **{"page_size": 7} | other))
    assert asked(cluster) == 2


async def test_a_user_never_gets_a_kept_answer(cluster, channel) -> None:
    for _ in range(3):
        assert not kept(await recommend(channel, user_id="u1"))
    assert asked(cluster) == 3
    assert counted(cluster, "hit") == counted(cluster, "miss") == 0


async def test_nothing_is_kept_unless_the_configuration_says_so(tmp_path: Path) -> None:
    cluster = await FakeCluster(tmp_path).start()
    try:
        async with cluster.channel() as channel:
            for _ in range(3):
                assert not kept(await recommend(channel))
        assert asked(cluster) == 3
    finally:
        await cluster.stop()


async def test_an_answer_grows_too_old(tmp_path: Path) -> None:
    cluster = await FakeCluster(tmp_path, response_cache_seconds=0.3).start()
    try:
        async with cluster.channel() as channel:
            await recommend(channel)
            assert kept(await recommend(channel))
            await asyncio.sleep(0.35)
            assert not kept(await recommend(channel))
    finally:
        await cluster.stop()


async def test_the_oldest_goes_where_there_are_too_many(cluster, channel) -> None:
    for size in range(1, 10):  # eight are kept
        await recommend(channel, page_size=size)
    assert kept(await recommend(channel, page_size=2))
    assert kept(await recommend(channel, page_size=9))
    assert not kept(await recommend(channel, page_size=1))


@pytest.mark.parametrize("stage", ["retrieval", "ranking", "rerank"])
async def test_an_answer_from_which_something_was_missing_is_not_kept(
    cluster, channel, stage
) -> None:
    cluster.faults[stage].error = Unavailable("gone")
    assert (await recommend(channel)).degraded
    assert (await recommend(channel)).degraded
    cluster.faults[stage].error = None
    assert not (await recommend(channel)).degraded
    assert kept(await recommend(channel))


async def test_part_of_retrieval_is_not_kept(cluster, channel) -> None:
    def partly(result: RetrieveResult) -> RetrieveResult:
        return replace(result, coverage=0.5)

    cluster.faults["retrieval"].mangle = partly
    assert (await recommend(channel)).coverage == 0.5
    cluster.faults["retrieval"].mangle = None
    assert (await recommend(channel)).coverage == 1.0


async def test_an_error_is_not_kept(cluster, channel) -> None:
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await recommend(channel, page_size=101)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert asked(cluster) == 0


async def test_a_deleted_item_is_in_no_kept_answer_from_the_acknowledgement_on(
    cluster, channel, catalog
) -> None:
    before = [item.item_id for item in (await recommend(channel)).items]
    stop, late, hits = asyncio.Event(), [], 0
    gone: dict[str, float] = {}

    async def ask() -> None:
        nonlocal hits
        while not stop.is_set():
            sent = time.monotonic()
            answer = await recommend(channel)
            hits += kept(answer)
            late.extend(i.item_id for i in answer.items if gone.get(i.item_id, math.inf) < sent)

    askers = [asyncio.create_task(ask()) for _ in range(4)]
    for item_id in before[:5]:
        await delete(catalog, item_id)
        gone[item_id] = time.monotonic()
    stop.set()
    await asyncio.gather(*askers)
    assert not late
    assert hits > 10  # else it was not the cache that was tried


async def test_a_delete_through_another_gateway_reaches_kept_answers(cluster, channel) -> None:
    """The tail is stopped, so that the request itself must look before it takes a kept answer."""
    wanted = (await recommend(channel)).items[0].item_id
    assert kept(await recommend(channel))
    (tail,) = (t for t in asyncio.all_tasks() if t.get_name() == "gateway-tail")
    tail.cancel()
    other = LameStore(Path(cluster.config.store))
    other.delete_items([wanted])
    other.close()
    await asyncio.sleep(2 * cluster.config.tail_ms / 1000)  # then it is acknowledged
    answer = await recommend(channel)
    assert wanted not in {item.item_id for item in answer.items}


async def test_a_kept_answer_is_not_given_while_the_store_cannot_be_read(cluster, channel) -> None:
    await recommend(channel)
    cluster.store.lame = True
    await asyncio.sleep(0.2)
    answer = await recommend(channel)
    assert not kept(answer)
    assert [d.stage for d in answer.degraded] == ["profile"]
    cluster.store.lame = False
    await asyncio.sleep(0.2)
    assert kept(await recommend(channel))


async def test_an_item_that_changes_takes_its_answers_with_it_and_no_others(
    cluster, channel, catalog
) -> None:
    first = await recommend(channel)
    far = await recommend(channel, recent_item_ids=[item.item_id for item in first.items])
    changed = first.items[3].item_id
    assert changed not in {item.item_id for item in far.items}
    await upsert(catalog, catalog_pb2.Item(item_id=changed, title="New"))
    await asyncio.sleep(0.2)
    assert not kept(await recommend(channel))
    recent = [item.item_id for item in first.items]
    assert kept(await recommend(channel, recent_item_ids=recent))


async def test_requests_that_ask_the_same_at_once_ask_the_stages_once(cluster, channel) -> None:
    cluster.faults["retrieval"].hold = threading.Event()
    calls = [asyncio.create_task(recommend(channel)) for _ in range(20)]
    await asyncio.sleep(0.3)
    cluster.faults["retrieval"].hold.set()
    answers = await asyncio.gather(*calls)
    assert asked(cluster) == 1
    assert sum(map(kept, answers)) == 19
    assert len({answer.request_id for answer in answers}) == 20


async def test_who_waits_for_another_that_fails_asks_alone(cluster, channel) -> None:
    cluster.faults["ranking"].hold = threading.Event()
    cluster.faults["ranking"].error = Unavailable("gone")
    calls = [asyncio.create_task(recommend(channel)) for _ in range(3)]
    await asyncio.sleep(0.2)
    cluster.faults["ranking"].hold.set()
    answers = await asyncio.gather(*calls)
    assert asked(cluster) == 3
    assert all(answer.degraded for answer in answers)


async def test_a_caller_that_leaves_does_not_take_those_who_wait_with_it(cluster, channel) -> None:
    cluster.faults["retrieval"].hold = threading.Event()
    first = asyncio.create_task(recommend(channel))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(recommend(channel))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0.1)
    cluster.faults["retrieval"].hold.set()
    assert not (await second).degraded


async def test_who_has_little_time_does_not_wait_it_out(cluster, channel) -> None:
    cluster.faults["retrieval"].hold = threading.Event()
    slow = asyncio.create_task(recommend(channel, timeout=3.0))
    await asyncio.sleep(0.1)
    answer = await recommend(channel, timeout=0.4)
    assert [d.stage for d in answer.degraded] == ["retrieve"]  # the popular list, in time
    cluster.faults["retrieval"].hold.set()
    assert not (await slow).degraded
