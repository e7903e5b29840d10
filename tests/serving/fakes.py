"""Hand-written cores with the faults that tests want, and a whole cluster of plain processes' parts
in one event loop: real gRPC servers at port 0, real stage clients, a real store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import polars as pl

from corerec.errors import CoreRecError, InvalidArgument
from corerec.release import ReleaseWriter, write_catalogue
from corerec.rerank.rules import DEFAULT_RULES
from corerec.serving.config import StageConfig
from corerec.serving.contracts import RANK, RERANK, RETRIEVE, StageContract
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.process import ServerProcess, stage_process
from corerec.stages import (
    Candidates,
    RankedItem,
    RankEntry,
    RankResult,
    RemovedItem,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    Source,
)
from corerec.store import SqliteStore, Store
from corerec.store import open_store as open_store_at
from gateway.config import GatewayConfig
from gateway.process import process as gateway_process
from gateway.process import remote_stages

ITEMS = 1000
RELEASE = "test-release"
"""Items of the fake catalogue; item i is called f"i{i}"."""


def write_fake_release(out: Path, release_id: str = RELEASE, items: int = ITEMS) -> Path:
    """Write a release with a catalogue, users, a popular list and rules, and no model."""
    with ReleaseWriter(out, release_id) as writer:
        numbers = np.arange(items)
        frame = pl.DataFrame(
            {
                "item_number": numbers,
                "item_id": [f"i{n}" for n in numbers],
                "title": [f"Title {n}" for n in numbers],
                "category": [f"c{n % 7}" for n in numbers],
                "creator": [f"m{n % 31}" for n in numbers],
                "born_micros": np.zeros(items, np.int64),
            }
        )
        write_catalogue(writer.path("catalogue.parquet"), frame)
        best = numbers[::-1][:1000]
        pl.DataFrame(
            {"item_number": best, "score": np.linspace(1, 0.1, len(best)).astype(np.float32)}
        ).write_parquet(writer.path("popular.parquet"))
        pl.DataFrame({"user_id": ["u1", "u2"], "age": ["25", "40"]}).write_parquet(
            writer.path("users.parquet")
        )
        seen = np.arange(20)
        pl.DataFrame(
            {
                "user_id": ["u1"] * 20,
                "item_number": seen,
                "item_id": [f"i{n}" for n in seen],
                "event_time_micros": 1_000_000 * (seen + 1),
                "event_type": ["view"] * 20,
            }
        ).write_parquet(writer.path("histories.parquet"))
        writer.path("rules.toml").write_bytes(DEFAULT_RULES.read_bytes())
        return writer.commit({"data_end_micros": 1_700_000_000_000_000, "dataset": "fake"})


@dataclass
class Faults:
    """What a fake core is to do wrong; tests change it while it serves."""

    delay: float = 0.0
    error: Exception | None = None
    mangle: Callable[[Any], Any] | None = None
    """Applied to every result."""
    answer: Callable[[Any], Any] | None = None
    """Makes the result instead of the core."""
    hold: threading.Event | None = None
    """A batch waits until it is set."""
    batches: list[list[str]] = field(default_factory=list)
    """Request ids of every batch that was computed."""


class FakeCore:
    """Common part of the fakes: a release, faults and a record of what was computed."""

    def __init__(self, faults: Faults, release: str = RELEASE, most: int = 2000) -> None:
        self.release, self.faults, self._most = release, faults, most

    def check(self, entry: Any) -> None:
        if not 1 <= entry.k <= self._most:
            raise InvalidArgument(f"k must be in [1, {self._most}], got {entry.k}")

    def warm(self) -> None:
        pass

    def run(self, entries: Sequence[Any]) -> Sequence[Any]:
        self.faults.batches.append([e.request_id for e in entries])
        if self.faults.hold is not None:
            self.faults.hold.wait(10)
        if self.faults.delay:
            time.sleep(self.faults.delay)
        return [self._one(e) for e in entries]

    def _one(self, entry: Any) -> Any:
        if self.faults.error is not None:
            if isinstance(self.faults.error, CoreRecError):
                return self.faults.error
            raise self.faults.error
        result = (self.faults.answer or self.answer)(entry)
        return self.faults.mangle(result) if self.faults.mangle else result

    def answer(self, entry: Any) -> Any:
        raise AssertionError


class FakeRetrieve(FakeCore):
    """Retrieves the lowest unseen numbers."""

    def answer(self, entry: RetrieveEntry) -> RetrieveResult:
        seen = entry.user.items if entry.exclude_seen else np.empty(0, np.int64)
        numbers = np.setdiff1d(np.arange(ITEMS, dtype=np.int64), seen)[: entry.k]
        return RetrieveResult(candidates=columns(numbers, Source.TWO_TOWER))


class FakeRank(FakeCore):
    """Reverses the order of retrieval."""

    def answer(self, entry: RankEntry) -> RankResult:
        numbers = entry.candidates.numbers[::-1][: entry.k].copy()
        return RankResult(candidates=columns(numbers, Source.TWO_TOWER))


class FakeRerank(FakeCore):
    """Takes the first k as they are."""

    def answer(self, entry: RerankEntry) -> RerankResult:
        sent = entry.candidates
        items = [
            RankedItem(
                number=int(n),
                item_id=f"i{n}",
                title=f"Title {n}",
                category="",
                creator="",
                score=float(s),
                rank_score=float(s),
                source=Source.TWO_TOWER,
                rank_position=place,
            )
            for place, (n, s) in enumerate(
                zip(sent.numbers[: entry.k], sent.scores[: entry.k], strict=True), 1
            )
        ]
        rest = sent.numbers[entry.k :].tolist() if entry.explain else []
        removed = [RemovedItem(number=n, rule="cut", note="below the cut") for n in rest]
        return RerankResult(items=items, removed=removed)


def columns(numbers: np.ndarray, source: Source) -> Candidates:
    """Return candidates with descending scores."""
    return Candidates(
        numbers=numbers,
        scores=np.linspace(0.9, 0.1, len(numbers)).astype(np.float32),
        sources=np.full(len(numbers), source, np.uint8),
    )


_PARTS: dict[str, tuple[StageContract[Any, Any], type[FakeCore]]] = {
    "retrieval": (RETRIEVE, FakeRetrieve),
    "ranking": (RANK, FakeRank),
    "rerank": (RERANK, FakeRerank),
}


async def start_fake_stage(
    name: str, faults: Faults, release: str = RELEASE, **config: Any
) -> ServerProcess:
    """Start one stage server with a fake core, on a free port."""
    from ranking_svc.servicer import add as add_ranking
    from rerank_svc.servicer import add as add_rerank
    from retrieval_svc.servicer import add as add_retrieval

    contract, core = _PARTS[name]
    add: Any = {"retrieval": add_retrieval, "ranking": add_ranking, "rerank": add_rerank}[name]
    process = stage_process(
        StageConfig(**{"drain_notice_seconds": 0.05, "inline_ms": 0, **config}),
        contract,
        name=name,
        load=lambda: core(faults, release),
        add=add,
    )
    await process.start()
    return process


class FakeCluster:
    """A gateway and its three stages, each behind its own gRPC server."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.release_path = write_fake_release(folder / "releases")
        common = {"port": 0, "store": str(folder / "store.db"), "clock": "data"}
        self.config = GatewayConfig(**{"drain_notice_seconds": 0.05, **common, **config})
        self.faults = {name: Faults() for name in _PARTS}
        self.stages: dict[str, list[ServerProcess]] = {}
        self.endpoints: dict[str, StaticEndpoints] = {}
        self.gateway: ServerProcess
        self.store_type: type[SqliteStore] = SqliteStore
        self.store: SqliteStore

    async def start(self, replicas: int = 1, **stage_config: Any) -> FakeCluster:
        for name, faults in self.faults.items():
            self.stages[name] = [
                await start_fake_stage(name, faults, **stage_config) for _ in range(replicas)
            ]
            self.endpoints[name] = StaticEndpoints([p.address for p in self.stages[name]])

        async def connect(config: Any, metrics: Any) -> Any:
            return remote_stages(config, metrics, lambda name: self.endpoints[name])

        def open_store(address: str) -> Store:
            if "://" in address:
                return open_store_at(address, busy_seconds=0.5)
            self.store = self.store_type(Path(address))
            return self.store

        self.gateway = gateway_process(
            self.config, str(self.release_path), connect=connect, open_store=open_store
        )
        await self.gateway.start()
        return self

    @property
    def address(self) -> str:
        return self.gateway.address

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address)

    async def stop(self) -> None:
        for faults in self.faults.values():
            if faults.hold is not None:
                faults.hold.set()
        await self.gateway.drain()
        stages = [process for stages in self.stages.values() for process in stages]
        await asyncio.gather(*(process.drain() for process in stages))
