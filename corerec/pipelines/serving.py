"""Serving: a funnel in one process, asked by user id, as the gateway asks the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from corerec.errors import CoreRecError, InvalidArgument
from corerec.evaluation.funnel import Funnel
from corerec.release import Release
from corerec.rerank.rules import MAX_RERANK_K
from corerec.stages import (
    RankedItem,
    RankEntry,
    RerankEntry,
    RetrieveEntry,
    Source,
    UserContext,
)

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One recommended item."""

    item_id: str
    title: str
    """"" when the catalogue has none."""
    score: float
    """What the last stage gave it; higher is better."""
    source: str
    """What brought it: a Source in lower case, such as two_tower or trending, or own."""


class Serving:
    """The cores over a release and its users."""

    def __init__(self, release: Release, funnel: Funnel) -> None:
        self.release, self.funnel = release, funnel

    def recommend(self, users: Sequence[str | UserContext], k: int) -> list[list[Recommendation]]:
        """Return the k best items of each user; an unknown id is a user without a history.

        Raises:
            InvalidArgument: when k is out of range, or a context breaks a rule.
        """
        if not 1 <= k <= MAX_RERANK_K:
            raise InvalidArgument(f"k must be in [1, {MAX_RERANK_K}], got {k}")
        found: list[list[Recommendation]] = []
        for start in range(0, len(users), _BATCH):
            part = [self._context(user) for user in users[start : start + _BATCH]]
            found += [[_shown(item) for item in items] for items in self._lists(part, k)]
        return found

    def _lists(self, users: list[UserContext], k: int) -> list[Sequence[RankedItem]]:
        funnel = self.funnel
        retrieved = _checked(
            funnel.retrieval.run([RetrieveEntry(user=user, k=funnel.retrieved) for user in users])
        )
        ranked = _checked(
            funnel.ranking.run(
                [
                    RankEntry(user=user, candidates=own.candidates, k=max(funnel.ranked, k))
                    for user, own in zip(users, retrieved, strict=True)
                ]
            )
        )
        final = _checked(
            funnel.rerank.run(
                [
                    RerankEntry(candidates=own.candidates, k=k, now=user.now)
                    for user, own in zip(users, ranked, strict=True)
                ]
            )
        )
        return [own.items for own in final]

    def _context(self, user: str | UserContext) -> UserContext:
        if isinstance(user, UserContext):
            return user
        items, times = self._histories.get(user, (np.empty(0, np.int64), np.empty(0, np.int64)))
        return UserContext(
            user_id=user, attributes=self._attributes.get(user, {}), items=items, times=times
        )

    @cached_property
    def _histories(self) -> dict[str, tuple[Any, Any]]:
        columns = ["user_id", "item_number", "event_time_micros"]
        table = pl.read_parquet(self.release.file("histories.parquet"), columns=columns)
        ids = table["user_id"]
        # One user's rows follow each other, oldest first.
        starts = np.flatnonzero((ids != ids.shift()).fill_null(value=True).to_numpy())
        ends = np.append(starts[1:], len(table))
        items = table["item_number"].cast(pl.Int64).to_numpy()
        times = table["event_time_micros"].cast(pl.Int64).to_numpy()
        return {
            user: (items[start:end], times[start:end])
            for user, start, end in zip(
                ids.gather(starts).to_list(), starts.tolist(), ends.tolist(), strict=True
            )
        }

    @cached_property
    def _attributes(self) -> dict[str, Mapping[str, str]]:
        table = pl.read_parquet(self.release.file("users.parquet"))
        names = [name for name in table.columns if name != "user_id"]
        texts = table.select("user_id", *(pl.col(name).cast(pl.String) for name in names))
        return {
            row[0]: {n: v for n, v in zip(names, row[1:], strict=True) if v is not None}
            for row in texts.iter_rows()
        }


def _shown(item: RankedItem) -> Recommendation:
    name = Source(item.source).name.lower() if item.source else "own"
    return Recommendation(item_id=item.item_id, title=item.title, score=item.score, source=name)


def _checked(results: Sequence[Any]) -> list[Any]:
    """Return the results. Raises the first error among them."""
    for result in results:
        if isinstance(result, CoreRecError):
            raise result
    return list(results)
