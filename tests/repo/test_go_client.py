"""The Go client in examples/ builds from the protos alone and reads what a server answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from corerec.v1 import common_pb2, recommender_pb2, recommender_pb2_grpc, rerank_pb2

pytestmark = pytest.mark.timeout(600)


class FixedList(recommender_pb2_grpc.RecommenderServiceServicer):
    """Answers `page_size` numbered items to everybody but the user "nobody"."""

    def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.RecommendResponse:
        if request.user_id == "nobody":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "user_id must be somebody, got nobody")
        items = [
            rerank_pb2.RankedItem(
                item_number=place,
                item_id=f"item-{place}",
                title=f"Title {place} for {request.user_id}",
                category="books",
                score=1 / (1 + place),
                source=common_pb2.CANDIDATE_SOURCE_TWO_TOWER,
                moves=[rerank_pb2.ItemMove(rule="freshness", score_change=0.1)],
            )
            for place in range(request.page_size)
        ]
        missing = recommender_pb2.Degradation(stage="rank", note="kept retrieval's order")
        return recommender_pb2.RecommendResponse(
            items=items, release="r-test", latency_micros=1500, degraded=[missing]
        )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a server that answers a fixed list."""
    server = grpc.server(ThreadPoolExecutor(2))
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(FixedList(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(binary: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, *options], capture_output=True, text=True, timeout=60)


def test_the_client_prints_every_item_and_what_was_missing(go_client: Path, address: str) -> None:
    done = run(go_client, "-address", address, "-user", "ann", "-n", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["item-0", "item-1", "item-2"]
    assert "Title 2 for ann" in lines[3]
    assert "two-tower" in lines[3]
    assert "freshness" in lines[3]
    assert "release r-test, 1.5 ms" in done.stdout
    assert "without rank: kept retrieval's order" in done.stdout


def test_the_client_says_what_the_server_refused(go_client: Path, address: str) -> None:
    done = run(go_client, "-address", address, "-user", "nobody")
    assert done.returncode == 1
    assert "InvalidArgument: user_id must be somebody, got nobody" in done.stderr


def test_the_client_ends_in_an_error_when_nobody_listens(go_client: Path) -> None:
    done = run(go_client, "-address", "127.0.0.1:1", "-timeout", "1s")
    assert done.returncode == 1
    assert "Unavailable" in done.stderr
