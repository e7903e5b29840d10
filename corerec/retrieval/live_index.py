"""LiveIndex: a store whose items come and go while it is searched, without a pause.

New vectors go into a small exact store, the delta, and from there to the main store in small steps.
What the main store cannot forget in place is masked, and now and then a thread builds a fresh one.
"""

# B queries, D width, n items

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from corerec.retrieval.delta import Delta
from corerec.retrieval.rebuild import Rebuild
from corerec.retrieval.stores.arrays import grown
from corerec.retrieval.stores.base import (
    Mask,
    VectorStore,
    check_numbers,
    check_vectors,
)
from corerec.retrieval.stores.create import like
from corerec.stages import Float32s, Int64s

log = logging.getLogger(__name__)

_AS_EXCLUDED = 128
"""Up to so many masked items are excluded by number; more become a mask."""

_AT_ONCE = 1 << 14
"""Rows moved by one step where nobody waits for an answer."""

_STEP_SECONDS = 2e-4
"""How long a step takes that may be in the way of a search."""
_LEAST_ROWS, _FIRST_ROWS = 16, 32
"""Fewer than sixteen rows take hardly less time, unless they are linked into a graph."""
_MOST_ROWS = 256

_COMPILED = ("flat", "ivf-int8-refine", "ivf-int4-refine")
"""Kinds whose changes are code that is compiled when it is first called."""
_WARM = 64
"""Rows of a change that is tried before serving."""

_LIMIT, _GRAPH_LIMIT = 1024, 4096
"""Rows of the delta: searching a thousand costs a few hundredths of a millisecond. A graph takes
rows slowly, so that more of them may wait."""


