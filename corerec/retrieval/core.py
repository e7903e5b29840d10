"""RetrievalCore: users in, the few hundred items of the catalogue that each may want out."""

# B users, S sources, k places, N items, D width of a source's space

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema, UserIndex
from corerec.release import Release
from corerec.retrieval.check import check_history
from corerec.retrieval.fuse import Turns, fuse, turns
from corerec.retrieval.options import HEADER, RetrievalHeader, RetrievalOptions, shares_of
from corerec.retrieval.popular import PopularList
from corerec.retrieval.sources import RetrievalSource, VectorSource, load_source
from corerec.stages import (
    MAX_K,
    Candidates,
    Float32s,
    Int64s,
    RetrieveEntry,
    RetrieveResult,
    UserContext,
)


class RetrievalCore:
    """Retrieves for batches of users from one release; safe to call from several threads."""

    def __init__(
        self,
        *,
        release: str,
        sources: Sequence[RetrievalSource],
        popular: PopularList,
        schema: FeatureSchema,
        users: UserIndex,
        options: RetrievalOptions | None = None,
        threads: int = 1,
    ) -> None:
        """Join the parts; `RetrievalCore.load` reads them from a release.

        Raises:
            InvalidArgument: without a source, or with two of one kind.
            ConfigError: when a quota names a source that is not there.
        """
        kinds = [source.kind for source in sources]
        if not kinds or len(set(kinds)) < len(kinds):
            raise InvalidArgument(f"retrieval must have sources, each of another kind, got {kinds}")
        self._release, self._popular, self._schema, self._users = release, popular, schema, users
        self._options, self._threads = options or RetrievalOptions(), threads
        self._sources = tuple(sources)
        self._shares = shares_of(kinds, self._options.quotas)

    @classmethod
    def load(
        cls,
        release: Release,
        *,
        config: RetrievalOptions | None = None,
        threads: int = 1,
        own: Sequence[RetrievalSource] = (),
    ) -> RetrievalCore:
        """Return the core of a release, with the release's own options unless others are given.

        `own` are sources of yours that join those of the release.

        Raises:
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        schema = FeatureSchema.load(release.file("schema.json"))
        users = UserIndex.read(release.file("users.parquet"))
        header = RetrievalHeader.load(release.file(HEADER))
        weights = header.score_weights
        found = [
            load_source(release, kind, schema, weight=weights.get(kind, 1.0), threads=threads)
            for kind in header.sources
        ]
        return cls(
            release=release.id,
            sources=[*found, *own],
            popular=PopularList.load(release.file("popular.parquet"), schema.item_count),
            schema=schema,
            users=users,
            options=header.options if config is None else config,
            threads=threads,
        )

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    @property
    def sources(self) -> tuple[RetrievalSource, ...]:
        """The sources, in the order of their turns."""
        return self._sources

    def check(self, entry: RetrieveEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")
        check_history(entry.user)
        self._schema.check_attributes(entry.user.attributes)

    def run(self, entries: Sequence[RetrieveEntry]) -> Sequence[RetrieveResult | CoreRecError]:
        """Return candidates, best first, for each entry; a bad entry gets its error instead.

        A source whose model gives no finite query for a user is left out for that user: it has no
        timing, and `coverage` is the share of the places of those that were asked.
        """
        self._use_threads()
        results: list[RetrieveResult | CoreRecError | None] = [self._fault(e) for e in entries]
        good = [i for i, result in enumerate(results) if result is None]
        asked = [_Asked.of(s, [entries[i].user for i in good]) for s in self._sources]
        answered = np.array([own.finite for own in asked]).reshape(len(asked), len(good))
        for row, i in enumerate(good):
            if not answered[:, row].any():
                kinds = ", ".join(source.kind for source in self._sources)
                results[i] = CoreRecError(f"no source gave a finite query, asked: {kinds}")
        for k in {entries[i].k for i in good}:
            rows = [r for r, i in enumerate(good) if entries[i].k == k and results[i] is None]
            batch = [entries[good[r]] for r in rows]
            parts = [own.take(np.array(rows, np.int64)) for own in asked]
            for r, result in zip(rows, self._search(batch, parts, k), strict=True):
                results[good[r]] = result
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Run typical batches so that the first real one is as fast as any."""
        rng = np.random.default_rng(0)
        for size in (1, 8, 32):
            histories = rng.integers(0, max(1, self._schema.item_count), (size, 60))
            users = [UserContext(items=h, times=np.zeros(60, np.int64)) for h in histories]
            self.run([RetrieveEntry(user=user, k=500) for user in users])

    def score(self, users: Sequence[UserContext], numbers: Int64s) -> Float32s:
        """Return the scores (B, n) that items (B, n) have as candidates; NaN where they have none.

        They have none without a vector source: places in lists are no scores.
        """
        found = np.full(numbers.shape, np.nan, np.float32)
        for source in self._sources:
            if isinstance(source, VectorSource) and source.weight:
                for row, query in enumerate(source.encode(users)):
                    if np.isfinite(query).all():
                        found[row] = np.nan_to_num(found[row]) + source.score(query, numbers[row])
        return found

    def _fault(self, entry: RetrieveEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _search(
        self, entries: list[RetrieveEntry], asked: list[_Asked], k: int
    ) -> list[RetrieveResult]:
        none = np.empty(0, np.int64)
        seen = [entry.user.items if entry.exclude_seen else none for entry in entries]
        lists = np.full((len(entries), len(asked), k), -1, np.int64)  # (B, S, k)
        timings: list[dict[str, int]] = [{} for _ in entries]
        for place, own in enumerate(asked):
            start = time.perf_counter_ns()
            rows = np.flatnonzero(own.finite)
            lists[rows, place] = own.source.search(
                [entries[row].user for row in rows],
                own.queries[rows],
                k,
                [seen[row] for row in rows],
            )
            search = (time.perf_counter_ns() - start) // 1000
            for row in rows:
                timings[row] |= {
                    f"{own.source.kind}_encode": own.encode_micros,
                    f"{own.source.kind}_search": search,
                }
        drawn = turns(k, self._shares, tuple(int(s.source) for s in self._sources))
        start = time.perf_counter_ns()
        candidates = [
            self._fuse(entry.user, lists[row], drawn, seen[row], asked, row)
            for row, entry in enumerate(entries)
        ]
        micros = (time.perf_counter_ns() - start) // 1000
        return [
            RetrieveResult(
                candidates=own,
                coverage=self._coverage([bool(part.finite[row]) for part in asked]),
                timings=timings[row] | {"fuse": micros},
            )
            for row, own in enumerate(candidates)
        ]

    def _fuse(
        self,
        user: UserContext,
        lists: Int64s,
        drawn: Turns,
        seen: Int64s,
        asked: list[_Asked],
        row: int,
    ) -> Candidates:
        found = fuse(
            lists,
            drawn,
            popular=self._popular.numbers,
            places=int(lists.shape[1] * self._popular_share(user)),
            seen=seen,
            item_count=self._schema.item_count,
        )
        scores = self._scores(found.numbers, asked, row)
        order = np.argsort(-scores, kind="stable")
        return Candidates(
            numbers=found.numbers[order], scores=scores[order], sources=found.sources[order]
        )

    def _scores(self, numbers: Int64s, asked: list[_Asked], row: int) -> Float32s:
        """Return the weighted sum of dot products; without any, 1 / place among the draws."""
        scores: Float32s | None = None
        for own in asked:
            if isinstance(own.source, VectorSource) and own.finite[row] and own.source.weight:
                part = own.source.score(own.queries[row], numbers)
                scores = part if scores is None else scores + part
        if scores is None:
            return np.reciprocal(np.arange(1, len(numbers) + 1, dtype=np.float32))
        return scores

    def _coverage(self, answered: Sequence[bool]) -> float:
        if all(answered):
            return 1.0
        return float(sum(share for share, own in zip(self._shares, answered, strict=True) if own))

    def _popular_share(self, user: UserContext) -> float:
        items = user.items
        cold = not len(items) or not ((items >= 0) & (items < self._schema.item_count)).any()
        if cold and not self._users.rows([user.user_id])[0]:
            return self._options.cold_popular_share
        return self._options.popular_share

    def _use_threads(self) -> None:
        # OpenMP keeps its number of threads per calling thread, and an executor brings its own.
        omp: Any = faiss
        if omp.omp_get_max_threads() != self._threads:
            omp.omp_set_num_threads(self._threads)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


@dataclass(frozen=True)
class _Asked:
    """A source and its queries of a batch."""

    source: RetrievalSource
    queries: Float32s  # (B, D)
    finite: NDArray[np.bool_]  # (B,)
    encode_micros: int

    @classmethod
    def of(cls, source: RetrievalSource, users: list[UserContext]) -> _Asked:
        start = time.perf_counter_ns()
        queries = source.encode(users)
        micros = (time.perf_counter_ns() - start) // 1000
        return cls(source, queries, np.asarray(np.isfinite(queries).all(axis=1)), micros)

    def take(self, rows: Int64s) -> _Asked:
        finite: NDArray[np.bool_] = self.finite[rows]
        return _Asked(self.source, self.queries[rows], finite, self.encode_micros)
