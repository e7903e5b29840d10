"""The load generator sends what it is told when it is told, and writes what every call met."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.serving.load import Load, command, write_requests
from benchmarks.serving.machine import ROOT
from corerec.v1 import recommender_pb2, recommender_pb2_grpc

pytestmark = pytest.mark.timeout(600)
USERS = ("ann", "bob", "degraded", "refused")


class Recorder(recommender_pb2_grpc.RecommenderServiceServicer):
    """Counts who asks; answers two users fully, one with a stage missing, and refuses one."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.seconds = 0.0
        self.filling = ""

    def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> recommender_pb2.RecommendResponse:
        with self.lock:
            self.asked[request.user_id] += 1
        time.sleep(self.seconds)
        if request.user_id == "refused":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        answer = recommender_pb2.RecommendResponse(coverage=1.0, latency_micros=7)
        if self.filling:
            answer.items.add(item_id=self.filling)
        if request.user_id == "degraded":
            answer.degraded.add(stage="rank")
        return answer


@pytest.fixture(scope="module")
def generator() -> Path:
    done = subprocess.run([ROOT / "scripts/loadgen"], stdin=subprocess.DEVNULL)
    if done.returncode == 3:
        assert os.environ.get("CI") != "true", "CI must build the load generator: install Go"
        pytest.skip("no Go here")
    assert done.returncode == 0
    return ROOT / ".tools/bin/loadgen"


@contextmanager
def serving(**options: int) -> Iterator[tuple[Recorder, str, grpc.Server]]:
    recorder = Recorder()
    given = [(f"grpc.{name}", value) for name, value in options.items()]
    server = grpc.server(ThreadPoolExecutor(4), options=given)
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield recorder, f"127.0.0.1:{port}", server
    server.stop(None).wait()


@pytest.fixture
def server() -> Iterator[tuple[Recorder, str]]:
    with serving() as (recorder, address, _):
        yield recorder, address


def load(generator: Path, address: str, folder: Path, load: Load) -> dict[str, Any]:
    write_requests([{"user_id": user, "page_size": 5} for user in USERS], folder / "requests")
    words = command(generator, address, folder / "requests", load)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    columns: dict[str, Any] = json.loads(done.stdout)
    return columns


