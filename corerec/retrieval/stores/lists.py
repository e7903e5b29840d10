"""ListsStore: FAISS inverted lists of vectors or codes, with filters and exact second scores."""

# B queries, D width, K candidates, L lists, P lists that are read

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.errors import FailedPrecondition, InvalidArgument
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
from corerec.retrieval.stores.edit import drop_entries, drop_entry, list_ids
from corerec.retrieval.stores.exact import Rows, order
from corerec.retrieval.stores.files import describe, read_faiss, write_header
from corerec.retrieval.stores.masks import Marks, MaskPlan, MaskPlans
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.probing import Prober, train_index
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.retrieval.stores.table import Table, read_vectors, write_vectors
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_SMALL = 4096
"""Up to so many added or removed items are followed one by one."""
_BLOCK = 1 << 18
"""Most vectors that are gathered at once."""
_EXACT = 3.0
"""Filters that allow fewer items than this many times what a search reads are searched exactly."""

_WIDER = 1.5
"""So many times the items that a search without a filter reads are read with one: the best k of
fewer items reach further away."""


class ListsStore:
    """Approximate search: the lists nearest to a query are read, and only those."""

    backend: Backend = "faiss"

    def __init__(
        self, dim: int, metric: Metric, spec: IndexSpec, *, given: Float32s | None = None
    ) -> None:
        if spec.kind == "ivf-pq-refine":
            spec = replace(spec, pq_m=spec.pq_m or dim)
            if dim % spec.pq_m:
                raise InvalidArgument(f"pq_m must divide the dimension {dim}, got {spec.pq_m}")
        self._dim, self._metric, self._spec = dim, metric, spec
        self._prober: Prober | None = None
        self._lists = Places()
        """The list of each number; what it says is current unless `_stale`."""
        self._stale = False
        self._table = Table(dim, given) if spec.is_refined else None
        self._plans, self._version = MaskPlans(), 0
        self._marks = Marks()

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self._dim

    @property
    def metric(self) -> Metric:
        """What a score is."""
        return self._metric

    @property
    def spec(self) -> IndexSpec:
        """Kind and parameters in use."""
        return self._spec

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return sum(vars(self.held()).values())

    def __len__(self) -> int:
        return len(self._lists)

    def held(self) -> Bytes:
        """Return the memory held by its use."""
        index = self._lists.nbytes
        if self._prober is not None:
            index += len(self) * (self._index.code_size + 8) + self._prober.nbytes
        if self._table is not None:
            index += self._table.places.nbytes
        return Bytes(index=index, vectors=self._table.nbytes if self._table is not None else 0)

    def numbers(self) -> Int64s:
        """Return the numbers held, ascending."""
        return self._lists.numbers()

    def holds(self, numbers: Int64s) -> Mask:
        """Return which of the numbers (n,) are held."""
        return self._lists.find(numbers) >= 0

    @property
    def dead(self) -> int:
        """Entries of removed items that are still in the way of a search."""
        return 0

    def vectors(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of numbers held, as near as the store keeps them."""
        if self._table is not None:
            return self._table.gather(numbers)
        out = np.empty((len(numbers), self._dim), np.float32)
        lists = self._current_lists().find(numbers)
        for i, (number, place) in enumerate(zip(numbers.tolist(), lists.tolist(), strict=True)):
            ids = list_ids(_faiss.downcast_InvertedLists(self._index.invlists), place)
            offset = int(np.flatnonzero(ids == number)[0])
            self._index.reconstruct_from_offset(place, offset, _faiss.swig_ptr(out[i]))
        return out

    def train(self, sample: Float32s, count: int | None = None) -> None:
        """Learn centres and codes from a sample (S, D) of `count` items; see VectorStore."""
        if len(self):
            raise FailedPrecondition(f"a store is trained while empty, it holds {len(self)} items")
        if sample.ndim != 2 or sample.shape[1] != self._dim or not len(sample):
            raise InvalidArgument(f"sample must be (S, {self._dim}), S > 0, got {sample.shape}")
        check_finite(sample, "sample")
        sample = np.ascontiguousarray(sample, np.float32)
        if self._metric == "cosine":
            sample = unit(sample)
        nlist = min(self._spec.lists_for(count or len(sample)), len(sample))
        self._spec = replace(
            self._spec,
            nlist=nlist,
            nprobe=min(self._spec.nprobe or max(1, nlist // 8), nlist),
        )
        self.use(train_index(sample, self._spec, self._metric))

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items; see VectorStore."""
        numbers, vectors = check_vectors(numbers, vectors, self._dim)
        refuse_known(self._lists, numbers)
        if not len(numbers):
            return
        if self._prober is None:
            self.train(vectors, len(vectors))
        if self._metric == "cosine":
            vectors = unit(vectors)
        if len(numbers) > _SMALL:
            # Which list FAISS files each under is read back when someone asks.
            lists, self._stale = np.zeros(len(numbers), np.int64), True
        else:
            lists = self._index.quantizer.assign(vectors, 1)[:, 0]
        self._index.add_with_ids(vectors, numbers)
        self._lists.put(numbers, lists)
        if self._table is not None:
            self._table.add(numbers, vectors)
        self._version += len(numbers)

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there."""
        numbers = np.unique(check_numbers(numbers))
        numbers = numbers[self._lists.find(numbers) >= 0]
        if len(numbers) > max(_SMALL, len(self) // 50):
            drop_entries(self._index, _faiss.IDSelectorBatch(numbers))
        elif len(numbers):
            lists = self._current_lists().find(numbers)
            for number, place in zip(numbers.tolist(), lists.tolist(), strict=True):
                if not drop_entry(self._index, place, number):
                    drop_entries(self._index, _faiss.IDSelectorBatch(np.array([number])))
        self._lists.drop(numbers)
        if self._table is not None:
            self._table.remove(numbers)
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

    def use(self, index: Any) -> None:
        """Take trained FAISS lists; what they hold is known, its vectors are not."""
        self._prober = Prober(index, self._metric)
        self._stale = True
        self._version += 1

    def adopt(self, index: Any) -> None:
        """Take filled FAISS lists of an empty store; their vectors are those that were given."""
        self.use(index)
        self._spec = replace(
            self._spec, nlist=index.nlist, nprobe=min(self._spec.nprobe or 1, index.nlist)
        )
        self._current_lists()
        if self._table is not None:
            self._table.load(self.numbers())

    def part(self, numbers: Int64s) -> ListsStore:
        """Return a store of some of the numbers held, with the same centres and codes."""
        given = self._table.given if self._table is not None else None
        part = ListsStore(self._dim, self._metric, self._spec, given=given)
        if self._prober is None:
            return part
        index = _faiss.clone_index(self._index)
        rest = np.setdiff1d(self.numbers(), numbers, assume_unique=True)
        drop_entries(index, _faiss.IDSelectorBatch(rest))
        # Read back, so that it has no more memory than it needs.
        part.use(_faiss.deserialize_index(_faiss.serialize_index(index)))
        part._current_lists()
        if self._table is not None and part._table is not None:
            own = self._table.places.find(numbers) >= len(self._table.given)
            part._table.load(numbers[~own])
            part._table.add(numbers[own], self._table.gather(numbers[own]))
        return part

    def write(self, path: Path, *, with_vectors: bool = True) -> dict[str, Any]:
        """Write lists and vectors and return what a header says of them."""
        header = describe(self) | {"count": len(self), "trained": self._prober is not None}
        if self._prober is not None:
            faiss.write_index(self._index, str(path))
        if self._table is None:
            return header
        if with_vectors:
            return header | write_vectors(path, self._table, self._table.places.numbers())
        return header | write_vectors(path, self._table, self._table.own()[0], given=True)

    def read(self, path: Path, header: dict[str, Any]) -> None:
        """Fill an empty store with what `write` wrote."""
        if not header["trained"]:
            return
        self.use(read_faiss(path, self._dim, int(header["count"])))
        self._current_lists()
        if self._table is not None:
            self._table = read_vectors(path, header, self._table, self.numbers())

    def save(self, path: Path) -> None:
        """Write the store to a file and files beside it."""
        write_header(path, self.write(path))

    @property
    def _index(self) -> Any:
        assert self._prober is not None
        return self._prober.index

    def _current_lists(self) -> Places:
        if self._stale:
            lists = _faiss.downcast_InvertedLists(self._index.invlists)
            for place in range(self._index.nlist):
                ids = list_ids(lists, place)
                self._lists.put(ids, np.full(len(ids), place, np.int64))
            self._stale = False
        return self._lists

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
