"""The interface of a vector store, and the checks that every store makes in the same words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.stages import Float32s, Int64s

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Memory of a store."""

    index: int
    """Codes, lists, graph, numbers: what is there beyond the vectors."""
    vectors: int
    """Float vectors kept for exact scores; 0 when they were given and are not the store's own."""


class VectorStore(Protocol):
    """Item numbers and their vectors, searched for the best k. Called from one thread at a time.

    Every store means the same: a score is the inner product, the cosine, or the negative squared
    distance of the vectors as they were added; the cosine of a vector of length 0 is 0. Results
    are ordered by score, equal scores by the lower number, whatever the order of adding.
    """

    @property
    def backend(self) -> Backend:
        """What holds the vectors."""
        ...

    @property
    def dim(self) -> int:
        """Width of a vector."""
        ...

    @property
    def metric(self) -> Metric:
        """What a score is."""
        ...

    @property
    def spec(self) -> IndexSpec:
        """Kind and parameters in use."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def held(self) -> Bytes:
        """Return the memory held by its use."""
        ...

    def numbers(self) -> Int64s:
        """Return the numbers held, ascending."""
        ...

    def holds(self, numbers: Int64s) -> Mask:
        """Return which of the numbers (n,) are held."""
        ...

    @property
    def dead(self) -> int:
        """Entries of removed items that are still in the way of a search."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether there is so little room that additions may soon have to move everything."""
        ...

    def vectors(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of numbers held, as near as the store keeps them.

        With cosine they may have length 1.
        """
        ...

    def train(self, sample: Float32s, count: int | None = None) -> None:
        """Learn what the codes and lists need from a sample (S, D) of a catalogue of `count` items.

        A store that learns nothing ignores it. One that was not trained learns from its first add.

        Raises:
            InvalidArgument: for a wrong shape, NaN, Inf or an empty sample.
            FailedPrecondition: when the store holds items already.
        """
        ...

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items (n,) with vectors (n, D), in any order and any number of calls.

        Raises:
            InvalidArgument: for a wrong shape or type, NaN, Inf, a negative number, a number twice
                in the call or one that is in the store already; nothing is added then.
        """
        ...

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there; unknown numbers are ignored."""
        ...

    def search(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query, best first.

        Shapes: queries (B, D); allowed, a mask by item number for all queries, numbers beyond it
        are not allowed; excluded, one array of numbers a query, in any order, unknown ones ignored;
        returns numbers (B, k) int64 and scores (B, k) float32, padded with -1 and -inf where fewer
        than k are allowed, so an empty store gives padding alone. An approximate store may miss an
        item, but never gives fewer than k while k are allowed.

        Raises:
            InvalidArgument: for k < 1, a wrong dimension or type, a query with NaN or Inf.
        """
        ...

    def tune(
        self,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine_factor: float | None = None,
        search_nodes: int | None = None,
    ) -> None:
        """Set parameters of the search; costs nothing. What the kind does not know is ignored.

        Raises:
            InvalidArgument: for one out of range.
        """
        ...

    def write(self, path: Path, *, with_vectors: bool = True) -> dict[str, Any]:
        """Write the store's files but its header, and return what the header is to hold.

        Without vectors, those that were given to the store are left out, and are needed to load it.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the store to `path` and files beside it with the same stem; see `load_store`."""
        ...


def check_vectors(numbers: Int64s, vectors: Float32s, dim: int) -> tuple[Int64s, Float32s]:
    """Return numbers and vectors of an add, contiguous.

    Raises:
        InvalidArgument: for a wrong shape or type, NaN, Inf, a negative number or one twice.
    """
    numbers = check_numbers(numbers)
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype != np.float32:
        raise InvalidArgument(
            f"vectors must be float32 of shape (N, {dim}), got {vectors.dtype} {vectors.shape}"
        )
    if len(numbers) != len(vectors):
        raise InvalidArgument(
            f"numbers and vectors must be as many, got {len(numbers)} and {len(vectors)}"
        )
    if len(numbers) and numbers.min() < 0:
        raise InvalidArgument(f"numbers must be at least 0, got {numbers.min()}")
    # FAISS would take NaN without a word and never find it again.
    check_finite(vectors, "vectors")
    ordered = np.sort(numbers)
    if len(twice := ordered[1:][ordered[1:] == ordered[:-1]]):
        raise InvalidArgument(f"numbers must be distinct, got {twice[0]} more than once")
    return numbers, np.ascontiguousarray(vectors)


def refuse_known(places: Places, numbers: Int64s) -> None:
    """Check that no number is in a store. Raises InvalidArgument naming the first that is."""
    known = numbers[places.find(numbers) >= 0]
    if len(known):
        raise InvalidArgument(f"number {known[0]} is in the store already: remove it first")


def check_numbers(numbers: Int64s) -> Int64s:
    """Return item numbers as contiguous int64. Raises InvalidArgument when they are not that."""
    numbers = np.asarray(numbers)
    if numbers.ndim == 1 and numbers.dtype == np.int64:
        return np.ascontiguousarray(numbers)
    if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) or not len(numbers)):
        raise InvalidArgument(
            f"numbers must be int64 of shape (N,), got {numbers.dtype} {numbers.shape}"
        )
    return np.ascontiguousarray(numbers, np.int64)


def check_search(
    queries: Float32s,
    k: int,
    allowed: Mask | None,
    excluded: Sequence[Int64s] | None,
    dim: int,
) -> None:
    """Check the arguments of a search. Raises InvalidArgument."""
    if k < 1:
        raise InvalidArgument(f"k must be at least 1, got {k}")
    if queries.ndim != 2 or queries.shape[1] != dim or queries.dtype != np.float32:
        raise InvalidArgument(
            f"queries must be float32 of shape (B, {dim}), got {queries.dtype} {queries.shape}"
        )
    if allowed is not None and (allowed.ndim != 1 or allowed.dtype != np.bool_):
        raise InvalidArgument(
            f"allowed must be bool of shape (M,), got {allowed.dtype} {allowed.shape}"
        )
    if excluded is not None and len(excluded) != len(queries):
        raise InvalidArgument(
            f"excluded must have one array a query, got {len(excluded)} for {len(queries)}"
        )
    # FAISS answers NaN with nothing and Inf with anything, neither with an error.
    check_finite(queries, "queries")


def check_finite(rows: Float32s, name: str) -> None:
    """Check that rows (n, D) hold neither NaN nor Inf. Raises InvalidArgument naming the first."""
    # One pass without a mask of the whole: a sum is not finite when a part is not.
    if math.isfinite(rows.sum(dtype=np.float64)):
        return
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise InvalidArgument(f"{name} must be finite, row {int(bad.argmax())} is not")
