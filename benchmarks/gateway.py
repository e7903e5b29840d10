"""What a request costs in the gateway itself, without gRPC and without what stages compute.

    python -m benchmarks.gateway [--rounds 400]

The interceptor, servicer, funnel and SQLite store are the real ones; the stages answer at once, in
this process, with messages that were made before: 500 candidates, 100 ranked, 10 in the answer.
They are asked and read as stages on other machines are, so that what is packed, parsed and checked
counts. From the request's bytes to the answer's, CPU time of all threads, by how many callers come
at once: hot, and cold, where other work uses the caches before each request and each stage's
answer, as the services beside a gateway do.
Then the same requests without a user, answered from kept answers. Writes
benchmarks/results/gateway.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent / "quality"))
from report import ROOT, command, machine

from corerec.release import Release
from corerec.serving.budget import Budget
from corerec.serving.contracts import RANK, RERANK, RETRIEVE, StageContract
from corerec.serving.interceptor import ServiceInterceptor
from corerec.serving.metrics import Metrics
from corerec.stages import (
    Candidates,
    RankedItem,
    RankResult,
    RerankResult,
    RetrieveResult,
    Source,
)
from corerec.store import Event, open_store
from corerec.v1 import recommender_pb2, recommender_pb2_grpc
from gateway.config import GatewayConfig
from gateway.feed import Feed
from gateway.funnel import Funnel
from gateway.groups import Groups
from gateway.kept import AnswerCache
from gateway.profiles import Profiles
from gateway.servicer import RecommenderServicer
from gateway.view import ReleaseView
from tests.serving.fakes import columns, write_fake_release

RESULT = ROOT / "benchmarks/results/gateway.json"
ITEMS, USERS, EVENTS, LISTS = 100_000, 200, 60, 64
CALLERS = (1, 2, 4, 8, 32)
METHOD = "/corerec.v1.RecommenderService/Recommend"
E = TypeVar("E")
R = TypeVar("R")


class Others:
    """What the services beside a gateway do to its caches."""

    def __init__(self) -> None:
        self._lines = np.zeros(16 << 20, np.uint8)
        self._texts = {f"k{i}": {"a": list(range(20)), "b": f"text {i}"} for i in range(100)}
        self.there = False
        self.spent = 0.0
        """CPU seconds that they took."""

    def work(self) -> None:
        """Stream through more memory than the caches hold and run other code, if they are there."""
        if self.there:
            start = time.thread_time()
            self._lines += 1
            json.loads(json.dumps(self._texts))
            self.spent += time.thread_time() - start


class Wired(Generic[E, R]):
    """A stage whose entries and answers cross a wire that takes no time: messages, no gRPC."""

    def __init__(
        self, contract: StageContract[E, R], others: Others, answer: Callable[[E], bytes]
    ) -> None:
        self._contract, self._others, self._answer = contract, others, answer
        self._waiting: list[tuple[E, Budget, asyncio.Future[R]]] = []

    async def call(self, release: str, entry: E, budget: Budget) -> R:
        """Return the answer; entries of one turn of the loop share a message."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send, release)
        self._waiting.append((entry, budget, future))
        return await future

    def _send(self, release: str) -> None:
        contract, waiting = self._contract, self._waiting
        self._waiting = []
        entries = [contract.entry_to_proto(entry, budget.micros) for entry, budget, _ in waiting]
        request = contract.request(release=release, entries=entries)
        assert len(contract.stream_request(call=1, batch=request).SerializeToString()) > 30
        raw = b"".join([self._answer(entry) for entry, _, _ in waiting])  # one message of many
        self._others.work()
        results = contract.response.FromString(raw).results
        for (_, _, future), result in zip(waiting, results, strict=True):
            assert not result.status.code
            future.set_result(contract.result_from_proto(result))

    async def close(self) -> None:
        """Hold nothing."""


