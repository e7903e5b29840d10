"""The record of every item's way through one request's funnel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from corerec.stages import Candidates, RemovedItem
from corerec.v1 import recommender_pb2, rerank_pb2
from gateway.outcome import Outcome
from gateway.view import ReleaseView

_HISTORY_SHOWN = 20


class Explainer:
    """Answers, for one outcome, where an item entered, how it scored and what removed it."""

    def __init__(self, view: ReleaseView, outcome: Outcome, exclude_seen: bool) -> None:
        assert outcome.retrieved is not None
        assert outcome.scored is not None
        assert outcome.ranked is not None
        self._view, self._outcome, self._exclude_seen = view, outcome, exclude_seen
        self._retrieved = _places(outcome.retrieved)
        self._scored = _places(outcome.scored)
        self._ranked = _places(outcome.ranked)
        self._final: dict[int, tuple[int, rerank_pb2.RankedItem]] = {
            item.item_number: (place, item) for place, item in enumerate(outcome.items, 1)
        }
        self._removed: dict[int, RemovedItem] = {r.number: r for r in outcome.removed}
        self._seen = set(outcome.user.items.tolist())

    def entered(self) -> list[int]:
        """Return every item that entered the funnel: retrieved ones in order, then pinned ones."""
        assert self._outcome.retrieved is not None
        retrieved = self._outcome.retrieved.numbers.tolist()
        return [*retrieved, *(n for n in self._final if n not in self._retrieved)]

    def traces(self, numbers: Iterable[int]) -> list[recommender_pb2.ItemTrace]:
        """Return one trace per item number."""
        return [self._trace(number) for number in numbers]

    def _trace(self, number: int) -> recommender_pb2.ItemTrace:
        catalogue = self._view.catalogue
        trace = recommender_pb2.ItemTrace(
            item_number=number, item_id=catalogue.ids[number], title=catalogue.titles[number]
        )
        retrieved, scored = self._outcome.retrieved, self._outcome.scored
        assert retrieved is not None
        assert scored is not None
        if (place := self._retrieved.get(number)) is not None:
            trace.retrieve_position = place + 1
            trace.retrieve_score = float(retrieved.scores[place])
            trace.source = int(retrieved.sources[place])  # type: ignore[assignment]
            trace.found_by.extend(self._found_by(place))
        if (place := self._scored.get(number)) is not None:
            trace.rank_position = place + 1
            trace.rank_score = float(scored.scores[place])
        if number in self._final:
            position, item = self._final[number]
            trace.final_position, trace.final_score = position, item.score
            trace.source = item.source
            trace.moves.extend(item.moves)
        else:
            trace.removed_by, trace.note = self._why_not(number)
        return trace

    def _found_by(self, place: int) -> list[recommender_pb2.SourceScore]:
        """Return every source that found the candidate at a place, with its own score."""
        return [
            recommender_pb2.SourceScore(
                source=source,  # type: ignore[arg-type]  # an int on the wire
                score=float(scores[place]),
            )
            for source, scores in self._outcome.found_by.items()
            if not np.isnan(scores[place])
        ]

    def _why_not(self, number: int) -> tuple[str, str]:
        """Return where the item left the funnel, and the reason in words."""
        if self._view.catalogue.deleted[number]:
            return "deleted", "it was deleted while the request was answered"
        if number not in self._retrieved:
            if self._exclude_seen and number in self._seen:
                return "seen", "the user already has it; set include_seen to allow it"
            return "not_retrieved", f"not among the {len(self._retrieved)} retrieved candidates"
        if number not in self._ranked:
            place = self._scored.get(number)
            at = "not scored" if place is None else f"ranked {place + 1}"
            return "ranked_out", f"{at}; the first {len(self._ranked)} go on to reranking"
        if number in self._removed:
            removed = self._removed[number]
            return removed.rule, removed.note
        if self._view.rules.blocked[number]:
            return "block", "a rule blocks it"
        return "cut", "below the end of the list"

    def history(self) -> list[recommender_pb2.HistoryItem]:
        """Return the user's newest items, newest first."""
        user, catalogue = self._outcome.user, self._view.catalogue
        newest = range(len(user.items) - 1, max(-1, len(user.items) - 1 - _HISTORY_SHOWN), -1)
        return [
            recommender_pb2.HistoryItem(
                item_id=catalogue.ids[int(user.items[i])],
                title=catalogue.titles[int(user.items[i])],
                event_time_micros=int(user.times[i]),
            )
            for i in newest
            if 0 <= int(user.items[i]) < len(catalogue)
        ]


def _places(candidates: Candidates) -> dict[int, int]:
    """Return place by item number."""
    return dict(zip(candidates.numbers.tolist(), np.arange(len(candidates)).tolist(), strict=True))
