"""ShardCore: queries in, what each source finds among the items of one shard out."""

# B entries, k items wanted of a source, n items of a list, E events

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema
from corerec.live.content import ContentSide, EncodedItems
from corerec.release import Release
from corerec.retrieval.ask import Answer, Asker
from corerec.retrieval.changes import ShardChanges
from corerec.retrieval.check import check_where
from corerec.retrieval.filters import AttributeTable, Where
from corerec.retrieval.lists import ItemList
from corerec.retrieval.merge import POPULAR
from corerec.retrieval.options import HEADER, RetrievalHeader, RetrievalOptions
from corerec.retrieval.owned import Eligible, OwnItems
from corerec.retrieval.popular import Popular, PopularList
from corerec.retrieval.probe import Recall, RecallProbe
from corerec.retrieval.release_lists import ReleaseTables, make_lists
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
from corerec.store.catalogue import ItemChange

Lists = list[Found]


class ShardCore:
    """Searches the items whose number is `shard` modulo `shards`, for batches of entries.

    `run`, `apply`, `add_events` and `maintain` are called from one thread at a time.
    """

    def __init__(
        self,
        *,
        release: str,
        sources: Sequence[IndexedVectors],
        popular: PopularList,
        item_count: int,
        lists: Sequence[ItemList] = (),
        attributes: AttributeTable | None = None,
        content: ContentSide | None = None,
        timeouts: Mapping[str, float] | None = None,
        shard: int = 0,
        shards: int = 1,
        threads: int = 1,
        probe_share: float = 0.0,
    ) -> None:
        """Join the parts; `ShardCore.load` reads them from a release.

        Without `attributes` no condition can be asked, without `content` new items have no vector.

        Raises:
            InvalidArgument: `shard` is not in [0, shards), or a source is of another shard.
        """
        if not 0 <= shard < shards:
            raise InvalidArgument(f"shard must be in [0, {shards}), got {shard}")
        if wrong := [s.kind for s in sources if (s.shard, s.shards) != (shard, shards)]:
            raise InvalidArgument(f"sources must be of shard {shard} of {shards}, {wrong} are not")
        self._release, self._threads = release, threads
        self._vectors = tuple(VectorSearch(source) for source in sources)
        self._lists, self._popular = tuple(lists), Popular(popular, shard, shards)
        self._items, self._attributes = OwnItems(item_count, shard, shards), attributes
        self._asker: Asker[Lists] = Asker(timeouts or {}, threads)
        self._probe = RecallProbe(probe_share, seed=shard)
        self._changes = ShardChanges(
            items=self._items,
            vectors=self._vectors,
            lists=self._lists,
            popular=self._popular,
            attributes=attributes,
            content=content,
        )

    @classmethod
    def load(
        cls,
        release: Release,
        shard: int = 0,
        shards: int = 1,
        *,
        config: RetrievalOptions | None = None,
        threads: int = 1,
        probe_share: float = 0.0,
    ) -> ShardCore:
        """Return a shard of a release, with the release's own options unless others are given.

        `probe_share` of the searches for 500 items or more are measured against the exact answer.

        Raises:
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        schema = FeatureSchema.load(release.file("schema.json"))
        header = RetrievalHeader.load(release.file(HEADER))
        options = header.options if config is None else config
        weights = {kind: header.score_weights.get(kind, 1.0) for kind in header.sources}
        core = cls(
            release=release.id,
            sources=[
                load_vectors(release, kind, schema, weight=weight).of_shard(shard, shards)
                for kind, weight in weights.items()
            ],
            popular=PopularList.load(release.file("popular.parquet"), schema.item_count),
            item_count=schema.item_count,
            lists=make_lists(ReleaseTables(release), options, shard, shards),
            attributes=AttributeTable.load(release),
            content=ContentSide.load(release),
            timeouts=options.timeouts,
            shard=shard,
            shards=shards,
            threads=threads,
            probe_share=probe_share,
        )
        core.restore(release)
        return core

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    @property
    def position(self) -> int:
        """Position of the newest change that was applied."""
        return self._changes.position

    @property
    def recall(self) -> Recall:
        """What the probe has measured of live searches."""
        return self._probe.recall

    @property
    def counts(self) -> dict[str, int]:
        """How often lists and masks were kept ones, sources were late, and items refused."""
        found = {"popular_hits": self._popular.hits, "popular_misses": self._popular.misses}
        if self._attributes is not None:
            found |= {"mask_hits": self._attributes.hits, "mask_misses": self._attributes.misses}
        found |= {f"{kind}_late": count for kind, count in self._asker.late.items()}
        return found | {"items_refused": self._changes.refused}

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
        check_where(entry.where)
        if entry.where and self._attributes is None:
            raise InvalidArgument("conditions need the attributes of a release, this core has none")

    def run(self, entries: Sequence[SearchEntry]) -> Sequence[SearchResult | CoreRecError]:
        """Return every source's list for each entry; a bad entry gets its error instead.

        A source with a time-out that is late is left out: in the timings, `<kind>_late` stands in
        the place of `<kind>_search`.
        """
        use_threads(self._threads)
        results: list[SearchResult | CoreRecError | None] = [None] * len(entries)
        together: dict[tuple[int, Where], list[int]] = {}
        for i, entry in enumerate(entries):
            try:
                self.check(entry)
                if entry.where and self._attributes is not None:
                    self._attributes.mask(entry.where)
            except CoreRecError as error:
                results[i] = error
                continue
            together.setdefault((entry.k, entry.where), []).append(i)
        for (k, where), rows in together.items():
            for i, own in zip(
                rows, self._search([entries[i] for i in rows], k, where), strict=True
            ):
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

    def apply(self, changes: Sequence[ItemChange], encoded: EncodedItems | None = None) -> None:
        """Take changes of the catalogue, those of other shards too, in the order of positions.

        An item that cannot be encoded is logged and counted, and is found by its other sources.
        `encoded` are the changed items as `ContentSide.encode_good` gives them, where the caller
        has them already.
        """
        self._asker.settle()
        self._changes.apply(changes, encoded)

    def restore(self, release: Release) -> None:
        """Take the changes that a release holds; its indexes have them already."""
        self._changes.restore(release)

    def maintain(self) -> bool:
        """Merge a little of what came into the main indexes; True while there is more."""
        self._asker.settle()
        more = [own.maintain() for own in self._vectors]
        return any(more)

    def add_events(self, events: Int64s) -> None:
        """Learn of events (E, 2), item numbers and times in microseconds since 1970."""
        self._asker.settle()
        own = events[(events[:, 0] >= 0) & self._items.own(events[:, 0])]
        for source in self._lists:
            source.add_events(own[:, 0], own[:, 1])

    def _search(self, entries: Sequence[SearchEntry], k: int, where: Where) -> list[SearchResult]:
        """Answer entries of one k and the same conditions."""
        allowed = None
        if where and self._attributes is not None:
            allowed = self._attributes.mask(where)
        eligible = [
            Eligible(items=self._items, allowed=allowed, excluded=entry.excluded)
            for entry in entries
        ]
        calls: dict[str, Callable[[], Lists]] = {}
        asked: dict[str, list[int]] = {}
        for source in self._vectors:
            rows = [row for row, entry in enumerate(entries) if source.kind in entry.queries]
            if rows:
                asked[source.kind] = rows
                part = [entries[row] for row in rows], [eligible[row] for row in rows]
                calls[source.kind] = partial(self._nearest, source, *part, k)
        for own in self._lists:
            asked[own.kind] = list(range(len(entries)))
            calls[own.kind] = partial(_listed, own, entries, eligible, k)
        answers = self._asker.ask(calls)
        return [
            self._result(entry, row, k, eligible[row], answers, asked)
            for row, entry in enumerate(entries)
        ]

    def _nearest(
        self,
        source: VectorSearch,
        entries: Sequence[SearchEntry],
        eligible: Sequence[Eligible],
        k: int,
    ) -> Lists:
        queries = np.stack([entry.queries[source.kind] for entry in entries])
        excluded = [entry.excluded for entry in entries]
        found = source.search(queries, k, excluded, eligible[0].allowed)
        for query, own, part in zip(queries, eligible, found, strict=True):
            if self._probe.draw(k):
                self._probe.offer(source.vectors, query, part[0], own)
        return found

    def _result(
        self,
        entry: SearchEntry,
        row: int,
        k: int,
        eligible: Eligible,
        answers: Mapping[str, Answer[Lists]],
        asked: Mapping[str, list[int]],
    ) -> SearchResult:
        found: dict[str, Found] = {}
        timings: dict[str, int] = {}
        for kind, answer in answers.items():
            if row not in asked[kind]:
                continue
            if answer.value is None:
                timings[f"{kind}_late"] = answer.micros
            else:
                timings[f"{kind}_search"] = answer.micros
                found[kind] = answer.value[asked[kind].index(row)]
        found[POPULAR] = self._popular.find(entry.where, k, eligible)
        lists = tuple(
            SourceList(
                kind=kind,
                numbers=numbers,
                scores=scores,
                totals=self._totals(entry, numbers, {kind: scores}),
            )
            for kind, (numbers, scores) in found.items()
        )
        return SearchResult(lists=lists, timings=timings, position=self.position)

    def _totals(
        self, entry: SearchEntry, numbers: Int64s, known: Mapping[str, Float32s]
    ) -> Float32s:
        """Return the weighted sum of dot products (n,), those of a kind in `known` not again."""
        total = np.zeros(len(numbers), np.float32)
        for own in self._vectors:
            if own.weight and own.kind in entry.queries:
                dots = known.get(own.kind)
                if dots is None:
                    dots = own.vectors.dots(entry.queries[own.kind], numbers)
                total += own.weighted(dots)
        return total


def _listed(
    source: ItemList, entries: Sequence[SearchEntry], eligible: Sequence[Eligible], k: int
) -> Lists:
    return [source.find(entry, k, own) for entry, own in zip(entries, eligible, strict=True)]
