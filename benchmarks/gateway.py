"""What a request costs in the gateway itself, without gRPC and without what stages compute.

    python -m benchmarks.gateway [--requests 2000]

A real servicer, funnel and SQLite store; the stages answer at once with lists that were made
before: 500 candidates, 100 ranked, 10 in the answer. From the request's bytes to the answer's, CPU
time of all threads, alone and with 32 callers; then the same requests without a user, answered from
kept answers. Writes benchmarks/results/gateway.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).parent / "quality"))
from report import ROOT, command, machine

from corerec.release import Release
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.stages import (
    Candidates,
    RankedItem,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    Source,
)
from corerec.store import Event, open_store
from corerec.v1 import recommender_pb2
from gateway.config import GatewayConfig
from gateway.feed import Feed
from gateway.funnel import Funnel
from gateway.kept import AnswerCache
from gateway.profiles import Profiles
from gateway.servicer import RecommenderServicer
from gateway.view import ReleaseView
from tests.serving.fakes import columns, write_fake_release

RESULT = ROOT / "benchmarks/results/gateway.json"
ITEMS, USERS, EVENTS, ROUNDS = 100_000, 200, 60, 5
E = TypeVar("E")
R = TypeVar("R")


@dataclass
class Ready(Generic[E, R]):
    """A stage that answers at once."""

    make: Callable[[E], R]

    async def call(self, release: str, entry: E, budget: Budget) -> R:
        """Return what is made of the entry."""
        return self.make(entry)

    async def close(self) -> None:
        """Hold nothing."""


class Caller:
    """What the servicer asks of a call."""

    def time_remaining(self) -> float:
        """Return a second, always."""
        return 1.0


def ranked(entry: RankEntry) -> RankResult:
    """Reverse the candidates and return the first k."""
    own, k = entry.candidates, entry.k
    numbers = own.numbers[::-1][:k].copy()
    return RankResult(
        candidates=Candidates(numbers=numbers, scores=own.scores[:k], sources=own.sources[:k]),
        timings={"features": 100, "score": 200},
    )


def reranked(entry: RerankEntry) -> RerankResult:
    """Return the first k as they are."""
    numbers, scores = entry.candidates.numbers.tolist(), entry.candidates.scores.tolist()
    items = [
        RankedItem(
            number=number,
            item_id=f"i{number}",
            title=f"Title {number}",
            category="c",
            creator="m",
            score=score,
            rank_score=score,
            source=Source.TWO_TOWER,
            rank_position=place,
        )
        for place, (number, score) in enumerate(
            zip(numbers[: entry.k], scores[: entry.k], strict=True), 1
        )
    ]
    return RerankResult(items=items, timings={"rules": 100})


async def gateway(folder: Path) -> tuple[Funnel, Profiles, GatewayConfig]:
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
    lists = [columns(rng.permutation(ITEMS)[:500], Source.TWO_TOWER) for _ in range(64)]
    turn = iter(range(10**9))

    def retrieved(entry: RetrieveEntry) -> RetrieveResult:
        timings = {"two_tower_encode": 100, "two_tower_search": 100, "fuse": 50}
        return RetrieveResult(candidates=lists[next(turn) % len(lists)], timings=timings)

    feed = Feed(view.catalogue, metrics, every=0.1, kept=view.kept, rules=view.rules)
    profiles = Profiles(store, metrics, feed)
    await profiles.catch_up(Budget(60.0))
    profiles.follow()
    funnel = Funnel(
        config,
        metrics,
        view=view,
        profiles=profiles,
        retrieve=Ready(retrieved),
        rank=Ready(ranked),
        rerank=Ready(reranked),
    )
    return funnel, profiles, config


async def micros(
    servicer: RecommenderServicer, requests: list[bytes], count: int, callers: int
) -> float:
    """Return CPU microseconds a request, the best of several rounds."""
    caller: Any = Caller()

    async def call(numbers: Any) -> None:
        for number in numbers:
            await asyncio.sleep(0)  # as a call comes from the loop
            raw = requests[number % len(requests)]
            request = recommender_pb2.RecommendRequest.FromString(raw)
            answer = await servicer.Recommend(request, caller)
            assert len(answer.SerializeToString()) > 100

    best = float("inf")
    for _ in range(ROUNDS):
        numbers, start = iter(range(count)), time.process_time()
        await asyncio.gather(*(call(numbers) for _ in range(callers)))
        best = min(best, time.process_time() - start)
    return round(best / count * 1e6, 1)


async def measure(count: int) -> dict[str, dict[str, float]]:
    """Return what requests cost, by what they ask."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        funnel, profiles, config = await gateway(Path(folder))
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
            servicer = RecommenderServicer(config, funnel, kept)
            requests = [request.SerializeToString() for request in asked]
            found[name] = {
                f"micros_{callers}_callers": await micros(servicer, requests, count, callers)
                for callers in (1, 32)
            }
            print(name, found[name], flush=True)
        await funnel.close()
    return found


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    report = {
        "cpu": uvloop.run(measure(arguments.requests)),
        "machine": machine(),
        "command": command(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
