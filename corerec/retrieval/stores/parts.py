"""Cuts a store into the parts that shards serve."""

from __future__ import annotations

import numpy as np

from corerec.errors import InvalidArgument
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.create import like
from corerec.retrieval.stores.lists import ListsStore
from corerec.stages import Float32s

_CHUNK = 1 << 16


def part_of(
    store: VectorStore, shard: int, shards: int, vectors: Float32s | None = None
) -> VectorStore:
    """Return a store of the items whose number is `shard` modulo `shards`.

    Inverted lists keep their centres, codes and parameters; a graph or a forest is built anew.
    `vectors` (M, D) are those of the shard, row i of item number i * shards + shard: kinds that
    read the given ones in place read these.

    Raises:
        InvalidArgument: when shard is not in [0, shards).
    """
    if not 0 <= shard < shards:
        raise InvalidArgument(f"shard must be in [0, {shards}), got {shard}")
    numbers = store.numbers()
    numbers = numbers[numbers % shards == shard]
    if isinstance(store, ListsStore):
        return store.part(numbers, given=vectors, step=shards)
    if store.spec.code_bits:
        # Loading numba takes a fraction of a second that other kinds need not wait for.
        from corerec.retrieval.stores.int8 import Int8Store

        assert isinstance(store, Int8Store)
        return store.part(numbers, given=vectors, step=shards)
    part = like(store, trained=True)
    for start in range(0, len(numbers), _CHUNK):
        some = numbers[start : start + _CHUNK]
        part.add(some, np.ascontiguousarray(store.vectors(some)))
    return part