def test_an_open_loop_sends_each_user_in_turn_when_due(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    recorder, address = server
    calls = load(generator, address, tmp_path, Load(rate=100, seconds=1, first=1))
    assert calls["due_micros"] == [10_000 * i for i in range(100)]
    assert recorder.asked == Counter(dict.fromkeys(USERS, 25))
    assert calls["code"] == ["OK", "OK", "ResourceExhausted", "OK"] * 25
    assert calls["degraded"] == [False, True, False, False] * 25
    for due, sent, done in zip(
        calls["due_micros"], calls["sent_micros"], calls["done_micros"], strict=True
    ):
        assert due <= sent <= done


def test_an_open_loop_does_not_wait_for_answers(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    recorder, address = server
    recorder.seconds = 0.2  # four at once: 20 a second, of the 50 that are offered
    calls = load(generator, address, tmp_path, Load(rate=50, seconds=1))
    assert len(calls["due_micros"]) == 50
    waited = [
        done - due for due, done in zip(calls["due_micros"], calls["done_micros"], strict=True)
    ]
    assert waited[-1] > 1_000_000  # the queue that grew is in the last call's latency


def test_poisson_arrivals_have_their_rate_and_are_uneven(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    _, address = server
    calls = load(generator, address, tmp_path, Load(rate=400, seconds=1, arrivals="poisson"))
    due = calls["due_micros"]
    gaps = [later - sooner for sooner, later in pairwise(due)]
    assert 320 <= len(due) <= 480  # four standard deviations
    assert min(gaps) < 250 < 7_500 < max(gaps)  # a tenth and three times the mean


def test_a_closed_loop_has_one_call_under_way_for_each_caller(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    recorder, address = server
    recorder.seconds = 0.05
    calls = load(generator, address, tmp_path, Load(callers=2, seconds=0.5))
    assert 10 <= len(calls["code"]) <= 22
    moments = [(moment, 1) for moment in calls["sent_micros"]]
    moments += [(moment, -1) for moment in calls["done_micros"]]
    under_way, most = 0, 0
    for _, change in sorted(moments):
        under_way += change
        most = max(most, under_way)
    assert most == 2


def test_a_call_past_its_deadline_is_an_error(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    recorder, address = server
    recorder.seconds = 0.5
    one = Load(rate=4, seconds=1, timeout_seconds=0.1)
    assert load(generator, address, tmp_path, one)["code"] == ["DeadlineExceeded"] * 4


def test_calls_wait_for_a_server_that_takes_few_at_a_time(generator: Path, tmp_path: Path) -> None:
    with serving(max_concurrent_streams=2) as (recorder, address, _):
        recorder.seconds = 0.05
        calls = load(generator, address, tmp_path, Load(callers=6, seconds=0.4))
    waited = [
        done - sent for sent, done in zip(calls["sent_micros"], calls["done_micros"], strict=True)
    ]
    assert set(calls["code"]) == {"OK", "ResourceExhausted"}
    assert max(waited) > 90_000  # behind another call's 50 ms; the wait is in the latency


def test_calls_that_waited_beyond_their_deadline_are_errors(
    generator: Path, tmp_path: Path
) -> None:
    with serving(max_concurrent_streams=1) as (recorder, address, _):
        recorder.seconds = 0.3
        one = Load(callers=2, seconds=0.1, timeout_seconds=0.45)
        calls = load(generator, address, tmp_path, one)
    assert Counter(calls["code"]) == {"OK": 1, "DeadlineExceeded": 1}


def test_a_connection_that_the_server_gives_up_is_made_anew(
    generator: Path, tmp_path: Path
) -> None:
    ages = {"max_connection_age_ms": 200, "max_connection_age_grace_ms": 5_000}
    with serving(**ages) as (recorder, address, _):
        recorder.seconds = 0.02
        calls = load(generator, address, tmp_path, Load(rate=100, seconds=2))
    assert Counter(calls["code"]) == {"OK": 150, "ResourceExhausted": 50}


def test_a_server_that_is_gone_ends_the_load(generator: Path, tmp_path: Path) -> None:
    with serving() as (recorder, address, server):
        recorder.seconds = 0.05
        write_requests([{"user_id": "ann"}], tmp_path / "requests")
        words = command(generator, address, tmp_path / "requests", Load(callers=2, seconds=20))
        child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while recorder.asked["ann"] < 4:
            time.sleep(0.01)
        server.stop(None).wait()
        _, said = child.communicate(timeout=15)
    assert child.returncode == 1
    assert "connection refused" in said
    assert address in said


def test_long_answers_come_whole(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    recorder, address = server
    recorder.filling = "x" * 3_000_000  # degraded comes behind it
    calls = load(generator, address, tmp_path, Load(rate=20, seconds=1))
    assert calls["code"] == ["OK", "OK", "OK", "ResourceExhausted"] * 5
    assert calls["degraded"] == [False, False, True, False] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "exactly one of -rate and -callers must be above 0"),
        (["-rate", "5", "-callers", "5"], "exactly one of -rate and -callers must be above 0"),
        (["-rate", "5", "-requests", "absent"], "absent: no such file"),
    ],
)
def test_it_says_what_is_wrong(generator: Path, options: list[str], message: str) -> None:
    done = subprocess.run([generator, *options], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_message_too_long_for_a_frame_is_refused(
    generator: Path, server: tuple[Recorder, str], tmp_path: Path
) -> None:
    _, address = server
    write_requests([{"user_id": "a" * 20_000}], tmp_path / "requests")
    words = command(generator, address, tmp_path / "requests", Load(callers=1, seconds=1))
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "message 0 is of 20004 bytes: at most 16379 can be sent" in done.stderr
