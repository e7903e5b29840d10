"""Arrays frozen at an address are read and written by compiled code as themselves."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import types

from corerec.engines.compiled import compiled
from corerec.ranking.frozen import Frozen, array, bundle, thaw


class Named(NamedTuple):
    numbers: Any
    scale: int


KIND = bundle(
    array(types.float32, 2),
    bundle(array(types.int64, 1), types.boolean),
    bundle(array(types.float32, 1), types.int64, of=Named),
)


@compiled
def double(fixed: Any) -> Any:
    """Write the named numbers' multiple over them; return the sum of the rest."""
    matrix, (counts, added), named = thaw(fixed, KIND)
    for i in range(len(named.numbers)):
        named.numbers[i] *= named.scale
    return matrix.sum() + (counts.sum() if added else 0)


def parts(rows: int, added: bool) -> Any:
    matrix = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    return matrix, (np.arange(4), added), Named(np.ones(5, np.float32), 7)


@pytest.mark.parametrize("rows", [0, 1, 6])
@pytest.mark.parametrize("added", [False, True])
def test_what_was_frozen_is_read_and_written_in_place(rows: int, added: bool) -> None:
    given = parts(rows, added)
    held = Frozen(given, KIND)
    assert double(held.address) == given[0].sum() + (6 if added else 0)
    assert given[2].numbers.tolist() == [7.0] * 5


def test_arrays_live_as_long_as_what_holds_them() -> None:
    held = [Frozen(parts(1000, added=True), KIND) for _ in range(20)]
    gc.collect()
    expected = np.arange(3000, dtype=np.float32).sum() + 6
    for _ in range(100):
        assert all(double(own.address) == expected for own in held)


def test_parts_of_another_type_are_refused() -> None:
    matrix, counts, named = parts(2, added=True)
    with pytest.raises(TypeError, match="parts must be of"):
        Frozen((matrix.astype(np.float64), counts, named), KIND)
    with pytest.raises(TypeError, match="parts must be of"):
        Frozen((matrix[:, ::2], counts, named), KIND)


def test_however_many_parts_find_room() -> None:
    kind = array(types.int64, 1)
    held = Frozen(tuple(np.arange(place + 1) for place in range(300)), bundle(*[kind] * 300))
    assert len(held._memory) >= 300 * 48  # or the rest would be written behind it