class LiveIndex:
    """Main store, delta and masked items as one index. All calls come from one thread at a time.

    An item is in the main store or in the delta, never found in both; the newest vector wins.
    """

    def __init__(
        self,
        main: VectorStore,
        *,
        limit: int | None = None,
        dead_share: float = 0.25,
        in_place: bool | None = None,
    ) -> None:
        """Take over a main store.

        `limit` is the most rows of the delta, above which upserts do the moving themselves: 1024,
        and 4096 where rows are linked into a graph or the main store does not change in place;
        above `dead_share` of masked rows, or without room, the main store is built afresh.
        `in_place` says whether the main store changes cheaply; Annoy does not.
        """
        self._main, self._dead_share = main, dead_share
        self.in_place = main.backend != "annoy" if in_place is None else in_place
        slow = main.spec.kind == "hnsw" or not self.in_place
        self._limit = limit or (_GRAPH_LIMIT if slow else _LIMIT)
        self._least_rows = 1 if main.spec.kind == "hnsw" else _LEAST_ROWS
        self._rows = float(1 if main.spec.kind == "hnsw" else _FIRST_ROWS)
        self._delta = Delta(main.dim, main.metric)
        self._alive = np.empty(0, np.bool_)
        self._dead: set[int] = set()
        self._rebuild: Rebuild | None = None
        self._rebuild_failed = False

    @property
    def main(self) -> VectorStore:
        """The main store, with masked items still in it."""
        return self._main

    @property
    def pending(self) -> int:
        """Rows of the delta."""
        return len(self._delta)

    @property
    def dead(self) -> int:
        """Rows of the main store that are masked or only marked as removed."""
        return len(self._dead) + self._main.dead

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return self._main.nbytes + self._delta.nbytes

    def __len__(self) -> int:
        return len(self._main) - len(self._dead) + len(self._delta)

    def numbers(self) -> Int64s:
        """Return the numbers that can be found, ascending."""
        main = self._main.numbers()
        main = main[~np.isin(main, list(self._dead))] if self._dead else main
        return np.union1d(main, self._delta.numbers())

    def upsert(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items (n,) with vectors (n, D), or give those that are there other vectors.

        Raises:
            InvalidArgument: for a wrong shape or type, NaN, Inf, a negative number or one twice in
                the call; nothing is changed then.
        """
        numbers, vectors = check_vectors(numbers, vectors, self._main.dim)
        self.remove(numbers)
        if self._moves and len(numbers) > self._limit:
            self._main.add(numbers, vectors)
            return
        self._delta.add(numbers, vectors)
        while self._moves and len(self._delta) > self._limit:
            self._move(len(self._delta) - self._limit)

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there; unknown numbers are ignored."""
        numbers = np.unique(check_numbers(numbers))
        removed = self._delta.remove(numbers)
        if self._rebuild is not None:
            self._rebuild.touched.update(numbers.tolist())
        numbers = numbers[self._main.holds(numbers)]
        if self.in_place and self._rebuild is None:
            return removed + self._main.remove(numbers)
        fresh = [number for number in numbers.tolist() if number not in self._dead]
        self._mask(fresh)
        return removed + len(fresh)

    def search(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query; see VectorStore."""
        found = self._main.search(queries, k, *self._without_dead(allowed, excluded, len(queries)))
        return self._delta.join(found, queries, allowed, excluded)

    @property
    def limit(self) -> int:
        """The most rows of the delta, beyond those that come while a main store is built."""
        return self._limit

    def maintain(self, rows: int | None = None) -> bool:
        """Move up to so many rows of the delta into the main store; True while more is to do.

        Without `rows`, as many as are moved in a fifth of a millisecond: a search may wait for it.
        False is also returned while a fresh main store is being built: call again a little later.
        """
        if self._rebuild is not None:
            if not self._rebuild.done.is_set():
                return False
            self._swap(self._rebuild)
            return len(self._delta) > 0
        if self._must_rebuild():
            self._start()
            return False
        if self._moves and len(self._delta):
            self._step(rows)
        return self._moves and len(self._delta) > 0

    def warm(self) -> None:
        """Run what changes run, beside the index, so that the first ones find it compiled."""
        if not self._moves or self._main.spec.kind not in _COMPILED:
            return
        vectors = np.ones((_WARM, self._main.dim), np.float32)
        scratch = LiveIndex(like(self._main, trained=True))
        scratch.upsert(np.arange(_WARM), vectors)
        scratch._move(_WARM - 2)  # laid out anew: they are more than there were
        scratch._move(1)  # appended
        scratch.search(vectors[:1], _WARM, None, [np.ones(1, np.int64)])
        scratch.remove(np.arange(_WARM))

    def settle(self) -> None:
        """Move every row of the delta into the main store."""
        if self._rebuild is not None:
            self._rebuild.done.wait()
            self._swap(self._rebuild)
        while len(self._delta) or self._dead:
            if not self.in_place or (self._main.spec.is_lists and not len(self._main)):
                self._start()
                assert self._rebuild is not None
                self._rebuild.done.wait()
                self._swap(self._rebuild)
            elif self._dead:
                self._main.remove(np.fromiter(self._dead, np.int64, len(self._dead)))
                self._dead.clear()
            else:
                self._move(_AT_ONCE)

    def wait(self, seconds: float) -> bool:
        """Wait for a main store that is being built; return whether none is any more."""
        return self._rebuild is None or self._rebuild.done.wait(seconds)

    @property
    def _moves(self) -> bool:
        """Whether rows may go to the main store now."""
        # Lists without centres would learn them from the first few rows.
        learns = self._main.spec.is_lists and not len(self._main)
        return self.in_place and self._rebuild is None and not learns

    def _step(self, rows: int | None) -> None:
        """Move rows, and learn how many fit into the time of a step."""
        own = max(self._least_rows, min(int(self._rows), _MOST_ROWS)) if rows is None else rows
        own, began = min(own, len(self._delta)), time.perf_counter()
        self._move(own)
        fit = own * min(max(_STEP_SECONDS / (time.perf_counter() - began), 0.5), 2.0)
        self._rows += 0.1 * (fit - self._rows)

    def _move(self, rows: int) -> None:
        numbers, vectors = self._delta.last(rows)
        self._main.add(numbers, vectors)
        self._delta.drop_last(len(numbers))

    def _mask(self, numbers: list[int]) -> None:
        if not numbers:
            return
        size = max(numbers) + 1
        if size > len(self._alive):
            before = len(self._alive)
            self._alive = grown(self._alive, size, before)
            self._alive[before:] = True
        self._alive[numbers] = False
        self._dead.update(numbers)

    def _without_dead(
        self, allowed: Mask | None, excluded: Sequence[Int64s] | None, queries: int
    ) -> tuple[Mask | None, Sequence[Int64s] | None]:
        """Return filter and exclusions that leave masked items out of the main store, too."""
        if not self._dead:
            return allowed, excluded
        if len(self._dead) <= _AS_EXCLUDED:
            dead = np.fromiter(self._dead, np.int64, len(self._dead))
            if excluded is None:
                return allowed, [dead] * queries
            return allowed, [np.concatenate([check_numbers(own), dead]) for own in excluded]
        if allowed is None:
            held = self._main.numbers()
            allowed = np.ones(int(held[-1]) + 1, np.bool_)
        shared = min(len(allowed), len(self._alive))
        allowed = allowed.copy()
        allowed[:shared] &= self._alive[:shared]
        return allowed, excluded

    def _must_rebuild(self) -> bool:
        main = self._main
        if self.dead > self._dead_share * max(len(main) + main.dead, 1):
            return True
        if self.in_place and main.crowded and not self._rebuild_failed:
            return True
        return not self._moves and len(self._delta) > self._limit

    def _start(self) -> None:
        log.info(
            "building a main store afresh: %d items, %d pending, %d dead",
            len(self._main),
            len(self._delta),
            self.dead,
        )
        self._rebuild = Rebuild(self._main, self._delta.last(len(self._delta)), self._dead)

    def _swap(self, rebuild: Rebuild) -> None:
        self._rebuild = None
        if rebuild.main is None:
            # What was masked stays masked, so answers are right; the next try comes with more. A
            # store that only lacks room makes it when rows move: a pause, and no endless trying.
            self._rebuild_failed = True
            self._dead_share, self._limit = 2 * self._dead_share, 2 * self._limit
            return
        self._main, self._rebuild_failed = rebuild.main, False
        self._dead.clear()
        self._alive = np.empty(0, np.bool_)
        touched = np.fromiter(rebuild.touched, np.int64, len(rebuild.touched))
        touched = touched[self._main.holds(touched)]
        if self.in_place:
            self._main.remove(touched)
        else:
            self._mask(touched.tolist())
        # Rows that went into the fresh store and were not changed since are needed no more.
        held = self._delta.numbers()
        self._delta.remove(held[self._main.holds(held) & ~np.isin(held, touched)])
