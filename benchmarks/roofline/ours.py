"""What the stages take: their cores over a release, in this process, on one core each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.release import Subject
from corerec.errors import CoreRecError
from corerec.ranking.core import RankingCore
from corerec.stages import MAX_HISTORY, RankEntry, RerankEntry, RetrieveEntry, UserContext
from corerec.store import SqliteStore
from ranking_svc.config import RankingConfig
from ranking_svc.process import load as load_ranking
from rerank_svc.config import RerankConfig
from rerank_svc.process import load as load_rerank
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.process import load as load_retrieval

CANDIDATES, RANKED, CHOSEN, EVENTS = 500, 100, 10, 64
"""What the gateway asks for by default, and the events that go to ranking."""


@dataclass(frozen=True, kw_only=True)
class Cores:
    """The three stages' cores."""

    retrieval: Any
    ranking: RankingCore
    rerank: Any

    @classmethod
    def load(cls, release: str) -> Cores:
        """Return the cores as the services load them, warm."""
        cores = cls(
            retrieval=load_retrieval(RetrievalConfig(), release),
            ranking=load_ranking(RankingConfig(device="cpu", precision="fp32"), release),
            rerank=load_rerank(RerankConfig(), release),
        )
        for core in (cores.retrieval, cores.ranking, cores.rerank):
            core.warm()
        return cores


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Milliseconds a request."""

    steps: Mapping[str, float]
    """Of each step: the shortest of all batches, by the stage's own clock."""
    stages: Mapping[str, float]
    """Core-milliseconds of each stage's whole call, the least of all batches."""


def users_of(subject: Subject, count: int) -> list[UserContext]:
    """Return users of the benchmark's requests, each once, with what the store knows of them."""
    asked = subject.requests[:count]
    store = SqliteStore(Path(subject.store))
    try:
        states = store.read_users([request["user_id"] for request in asked])
    finally:
        store.close()
    return [
        UserContext(
            user_id=request["user_id"],
            attributes=state.attributes,
            items=state.items[-MAX_HISTORY:],
            times=state.times[-MAX_HISTORY:],
            now=int(request["request_time_micros"]),
        )
        for request, state in zip(asked, states, strict=True)
    ]


def measure(
    cores: Cores, users: Sequence[UserContext], together: int, half: RankingCore | None
) -> Taken:
    """Run the funnel over all users, so many together. `half`: the ranker in bf16."""
    steps: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, list[float]] = defaultdict(list)

    def run(stage: str, core: Any, entries: Sequence[Any], suffix: str = "") -> list[Any]:
        started = time.process_time()
        results = list(core.run(entries))
        stages[stage].append(1e3 * (time.process_time() - started) / len(entries))
        for result in results:
            if isinstance(result, CoreRecError):
                raise result
        for name, micros in results[0].timings.items():
            # A batch's steps are each result's; those of rerank are one request's own.
            shared = 1 if stage == "rerank" else len(entries)
            steps[name + suffix].append(micros / 1e3 / shared)
        return results

    for start in range(0, len(users) - together + 1, together):
        group = users[start : start + together]
        found = run(
            "retrieve", cores.retrieval, [RetrieveEntry(user=u, k=CANDIDATES) for u in group]
        )
        asked = [
            RankEntry(user=newest(user), candidates=result.candidates, k=RANKED)
            for user, result in zip(group, found, strict=True)
        ]
        ranked = run("rank", cores.ranking, asked)
        if half:
            run("rank_bf16", half, asked, "_bf16")
        run(
            "rerank",
            cores.rerank,
            [
                RerankEntry(candidates=result.candidates, k=CHOSEN, now=user.now)
                for user, result in zip(group, ranked, strict=True)
            ],
        )
    return Taken(
        steps={name: min(values) for name, values in steps.items()},
        stages={name: min(values) for name, values in stages.items()},
    )


def newest(user: UserContext) -> UserContext:
    """Return the user with the events that the gateway sends to ranking."""
    return UserContext(
        user_id=user.user_id,
        attributes=user.attributes,
        items=user.items[-EVENTS:],
        times=user.times[-EVENTS:],
        now=user.now,
    )
