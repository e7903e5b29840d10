"""Front: encodes users to searches that any shard answers, and fuses what the shards found."""

# B users, S sources, k places, n candidates

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema, UserIndex
from corerec.live.content import ContentSide, EncodedItems
from corerec.live.snapshot import read_snapshot
from corerec.release import Release
from corerec.retrieval.check import check_history, check_where
from corerec.retrieval.fusion import Fusion, Totals, timings_of
from corerec.retrieval.merge import POPULAR, merge
from corerec.retrieval.options import (
    HEADER,
    LISTS,
    RetrievalHeader,
    RetrievalOptions,
    asked_kinds,
    shares_of,
)
from corerec.retrieval.queries import UserQueries
from corerec.retrieval.sources import UserEncoder, load_encoder
from corerec.retrieval.threads import use_threads
from corerec.stages import (
    MAX_K,
    Float32s,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    Source,
    SourceList,
    UserContext,
)
from corerec.store.catalogue import ItemChange

MAX_LAST = 20
"""Newest items of a user that a shard is told of, for item-to-item."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The searches of a batch of entries."""

    entries: list[SearchEntry | CoreRecError]
    """One an entry; an error where it broke a rule or no source has a finite query."""
    micros: Mapping[str, int] = field(default_factory=dict)
    """Microseconds that each encoder took over the batch, by kind."""


