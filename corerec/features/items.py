"""ItemFeatures: the arrays of all items of a release, by item number, and their file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from corerec.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class ItemFeatures:
    """The arrays of N items; row i belongs to item number i."""

    categorical: NDArray[np.int32]
    """(N, C) codes, 0 is missing or unknown; as in the schema: category, creator, others."""
    multi: NDArray[np.int32]
    """(N, M, K) codes of list columns, padded with 0 at the end."""
    title_tokens: NDArray[np.int32]
    """(N, T) hashed words of the title, padded with 0 at the end."""
    numeric: NDArray[np.float32]
    """(N, F) standardised, 0 where missing."""
    vectors: NDArray[np.float32]
    """(N, V) all vector sets side by side, each L2-normalised."""
    born_micros: NDArray[np.int64]
    """(N,) microseconds since 1970, -1 when unknown."""

    def __len__(self) -> int:
        return len(self.born_micros)

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        save_file({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> ItemFeatures:
        """Return the arrays in a file. Raises InvalidArgument when one is missing."""
        arrays = load_file(path)
        if missing := {f.name for f in fields(cls)} - set(arrays):
            raise InvalidArgument(f"{path.name}: arrays {sorted(missing)} are missing")
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})
