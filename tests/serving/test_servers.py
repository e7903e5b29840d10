"""What every server has: health, reflection, limits, metrics, drain; and the stages' own limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from corerec.serving.wire import candidates_to_proto
from corerec.stages import Source
from corerec.v1 import common_pb2, ranking_pb2, ranking_pb2_grpc
from corerec.v1 import recommender_pb2 as pb
from tests.serving.fakes import RELEASE, FakeCluster, Faults, columns, start_fake_stage

SERVING, NOT_SERVING = 1, 2


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)).status


async def test_health_names_the_service(cluster: FakeCluster) -> None:
    for name in ("", "corerec.v1.RecommenderService"):
        assert await health(cluster.address, name) == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(cluster.address, "no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_service(cluster: FakeCluster) -> None:
    def services() -> list[str]:
        with grpc.insecure_channel(cluster.address) as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert "corerec.v1.RecommenderService" in await asyncio.to_thread(services)


async def test_metrics_have_requests_stages_and_degradations(cluster, stub) -> None:
    await stub.Recommend(pb.RecommendRequest(user_id="u1"))
    cluster.endpoints["ranking"].set([])
    await stub.Recommend(pb.RecommendRequest(user_id="u1"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Recommend(pb.RecommendRequest(page_size=-1))
    url = f"http://{cluster.gateway.metadata()['metrics']}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    method = 'rpc_method="Recommend",rpc_service="corerec.v1.RecommenderService"'
    assert f'rpc_grpc_status_code="OK",{method}' in text
    assert f'rpc_grpc_status_code="INVALID_ARGUMENT",{method}' in text
    assert 'corerec_degraded_total{reason="UNAVAILABLE",stage="rank"} 1.0' in text
    assert f'corerec_release_info{{release="{RELEASE}"}} 1.0' in text
    assert 'corerec_candidates_bucket{direction="in",le="512.0",stage="rank"} 2.0' in text


async def test_a_message_over_the_limit_is_refused_and_health_goes_on(cluster, stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Recommend(pb.RecommendRequest(recent_item_ids=["x" * 1_000_000] * 5))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await health(cluster.address, "corerec.v1.RecommenderService") == SERVING


async def test_a_taken_port_is_named(cluster: FakeCluster) -> None:
    from corerec.errors import Unavailable

    port = int(cluster.address.rpartition(":")[2])
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"):
        await start_fake_stage("ranking", Faults(), port=port)


class TestStageLimits:
    """The stage RPC itself, spoken to without a gateway."""

    async def rank(self, request: ranking_pb2.RankRequest) -> ranking_pb2.RankResponse:
        server = await start_fake_stage("ranking", Faults())
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                return await ranking_pb2_grpc.RankingServiceStub(channel).Rank(request, timeout=5)
        finally:
            await server.drain()

    def entry(self, **fields) -> ranking_pb2.RankEntry:
        candidates = candidates_to_proto(columns(np.arange(5, dtype=np.int64), Source.TWO_TOWER))
        return ranking_pb2.RankEntry(
            **{"budget_micros": 10**6, "k": 3, "candidates": candidates} | fields
        )

    @pytest.mark.parametrize("count", [0, 257])
    async def test_entries_are_counted(self, count) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rank(
                ranking_pb2.RankRequest(release=RELEASE, entries=[self.entry()] * count)
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == f"entries must number in [1, 256], got {count}"

    async def test_another_release_is_a_failed_precondition(self) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rank(ranking_pb2.RankRequest(release="old", entries=[self.entry()]))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    async def test_bad_columns_fail_their_entry_alone(self) -> None:
        numbers = np.arange(5, dtype=np.int64)
        short = candidates_to_proto(columns(numbers, Source.TWO_TOWER))
        short.scores = short.scores[:-1]
        negative = candidates_to_proto(columns(numbers - 2, Source.TWO_TOWER))
        twice = candidates_to_proto(columns(numbers // 2, Source.TWO_TOWER))
        nan = candidates_to_proto(columns(numbers, Source.TWO_TOWER))
        nan.scores = np.array([1, 2, np.nan, 3, 4], "<f4").tobytes()
        entries = [
            self.entry(),
            self.entry(candidates=short),
            self.entry(candidates=negative),
            self.entry(candidates=twice),
            self.entry(candidates=nan),
            self.entry(budget_micros=0),
            self.entry(user=common_pb2.UserContext(history_count=100_000)),
            self.entry(
                user=common_pb2.UserContext(
                    history_count=2,
                    history_item_numbers=bytes(16),
                    history_event_times_micros=bytes(8),
                )
            ),
            self.entry(),
        ]
        response = await self.rank(ranking_pb2.RankRequest(release=RELEASE, entries=entries))
        got = [(r.status.code, r.status.message) for r in response.results]
        assert got == [
            (0, ""),
            (3, "scores must hold 5 x 4 = 20 bytes, got 19"),
            (3, "item_numbers must be >= 0, got -2"),
            (3, "item_numbers must differ, got 0 twice"),
            (3, "scores must be finite, got NaN or infinity"),
            (4, "budget_micros must be > 0, got 0"),
            (3, "history_count must be in [0, 1000], got 100000"),
            (3, "history_event_times_micros must hold 2 x 8 = 16 bytes, got 8"),
            (0, ""),
        ]


async def test_drain_says_not_serving_first_and_finishes_what_is_in_flight(tmp_path: Path) -> None:
    running = await FakeCluster(tmp_path).start()
    running.faults["ranking"].delay = 0.2
    from corerec.v1 import recommender_pb2_grpc

    async with running.channel() as channel:
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        in_flight = [stub.Recommend(pb.RecommendRequest(), timeout=3) for _ in range(10)]
        await asyncio.sleep(0.05)
        drain = asyncio.create_task(running.stop())
        await asyncio.sleep(0.02)
        assert await health(running.address, "corerec.v1.RecommenderService") == NOT_SERVING
        answers = await asyncio.gather(*in_flight)
        assert all(len(a.items) == 10 and not a.degraded for a in answers)
        await drain


@pytest.mark.parametrize("service", ["retrieval_svc", "ranking_svc", "rerank_svc", "gateway"])
def test_a_service_without_a_release_says_what_to_do(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", service], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "name the release with --release or in the deployment file" in done.stderr


def test_how_grpc_polls_is_the_users_to_say() -> None:
    script = "import os, corerec.serving; print(os.environ['GRPC_EXPERIMENTS'])"
    for given, expected in (("", "-event_engine_client,-event_engine_listener"), ("own", "own")):
        told = {k: v for k, v in os.environ.items() if k != "GRPC_EXPERIMENTS"}
        told |= {"GRPC_EXPERIMENTS": given} if given else {}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=told, check=True)
        assert done.stdout.strip() == expected


def test_a_process_is_pinned_with_all_its_threads_or_refused() -> None:
    script = """
import os, threading, time
from corerec.errors import ConfigError
from corerec.affinity import pin, run_anywhere
there = sorted(os.sched_getaffinity(0))
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
pin(())
assert sorted(os.sched_getaffinity(0)) == there
try:
    pin((there[-1], 4095))
except ConfigError as error:
    print(error)
pin(there[-1:])
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
cores = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
assert len(cores) >= 3 and cores == [{there[-1]}] * len(cores), cores
def rebuild():
    run_anywhere()
    long_work.extend(os.sched_getaffinity(0))
long_work = []
thread = threading.Thread(target=rebuild)
thread.start()
thread.join()
assert sorted(long_work) == there and os.sched_getaffinity(0) == {there[-1]}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cores must be some of [")


def test_a_process_is_nicer_with_all_its_threads() -> None:
    script = """
import os, threading, time
from corerec.serving.process import yield_to_others
def nice():
    threads = os.listdir("/proc/self/task")
    return {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads}
(before,) = nice()
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
yield_to_others(0)
assert nice() == {before}
yield_to_others(3)
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
assert nice() == {min(19, before + 3)}, nice()
yield_to_others(19)
assert nice() == {19}, nice()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
