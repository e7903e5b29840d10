"""ListsStore: searches of FAISS inverted lists, with filters and exact second scores."""

# B queries, D width, K candidates, L lists, P lists that are read

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from corerec.retrieval.stores.arrays import positions, prepared
from corerec.retrieval.stores.base import (
    Mask,
    check_numbers,
    check_search,
)
from corerec.retrieval.stores.exact import Rows, order
from corerec.retrieval.stores.lists_holder import ListsHolder
from corerec.retrieval.stores.masks import Marks, MaskPlan, MaskPlans
from corerec.retrieval.stores.spec import IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_BLOCK = 1 << 18
"""Most vectors that are gathered at once."""
_EXACT = 3.0
"""Filters that allow fewer items than this many times what a search reads are searched exactly."""
_WIDER = 1.5
"""So many times the items that a search without a filter reads are read with one: the best k of
fewer items reach further away."""


class ListsStore(ListsHolder):
    """Approximate search: the lists nearest to a query are read, and only those."""

    def __init__(
        self,
        dim: int,
        metric: Metric,
        spec: IndexSpec,
        *,
        given: Float32s | None = None,
        step: int = 1,
    ) -> None:
        super().__init__(dim, metric, spec, given=given, step=step)
        self._plans, self._marks = MaskPlans(), Marks()

    def search(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query; see VectorStore."""
        check_search(queries, k, allowed, excluded, self._dim)
        queries = prepared(queries, self._metric)
        numbers = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        if not len(self) or not len(queries):
            return numbers, scores
        plan = self._plan(allowed)
        if (
            plan is not None
            and self._table is not None
            and (plan.count <= max(_EXACT * self._read_items(), 4 * k))
        ):
            assert allowed is not None
            return self._search_some(queries, k, np.flatnonzero(allowed), excluded)
        out = self._known(excluded)
        # Queries with about as many exclusions go together, so each asks for as many alone.
        room = np.array([_room(len(own)) for own in out] if out else [0] * len(queries))
        for extra in np.unique(room).tolist():
            some = np.flatnonzero(room == extra)
            own = [out[i] for i in some] if out and extra else None
            numbers[some], scores[some] = self._ask(queries[some], k, extra, plan, own)
        # Fast scan never gives what has the lowest score that its codes can have.
        short = self._short(numbers, k, out) if self._table is not None else ()
        for i in short:
            every = self.numbers() if allowed is None else np.flatnonzero(allowed)
            own = [excluded[i]] if excluded is not None else None
            one = slice(i, i + 1)
            numbers[one], scores[one] = self._search_some(queries[one], k, every, own)
        return numbers, scores

    def _plan(self, allowed: Mask | None) -> MaskPlan | None:
        if allowed is None:
            return None
        stale = len(self) // 100
        return self._plans.get(allowed, self._version, stale, self._current_lists, self._spec.nlist)

    def _read_items(self) -> float:
        """Return how many items a search without a filter looks at."""
        return self._spec.nprobe * len(self) / self._spec.nlist

    def _search_some(
        self, queries: Float32s, k: int, numbers: Int64s, excluded: Sequence[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        """Search the given numbers exactly, those that are here."""
        assert self._table is not None
        numbers = numbers[self._lists.find(numbers) >= 0]
        found, scores = (
            np.empty((len(queries), 0), np.int64),
            np.empty((len(queries), 0), np.float32),
        )
        for start in range(0, max(len(numbers), 1), _BLOCK):
            some = numbers[start : start + _BLOCK]
            part = Rows(some, self._table.gather(some), self._metric)
            more = part.search(queries, k, None, positions(some, excluded))
            found, scores = order(np.hstack([found, more[0]]), np.hstack([scores, more[1]]), k)
        return found, scores

    def _known(self, excluded: Sequence[Int64s] | None) -> list[Int64s] | None:
        """Return the distinct numbers of each array that are here."""
        if excluded is None:
            return None
        found = []
        for own in excluded:
            own = np.sort(check_numbers(own))
            first = np.ones(len(own), np.bool_)
            np.not_equal(own[1:], own[:-1], out=first[1:])
            found.append(own[first & (self._lists.find(own) >= 0)])
        return found

    def _ask(
        self, queries: Float32s, k: int, extra: int, plan: MaskPlan | None, out: list[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        prober, spec = self._prober, self._spec
        assert prober is not None
        wanted = math.ceil(k * spec.refine_factor) if self._table is not None else k
        wanted = min(wanted + extra, len(self))
        if plan is None:
            found, values = prober.nearest(queries, wanted, spec.nprobe)
        else:
            target = max(_WIDER * self._read_items(), 2 * wanted)
            found, values = prober.allowed(queries, wanted, plan, target)
        self._marks.take_out(found, out)
        # Few lists or many exclusions may leave a row short although allowed items exist.
        short = self._short(found, k, out)
        if len(short) and (plan is not None or spec.nprobe < spec.nlist):
            selector = plan.selector if plan is not None else None
            found[short], values[short] = prober.nearest(
                queries[short], wanted, spec.nlist, selector
            )
            self._marks.take_out(found, out)
        if self._table is not None:
            values = self._table.score(queries, found, self._metric)
        values[found < 0] = -np.inf
        return order(found, values, k)

    def _short(self, found: Int64s, k: int, out: list[Int64s] | None) -> Int64s:
        """Return the rows that hold fewer than k numbers while the store may hold k for them."""
        least = np.full(len(found), min(k, len(self)))
        if out is not None:
            least = np.minimum(least, len(self) - np.array([len(own) for own in out]))
        return np.flatnonzero((found >= 0).sum(1) < least)


def _room(excluded: int) -> int:
    """Return how many more results are asked for, so that so many may be dropped."""
    return 0 if not excluded else 1 << max(5, (excluded - 1).bit_length())
