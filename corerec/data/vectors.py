"""Reads vectors per item from `.npy` files, memory-mapped, and refuses what is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corerec.errors import DataError

_CHUNK_VALUES = 1 << 22


def load_vectors(
    root: Path, files: Mapping[str, str], items: int
) -> dict[str, NDArray[np.float32]]:
    """Return each vector set as (items, d) float32; float32 files stay memory-mapped.

    Raises:
        DataError: naming the file, the row and the dimension of the first bad value.
    """
    return {name: _load(root / file, items) for name, file in files.items()}


def _load(path: Path, items: int) -> NDArray[np.float32]:
    if not path.is_file():
        raise DataError("the file does not exist", file=path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"the file is not readable as .npy: {error}", file=path) from None
    return checked_vectors(array, items, path)


def checked_vectors(array: object, items: int, place: Path | str) -> NDArray[np.float32]:
    """Return vectors as (items, d) float32; `place` is what errors call them.

    Raises:
        DataError: for another type or shape, or a value that is not finite.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32, np.float64):
        kind = str(getattr(array, "dtype", type(array).__name__))
        raise DataError("vectors must be float16, float32 or float64", file=place, value=kind)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError("vectors must have the shape (items, d)", file=place, value=array.shape)
    if len(array) != items:
        rule = f"vectors must have one row for each of the {items} items"
        raise DataError(rule, file=place, value=len(array))
    _refuse_non_finite(place, array)
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _refuse_non_finite(place: Path | str, array: NDArray[np.floating]) -> None:
    step = max(1, _CHUNK_VALUES // array.shape[1])
    for start in range(0, len(array), step):
        finite = np.isfinite(array[start : start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            value = float(array[start + row, column])
            rule = f"vectors must be finite, row {start + row + 1} dimension {column} is not"
            raise DataError(rule, file=place, line=int(start + row + 1), value=value)