class Front:
    """The side of retrieval that knows users and no items.

    `encode` and `apply` are called from one thread at a time, `fuse` from any.
    """

    def __init__(
        self,
        *,
        release: str,
        encoders: Sequence[UserEncoder],
        schema: FeatureSchema,
        users: UserIndex,
        options: RetrievalOptions | None = None,
        own: Mapping[str, Source] | None = None,
        content: ContentSide | None = None,
        threads: int = 1,
        cache_seconds: float = 0.0,
    ) -> None:
        """Join the parts; `Front.load` reads them from a release.

        `own` are lists that the caller adds to the results of the shards, by kind. Without
        `content` items that came after training count in no history. Queries are kept for
        `cache_seconds`.

        Raises:
            InvalidArgument: without a source, or with two of one kind.
            ConfigError: when a quota names a source that is not there.
        """
        own, options = own or {}, options or RetrievalOptions()
        kinds = [*(encoder.kind for encoder in encoders), *own]
        if not kinds or len(set(kinds)) < len(kinds):
            raise InvalidArgument(f"retrieval must have sources, each of another kind, got {kinds}")
        self._release, self._schema, self._users = release, schema, users
        self._queries = UserQueries(
            encoders, schema.item_count, content=content, cache_seconds=cache_seconds
        )
        self._options, self._threads = options, threads
        self._kinds = asked_kinds(kinds, options.quotas)
        shares_of(kinds, options.quotas)
        marks = {encoder.kind: encoder.source for encoder in encoders} | dict(own) | LISTS
        self._fusion = Fusion(
            {kind: marks[kind] for kind in self._kinds}, shares_of(self._kinds, options.quotas)
        )
        self._weighted = {encoder.kind for encoder in encoders if encoder.weight}

    @classmethod
    def load(
        cls,
        release: Release,
        *,
        config: RetrievalOptions | None = None,
        threads: int = 1,
        cache_seconds: float = 0.0,
    ) -> Front:
        """Return the front of a release, with the release's own options unless others are given.

        Raises:
            ReleaseError: when a file is missing.
        """
        header = RetrievalHeader.load(release.file(HEADER))
        weights = header.score_weights
        front = cls(
            release=release.id,
            encoders=[
                load_encoder(release, kind, weight=weights.get(kind, 1.0), threads=threads)
                for kind in header.sources
            ],
            schema=FeatureSchema.load(release.file("schema.json")),
            users=UserIndex.read(release.file("users.parquet")),
            options=header.options if config is None else config,
            content=ContentSide.load(release),
            threads=threads,
            cache_seconds=cache_seconds,
        )
        for changes in read_snapshot(release):
            front.apply(changes)
        return front

    @property
    def release(self) -> str:
        """Id of the release that this front holds."""
        return self._release

    @property
    def position(self) -> int:
        """Position of the newest change that was applied."""
        return self._queries.position

    @property
    def counts(self) -> dict[str, int]:
        """How often the queries of a user were kept ones."""
        cache = self._queries.cache
        return {"query_hits": cache.hits, "query_misses": cache.misses}

    def check(self, entry: RetrieveEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule; shards know the attributes' names."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")
        check_history(entry.user)
        self._schema.check_attributes(entry.user.attributes)
        check_where(entry.where)

    def encode(self, entries: Sequence[RetrieveEntry]) -> Encoded:
        """Return a search for each entry; a bad entry gets its error instead.

        A source whose model gives no finite query for a user is left out for that user.
        """
        use_threads(self._threads)
        found: list[SearchEntry | CoreRecError | None] = [self._fault(e) for e in entries]
        good = [i for i, result in enumerate(found) if result is None]
        queries, micros = self._queries.encode([entries[i].user for i in good])
        for i, own in zip(good, queries, strict=True):
            found[i] = self._search(entries[i], own)
        return Encoded(entries=[one for one in found if one is not None], micros=micros)

    def fuse(
        self,
        entry: RetrieveEntry,
        search: SearchEntry,
        results: Sequence[SearchResult | None],
        micros: Mapping[str, int] | None = None,
        totals: Totals | None = None,
    ) -> RetrieveResult:
        """Return the candidates of an entry, best first, from what each shard found.

        `results` has one place a shard, None where a shard is missing; `micros` are those of
        `encode`; with `totals` those of the lists are not needed. `coverage` is the share of the
        sources' places that were asked, of the shards that answered: a source without a query, or
        late in a shard, is missing there.
        """
        there = [result for result in results if result is not None]
        start = time.perf_counter_ns()
        lists = merge(there, entry.k)
        candidates = self._fusion.candidates(
            lists,
            entry.k,
            places=int(entry.k * self._popular_share(entry.user)),
            weighted=self._weighted.intersection(search.queries),
            totals=totals,
        )
        found_by = self._fusion.found_by(candidates.numbers, lists) if entry.explain else {}
        spent = (time.perf_counter_ns() - start) // 1000
        return RetrieveResult(
            candidates=candidates,
            coverage=self._fusion.coverage(there, len(results)),
            timings=timings_of(list(search.queries), there, micros or {}) | {"fuse": spent},
            found_by=found_by,
            position=min((result.position for result in there), default=0),
        )

    def warm(self) -> None:
        """Encode and fuse typical batches so that the first real one is as fast as any."""
        history = np.arange(60, dtype=np.int64)
        numbers = np.arange(500, dtype=np.int64)
        scores = np.linspace(1, 0, 500, dtype=np.float32)
        lists = tuple(
            SourceList(kind=kind, numbers=numbers, scores=scores, totals=scores)
            for kind in (*self._kinds, POPULAR)
        )
        for size in (1, 8, 32):
            users = [UserContext(user_id=f"{i}", items=history, times=history) for i in range(size)]
            entries = [RetrieveEntry(user=user, k=500) for user in users]
            for entry, search in zip(entries, self.encode(entries).entries, strict=True):
                if isinstance(search, SearchEntry):
                    self.fuse(entry, search, [SearchResult(lists=lists)])

    def apply(self, changes: Sequence[ItemChange], encoded: EncodedItems | None = None) -> None:
        """Let changed items count in histories by their content, in the order of positions.

        `encoded` are the changed items as `ContentSide.encode_good` gives them, where the caller
        has them already. Not while another thread encodes.
        """
        self._queries.apply(changes, encoded)

    def _fault(self, entry: RetrieveEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _search(
        self, entry: RetrieveEntry, queries: Mapping[str, Float32s]
    ) -> SearchEntry | CoreRecError:
        encoders = self._queries.encoders
        if encoders and not queries:
            kinds = ", ".join(encoder.kind for encoder in encoders)
            return CoreRecError(f"no source gave a finite query, asked: {kinds}")
        items = entry.user.items
        return SearchEntry(
            request_id=entry.request_id,
            queries=queries,
            k=entry.k,
            excluded=items if entry.exclude_seen else np.empty(0, np.int64),
            history=items[-MAX_LAST:],
            where=entry.where,
            now=entry.user.now,
        )

    def _popular_share(self, user: UserContext) -> float:
        if self._queries.knows(user.items) or self._users.rows([user.user_id])[0]:
            return self._options.popular_share
        return self._options.cold_popular_share
