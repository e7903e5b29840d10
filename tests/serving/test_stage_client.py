"""The coalescing stage client against real servers: batches, retries, replicas that come and go."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from corerec.errors import (
    CoreRecError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from corerec.serving.budget import Budget
from corerec.serving.contracts import RANK
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.process import ServerProcess
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RankEntry, Source, UserContext
from tests.serving.fakes import RELEASE, Faults, columns, start_fake_stage


def entry(name: str = "a", k: int = 3) -> RankEntry:
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    return RankEntry(request_id=name, user=UserContext(), candidates=candidates, k=k)


@asynccontextmanager
async def stage(
    faults: list[Faults], **limits: int
) -> AsyncIterator[tuple[RemoteStage, list[ServerProcess], StaticEndpoints]]:
    servers = [await start_fake_stage("ranking", f) for f in faults]
    endpoints = StaticEndpoints([s.address for s in servers])
    client: RemoteStage = RemoteStage(RANK, endpoints, Metrics(), **limits)
    try:
        yield client, servers, endpoints
    finally:
        await client.close()
        for f in faults:
            if f.hold:
                f.hold.set()
        await asyncio.gather(*(server.drain() for server in servers))


def attempts(client: RemoteStage, outcome: str) -> float:
    value = client._metrics._metrics.registry.get_sample_value(
        "corerec_stage_attempts_total", {"stage": "rank", "outcome": outcome}
    )
    return value or 0.0


async def test_entries_that_arrive_while_rpcs_are_under_way_leave_as_one() -> None:
    faults = Faults(hold=threading.Event())
    async with stage([faults], max_in_flight=1) as (client, _, _):
        calls = [asyncio.ensure_future(client.call(RELEASE, entry("first"), Budget(5)))]
        while not faults.batches:
            await asyncio.sleep(0.01)
        calls += [
            asyncio.ensure_future(client.call(RELEASE, entry(f"e{i}"), Budget(5)))
            for i in range(20)
        ]
        await asyncio.sleep(0.05)
        faults.hold.set()
        results = await asyncio.gather(*calls)
        assert all(r.candidates.numbers.tolist() == [9, 8, 7] for r in results)
        assert [len(b) for b in faults.batches] == [1, 20]
        assert attempts(client, "OK") == 2


async def test_an_rpc_is_bounded_by_candidates() -> None:
    faults = Faults(hold=threading.Event())
    async with stage([faults], max_weight=35) as (client, _, _):  # ten candidates an entry
        calls = [asyncio.ensure_future(client.call(RELEASE, entry("first"), Budget(5)))]
        while not faults.batches:
            await asyncio.sleep(0.01)
        calls += [
            asyncio.ensure_future(client.call(RELEASE, entry(f"e{i}"), Budget(5))) for i in range(8)
        ]
        await asyncio.sleep(0.05)
        faults.hold.set()
        await asyncio.gather(*calls)
        assert [len(b) for b in faults.batches] == [1, 3, 3, 2]
        for name, total in (("entries", 9.0), ("weight", 90.0)):
            sample = f"corerec_stage_rpc_{name}_sum"
            registry = client._metrics._metrics.registry
            assert registry.get_sample_value(sample, {"stage": "rank"}) == total


async def test_idle_replicas_share_what_waits() -> None:
    faults = [Faults(), Faults()]
    async with stage(faults) as (client, _, _):
        assert await client.ready(5.0)
        await asyncio.gather(*(client.call(RELEASE, entry(f"e{i}"), Budget(5)) for i in range(10)))
        assert sorted(len(f.batches[0]) for f in faults) == [5, 5]


async def test_ready_waits_for_a_replica_and_tells_when_there_is_none() -> None:
    endpoints = StaticEndpoints([])
    client: RemoteStage = RemoteStage(RANK, endpoints, Metrics())
    assert not await client.ready(0.05)
    server = await start_fake_stage("ranking", Faults())
    asyncio.get_running_loop().call_later(0.1, endpoints.set, [server.address])
    assert await client.ready(5.0)
    await client.close()
    await server.drain()


async def test_a_replica_that_joins_others_is_asked_only_once_it_has_said_serving() -> None:
    async with stage([Faults()]) as (client, servers, endpoints):
        assert await client.ready(5.0)
        with socket.socket() as silent:  # takes connections, and says nothing
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            dumb = f"127.0.0.1:{silent.getsockname()[1]}"
            endpoints.set([servers[0].address, dumb])
            started = time.monotonic()
            await asyncio.gather(*(client.call(RELEASE, entry(), Budget(2)) for _ in range(20)))
            assert time.monotonic() - started < 1.0
            assert client._replicas._replicas[dumb].sent == 0
            endpoints.set([servers[0].address])


async def test_an_rpc_is_cancelled_once_nobody_waits_for_it() -> None:
    faults = Faults(hold=threading.Event())
    async with stage([faults]) as (client, _, _):
        calls = [asyncio.ensure_future(client.call(RELEASE, entry(), Budget(5))) for _ in "abc"]
        while not faults.batches:
            await asyncio.sleep(0.01)
        calls[0].cancel()
        await asyncio.sleep(0.05)
        assert attempts(client, "CANCELLED") == 0  # two still wait
        for call in calls[1:]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert attempts(client, "CANCELLED") == 1
        faults.hold.set()


async def test_a_bad_entry_has_its_own_status() -> None:
    async with stage([Faults()]) as (client, _, _):
        calls = [
            client.call(RELEASE, entry(k=k), Budget(5)) for k in (1, -1, 0, 2001, 2**31 - 1, 2)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    kinds = [type(o) for o in outcomes[1:5]]
    assert kinds == [InvalidArgument] * 4
    assert "k must be in [1, 2000], got 2147483647" in str(outcomes[4])
    assert len(outcomes[0].candidates) == 1
    assert len(outcomes[5].candidates) == 2


async def test_another_release_is_refused() -> None:
    async with stage([Faults()]) as (client, _, _):
        with pytest.raises(FailedPrecondition, match="got 'other'; it holds"):
            await client.call("other", entry(), Budget(5))


async def test_two_releases_never_share_an_rpc() -> None:
    faults = Faults()
    async with stage([faults], max_in_flight=1) as (client, _, _):
        calls = [
            client.call(release, entry(), Budget(5)) for release in (RELEASE, "other") for _ in "ab"
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(o, FailedPrecondition) for o in outcomes] == [False, False, True, True]


async def test_an_internal_error_tells_nothing() -> None:
    async with stage([Faults(error=RuntimeError("secret"))]) as (client, _, _):
        with pytest.raises(CoreRecError, match="internal error") as caught:
            await client.call(RELEASE, entry(), Budget(5))
        assert "secret" not in str(caught.value)


async def test_a_dead_replica_is_ridden_out_and_used_no_more() -> None:
    async with stage([Faults(), Faults()]) as (client, servers, _):
        for _ in range(20):
            await client.call(RELEASE, entry(), Budget(5))
        await servers[0]._server._server.stop(None)  # no drain: connections break
        started = time.monotonic()
        for _ in range(50):
            await client.call(RELEASE, entry(), Budget(5))
        assert time.monotonic() - started < 2.0
        assert attempts(client, "UNAVAILABLE") <= 2


async def test_attempts_stay_within_the_retry_budget_when_everything_is_dead() -> None:
    async with stage([Faults(), Faults()]) as (client, servers, _):
        await client.call(RELEASE, entry(), Budget(5))
        for server in servers:
            await server._server._server.stop(None)
        requests = 200
        for _ in range(requests):
            with pytest.raises(Unavailable):
                await client.call(RELEASE, entry(), Budget(1))
        assert attempts(client, "UNAVAILABLE") <= 1.2 * requests


async def test_no_replica_is_told_at_once() -> None:
    client: RemoteStage = RemoteStage(RANK, StaticEndpoints([]), Metrics())
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no replica of rank can be reached"):
        await client.call(RELEASE, entry(), Budget(5))
    assert time.monotonic() - started < 0.05
    await client.close()


async def test_a_hanging_replica_is_left_alone_after_a_few_timeouts() -> None:
    slow, fast = Faults(hold=threading.Event()), Faults()
    async with stage([slow, fast], max_in_flight=1) as (client, _, _):
        outcomes = []
        for _ in range(12):
            try:
                await client.call(RELEASE, entry(), Budget(0.1))
                outcomes.append(True)
            except DeadlineExceeded:
                outcomes.append(False)
            await asyncio.sleep(0.02)
        assert outcomes.count(False) <= 4
        assert all(outcomes[-6:])


async def test_a_full_client_queue_is_refused() -> None:
    faults = Faults(hold=threading.Event())
    async with stage([faults], max_in_flight=1, max_queue=5) as (client, _, _):
        calls = [asyncio.ensure_future(client.call(RELEASE, entry(), Budget(5)))]
        await asyncio.sleep(0.1)  # it is under way; what follows waits
        calls += [asyncio.ensure_future(client.call(RELEASE, entry(), Budget(5))) for _ in "abcde"]
        await asyncio.sleep(0.1)
        with pytest.raises(ResourceExhausted, match="at most 5 entries may wait for rank"):
            await client.call(RELEASE, entry(), Budget(5))
        faults.hold.set()
        await asyncio.gather(*calls)


async def test_replicas_come_and_go_without_an_error() -> None:
    async with stage([Faults(), Faults(), Faults()]) as (client, servers, endpoints):
        addresses = [s.address for s in servers]
        stop = asyncio.Event()
        failures: list[Exception] = []
        done = 0

        async def load() -> None:
            nonlocal done
            while not stop.is_set():
                try:
                    await client.call(RELEASE, entry(), Budget(2))
                    done += 1
                except CoreRecError as error:
                    failures.append(error)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for shown in ([0], [1, 2], [0, 1, 2], [2], [0, 1]):
            endpoints.set([addresses[i] for i in shown])
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*tasks)
        assert not failures
        assert done > 50


async def test_a_draining_replica_loses_nothing() -> None:
    async with stage([Faults(delay=0.005), Faults(delay=0.005)]) as (client, servers, _):
        stop = asyncio.Event()
        failures: list[Exception] = []

        async def load() -> None:
            while not stop.is_set():
                try:
                    await client.call(RELEASE, entry(), Budget(2))
                except CoreRecError as error:
                    failures.append(error)

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        await asyncio.sleep(0.2)
        await servers[0].drain()
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.gather(*tasks)
        assert not failures
