"""Stage cores of your own ranker or reranker, and of a stage that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corerec.engines.protocols import Ranker, Reranker
from corerec.errors import CoreRecError, InvalidArgument
from corerec.release import Catalogue
from corerec.stages import (
    MAX_K,
    Candidates,
    Float32s,
    Int64s,
    RankedItem,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
)


class OwnRanking:
    """The ranking stage with a ranker of your own, or with none: then retrieval's order stands."""

    def __init__(self, release: str, ranker: Ranker | None) -> None:
        self._release, self._ranker = release, ranker

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    def check(self, entry: RankEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")

    def run(self, entries: Sequence[RankEntry]) -> Sequence[RankResult | CoreRecError]:
        """Rank every entry; a bad one gives an error in its place, its neighbours a result."""
        results: list[RankResult | CoreRecError | None] = [self._fault(e) for e in entries]
        good = [place for place, result in enumerate(results) if result is None]
        for place, scores in zip(good, self._scores([entries[i] for i in good]), strict=True):
            results[place] = _ranked(entries[place], scores, type(self._ranker).__name__)
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Do nothing: your ranker warms itself."""

    def _fault(self, entry: RankEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _scores(self, entries: list[RankEntry]) -> Sequence[Float32s]:
        own = [entry.candidates for entry in entries]
        if self._ranker is None:
            return [candidates.scores for candidates in own]
        found = self._ranker.score([e.user for e in entries], [c.numbers for c in own])
        if len(found) != len(entries):
            raise InvalidArgument(
                f"{type(self._ranker).__name__}.score must return scores for each user, "
                f"got {len(found)} for {len(entries)}"
            )
        return found


def _ranked(entry: RankEntry, scores: Float32s, name: str) -> RankResult | CoreRecError:
    scores = np.asarray(scores, np.float32)
    if scores.shape != entry.candidates.numbers.shape or not np.isfinite(scores).all():
        return InvalidArgument(
            f"{name}.score must return a finite score for each of {len(entry.candidates)} "
            f"candidates, got shape {scores.shape}"
        )
    return RankResult(candidates=ordered(entry.candidates, scores).top(entry.k))


class OwnRerank:
    """The rerank stage with a reranker of your own."""

    def __init__(self, release: str, catalogue: Catalogue, reranker: Reranker) -> None:
        self._release, self._catalogue, self._reranker = release, catalogue, reranker

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    def check(self, entry: RerankEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")

    def run(self, entries: Sequence[RerankEntry]) -> Sequence[RerankResult | CoreRecError]:
        """Rerank every entry; a bad one gives an error in its place, its neighbours a result."""
        results: list[RerankResult | CoreRecError] = []
        for entry in entries:
            try:
                self.check(entry)
                found = self._reranker.rerank([entry.candidates], entry.k)
                results.append(self._result(entry, found))
            except CoreRecError as error:
                results.append(error)
        return results

    def warm(self) -> None:
        """Do nothing: your reranker warms itself."""

    def _result(self, entry: RerankEntry, found: Sequence[Candidates]) -> RerankResult:
        name, before = type(self._reranker).__name__, entry.candidates
        if len(found) != 1:
            raise InvalidArgument(f"{name}.rerank must return one list a list, got {len(found)}")
        own = found[0].top(entry.k)
        if len(np.unique(own.numbers)) < len(own) or not np.isin(own.numbers, before.numbers).all():
            raise InvalidArgument(
                f"{name}.rerank must return items of the ranked list, each at most once"
            )
        places = {number: place for place, number in enumerate(before.numbers.tolist())}
        return RerankResult(
            items=[
                self._item(number, score, before, places[number])
                for number, score in zip(own.numbers.tolist(), own.scores.tolist(), strict=True)
            ]
        )

    def _item(self, number: int, score: float, before: Candidates, place: int) -> RankedItem:
        return RankedItem(
            number=number,
            item_id=self._catalogue.ids[number],
            title=self._catalogue.titles[number],
            category=self._catalogue.categories[number],
            creator=self._catalogue.creators[number],
            score=score,
            rank_score=float(before.scores[place]),
            source=int(before.sources[place]),
            rank_position=place + 1,
        )


def ordered(candidates: Candidates, scores: Float32s) -> Candidates:
    """Return the candidates with these scores (n,), best first; ties keep their order."""
    order: Int64s = np.argsort(-scores, kind="stable")
    return Candidates(
        numbers=candidates.numbers[order],
        scores=scores[order],
        sources=candidates.sources[order],
    )
