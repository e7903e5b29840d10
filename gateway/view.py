"""What the gateway itself keeps of a release: names of items, the popular list, hard blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corerec.release import Catalogue, Release
from corerec.rerank import blocked_numbers, load_rules
from corerec.stages import Candidates, Float32s, Int64s, RankedItem, Source


@dataclass(frozen=True, kw_only=True)
class ReleaseView:
    """One release as the gateway needs it when a stage is missing, and to name items."""

    release: str
    catalogue: Catalogue
    popular_numbers: Int64s
    """(P,) item numbers, most popular first, none blocked."""
    popular_scores: Float32s
    """(P,) their scores, descending."""
    blocked: Int64s
    """(B,) item numbers that the rules forbid, sorted."""
    data_end: int
    """The moment at which the release's data ends, microseconds since 1970."""

    @classmethod
    def load(cls, release: Release, rules_path: Path | None = None) -> ReleaseView:
        """Return the view of an open release, with its own rules or those at `rules_path`."""
        catalogue = release.catalogue
        blocked = np.sort(blocked_numbers(load_rules(rules_path or release.rules_path), catalogue))
        popular = pl.read_parquet(release.file("popular.parquet"))
        numbers = popular["item_number"].to_numpy().astype(np.int64)
        scores = popular["score"].to_numpy().astype(np.float32)
        allowed = ~np.isin(numbers, blocked)
        view = cls(
            release=release.id,
            catalogue=catalogue,
            popular_numbers=numbers[allowed],
            popular_scores=scores[allowed],
            blocked=blocked,
            data_end=int(release.info["data_end_micros"]),
        )
        # Built now, so that the first request does not wait for them.
        _ = catalogue.number_of(""), catalogue.titles, catalogue.categories, catalogue.creators
        return view

    def popular(self, k: int, unwanted: Int64s) -> Candidates:
        """Return up to k popular candidates without the unwanted item numbers."""
        first = self.popular_numbers[: k + len(unwanted)]
        keep = np.flatnonzero(~np.isin(first, unwanted))[:k]
        return Candidates(
            numbers=first[keep],
            scores=self.popular_scores[keep],
            sources=np.full(len(keep), Source.POPULAR, np.uint8),
        )

    def in_order(self, candidates: Candidates, k: int) -> list[RankedItem]:
        """Return the first k candidates that no rule blocks, as a final list."""
        keep = np.flatnonzero(~np.isin(candidates.numbers, self.blocked))[:k]
        return [self._item(candidates, int(place)) for place in keep]

    def _item(self, candidates: Candidates, place: int) -> RankedItem:
        number, score = int(candidates.numbers[place]), float(candidates.scores[place])
        return RankedItem(
            number=number,
            item_id=self.catalogue.ids[number],
            title=self.catalogue.titles[number],
            category=self.catalogue.categories[number],
            creator=self.catalogue.creators[number],
            score=score,
            rank_score=score,
            source=int(candidates.sources[place]),
            rank_position=place + 1,
        )