class Caller:
    """What the interceptor and the servicer ask of a call."""

    def time_remaining(self) -> float:
        """Return a second, always."""
        return 1.0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a client of gRPC sends."""
        return (("user-agent", "grpc-python-asyncio/1.85.0"),)

    def set_trailing_metadata(self, metadata: object) -> None:
        """Send nothing."""


def retrieved(numbers: Any) -> RetrieveResult:
    """Return a list with the steps that retrieval reports."""
    names = ("queue", "two_tower_encode", "two_tower_search", "bert4rec_encode", "bert4rec_search")
    timings = dict.fromkeys((*names, "fuse"), 100)
    return RetrieveResult(candidates=columns(numbers, Source.TWO_TOWER), timings=timings)


def ranked(own: Candidates) -> RankResult:
    """Reverse the candidates and return the first hundred."""
    numbers = own.numbers[::-1][:100].copy()
    return RankResult(
        candidates=Candidates(numbers=numbers, scores=own.scores[:100], sources=own.sources[:100]),
        timings={"queue": 100, "features": 100, "score": 200},
    )


def reranked(own: Candidates) -> RerankResult:
    """Return the first ten as they are."""
    numbers, scores = own.numbers.tolist(), own.scores.tolist()
    items = [
        RankedItem(
            number=numbers[place],
            item_id=f"i{numbers[place]}",
            title=f"Title {numbers[place]}",
            category="c",
            creator="m",
            score=scores[place],
            rank_score=scores[place],
            source=Source.TWO_TOWER,
            rank_position=place + 1,
        )
        for place in range(10)
    ]
    timings = {"queue": 100, "rules": 100, "record": 100}
    return RerankResult(items=items, timings=timings)


def stages(others: Others) -> tuple[Wired[Any, Any], Wired[Any, Any], Wired[Any, Any]]:
    """Return the three stages; ranking and reranking find their answers by the first candidate."""
    rng = np.random.default_rng(0)
    first, second, third = [], {}, {}
    for _ in range(LISTS):
        found = retrieved(rng.permutation(ITEMS)[:500])
        best = ranked(found.candidates)
        final = reranked(best.candidates)
        first.append(_packed(RETRIEVE, found))
        second[int(found.candidates.numbers[0])] = _packed(RANK, best)
        third[int(best.candidates.numbers[0])] = _packed(RERANK, final)
    turn = iter(range(10**9))
    return (
        Wired(RETRIEVE, others, lambda entry: first[next(turn) % LISTS]),
        Wired(RANK, others, lambda entry: second[int(entry.candidates.numbers[0])]),
        Wired(RERANK, others, lambda entry: third[int(entry.candidates.numbers[0])]),
    )


def _packed(contract: StageContract[Any, Any], result: Any) -> bytes:
    message = contract.result_to_proto(result, result.timings)
    packed: bytes = contract.response(results=[message]).SerializeToString()
    return packed


async def gateway(folder: Path, others: Others) -> tuple[Funnel, Profiles, GatewayConfig, Metrics]:
    """Return a funnel over a catalogue and users with histories."""
    release = Release.open(write_fake_release(folder / "releases", items=ITEMS))
    config, metrics = GatewayConfig(store=str(folder / "store.db"), clock="data"), Metrics()
    view, store, rng = ReleaseView.load(release), open_store(config.store), np.random.default_rng(0)
    store.seed(release)
    store.append_events(
        [
            Event(
                user_id=f"u{user}",
                item_id=f"i{item}",
                item_number=item,
                time_micros=10**15 + item,
                event_type="view",
                event_id="",
            )
            for user in range(USERS)
            for item in rng.integers(0, ITEMS, EVENTS).tolist()
        ]
    )
    store.put_users((f"u{user}", {"age": str(user)}) for user in range(USERS))
    feed = Feed(view.catalogue, metrics, every=0.1, kept=view.kept, rules=view.rules)
    profiles = Profiles(store, metrics, feed)
    await profiles.catch_up(Budget(60.0))
    profiles.follow()
    retrieve, rank, rerank = stages(others)
    funnel = Funnel(
        config,
        metrics,
        view=view,
        profiles=profiles,
        retrieve=retrieve,
        rank=rank,
        rerank=rerank,
    )
    return funnel, profiles, config, metrics


async def served(
    servicer: RecommenderServicer, metrics: Metrics
) -> Callable[[bytes], Awaitable[bytes]]:
    """Return what answers a request's bytes, as the server does between gRPC's ends."""

    class Server:
        handler: Any

        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            self.handler = handlers[0]

        def add_registered_method_handlers(self, *_: object) -> None:
            pass

    class Details:
        method = METHOD
        invocation_metadata = ()

    server, interceptor, caller = Server(), ServiceInterceptor(metrics), Caller()
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, server)

    async def continuation(details: Any) -> Any:
        return server.handler.service(details)

    handler = await interceptor.intercept_service(continuation, Details())  # type: ignore[arg-type]

    async def answer(raw: bytes) -> bytes:
        request = handler.request_deserializer(raw)
        found: bytes = handler.response_serializer(await handler.unary_unary(request, caller))
        return found

    return answer


async def micros(
    answer: Callable[[bytes], Awaitable[bytes]],
    requests: list[bytes],
    rounds: int,
    callers: int,
    others: Others,
) -> float:
    """Return CPU microseconds a request, the median of the rounds."""
    found = []
    for turn in range(rounds):
        asked = [requests[(turn * callers + own) % len(requests)] for own in range(callers)]
        others.work()
        start, others.spent = time.process_time(), 0.0
        answers = await asyncio.gather(*(answer(raw) for raw in asked))
        found.append((time.process_time() - start - others.spent) / callers)
        assert min(map(len, answers)) > 100
        if turn % 64 == 0:
            await asyncio.sleep(0.001)
    return round(statistics.median(found) * 1e6, 1)


async def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return what requests cost, by what they ask, hot or cold, and how many come at once."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        others = Others()
        funnel, profiles, config, metrics = await gateway(Path(folder), others)
        known = [
            recommender_pb2.RecommendRequest(user_id=f"u{user}", page_size=10)
            for user in range(USERS)
        ]
        anonymous = [
            recommender_pb2.RecommendRequest(attributes={"age": str(user)}, page_size=10)
            for user in range(USERS)
        ]
        for name, asked, seconds in (
            ("users", known, 0.0),
            ("anonymous", anonymous, 0.0),
            ("anonymous, kept answers", anonymous, 60.0),
        ):
            kept = AnswerCache(profiles, seconds=seconds, most=1000)
            answer = await served(
                RecommenderServicer(config, funnel, kept, Groups(config.groups, metrics)), metrics
            )
            requests = [request.SerializeToString() for request in asked]
            others.there = False
            await micros(answer, requests, 100, 8, others)  # also fills what is kept
            found[name] = {}
            for state, others.there in (("hot", False), ("cold", True)):
                found[name][state] = {
                    str(callers): await micros(
                        answer, requests, max(rounds // callers, 50), callers, others
                    )
                    for callers in CALLERS
                }
            print(name, found[name], flush=True)
        await funnel.close()
    return found


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report = {
        "cpu_micros_by_callers": uvloop.run(measure(arguments.rounds)),
        "machine": machine(),
        "command": command(),
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
