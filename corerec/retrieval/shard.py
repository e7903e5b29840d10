"""ShardCore: queries in, what each source finds among the items of one shard out."""

# B entries, k items wanted of a source, n items of a list, E events

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema
from corerec.live.content import ContentSide, EncodedItems
from corerec.live.snapshot import is_indexed, read_snapshot
from corerec.release import Release
from corerec.retrieval.ask import Asker
from corerec.retrieval.changes import ShardChanges
from corerec.retrieval.check import check_where
from corerec.retrieval.filters import AttributeTable, Where
from corerec.retrieval.lists import ItemList
from corerec.retrieval.options import HEADER, RetrievalHeader, RetrievalOptions
from corerec.retrieval.owned import Mask, OwnItems
from corerec.retrieval.popular import Popular, PopularList
from corerec.retrieval.probe import Recall, RecallProbe
from corerec.retrieval.release_lists import ReleaseTables, make_lists
from corerec.retrieval.shard_search import ShardSearch
from corerec.retrieval.sources import IndexedVectors, load_vectors
from corerec.retrieval.threads import use_threads
from corerec.retrieval.vector_search import VectorSearch
from corerec.stages import MAX_K, Float32s, Int64s, SearchEntry, SearchResult
from corerec.store.catalogue import ItemChange

# A measurement over a million items takes 40 ms of a core: one in 16 seconds, a four-hundredth.
_PROBE_REST = 400.0


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
        _check(shard, shards)
        if wrong := [s.kind for s in sources if (s.shard, s.shards) != (shard, shards)]:
            raise InvalidArgument(f"sources must be of shard {shard} of {shards}, {wrong} are not")
        self._release, self._threads = release, threads
        self._attributes = attributes
        self._search = ShardSearch(
            items=OwnItems(item_count, shard, shards),
            vectors=tuple(VectorSearch(source) for source in sources),
            lists=tuple(lists),
            popular=Popular(popular, shard, shards),
            asker=Asker(timeouts or {}, threads),
            probe=RecallProbe(probe_share, seed=shard, rest=_PROBE_REST),
        )
        self._changes = ShardChanges(self._search, attributes=attributes, content=content)

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
            InvalidArgument: when `shard` is not in [0, shards).
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        _check(shard, shards)
        schema = FeatureSchema.load(release.file("schema.json"))
        header = RetrievalHeader.load(release.file(HEADER))
        options = header.options if config is None else config
        weights = {kind: header.score_weights.get(kind, 1.0) for kind in header.sources}
        core = cls(
            release=release.id,
            sources=[
                load_vectors(release, kind, schema, weight=weight, shard=shard, shards=shards)
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
        for changes in read_snapshot(release):
            core.apply(changes, indexed=is_indexed(release))
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
        return self._search.probe.recall

    @property
    def counts(self) -> dict[str, int]:
        """How often lists and masks were kept ones, sources were late and items refused; and how
        many items wait to be merged."""
        own = self._search
        found = {"popular_hits": own.popular.hits, "popular_misses": own.popular.misses}
        if self._attributes is not None:
            found |= {"mask_hits": self._attributes.hits, "mask_misses": self._attributes.misses}
        found |= {f"{kind}_late": count for kind, count in own.asker.late.items()}
        pending = sum(vectors.pending for vectors in own.vectors)
        return found | {"items_refused": self._changes.refused, "delta_items": pending}

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
        known = {own.kind: own for own in self._search.vectors}
        for kind, query in entry.queries.items():
            if kind not in known:
                raise InvalidArgument(f"queries must be of {list(known)}, got {kind!r}")
            known[kind].check(query)
        check_where(entry.where)

    def run(
        self, entries: Sequence[SearchEntry], *, own: bool = False
    ) -> Sequence[SearchResult | CoreRecError]:
        """Return every source's list for each entry; a bad entry gets its error instead.

        A source with a time-out that is late is left out: in the timings, `<kind>_late` stands in
        the place of `<kind>_search`. Of `own` entries, which a front beside this core made, only
        conditions are checked, and lists have no totals: that front scores what it draws, as lists
        have many items in common and most are not drawn.
        """
        use_threads(self._threads)
        results: list[SearchResult | CoreRecError | None] = [None] * len(entries)
        together: dict[tuple[int, Where], list[int]] = {}
        for i, entry in enumerate(entries):
            try:
                if not own:
                    self.check(entry)
                self._allowed(entry.where)
            except CoreRecError as error:
                results[i] = error
            else:
                together.setdefault((entry.k, entry.where), []).append(i)
        for (_, where), rows in together.items():
            batch = [entries[i] for i in rows]
            found = self._search.answer(batch, self._allowed(where), self.position, scored=not own)
            for i, result in zip(rows, found, strict=True):
                results[i] = result
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Run typical batches and changes so that the first real ones are as fast as any."""
        self._changes.warm()
        for own in self._search.vectors:
            own.warm()
        rng = np.random.default_rng(0)
        for size in (1, 8, 32):
            entries = []
            for _ in range(size):
                queries = {
                    own.kind: rng.normal(size=own.vectors.dim).astype(np.float32)
                    for own in self._search.vectors
                }
                seen = np.arange(50, dtype=np.int64)
                entries.append(SearchEntry(queries=queries, k=500, excluded=seen, history=seen))
            self.run(entries)

    def totals(
        self, entry: SearchEntry, numbers: Int64s, known: Mapping[str, Float32s] | None = None
    ) -> Float32s:
        """Return the scores (n,) that items (n,) of this shard have as candidates.

        `known` are dot products (n,) by kind that need not be made again, NaN where there is none.
        """
        return self._search.totals(entry, numbers, known)

    def apply(
        self,
        changes: Sequence[ItemChange],
        encoded: EncodedItems | None = None,
        *,
        indexed: bool = False,
    ) -> None:
        """Take changes of the catalogue, those of other shards too, in the order of positions.

        An item that cannot be encoded is logged and counted, and is found by its other sources.
        `encoded` are the changed items as `ContentSide.encode_good` gives them, where the caller
        has them already; `indexed` are those that the release's indexes were built with.
        """
        self._search.asker.settle()
        self._changes.apply(changes, encoded, indexed=indexed)

    def maintain(self) -> bool:
        """Merge a little of what came into the main indexes; True while there is more."""
        self._search.asker.settle()
        more = [own.maintain() for own in self._search.vectors]
        return any(more)

    def add_events(self, events: Int64s) -> None:
        """Learn of events (E, 2), item numbers and times in microseconds since 1970."""
        self._search.asker.settle()
        own = events[(events[:, 0] >= 0) & self._search.items.own(events[:, 0])]
        for source in self._search.lists:
            source.add_events(own[:, 0], own[:, 1])

    def _allowed(self, where: Where) -> Mask | None:
        """Return which items meet the conditions, None for all. Raises InvalidArgument."""
        if not where:
            return None
        if self._attributes is None:
            raise InvalidArgument("conditions need the attributes of a release, this core has none")
        return self._attributes.mask(where)


def _check(shard: int, shards: int) -> None:
    if not 0 <= shard < shards:
        raise InvalidArgument(f"shard must be in [0, {shards}), got {shard}")
