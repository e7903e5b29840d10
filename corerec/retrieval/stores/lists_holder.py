"""ListsHolder: what FAISS inverted lists hold: adding, removing, cutting, files. No search."""

# S sample, n items, D width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.retrieval.stores.arrays import unit
from corerec.retrieval.stores.base import (
    Bytes,
    Mask,
    check_finite,
    check_numbers,
    check_vectors,
    refuse_known,
)
from corerec.retrieval.stores.described import Described
from corerec.retrieval.stores.edit import drop_entries, drop_entry, list_ids, stored_numbers
from corerec.retrieval.stores.files import StoreFile, describe, read_faiss, write_header
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.probing import Prober, train_index
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.retrieval.stores.table import Table, read_vectors, write_vectors
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_SMALL = 4096
"""Up to so many added or removed items are followed one by one."""


class ListsHolder(Described):
    """Inverted lists of item numbers, and the vectors of kinds that score the best again."""

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
        if spec.kind == "ivf-pq-refine":
            spec = replace(spec, pq_m=spec.pq_m or dim)
            if dim % spec.pq_m:
                raise InvalidArgument(f"pq_m must divide the dimension {dim}, got {spec.pq_m}")
        super().__init__(dim, metric, spec)
        self._prober: Prober | None = None
        self._lists = Places()
        """The list of each number; what it says is current unless `_stale`."""
        self._stale = False
        self._table = Table(dim, given, step) if spec.is_refined else None
        self._version = 0

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
        if len(numbers) > max(_SMALL, len(self) // 10):
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

    def part(self, numbers: Int64s, *, given: Float32s | None = None, step: int = 1) -> Self:
        """Return a store of some of the numbers held, with the same centres and codes.

        Without `given` it reads the vectors that were given to this one.
        """
        if given is None and self._table is not None:
            given, step = self._table.given, self._table.step
        part = type(self)(self._dim, self._metric, self._spec, given=given, step=step)
        if self._prober is None:
            return part
        index = _faiss.clone_index(self._index)
        _keep(index, self.numbers(), numbers)
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

    def read(self, files: Sequence[StoreFile], shard: int = 0, shards: int = 1) -> None:
        """Fill an empty store with what is of a shard in files of `write`; see `read_store`."""
        index = None
        for path, header in files:
            if header["trained"]:
                part = read_faiss(path, self._dim, int(header["count"]))
                if shards > 1:
                    every = stored_numbers(part)
                    _keep(part, every, every[every % shards == shard])
                if index is None:
                    index = part
                else:
                    index.merge_from(part, 0)
        if index is None:
            return
        self.use(index)
        held = self._current_lists().numbers()
        if self._table is not None:
            read_vectors(files, self._table, held)

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


def _keep(index: Any, held: Int64s, numbers: Int64s) -> None:
    """Take out of lists what they hold beside some ascending numbers."""
    if len(numbers) < len(held):
        rest = np.setdiff1d(held, numbers, assume_unique=True)
        drop_entries(index, _faiss.IDSelectorBatch(rest))
