"""A running fake cluster for tests of the services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corerec.v1 import recommender_pb2_grpc
from tests.serving.fakes import FakeCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[FakeCluster]:
    running = await FakeCluster(tmp_path).start()
    yield running
    await running.stop()


@pytest.fixture
async def stub(cluster: FakeCluster) -> AsyncIterator[recommender_pb2_grpc.RecommenderServiceStub]:
    async with cluster.channel() as channel:
        yield recommender_pb2_grpc.RecommenderServiceStub(channel)
