"""The index of one model's item vectors: a live store, and what was measured when it was built.

It knows item numbers and vectors, neither users nor releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from corerec.errors import ConfigError, FailedPrecondition
from corerec.retrieval.live_index import LiveIndex
from corerec.retrieval.stores.base import Mask, VectorStore
from corerec.retrieval.stores.parts import part_of
from corerec.retrieval.stores.spec import Kind
from corerec.stages import Float32s, Int64s

MAX_SHARDS = 1024


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How an index is built."""

    flat_below: int = 25_000
    """Catalogues with fewer items are scanned exactly; others get lists of 4-bit differences, which
    were the fastest from here to a million items."""
    target_recall: float = 0.96
    """Share of the exact top `recall_at` that the chosen number of probes must find, (0, 1]."""
    recall_at: int = 500
    """The k at which recall is measured."""
    refine_factor: float = 1.35
    """At least so many times k candidates are scored again by their vectors. >= 1."""
    shards: int = 1
    """Parts that a release holds vectors and index in, by item number, [1, 1024]; 1 holds them
    whole. Serving reads any number: with as many shards, or a divisor, none reads what it has not
    to."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if not 1 <= self.shards <= MAX_SHARDS:
            raise ConfigError(f"shards must be in [1, {MAX_SHARDS}], got {self.shards}")


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index says of itself; kept in a JSON file beside it."""

    kind: Kind
    dim: int
    count: int
    """Items when it was built."""
    model_id: str
    """Id of the model whose vectors these are; a query of another model is refused."""
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0
    """Measured at build against the exact answer on held-out queries."""
    recall_at: int = 500
    queries: int = 0
    """Number of queries that recall was measured on."""
    refine_factor: float = 1.0
    identity: bool = True
    """Whether row i is item number i; otherwise the numbers lie beside the index."""
    store: dict[str, Any] | None = None
    """What the store says of its files; None in files of before there were stores."""


class ItemIndex:
    """Answers top-k queries over vectors that come and go. Called from one thread at a time."""

    def __init__(self, store: VectorStore, info: IndexInfo) -> None:
        self.info = info
        self._live = LiveIndex(store)

    @property
    def count(self) -> int:
        """Number of items now."""
        return len(self._live)

    @property
    def store(self) -> VectorStore:
        """The main store; rows that are pending are not in it."""
        return self._live.main

    @property
    def pending(self) -> int:
        """Rows that have not been moved into the main store."""
        return self._live.pending

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return self._live.nbytes

    def numbers(self) -> Int64s:
        """Return the item numbers that can be found, ascending."""
        return self._live.numbers()

    def search(
        self,
        queries: Float32s,
        k: int,
        excluded: Sequence[Int64s] | None = None,
        *,
        allowed: Mask | None = None,
        model_id: str | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query, best first, equal scores by number.

        As many come back as exist: rows are padded with number -1 and score -inf beyond that.

        Shapes: queries (B, D); excluded, one array of item numbers a query, in any order, unknown
        ones ignored; allowed, a mask by item number for all queries, numbers beyond it are not
        allowed; returns numbers (B, k) int64 and scores (B, k) float32.

        Raises:
            InvalidArgument: for k < 1, a wrong dimension, a query with NaN or Inf.
            FailedPrecondition: when `model_id` is given and is not that of these vectors.
        """
        if model_id is not None and model_id != self.info.model_id:
            raise FailedPrecondition(
                f"query and index must come from one model, got a query of {model_id!r} "
                f"for an index of {self.info.model_id!r}"
            )
        return self._live.search(queries, k, allowed, excluded)

    def upsert(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items (n,) with vectors (n, D), or give those that are there other vectors.

        Raises:
            InvalidArgument: for a wrong shape or type, NaN, Inf, a negative number or one twice in
                the call; nothing is changed then.
        """
        self._live.upsert(numbers, vectors)

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there; unknown numbers are ignored."""
        return self._live.remove(numbers)

    def maintain(self, rows: int | None = None) -> bool:
        """Move a few pending rows into the main store; see `LiveIndex.maintain`."""
        return self._live.maintain(rows)

    def warm(self) -> None:
        """Try a change beside the index, so that the first one is as fast as any."""
        self._live.warm()

    def settle(self) -> None:
        """Move every pending row into the main store, as before the index is saved."""
        self._live.settle()

    def shard(self, shard: int, shards: int, *, vectors: Float32s | None = None) -> ItemIndex:
        """Return the part whose item numbers are `shard` modulo `shards`.

        It has the same centres and parameters: the best of all parts together are those of the
        whole, and never worse where a part looks a little further. Pending rows are moved first.
        `vectors` (M, D), row i of item number i * shards + shard, are read in place of those that
        the whole was given.

        Raises:
            InvalidArgument: when shard is not in [0, shards).
        """
        self.settle()
        part = part_of(self.store, shard, shards, vectors)
        return ItemIndex(part, replace(self.info, count=len(part), identity=False, store=None))
