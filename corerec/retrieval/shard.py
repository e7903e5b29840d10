"""ShardCore: queries in, what each source finds among the items of one shard out."""

# B entries, k items wanted of a source, n items of a list

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema
from corerec.release import Release
from corerec.retrieval.merge import POPULAR
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.popular import PopularList
from corerec.retrieval.sources import IndexedVectors, load_vectors
from corerec.retrieval.threads import use_threads
from corerec.retrieval.vector_search import Found, VectorSearch
from corerec.stages import (
    MAX_K,
    Float32s,
    Int64s,
    SearchEntry,
    SearchResult,
    SourceList,
)


class ShardCore:
    """Searches the items whose number is `shard` modulo `shards`, for batches of entries."""

    def __init__(
        self,
        *,
        release: str,
        sources: Sequence[IndexedVectors],
        popular: PopularList,
        shard: int = 0,
        shards: int = 1,
        threads: int = 1,
    ) -> None:
        """Join the parts; `ShardCore.load` reads them from a release.

        Raises:
            InvalidArgument: `shard` is not in [0, shards), or a source is of another shard.
        """
        if not 0 <= shard < shards:
            raise InvalidArgument(f"shard must be in [0, {shards}), got {shard}")
        if wrong := [s.kind for s in sources if (s.shard, s.shards) != (shard, shards)]:
            raise InvalidArgument(f"sources must be of shard {shard} of {shards}, {wrong} are not")
        self._release, self._threads = release, threads
        self._vectors = tuple(VectorSearch(source) for source in sources)
        self._popular = popular.of_shard(shard, shards)

    @classmethod
    def load(
        cls, release: Release, shard: int = 0, shards: int = 1, *, threads: int = 1
    ) -> ShardCore:
        """Return a shard of a release.

        Raises:
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        schema = FeatureSchema.load(release.file("schema.json"))
        header = RetrievalHeader.load(release.file(HEADER))
        weights = header.score_weights
        sources = [
            load_vectors(release, kind, schema, weight=weights.get(kind, 1.0)).of_shard(
                shard, shards
            )
            for kind in header.sources
        ]
        return cls(
            release=release.id,
            sources=sources,
            popular=PopularList.load(release.file("popular.parquet"), schema.item_count),
            shard=shard,
            shards=shards,
            threads=threads,
        )

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    def check(self, entry: SearchEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")
        for name in ("excluded", "history"):
            column = getattr(entry, name)
            if column.ndim != 1 or column.dtype != np.int64:
                raise InvalidArgument(
                    f"{name} must be one-dimensional int64, got {column.dtype} {column.shape}"
                )
        known = {own.kind: own for own in self._vectors}
        for kind, query in entry.queries.items():
            if kind not in known:
                raise InvalidArgument(f"queries must be of {list(known)}, got {kind!r}")
            known[kind].check(query)

    def run(self, entries: Sequence[SearchEntry]) -> Sequence[SearchResult | CoreRecError]:
        """Return every source's list for each entry; a bad entry gets its error instead."""
        use_threads(self._threads)
        results: list[SearchResult | CoreRecError | None] = [self._fault(e) for e in entries]
        good = [i for i, result in enumerate(results) if result is None]
        for k in sorted({entries[i].k for i in good}):
            rows = [i for i in good if entries[i].k == k]
            for i, own in zip(rows, self._search([entries[i] for i in rows], k), strict=True):
                results[i] = own
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Run typical batches so that the first real one is as fast as any."""
        rng = np.random.default_rng(0)
        for size in (1, 8, 32):
            entries = []
            for _ in range(size):
                queries = {
                    own.kind: rng.normal(size=own.vectors.dim).astype(np.float32)
                    for own in self._vectors
                }
                entries.append(SearchEntry(queries=queries, k=500))
            self.run(entries)

    def totals(self, entry: SearchEntry, numbers: Int64s) -> Float32s:
        """Return the scores (n,) that items (n,) of this shard have as candidates."""
        return self._totals(entry, numbers, {})

    def _fault(self, entry: SearchEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _search(self, entries: Sequence[SearchEntry], k: int) -> list[SearchResult]:
        found: list[dict[str, Found]] = [{} for _ in entries]
        timings: list[dict[str, int]] = [{} for _ in entries]
        for own in self._vectors:
            rows = [row for row, entry in enumerate(entries) if own.kind in entry.queries]
            if not rows:
                continue
            start = time.perf_counter_ns()
            queries = np.stack([entries[row].queries[own.kind] for row in rows])
            lists = own.search(queries, k, [entries[row].excluded for row in rows])
            micros = (time.perf_counter_ns() - start) // 1000
            for row, part in zip(rows, lists, strict=True):
                found[row][own.kind] = part
                timings[row][f"{own.kind}_search"] = micros
        for row, entry in enumerate(entries):
            found[row][POPULAR] = self._popular.best(k, entry.excluded)
        return [
            SearchResult(lists=self._lists(entry, found[row]), timings=timings[row])
            for row, entry in enumerate(entries)
        ]

    def _lists(self, entry: SearchEntry, found: dict[str, Found]) -> tuple[SourceList, ...]:
        return tuple(
            SourceList(
                kind=kind,
                numbers=numbers,
                scores=scores,
                totals=self._totals(entry, numbers, {kind: scores}),
            )
            for kind, (numbers, scores) in found.items()
        )

    def _totals(self, entry: SearchEntry, numbers: Int64s, known: dict[str, Float32s]) -> Float32s:
        """Return the weighted sum of dot products (n,), those of a kind in `known` not again."""
        total = np.zeros(len(numbers), np.float32)
        for own in self._vectors:
            if own.weight and own.kind in entry.queries:
                dots = known.get(own.kind)
                if dots is None:
                    dots = own.vectors.dots(entry.queries[own.kind], numbers)
                total += own.weighted(dots)
        return total
