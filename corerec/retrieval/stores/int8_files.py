"""The file of lists of 8-bit differences: centres, item numbers, and the list of each.

Codes are not in it: they are computed from the vectors when it is read, as fast as they would be
read, and so a file of the lists of some items is no more than their numbers.
"""

# N items, D width, L lists

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.errors import ReleaseError
from corerec.retrieval.stores.base import Mask
from corerec.stages import Float32s, Int64s


class Filed(NamedTuple):
    """What a file holds."""

    centres: Float32s
    """(L, D)."""
    numbers: Int64s
    """(N,) ascending."""
    home: NDArray[np.int32]
    """(N,) the list of each item."""
    own: Mask
    """(N,) whether its vector lies in the file beside this one, not among those that are given."""


def write_lists(path: Path, filed: Filed) -> None:
    """Write a file of lists."""
    with path.open("wb") as file:
        np.save(file, filed.centres, allow_pickle=False)
        np.save(file, filed.numbers, allow_pickle=False)
        np.save(file, filed.home.astype(np.int32), allow_pickle=False)
        np.save(file, filed.own, allow_pickle=False)


def read_lists(path: Path, header: dict[str, Any], dim: int) -> Filed:
    """Return what `write_lists` wrote. Raises ReleaseError when it does not fit its header."""
    try:
        with path.open("rb") as file:
            filed = Filed(*(np.load(file, allow_pickle=False) for _ in range(4)))
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseError(f"{path}: not lists of 8-bit codes: {error}") from None
    count = int(header["count"])
    same = count == len(filed.numbers) == len(filed.home) == len(filed.own)
    if not same or filed.centres.shape[1] != dim:
        raise ReleaseError(
            f"{path}: holds {len(filed.numbers)} items of {filed.centres.shape[1]}, "
            f"its header says {count} of {dim}"
        )
    return filed
