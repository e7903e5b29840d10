"""Front: encodes users to searches that any shard answers, and fuses what the shards found."""

# B users, S sources, k places, n candidates

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema, UserIndex
from corerec.live.content import KIND, ContentSide, EncodedItems
from corerec.live.snapshot import read_position, read_snapshot
from corerec.release import Release
from corerec.retrieval.cache import QueryCache
from corerec.retrieval.changes import encode_changes
from corerec.retrieval.check import check_history, check_where
from corerec.retrieval.fuse import Fused, fuse, turns
from corerec.retrieval.merge import POPULAR, merge
from corerec.retrieval.options import (
    HEADER,
    LISTS,
    RetrievalHeader,
    RetrievalOptions,
    asked_kinds,
    shares_of,
)
from corerec.retrieval.sources import UserEncoder, load_encoder
from corerec.retrieval.threads import use_threads
from corerec.stages import (
    MAX_K,
    Candidates,
    Float32s,
    Int64s,
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
    """The side of retrieval that knows users and no items; safe to call from several threads."""

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
        self._encoders, self._options = tuple(encoders), options
        self._content, self._threads = content, threads
        self._cache, self._later = QueryCache(cache_seconds), set[int]()
        self._position = 0
        self._kinds = asked_kinds(kinds, options.quotas)
        shares_of(kinds, options.quotas)
        self._shares = shares_of(self._kinds, options.quotas)
        marks = {encoder.kind: encoder.source for encoder in encoders} | dict(own) | LISTS
        self._marks = {kind: marks[kind] for kind in self._kinds}
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
        front.restore(release)
        return front

    @property
    def release(self) -> str:
        """Id of the release that this front holds."""
        return self._release

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the sources, in the order of their turns; the popular list is not among them."""
        return self._kinds

    @property
    def position(self) -> int:
        """Position of the newest change that was applied."""
        return self._position

    @property
    def counts(self) -> dict[str, int]:
        """How often the queries of a user were kept ones."""
        return {"query_hits": self._cache.hits, "query_misses": self._cache.misses}

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
        queries, micros = self._queries([entries[i].user for i in good])
        for i, own in zip(good, queries, strict=True):
            found[i] = self._search(entries[i], own)
        return Encoded(entries=[one for one in found if one is not None], micros=micros)

    def fuse(
        self,
        entry: RetrieveEntry,
        search: SearchEntry,
        results: Sequence[SearchResult | None],
        micros: Mapping[str, int] | None = None,
    ) -> RetrieveResult:
        """Return the candidates of an entry, best first, from what each shard found.

        `results` has one place a shard, None where a shard is missing; `micros` are those of
        `encode`. `coverage` is the share of the sources' places that were asked, of the shards that
        answered: a source without a query, or late in a shard, is missing there.
        """
        there = [result for result in results if result is not None]
        start = time.perf_counter_ns()
        lists = merge(there, entry.k)
        candidates, found_by = self._candidates(entry, search, lists)
        spent = (time.perf_counter_ns() - start) // 1000
        return RetrieveResult(
            candidates=candidates,
            coverage=self._coverage(there, len(results)),
            timings=self._timings(search, there, micros or {}) | {"fuse": spent},
            found_by=found_by,
            position=min((result.position for result in there), default=0),
        )

    def apply(self, changes: Sequence[ItemChange], encoded: EncodedItems | None = None) -> None:
        """Let changed items count in histories by their content, in the order of positions.

        `encoded` are the changed items as `ContentSide.encode_good` gives them, where the caller
        has them already. Not while another thread encodes.
        """
        fresh = [change for change in changes if change.position > self._position]
        if fresh:
            self._take(fresh, encoded)
            self._position = fresh[-1].position

    def restore(self, release: Release) -> None:
        """Take the changes that a release holds."""
        for part in read_snapshot(release):
            self._take(part, None)
        self._position = max(self._position, read_position(release))

    def _take(self, changes: Sequence[ItemChange], encoded: EncodedItems | None) -> None:
        if self._content is None or not self._content.has_tower:
            return
        if encoded is None:
            encoded = encode_changes(self._content, changes)
        for encoder in self._encoders:
            if encoder.kind == KIND and encoder.extend is not None:
                encoder.extend(encoded.numbers, encoded.base)
                self._later.update(encoded.numbers.tolist())

    def _queries(
        self, users: Sequence[UserContext]
    ) -> tuple[list[dict[str, Float32s]], dict[str, int]]:
        """Return each user's queries by kind, those that are not finite left out, and the time."""
        keys = [self._cache.key(user) for user in users] if self._cache.seconds else []
        kept = [self._cache.get(key) for key in keys] or [None] * len(users)
        found = [{} if own is None else dict(own) for own in kept]
        new = [row for row, own in enumerate(kept) if own is None]
        micros = dict.fromkeys((encoder.kind for encoder in self._encoders), 0)
        for encoder in self._encoders if new else ():
            start = time.perf_counter_ns()
            rows = np.ascontiguousarray(encoder.encode([users[row] for row in new]), np.float32)
            micros[encoder.kind] = (time.perf_counter_ns() - start) // 1000
            for row, query in zip(new, rows, strict=True):
                if np.isfinite(query).all():
                    found[row][encoder.kind] = query
        for row in new if keys else ():
            self._cache.put(keys[row], found[row])
        return found, micros

    def _fault(self, entry: RetrieveEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _search(
        self, entry: RetrieveEntry, queries: Mapping[str, Float32s]
    ) -> SearchEntry | CoreRecError:
        if self._encoders and not queries:
            kinds = ", ".join(encoder.kind for encoder in self._encoders)
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

    def _candidates(
        self, entry: RetrieveEntry, search: SearchEntry, lists: Mapping[str, SourceList]
    ) -> tuple[Candidates, dict[int, Float32s]]:
        k = entry.k
        places = np.full((len(self._kinds), k), -1, np.int64)  # (S, k)
        totals = np.zeros((len(self._kinds), k), np.float32)
        for row, kind in enumerate(self._kinds):
            if (own := lists.get(kind)) is not None:
                places[row, : len(own.numbers)] = own.numbers
                totals[row, : len(own.numbers)] = own.totals
        last = lists.get(POPULAR)
        found = fuse(
            places,
            turns(k, self._shares, tuple(int(mark) for mark in self._marks.values())),
            popular=np.empty(0, np.int64) if last is None else last.numbers,
            places=int(k * self._popular_share(entry.user)),
        )
        every = totals.reshape(-1)
        if last is not None:
            every = np.concatenate([every, last.totals])
        scores = self._scores(search, found, every)
        order = np.argsort(-scores, kind="stable")
        candidates = Candidates(
            numbers=found.numbers[order], scores=scores[order], sources=found.sources[order]
        )
        found_by = self._found_by(candidates.numbers, lists) if entry.explain else {}
        return candidates, found_by

    def _scores(self, search: SearchEntry, found: Fused, totals: Float32s) -> Float32s:
        """Return the weighted sum of dot products; without any, 1 / place among the draws."""
        if self._weighted.intersection(search.queries):
            return totals[found.at]
        return np.reciprocal(np.arange(1, len(found.numbers) + 1, dtype=np.float32))

    def _found_by(self, numbers: Int64s, lists: Mapping[str, SourceList]) -> dict[int, Float32s]:
        marks = self._marks | {POPULAR: Source.POPULAR}
        by_source: dict[int, Float32s] = {}
        order = np.argsort(numbers)
        for kind, own in lists.items():
            scores = by_source.setdefault(
                int(marks[kind]), np.full(len(numbers), np.nan, np.float32)
            )
            place = np.searchsorted(numbers, own.numbers, sorter=order)
            place = order[np.minimum(place, len(numbers) - 1)] if len(numbers) else place[:0]
            same = numbers[place] == own.numbers[: len(place)]
            scores[place[same]] = own.scores[: len(place)][same]
        return by_source

    def _coverage(self, there: Sequence[SearchResult], shards: int) -> float:
        counts = dict.fromkeys(self._kinds, 0)
        for result in there:
            for own in result.lists:
                if own.kind in counts:
                    counts[own.kind] += 1
        if all(count == shards for count in counts.values()):
            return 1.0
        parts = zip(self._shares, counts.values(), strict=True)
        return float(sum(share * count / shards for share, count in parts))

    def _timings(
        self, search: SearchEntry, there: Sequence[SearchResult], micros: Mapping[str, int]
    ) -> dict[str, int]:
        """Return each encoder's time, and the time of the slowest shard for each step of theirs."""
        found = {f"{kind}_encode": micros[kind] for kind in micros if kind in search.queries}
        for result in there:
            for step, spent in result.timings.items():
                found[step] = max(spent, found.get(step, 0))
        return found

    def _popular_share(self, user: UserContext) -> float:
        known = ((user.items >= 0) & (user.items < self._schema.item_count)).any()
        known = known or not self._later.isdisjoint(user.items.tolist())
        if known or self._users.rows([user.user_id])[0]:
            return self._options.popular_share
        return self._options.cold_popular_share
