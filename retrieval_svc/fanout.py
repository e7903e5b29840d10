"""The retrieval front over shards: encodes once, asks every shard, fuses what came back in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from corerec.errors import CoreRecError, InvalidArgument
from corerec.retrieval.front import Front
from corerec.serving.batching import Answer, Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.serving.stage import Stage
from corerec.stages import (
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
)
from corerec.store.catalogue import ItemChange
from retrieval_svc.config import RetrievalConfig


@dataclass(frozen=True, slots=True)
class _Encoded:
    search: SearchEntry
    micros: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Found:
    entry: RetrieveEntry
    encoded: _Encoded
    results: Sequence[SearchResult | None]


class Encoding:
    """The front's encoding as a core that a batcher runs and a tailer keeps up to date."""

    def __init__(self, front: Front) -> None:
        self._front = front

    @property
    def release(self) -> str:
        return self._front.release

    @property
    def position(self) -> int:
        return self._front.position

    def check(self, entry: RetrieveEntry) -> None:
        self._front.check(entry)

    def run(self, entries: Sequence[RetrieveEntry]) -> Sequence[_Encoded | CoreRecError]:
        encoded = self._front.encode(entries)
        return [
            own if isinstance(own, CoreRecError) else _Encoded(own, encoded.micros)
            for own in encoded.entries
        ]

    def apply(self, changes: Sequence[ItemChange]) -> None:
        self._front.apply(changes)

    def warm(self) -> None:
        self._front.warm()


class _Fusing:
    """The front's fusing as a core that a batcher runs."""

    def __init__(self, front: Front) -> None:
        self._front, self.release = front, front.release

    def check(self, entry: _Found) -> None:
        pass

    def run(self, entries: Sequence[_Found]) -> Sequence[RetrieveResult | CoreRecError]:
        return [
            self._front.fuse(own.entry, own.encoded.search, own.results, own.encoded.micros)
            for own in entries
        ]

    def warm(self) -> None:
        pass


class FanOut:
    """Runs retrieval over shards, with the face of a batcher.

    A shard that is late or lost lowers the coverage of the answer; without any shard the entry ends
    with the first one's error.
    """

    def __init__(
        self,
        front: Front,
        shards: Sequence[Stage[SearchEntry, SearchResult]],
        config: RetrievalConfig,
        metrics: Metrics,
        *,
        observe: Callable[[RetrieveResult], None] | None = None,
    ) -> None:
        self._release, self._shards, self._share = front.release, shards, config.shard_share
        self._observe, self._coverage = observe, metrics.coverage
        self._seconds = [metrics.shard_seconds.labels(str(i)) for i in range(len(shards))]
        self.encoding: Batcher[RetrieveEntry, _Encoded] = Batcher(
            Encoding(front),
            stage="retrieve",
            metrics=metrics,
            max_queue=config.max_queue,
            max_batch=config.max_batch,
            inline_seconds=config.inline_ms / 1000,
        )
        self._fusing: Batcher[_Found, RetrieveResult] = Batcher(
            _Fusing(front),
            stage="fuse",
            metrics=metrics,
            max_queue=config.max_queue,
            max_batch=config.max_batch,
            inline_seconds=config.inline_ms / 1000,
        )
        self._tasks: set[asyncio.Task[Answer[RetrieveResult]]] = set()

    @property
    def in_flight(self) -> int:
        """Entries that are being encoded, searched or fused."""
        return len(self._tasks)

    def submit(
        self, entry: RetrieveEntry, budget: Budget
    ) -> asyncio.Future[Answer[RetrieveResult]]:
        """Begin an entry; see `Batcher.submit`."""
        encoding = self.encoding.submit(entry, budget)
        task = asyncio.create_task(self._retrieve(entry, budget, encoding))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _retrieve(
        self,
        entry: RetrieveEntry,
        budget: Budget,
        encoding: asyncio.Future[Answer[_Encoded]],
    ) -> Answer[RetrieveResult]:
        encoded = await encoding
        started = time.monotonic()
        share = budget.share(self._share)
        outcomes = await asyncio.gather(
            *(self._ask(place, encoded.result.search, share) for place in range(len(self._shards)))
        )
        searched = int((time.monotonic() - started) * 1e6)
        found = [own if isinstance(own, SearchResult) else None for own in outcomes]
        errors = [own for own in outcomes if isinstance(own, CoreRecError)]
        refused = [error for error in errors if isinstance(error, InvalidArgument)]
        if refused or len(errors) == len(outcomes):  # what is wrong for one is wrong for all
            raise (refused or errors)[0]
        fused = await self._fusing.call(_Found(entry, encoded.result, found), budget)
        result = fused.result
        self._coverage.observe(result.coverage)
        if self._observe is not None:
            self._observe(result)
        timings = {**result.timings, "shards": searched}
        return Answer(replace(result, timings=timings), encoded.queue_micros)

    async def _ask(
        self, place: int, search: SearchEntry, share: Budget
    ) -> SearchResult | CoreRecError:
        started = time.monotonic()
        try:
            result = await self._shards[place].call(self._release, search, share)
        except CoreRecError as error:
            return error
        finally:
            self._seconds[place].observe(time.monotonic() - started)
        return result

    async def probe(self) -> None:
        """Return when the threads that encode and fuse are free to answer."""
        await self.encoding.probe()
        await self._fusing.probe()

    async def close(self) -> None:
        """Finish what is under way, then let the shards go."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.encoding.close()
        await self._fusing.close()
        for shard in self._shards:
            await shard.close()
