"""Int8Store: inverted lists of 8- or 4-bit codes, read sixteen at a time, the best scored exactly.

Each code is of a vector's difference to its list's centre, so eight bits lose almost nothing: the
candidates need hardly be more than k. Four bits want a third more candidates and are read in half
the time. Products are of eight bits in both. The vectors lie in the order of the lists.
"""

# B queries, D width, N items, S sample, W candidates

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np

from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.retrieval.stores.arrays import positions, prepared, unit
from corerec.retrieval.stores.base import (
    Bytes,
    Mask,
    check_finite,
    check_numbers,
    check_search,
    check_vectors,
    refuse_known,
)
from corerec.retrieval.stores.described import Described
from corerec.retrieval.stores.exact import Rows, order
from corerec.retrieval.stores.files import (
    StoreFile,
    describe,
    read_array,
    vectors_path,
    write_header,
)
from corerec.retrieval.stores.int8_files import Filed, read_lists, write_lists
from corerec.retrieval.stores.int8_kernel import LANES
from corerec.retrieval.stores.int8_lists import Lists, append, empty_lists, erase, laid_out
from corerec.retrieval.stores.int8_parts import (
    NO_ITEMS,
    flat,
    learned_centres,
    nearest,
    share,
    without_empty,
)
from corerec.retrieval.stores.int8_search import TOP, search_lists, unpack
from corerec.retrieval.stores.masks import MaskPlan, MaskPlans
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_EXACT = 2.0
"""Filters that allow fewer items than this many times what a search reads are searched exactly."""
_SCATTERED, _LISTS = 3, 12
"""With a filter lists are read until they hold so many times the allowed items that a search
without one looks at; or until they are so many times as many, or 1 / share of them."""
_REBUILD = 4
"""An add of more than 1/4 of what is held lays all lists out anew."""
_MOVED_AT_ONCE = 4096
"""Blocks that are copied in a few milliseconds when there is no room for more."""
_CHUNK = 1 << 16
_ALL = np.empty(0, np.bool_)


