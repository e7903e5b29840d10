"""What the gateway itself keeps of a release: names of items, the popular list, hard blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.live.catalogue import LiveCatalogue
from corerec.release import Release
from corerec.rerank import CompiledRules, compile_rules, load_rules
from corerec.stages import Candidates, Float32s, Int64s, Predicate, Source
from corerec.store.catalogue import Item
from corerec.v1 import rerank_pb2
from gateway.conditions import meets
from gateway.items import ReleaseItems


@dataclass(frozen=True, kw_only=True)
class ReleaseView:
    """One release as the gateway needs it when a stage is missing, and to name items."""

    release: str
    catalogue: LiveCatalogue
    """Names of items by number, and which are deleted; its feed keeps it at the store's state."""
    items: ReleaseItems
    """Everything that the release says of an item."""
    kept: dict[int, Item]
    """Attributes of the items that no stage has checked against conditions: popular and pinned."""
    popular_numbers: Int64s
    """(P,) item numbers, most popular first, none blocked when the release was opened."""
    popular_scores: Float32s
    """(P,) their scores, descending."""
    rules: CompiledRules
    """What the rules block by item number; its feed keeps it at the store's state."""
    data_end: int
    """The moment at which the release's data ends, microseconds since 1970."""

    @classmethod
    def load(cls, release: Release, rules_path: Path | None = None) -> ReleaseView:
        """Return the view of an open release, with its own rules or those at `rules_path`."""
        catalogue, rules = release.catalogue, load_rules(rules_path or release.rules_path)
        compiled = compile_rules(rules, catalogue)
        popular = pl.read_parquet(release.file("popular.parquet"))
        numbers = popular["item_number"].to_numpy().astype(np.int64)
        scores = popular["score"].to_numpy().astype(np.float32)
        allowed = ~compiled.blocked[numbers]
        items = ReleaseItems(release)
        pinned = (catalogue.number_of(item_id) for item_id in rules.pins)
        kept = {*numbers[allowed].tolist(), *(n for n in pinned if n is not None)}
        return cls(
            release=release.id,
            catalogue=LiveCatalogue(catalogue),
            items=items,
            kept=items.read(sorted(kept)),
            popular_numbers=numbers[allowed],
            popular_scores=scores[allowed],
            rules=compiled,
            data_end=int(release.info["data_end_micros"]),
        )

    def popular(self, k: int, unwanted: Int64s, where: Sequence[Predicate] = ()) -> Candidates:
        """Return up to k popular items that are neither unwanted nor deleted and meet `where`."""
        numbers = self.popular_numbers
        wanted = ~(np.isin(numbers, unwanted) | self.gone(numbers))
        keep = np.flatnonzero(wanted)
        if where:
            keep = keep[[self.meets(int(numbers[place]), where) for place in keep]]
        keep = keep[:k]
        return Candidates(
            numbers=numbers[keep],
            scores=self.popular_scores[keep],
            sources=np.full(len(keep), Source.POPULAR, np.uint8),
        )

    def gone(self, numbers: Int64s) -> NDArray[np.bool_]:
        """Say which items (n,) must not be shown: deleted, or on the block list as it holds now."""
        found: NDArray[np.bool_] = self.catalogue.deleted[numbers] | self.rules.blocked[numbers]
        return found

    def meets(self, number: int, where: Sequence[Predicate]) -> bool:
        """Say whether a popular or pinned item meets conditions; of others nothing is known."""
        item = self.kept.get(number)
        return item is not None and meets(item, where)

    def name(self, items: Sequence[rerank_pb2.RankedItem]) -> None:
        """Give items their names; reranking may not have read those of a new one yet."""
        for item in items:
            number = item.item_number
            if not item.item_id and number < len(self.catalogue):
                item.item_id = self.catalogue.ids[number]
                item.title = self.catalogue.titles[number]
                item.category = self.catalogue.categories[number]
                item.creator = self.catalogue.creators[number]

    def in_order(self, candidates: Candidates, k: int) -> list[rerank_pb2.RankedItem]:
        """Return the first k candidates that no rule blocks, as a final list."""
        numbers = candidates.numbers
        keep = np.flatnonzero(~self.gone(numbers))[:k]
        return [self._item(candidates, int(place)) for place in keep]

    def _item(self, candidates: Candidates, place: int) -> rerank_pb2.RankedItem:
        number, score = int(candidates.numbers[place]), float(candidates.scores[place])
        return rerank_pb2.RankedItem(
            item_number=number,
            item_id=self.catalogue.ids[number],
            title=self.catalogue.titles[number],
            category=self.catalogue.categories[number],
            creator=self.catalogue.creators[number],
            score=score,
            rank_score=score,
            source=int(candidates.sources[place]),  # type: ignore[arg-type]  # an int on the wire
            rank_position=place + 1,
        )
