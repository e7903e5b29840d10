"""What a stage may answer: items that exist, none lost or made up."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from corerec.errors import DeadlineExceeded, Unavailable
from corerec.serving.budget import Budget
from corerec.serving.status import Internal
from corerec.stages import Candidates
from corerec.v1 import common_pb2, rerank_pb2
from gateway.profiles import Profiles
from gateway.view import ReleaseView

_SPARE = 1024  # items that may come before the columns are made anew


class Checks:
    """Checks of stages' answers against one view of the catalogue."""

    def __init__(self, view: ReleaseView, profiles: Profiles) -> None:
        self._view, self._profiles = view, profiles
        count = len(view.catalogue) + _SPARE
        # One mark per item, all False between uses: ten times cheaper than np.isin on 500.
        self._marks = np.zeros(count, bool)
        # Which items there are and were not deleted, in one column: one look for each candidate.
        self._alive = np.zeros(count, bool)
        self._alive[: len(view.catalogue)] = view.catalogue.known & ~view.catalogue.deleted
        profiles.feed.tell(self._changed)

    def _changed(self, numbers: Sequence[int]) -> None:
        catalogue = self._view.catalogue
        if (count := len(catalogue)) > len(self._alive):
            self._alive = np.append(self._alive, np.zeros(count + _SPARE - len(self._alive), bool))
            self._marks = np.zeros(len(self._alive), bool)
        for number in numbers:
            if number < count:
                self._alive[number] = catalogue.is_alive(number)

    def all_alive(self, candidates: Candidates) -> bool:
        """Say whether every candidate is an item that is known and was not deleted."""
        try:
            return b"\0" not in self._alive.take(candidates.numbers).tobytes()
        except IndexError:
            return False

    async def learn(self, candidates: Candidates, budget: Budget) -> None:
        """Know every candidate; a shard may be ahead of this gateway. Raises Internal."""
        if self._unknown(candidates) is None:
            return
        with contextlib.suppress(Unavailable, DeadlineExceeded):
            await self._profiles.look(budget)
        if (number := self._unknown(candidates)) is not None:
            raise Internal(f"item {number} is not in the catalogue")

    def _unknown(self, candidates: Candidates) -> int | None:
        """Return a candidate's number that stands for no item, if there is one."""
        numbers, known = candidates.numbers, self._view.catalogue.known
        if not len(numbers):
            return None
        if (most := int(numbers.max())) >= len(known):
            return most
        return None if known[numbers].all() else int(numbers[~known[numbers]][0])

    def kept(self, ranked: Candidates, sent: Candidates, k: int) -> None:
        """Raise when ranking lost or made up candidates."""
        if len(ranked) != k:
            raise Internal(f"rank answered {len(ranked)} of {k} candidates")
        self._marks[sent.numbers] = True
        try:
            kept = b"\0" not in self._marks.take(ranked.numbers).tobytes()
        except IndexError:
            kept = False
        self._marks[sent.numbers] = False
        if not kept:
            raise Internal("rank answered items that it was not sent")

    def final(
        self, items: Sequence[rerank_pb2.RankedItem], sent: Candidates, page_size: int
    ) -> None:
        """Raise when reranking made up items, or answered none or too many."""
        known = set(sent.numbers.tolist())
        for item in items:
            if item.item_number not in known and item.source != common_pb2.CANDIDATE_SOURCE_PINNED:
                raise Internal(f"rerank answered item {item.item_number}, which it was not sent")
        if len(items) > page_size:
            raise Internal(f"rerank answered {len(items)} items for {page_size}")
        if not items and self._view.in_order(sent, 1):
            raise Internal("rerank answered an empty list")
