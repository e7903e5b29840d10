"""ShardSearch: asks every source of a shard for entries that want the same."""

# B entries, k items wanted of a source, n items of a list

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from corerec.retrieval.ask import Answer, Asker
from corerec.retrieval.lists import ItemList
from corerec.retrieval.merge import POPULAR
from corerec.retrieval.owned import Eligible, Mask, OwnItems
from corerec.retrieval.popular import Popular
from corerec.retrieval.probe import RecallProbe
from corerec.retrieval.vector_search import Found, VectorSearch
from corerec.stages import Float32s, Int64s, SearchEntry, SearchResult, SourceList

Lists = list[Found]


@dataclass(frozen=True, kw_only=True)
class ShardSearch:
    """The sources of a shard, in the order of their turns."""

    items: OwnItems
    vectors: Sequence[VectorSearch]
    lists: Sequence[ItemList]
    popular: Popular
    asker: Asker[Lists]
    probe: RecallProbe

    def answer(
        self,
        entries: Sequence[SearchEntry],
        allowed: Mask | None,
        position: int,
        *,
        scored: bool = True,
    ) -> list[SearchResult]:
        """Answer entries (B,) of one k and of the same conditions, which allow `allowed`.

        Unless `scored`, lists have no totals.
        """
        k = entries[0].k
        eligible = [
            Eligible(items=self.items, allowed=allowed, excluded=entry.excluded)
            for entry in entries
        ]
        calls: dict[str, Callable[[], Lists]] = {}
        asked: dict[str, list[int]] = {}
        for source in self.vectors:
            rows = [row for row, entry in enumerate(entries) if source.kind in entry.queries]
            if rows:
                asked[source.kind] = rows
                part = [entries[row] for row in rows], [eligible[row] for row in rows]
                calls[source.kind] = partial(self._nearest, source, *part, k)
        for own in self.lists:
            asked[own.kind] = list(range(len(entries)))
            calls[own.kind] = partial(_listed, own, entries, eligible, k)
        answers = self.asker.ask(calls)
        found, timings = _by_entry(len(entries), answers, asked)
        for row, entry in enumerate(entries):
            found[row][POPULAR] = self.popular.find(entry.where, k, eligible[row])
        return [
            SearchResult(
                lists=self._lists(entry, found[row], scored=scored),
                timings=timings[row],
                position=position,
            )
            for row, entry in enumerate(entries)
        ]

    def totals(
        self, entry: SearchEntry, numbers: Int64s, known: Mapping[str, Float32s] | None = None
    ) -> Float32s:
        """Return the weighted sum of dot products (n,), those in `known` (n,) not again.

        NaN in `known` stands for one that is not.
        """
        total = np.zeros(len(numbers), np.float32)
        for own in self.vectors:
            if own.weight and own.kind in entry.queries:
                dots = known.get(own.kind) if known else None
                if dots is None:
                    dots = own.vectors.dots(entry.queries[own.kind], numbers)
                elif len(rows := np.isnan(dots).nonzero()[0]):
                    dots[rows] = own.vectors.dots(entry.queries[own.kind], numbers[rows])
                total += own.weighted(dots)
        return total

    def _nearest(
        self,
        source: VectorSearch,
        entries: Sequence[SearchEntry],
        eligible: Sequence[Eligible],
        k: int,
    ) -> Lists:
        queries = np.concatenate([entry.queries[source.kind] for entry in entries])
        queries = queries.reshape(len(entries), -1)
        excluded = [entry.excluded for entry in entries]
        found = source.search(queries, k, excluded, eligible[0].allowed)
        for query, own, part in zip(queries, eligible, found, strict=True):
            if self.probe.draw(k):
                self.probe.offer(source.vectors, query, part[0], own)
        return found

    def _lists(
        self, entry: SearchEntry, found: Mapping[str, Found], *, scored: bool
    ) -> tuple[SourceList, ...]:
        if not scored:
            return tuple(
                SourceList(kind=kind, numbers=numbers, scores=scores)
                for kind, (numbers, scores) in found.items()
            )
        return tuple(
            SourceList(
                kind=kind,
                numbers=numbers,
                scores=scores,
                totals=self.totals(entry, numbers, {kind: scores}),
            )
            for kind, (numbers, scores) in found.items()
        )


def _by_entry(
    count: int, answers: Mapping[str, Answer[Lists]], asked: Mapping[str, list[int]]
) -> tuple[list[dict[str, Found]], list[dict[str, int]]]:
    """Return what was found for each entry by kind, and how long it took; late kinds are named."""
    found: list[dict[str, Found]] = [{} for _ in range(count)]
    timings: list[dict[str, int]] = [{} for _ in range(count)]
    for kind, answer in answers.items():
        for place, row in enumerate(asked[kind]):
            if answer.value is None:
                timings[row][f"{kind}_late"] = answer.micros
            else:
                timings[row][f"{kind}_search"] = answer.micros
                found[row][kind] = answer.value[place]
    return found, timings


def _listed(
    source: ItemList, entries: Sequence[SearchEntry], eligible: Sequence[Eligible], k: int
) -> Lists:
    return [source.find(entry, k, own) for entry, own in zip(entries, eligible, strict=True)]