class Int8Store(Described):
    """Approximate search of any metric: the lists nearest to a query are read, and only those."""

    backend: Backend = "faiss"

    def __init__(
        self,
        dim: int,
        metric: Metric,
        spec: IndexSpec,
        *,
        given: Float32s | None = None,
        step: int = 1,
    ) -> None:
        """Hold nothing; row i of `given` (M, D) is of the item whose number // step is i."""
        super().__init__(dim, metric, spec)
        self._given = np.empty((0, dim), np.float32) if given is None else given
        self._step = step
        self._lists: Lists | None = None
        self._places = Places()
        """The slot of each number."""
        self._plans, self._version = MaskPlans(), 0

    @classmethod
    def of_centres(
        cls,
        centres: Float32s,
        metric: Metric,
        spec: IndexSpec,
        *,
        given: Float32s | None = None,
        step: int = 1,
    ) -> Int8Store:
        """Return an empty store that has learned its centres (L, D) elsewhere."""
        nlist = len(centres)
        nprobe = min(spec.nprobe or max(1, nlist // 8), nlist)
        own = replace(spec, nlist=nlist, nprobe=nprobe)
        store = cls(centres.shape[1], metric, own, given=given, step=step)
        store._use(np.ascontiguousarray(centres, np.float32))
        return store

    @property
    def centres(self) -> Float32s:
        """(L, D), once trained. Raises FailedPrecondition before."""
        return self._ready.centres

    def __len__(self) -> int:
        return len(self._places)

    def held(self) -> Bytes:
        """Return the memory held by its use: of the blocks in use, not of those reserved."""
        lists = self._lists
        if lists is None:
            return Bytes(index=self._places.nbytes, vectors=0)
        slots = int(lists.used[0]) * LANES
        width = lists.codes.shape[1] * 4
        distances = 4 if len(lists.offsets) > 1 else 0
        centres = sum(
            part.nbytes for part in (lists.centres, lists.centre_codes, lists.centre_scales)
        )
        index = slots * (width + 4 + distances + 8 + 8) + slots + centres
        return Bytes(index=index + self._places.nbytes, vectors=slots * self._dim * 4)

    def numbers(self) -> Int64s:
        """Return the numbers held, ascending."""
        return self._places.numbers()

    def holds(self, numbers: Int64s) -> Mask:
        """Return which of the numbers (n,) are held."""
        return self._places.find(numbers) >= 0

    @property
    def dead(self) -> int:
        """Entries of removed items that are still in the way of a search."""
        return 0

    @property
    def crowded(self) -> bool:
        """Whether additions may soon have to move everything; few items are moved at once."""
        blocks = 0 if self._lists is None else len(self._lists.home)
        return blocks > _MOVED_AT_ONCE and blocks - int(self._ready.used[0]) < blocks // 32

    def vectors(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of numbers held; with cosine they have length 1."""
        if self._lists is None:
            return np.empty((0, self._dim), np.float32)
        found: Float32s = self._lists.vectors[self._places.find(numbers)]
        return found

    def train(self, sample: Float32s, count: int | None = None) -> None:
        """Learn centres from a sample (S, D) of a catalogue of `count` items; see VectorStore."""
        if len(self):
            raise FailedPrecondition(f"a store is trained while empty, it holds {len(self)} items")
        if sample.ndim != 2 or sample.shape[1] != self._dim or not len(sample):
            raise InvalidArgument(f"sample must be (S, {self._dim}), S > 0, got {sample.shape}")
        check_finite(sample, "sample")
        sample = np.ascontiguousarray(sample, np.float32)
        if self._metric == "cosine":
            sample = unit(sample)
        nlist = min(self._spec.lists_for(count or len(sample)), len(sample))
        nprobe = min(self._spec.nprobe or max(1, nlist // 8), nlist)
        self._spec = replace(self._spec, nlist=nlist, nprobe=nprobe)
        self._use(learned_centres(sample, self._spec, self._metric))

    def assign(self, vectors: Float32s) -> Int64s:
        """Return the list (n,) that each of the vectors (n, D) belongs to."""
        if self._metric == "cosine":
            vectors = unit(vectors)
        return nearest(self._ready, np.ascontiguousarray(vectors, np.float32), self._metric)

    def add(self, numbers: Int64s, vectors: Float32s, home: Int64s | None = None) -> None:
        """Add items; see VectorStore. `home` (n,) is what `assign` says of them, where known."""
        numbers, vectors = check_vectors(numbers, vectors, self._dim)
        refuse_known(self._places, numbers)
        if not len(numbers):
            return
        if self._lists is None:
            self.train(vectors, len(vectors))
        if self._metric == "cosine":
            vectors = unit(vectors)
        lists, distance = self._ready, self._metric == "l2"
        if home is None:
            home = nearest(lists, vectors, self._metric)
        if _REBUILD * len(numbers) > len(self):
            known = self.numbers()
            at = self._places.find(known)
            numbers = np.concatenate([known, numbers])
            vectors = np.concatenate([lists.vectors[at], vectors]) if len(known) else vectors
            home = np.concatenate([lists.home[at // LANES], home])
            self._lists, slots = laid_out(
                lists.centres, numbers, vectors, home, bits=lists.bits, distance=distance
            )
        else:
            self._lists, slots = append(lists, numbers, vectors, home, distance=distance)
        self._places.put(numbers, slots)
        self._version += len(numbers)

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there."""
        numbers = np.unique(check_numbers(numbers))
        slots = self._places.find(numbers)
        numbers, slots = numbers[slots >= 0], slots[slots >= 0]
        if len(numbers):
            erase(self._ready, slots)
            self._places.drop(numbers)
            self._version += len(numbers)
        return len(numbers)

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
        if not len(self) or not len(queries):
            numbers = np.full((len(queries), k), -1, np.int64)
            return numbers, np.full((len(queries), k), -np.inf, np.float32)
        plan = self._plan(allowed)
        if plan is not None and plan.count <= max(_EXACT * self._read_items(), 4 * k):
            assert allowed is not None
            return self._search_some(queries, k, np.flatnonzero(allowed), excluded)
        return self._ask(queries, k, allowed, plan, excluded)

    def tune(
        self,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine_factor: float | None = None,
        search_nodes: int | None = None,
    ) -> None:
        """Set how many lists are read and how many candidates are scored again."""
        if nprobe is not None:
            if not 1 <= nprobe <= max(1, self._spec.nlist):
                raise InvalidArgument(f"nprobe must be in [1, {self._spec.nlist}], got {nprobe}")
            self._spec = replace(self._spec, nprobe=nprobe)
        if refine_factor is not None:
            self._spec = replace(self._spec, refine_factor=refine_factor)

    def emptied(self) -> Int8Store:
        """Return an empty store of the same centres."""
        fresh = Int8Store(self._dim, self._metric, self._spec, given=self._given, step=self._step)
        if self._lists is not None:
            fresh._use(self._lists.centres)
        return fresh

    def part(self, numbers: Int64s, *, given: Float32s | None = None, step: int = 1) -> Int8Store:
        """Return a store of some of the numbers held, in the same lists."""
        part = Int8Store(self._dim, self._metric, self._spec, given=given, step=step)
        if self._lists is not None:
            part._use(self._lists.centres)
            slots = self._places.find(numbers)
            part._lay_out(numbers, self._lists.vectors[slots], self._lists.home[slots // LANES])
        return part

    def write(self, path: Path, *, with_vectors: bool = True) -> dict[str, Any]:
        """Write centres, lists and vectors, and return what a header says of them."""
        header = describe(self) | {"count": len(self), "trained": self._lists is not None}
        if self._lists is None:
            return header
        lists, numbers = self._lists, self.numbers()
        slots = self._places.find(numbers)
        own = np.full(len(numbers), True)
        if not with_vectors:
            own = ~self._is_given(numbers, slots)
        home = lists.home[slots // LANES].astype(np.int32)
        write_lists(path, Filed(lists.centres, numbers, home, own))
        if own.any():
            np.save(vectors_path(path), lists.vectors[slots[own]], allow_pickle=False)
        return header | {"own_vectors": int(own.sum())}

    def read(self, files: Sequence[StoreFile], shard: int = 0, shards: int = 1) -> None:
        """Fill an empty store with what is of a shard in files of `write`; see `read_store`."""
        filed = [(path, read_lists(path, own, self._dim)) for path, own in files if own["trained"]]
        if not filed:
            return
        self._use(filed[0][1].centres)
        kept = [own.numbers % shards == shard for _, own in filed]
        numbers, home, own = (
            np.concatenate([column[k] for column, k in zip(columns, kept, strict=True)])
            for columns in zip(*(one[1:] for _, one in filed), strict=True)
        )
        stored = [
            _stored(path, one, k, self._dim) for (path, one), k in zip(filed, kept, strict=True)
        ]
        if len(filed) > 1:  # by number, as in one file
            rows = np.concatenate(stored)
            stored = [rows[np.argsort(numbers[own])]]
            order = np.argsort(numbers)
            numbers, home, own = numbers[order], home[order], own[order]
        vectors = self._all_vectors(filed[0][0], numbers, own, stored[0])
        self._lay_out(numbers, vectors, home.astype(np.int64))

    def save(self, path: Path) -> None:
        """Write the store to a file and files beside it."""
        write_header(path, self.write(path))

    def _is_given(self, numbers: Int64s, slots: Int64s) -> Mask:
        """Return which numbers (n,) have the vectors that were given to the store."""
        same = numbers // self._step < len(self._given)
        rows = np.flatnonzero(same)
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            given = np.asarray(self._given[numbers[some] // self._step])
            if self._metric == "cosine":
                given = unit(given)
            same[some] = (given == self._ready.vectors[slots[some]]).all(axis=1)
        return same

    def _all_vectors(self, path: Path, numbers: Int64s, own: Mask, stored: Float32s) -> Float32s:
        """Return the vectors (N, D) of items: own ones as stored (n, D), others as given."""
        needed = numbers[~own] // self._step
        if len(needed) and needed.max() >= len(self._given):
            raise ReleaseError(
                f"{vectors_path(path)}: holds {len(stored)} of {len(numbers)} vectors; "
                f"give the others to load it, got {len(self._given)}"
            )
        if not len(needed):
            return stored
        if not len(stored) and needed[-1] == len(needed) - 1 and self._metric != "cosine":
            return self._given[: len(needed)]  # every row in its place: no copy of all of them
        vectors = np.empty((len(numbers), self._dim), np.float32)
        vectors[own] = stored
        given = np.asarray(self._given[needed])
        vectors[~own] = unit(given) if self._metric == "cosine" else given
        return vectors

    def _lay_out(self, numbers: Int64s, vectors: Float32s, home: Int64s) -> None:
        """Fill the empty store with items (n,) in known lists."""
        if not len(numbers):
            return
        distance = self._metric == "l2"
        centres = self._ready.centres
        bits = self._ready.bits
        self._lists, slots = laid_out(centres, numbers, vectors, home, bits=bits, distance=distance)
        self._places.put(numbers, slots)
        self._version += len(numbers)

    @property
    def _ready(self) -> Lists:
        if self._lists is None:
            raise FailedPrecondition("a store must be trained first; call train or add")
        return self._lists

    def _use(self, centres: Float32s) -> None:
        bits, distance = self._spec.code_bits, self._metric == "l2"
        self._lists = empty_lists(centres, 64, bits=bits, distance=distance)

    def _read_items(self) -> float:
        """Return how many items a search without a filter looks at."""
        return self._spec.nprobe * len(self) / self._spec.nlist

    def _plan(self, allowed: Mask | None) -> MaskPlan | None:
        if allowed is None:
            return None
        homes = cast(Places, _Homes(self))
        stale = len(self) // 100
        return self._plans.get(allowed, self._version, stale, lambda: homes, self._spec.nlist)

    def _search_some(
        self, queries: Float32s, k: int, numbers: Int64s, excluded: Sequence[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        """Search the given numbers exactly, those that are here."""
        slots = self._places.find(numbers)
        numbers, slots = numbers[slots >= 0], slots[slots >= 0]
        part = Rows(numbers, self._ready.vectors[slots], self._metric)
        return part.search(queries, k, None, positions(numbers, excluded))

    def _ask(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None,
        plan: MaskPlan | None,
        excluded: Sequence[Int64s] | None,
    ) -> tuple[Int64s, Float32s]:
        lists, held, target = self._ready, NO_ITEMS, 0
        barred, starts = flat(excluded)
        wanted = min(math.ceil(k * self._spec.refine_factor), len(self))
        probes = self._spec.nprobe
        if plan is not None:
            # What is allowed may lie away from a query, so its best are scattered over more lists.
            held, target = plan.per_list, int(_SCATTERED * max(self._read_items(), wanted))
            part = max(1, plan.count) / len(self)
            probes = min(math.ceil(probes * max(_LISTS, 1 / part)), self._spec.nlist)
            if not plan.sampled:
                lists = without_empty(lists, held)
        found = np.empty((len(queries), wanted), np.int64)
        by_slot = bool(lists.highest[0] >= TOP)
        least, distance = min(k, len(self)), self._metric == "l2"

        def ask(start: int, end: int) -> None:
            search_lists(queries[start:end], lists, probes, least, wanted, distance, by_slot,
                         _ALL if allowed is None else allowed, held, target, barred,
                         starts[start : end + 1], found[start:end])  # fmt: skip
            found[start:end].sort(axis=1)

        share(ask, len(queries))
        return self._unpacked(found, k, by_slot)

    def _unpacked(self, found: Int64s, k: int, by_slot: bool) -> tuple[Int64s, Float32s]:
        """Return numbers and scores (B, k) of ascending keys (B, W)."""
        numbers = np.empty((len(found), k), np.int64)
        scores = np.empty((len(found), k), np.float32)
        unpack(found, self._ready.numbers, by_slot, numbers, scores)
        return order(numbers, scores, k) if by_slot else (numbers, scores)


def _stored(path: Path, filed: Filed, kept: Mask, dim: int) -> Float32s:
    """Return the own vectors (n, D) of a file that are of kept items."""
    count = int(filed.own.sum())
    if not count:
        return np.empty((0, dim), np.float32)
    found: Float32s = read_array(vectors_path(path), (count, dim), np.float32, mapped=True)
    return found if kept.all() else found[kept[filed.own]]


class _Homes:
    """The list of each number, in the manner of Places."""

    def __init__(self, store: Int8Store) -> None:
        self._store = store

    def find(self, numbers: Int64s) -> Int64s:
        """Return the lists (n,) of numbers (n,), -1 where a number is not held."""
        slots = self._store._places.find(numbers)
        return np.where(slots >= 0, self._store._ready.home[slots // LANES], -1)
