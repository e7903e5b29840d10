"""Requests that start together stay together, and none is lost, held up for long or forgotten."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

import pytest

from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.v1 import recommender_pb2 as pb
from gateway.groups import Group, Groups
from tests.serving.fakes import FakeCluster

MOST = 3


def groups(few: int = MOST, most: int = 0, full: int = 1) -> Groups:
    return Groups(few, most, full, Metrics())


async def enter(own: Groups, seconds: float = 10.0) -> Group:
    return own.start() or await own.wait(Budget(seconds))


async def turn() -> None:
    """Let everything run that is ready, and what that makes ready."""
    for _ in range(3):
        await asyncio.sleep(0)


async def full(own: Groups, most: int = MOST) -> list[Group]:
    """Return groups of one request each, so many that there is no room."""
    begun = []
    for _ in range(most):
        group = own.start()
        assert group is not None
        begun.append(group)
        await turn()
    assert own.start() is None
    return begun


async def test_a_request_that_finds_room_starts_at_once_and_its_turn_of_the_loop_with_it() -> None:
    own = groups()
    first, second = own.start(), own.start()
    await turn()
    assert first is not None
    assert first is second
    assert first.size == 2
    assert own.start() is not first


async def test_what_waits_starts_together_when_the_first_answer_of_a_group_makes_room() -> None:
    own = groups()
    (first, _, _) = await full(own)
    waiting = [asyncio.create_task(enter(own)) for _ in range(5)]
    await turn()
    assert not any(task.done() for task in waiting)
    first.leave(answered=True)
    begun = await asyncio.gather(*waiting)
    assert len(set(map(id, begun))) == 1
    assert begun[0].size == 5
    await turn()
    first.leave(answered=True)  # the rest of that group follows: it makes room once
    assert own.start() is None


async def test_a_full_group_starts_beside_the_few_and_a_smaller_one_waits_for_room() -> None:
    own = groups(1, 3, 4)
    (first,) = await full(own, 1)
    waiting = [asyncio.create_task(enter(own)) for _ in range(3)]
    await turn()
    assert not any(task.done() for task in waiting)
    waiting.append(asyncio.create_task(enter(own)))
    second = (await asyncio.gather(*waiting))[0]
    assert second.size == 4
    waiting = [asyncio.create_task(enter(own)) for _ in range(4)]
    third = (await asyncio.gather(*waiting))[0]
    assert third is not second
    waiting = [asyncio.create_task(enter(own)) for _ in range(9)]  # full, but three are under way
    await turn()
    assert not any(task.done() for task in waiting)
    first.leave(answered=True)
    assert (await asyncio.gather(*waiting))[0].size == 9
    left = asyncio.create_task(enter(own))  # not full: beside fewer than one
    await turn()
    second.leave(answered=True)
    third.leave(answered=True)
    await turn()
    assert not left.done()
    waiting[0].result().leave(answered=True)
    assert (await left).size == 1


async def test_a_request_waits_at_most_an_eighth_of_its_time_and_the_hastiest_decides() -> None:
    own = groups()
    await full(own)
    began = time.monotonic()
    patient = asyncio.create_task(enter(own, 60.0))
    await turn()
    hasty = asyncio.create_task(enter(own, 0.8))
    assert await hasty is await patient
    assert 0.09 < time.monotonic() - began < 0.5


async def test_a_caller_who_leaves_while_it_waits_is_left_out() -> None:
    own = groups()
    (first, *_) = await full(own)
    gone, stays = (asyncio.create_task(enter(own)) for _ in range(2))
    await turn()
    gone.cancel()
    await turn()
    first.leave(answered=True)
    assert (await stays).size == 1


async def test_who_leaves_without_an_answer_makes_no_room_while_others_of_its_group_wait() -> None:
    own = groups(1)
    (first,) = await full(own, 1)
    waiting = [asyncio.create_task(enter(own)) for _ in range(2)]
    await turn()
    first.leave(answered=True)
    group, same = await asyncio.gather(*waiting)
    assert group is same
    await turn()
    group.leave(answered=False)
    assert own.start() is None
    group.leave(answered=False)
    assert own.start() is not None


async def test_a_caller_who_leaves_as_its_group_begins_gives_the_room_back() -> None:
    own = groups(1)
    (first,) = await full(own, 1)
    gone = asyncio.create_task(enter(own))
    await turn()
    first.leave(answered=True)
    gone.cancel()  # before its task has run again
    await asyncio.gather(gone, return_exceptions=True)
    await turn()
    assert gone.cancelled()
    assert own.start() is not None


async def test_without_a_bound_nobody_waits() -> None:
    own = groups(0)
    for _ in range(100):
        assert own.start() is not None
        await turn()


@pytest.mark.parametrize("few", [1, MOST])
@pytest.mark.parametrize("seed", range(5))
async def test_whoever_comes_and_goes_every_request_runs_once_and_groups_keep_to_the_bound(
    seed: int, few: int
) -> None:
    rng, own = random.Random(seed), groups(few, MOST, 4)
    under_way: dict[int, Group] = {}  # holds every group, so that no id comes twice
    members: dict[int, int] = {}
    answered: set[int] = set()
    ran = cancelled = 0

    async def request() -> None:
        nonlocal ran
        group = await enter(own, 60.0)
        try:
            under_way[id(group)] = group
            members[id(group)] = members.get(id(group), 0) + 1
            assert len([one for one in under_way.values() if not one.ended]) <= MOST
            await asyncio.sleep(0.002 * rng.random())
            ran += 1
            answered.add(id(group))
        finally:
            members[id(group)] -= 1
            group.leave(answered=id(group) in answered)
            assert group.ended == (id(group) in answered or not members[id(group)])

    tasks = []
    for _ in range(500):
        tasks.append(asyncio.create_task(request()))
        if rng.random() < 0.5:
            await asyncio.sleep(0.001 * rng.random())
        if rng.random() < 0.1:
            cancelled += rng.choice(tasks).cancel()
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert ran == sum(one is None for one in ended)
    assert ran + sum(isinstance(one, asyncio.CancelledError) for one in ended) == len(tasks)
    await turn()
    assert own._under_way == 0


async def test_requests_that_waited_together_are_one_batch_of_a_stage(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, groups=1, full_groups=1, default_deadline_ms=9000)
    await cluster.start()
    hold = cluster.faults["retrieval"].hold = threading.Event()
    try:
        async with cluster.channel() as channel:
            recommend = channel.unary_unary(
                "/corerec.v1.RecommenderService/Recommend",
                request_serializer=pb.RecommendRequest.SerializeToString,
                response_deserializer=pb.RecommendResponse.FromString,
            )
            calls = [asyncio.ensure_future(recommend(pb.RecommendRequest()))]
            await asyncio.sleep(0.2)
            calls += [asyncio.ensure_future(recommend(pb.RecommendRequest())) for _ in range(4)]
            await asyncio.sleep(0.2)
            hold.set()
            answers = await asyncio.gather(*calls)
    finally:
        hold.set()
        await cluster.stop()
    assert [len(batch) for batch in cluster.faults["retrieval"].batches] == [1, 4]
    assert [len(batch) for batch in cluster.faults["rerank"].batches] == [1, 4]
    assert not any(answer.degraded for answer in answers)
    assert all(answer.latency_micros > 150_000 for answer in answers)  # waiting counts
