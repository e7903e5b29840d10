"""RetrievalCore: users in, the few hundred items of the catalogue that each may want out."""

# B users, n items

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from corerec.errors import CoreRecError
from corerec.features import FeatureSchema, UserIndex
from corerec.live.content import ContentSide
from corerec.live.snapshot import is_indexed, read_snapshot
from corerec.release import Release
from corerec.retrieval.changes import encode_changes
from corerec.retrieval.filters import AttributeTable
from corerec.retrieval.front import Front
from corerec.retrieval.lists import ItemList
from corerec.retrieval.options import HEADER, RetrievalHeader, RetrievalOptions
from corerec.retrieval.popular import PopularList
from corerec.retrieval.probe import Recall
from corerec.retrieval.release_lists import ReleaseTables, make_lists
from corerec.retrieval.shard import ShardCore
from corerec.retrieval.sources import (
    RetrievalSource,
    UserEncoder,
    VectorSource,
    join_source,
    load_encoder,
    load_vectors,
)
from corerec.stages import (
    Float32s,
    Int64s,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    SourceList,
    UserContext,
)
from corerec.store.catalogue import ItemChange


class RetrievalCore:
    """A front and one shard of all items in one process, for batches of users of one release."""

    def __init__(
        self,
        *,
        release: str,
        sources: Sequence[RetrievalSource],
        popular: PopularList,
        schema: FeatureSchema,
        users: UserIndex,
        options: RetrievalOptions | None = None,
        lists: Sequence[ItemList] = (),
        attributes: AttributeTable | None = None,
        content: ContentSide | None = None,
        threads: int = 1,
        cache_seconds: float = 0.0,
        probe_share: float = 0.0,
    ) -> None:
        """Join the parts; `RetrievalCore.load` reads them from a release.

        `lists` are those that the quotas of the options name; see Front and ShardCore for the rest.

        Raises:
            InvalidArgument: without a source, or with two of one kind.
            ConfigError: when a quota names a source that is not there.
        """
        self._sources = tuple(sources)
        self._popular, self._schema, self._users = popular, schema, users
        self._options = options or RetrievalOptions()
        vectors = [source for source in sources if isinstance(source, VectorSource)]
        self._own = [source for source in sources if not isinstance(source, VectorSource)]
        self._encoders = [
            UserEncoder(
                kind=s.kind, source=s.source, encode=s.encode, weight=s.weight, extend=s.extend
            )
            for s in vectors
        ]
        self._content = content
        self.front = Front(
            release=release,
            encoders=self._encoders,
            schema=schema,
            users=users,
            options=self._options,
            own={source.kind: source.source for source in self._own},
            content=content,
            threads=threads,
            cache_seconds=cache_seconds,
        )
        self.shard = ShardCore(
            release=release,
            sources=vectors,
            popular=popular,
            item_count=schema.item_count,
            lists=lists,
            attributes=attributes,
            content=content,
            timeouts=self._options.timeouts,
            threads=threads,
            probe_share=probe_share,
        )

    @classmethod
    def load(
        cls,
        release: Release,
        *,
        config: RetrievalOptions | None = None,
        threads: int = 1,
        own: Sequence[RetrievalSource] = (),
        cache_seconds: float = 0.0,
        probe_share: float = 0.0,
    ) -> RetrievalCore:
        """Return the core of a release, with the release's own options unless others are given.

        `own` are sources of yours that join those of the release. Queries are kept for
        `cache_seconds`; `probe_share` of the searches for 500 items or more are measured against
        the exact answer.

        Raises:
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        schema = FeatureSchema.load(release.file("schema.json"))
        header = RetrievalHeader.load(release.file(HEADER))
        weights = {kind: header.score_weights.get(kind, 1.0) for kind in header.sources}
        found = [
            join_source(
                load_encoder(release, kind, weight=weight, threads=threads),
                load_vectors(release, kind, schema, weight=weight),
            )
            for kind, weight in weights.items()
        ]
        options = header.options if config is None else config
        core = cls(
            release=release.id,
            sources=[*found, *own],
            popular=PopularList.load(release.file("popular.parquet"), schema.item_count),
            schema=schema,
            users=UserIndex.read(release.file("users.parquet")),
            options=options,
            lists=make_lists(ReleaseTables(release), options),
            attributes=AttributeTable.load(release),
            content=ContentSide.load(release),
            threads=threads,
            cache_seconds=cache_seconds,
            probe_share=probe_share,
        )
        for changes in read_snapshot(release):
            core.apply(changes, indexed=is_indexed(release))
        return core

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self.front.release

    @property
    def sources(self) -> tuple[RetrievalSource, ...]:
        """The sources, in the order of their turns."""
        return self._sources

    @property
    def position(self) -> int:
        """Position of the newest change that was applied."""
        return self.shard.position

    @property
    def recall(self) -> Recall:
        """What the probe has measured of live searches."""
        return self.shard.recall

    @property
    def counts(self) -> dict[str, int]:
        """How often queries, lists and masks were kept ones, sources late, and items refused."""
        return self.front.counts | self.shard.counts

    def check(self, entry: RetrieveEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        self.front.check(entry)

    def run(self, entries: Sequence[RetrieveEntry]) -> Sequence[RetrieveResult | CoreRecError]:
        """Return candidates, best first, for each entry; a bad entry gets its error instead.

        A source whose model gives no finite query for a user is left out for that user: it has no
        timing, and `coverage` is the share of the places of those that were asked.
        """
        encoded = self.front.encode(entries)
        results: list[RetrieveResult | CoreRecError] = []
        good = [i for i, own in enumerate(encoded.entries) if isinstance(own, SearchEntry)]
        searches = [own for own in encoded.entries if isinstance(own, SearchEntry)]
        found = dict(zip(good, self.shard.run(searches, own=True), strict=True))
        if self._own and good:
            self._ask_own(entries, dict(zip(good, searches, strict=True)), found)
        for i, own in enumerate(encoded.entries):
            if isinstance(own, CoreRecError):
                results.append(own)
                continue
            result = found[i]
            if isinstance(result, SearchResult):
                totals = partial(self.shard.totals, own)
                results.append(self.front.fuse(entries[i], own, [result], encoded.micros, totals))
            else:
                results.append(result)
        return results

    def warm(self) -> None:
        """Run typical batches and changes so that the first real ones are as fast as any."""
        self.shard.warm()
        rng = np.random.default_rng(0)
        for size in (1, 8, 32):
            histories = rng.integers(0, max(1, self._schema.item_count), (size, 60))
            users = [UserContext(items=h, times=np.zeros(60, np.int64)) for h in histories]
            self.run([RetrieveEntry(user=user, k=500) for user in users])

    def apply(self, changes: Sequence[ItemChange], *, indexed: bool = False) -> None:
        """Take changes of the catalogue, in the order of their positions; see ShardCore."""
        fresh = [change for change in changes if change.position > self.position]
        if fresh:
            encoded = None
            if self._content is not None and self._content.has_tower:
                encoded = encode_changes(self._content, fresh)
            self.front.apply(fresh, encoded)
            self.shard.apply(fresh, encoded, indexed=indexed)

    def maintain(self) -> bool:
        """Merge a little of what came into the main indexes; True while there is more."""
        return self.shard.maintain()

    def add_events(self, events: Int64s) -> None:
        """Learn of events (E, 2), item numbers and times in microseconds since 1970."""
        self.shard.add_events(events)

    def score(self, users: Sequence[UserContext], numbers: Int64s) -> Float32s:
        """Return the scores (B, n) that items (B, n) have as candidates; NaN where they have none.

        They have none without a vector source: places in lists are no scores.
        """
        found = np.full(numbers.shape, np.nan, np.float32)
        queries: list[dict[str, Float32s]] = [{} for _ in users]
        for encoder in self._encoders:
            if encoder.weight:
                for row, query in enumerate(encoder.encode(users)):
                    if np.isfinite(query).all():
                        queries[row][encoder.kind] = query
        for row, own in enumerate(queries):
            if own:
                found[row] = self.shard.totals(SearchEntry(queries=own, k=1), numbers[row])
        return found

    def _ask_own(
        self,
        entries: Sequence[RetrieveEntry],
        searches: dict[int, SearchEntry],
        found: dict[int, SearchResult | CoreRecError],
    ) -> None:
        """Add the lists of your own sources to what the shard found, in place."""
        for k in {search.k for search in searches.values()}:
            rows = [i for i in searches if searches[i].k == k]
            users = [entries[i].user for i in rows]
            for source in self._own:
                start = time.perf_counter_ns()
                lists = source.search(
                    users, source.encode(users), k, [searches[i].excluded for i in rows]
                )
                micros = (time.perf_counter_ns() - start) // 1000
                for i, own in zip(rows, lists, strict=True):
                    result = found[i]
                    if isinstance(result, SearchResult):
                        numbers = own[own >= 0]
                        found[i] = replace(
                            result,
                            lists=(*result.lists, _listed(source, numbers)),
                            timings={**result.timings, f"{source.kind}_search": micros},
                        )


def _listed(source: RetrievalSource, numbers: Int64s) -> SourceList:
    places = np.arange(1, len(numbers) + 1, dtype=np.float32)
    return SourceList(kind=source.kind, numbers=numbers, scores=np.reciprocal(places))
