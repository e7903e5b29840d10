"""The vectors that exact scores are computed from: given ones that are only read, and own ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import ReleaseError
from corerec.retrieval.stores.arrays import grown
from corerec.retrieval.stores.exact import score_rows
from corerec.retrieval.stores.files import (
    StoreFile,
    read_array,
    read_numbers,
    vectors_path,
    write_numbers,
)
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.spec import Metric
from corerec.stages import Float32s, Int64s

_CHUNK = 1 << 16


class Table:
    """Vectors by item number.

    `given` (M, D), perhaps a memory-map, holds vectors by item number: row i that of the number
    whose quotient by `step` is i, where all numbers have one remainder. A vector that is added for
    a number inside it and is the same is not copied; rows below M are rows of it. Others are kept
    in the table's own matrix as rows from M on.
    """

    def __init__(self, dim: int, given: Float32s | None = None, step: int = 1) -> None:
        self.given = np.empty((0, dim), np.float32) if given is None else np.asarray(given)
        self.step = step
        self.places = Places()
        self._own = np.empty((0, dim), np.float32)
        self._used = 0
        self._gaps: list[int] = []

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Memory of the own vectors, bytes."""
        return self._used * self._own.shape[1] * 4

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add vectors (n, D) of numbers (n,) that are not here."""
        rows = np.full(len(numbers), -1, np.int64)
        given = numbers // self.step
        inside = np.flatnonzero(given < len(self.given))
        for start in range(0, len(inside), _CHUNK):
            some = inside[start : start + _CHUNK]
            same = (self.given[given[some]] == vectors[some]).all(axis=1)
            rows[some[same]] = given[some[same]]
        own = np.flatnonzero(rows < 0)
        rows[own] = len(self.given) + self._keep(vectors[own])
        self.places.put(numbers, rows)

    def load(self, numbers: Int64s) -> None:
        """Take numbers whose vectors are the given ones."""
        self.places.put(numbers, numbers // self.step)

    def remove(self, numbers: Int64s) -> None:
        """Forget numbers that are here."""
        own = self.places.find(numbers) - len(self.given)
        self._gaps.extend(own[own >= 0].tolist())
        self.places.drop(numbers)

    def gather(self, numbers: Int64s) -> Float32s:
        """Return a copy of the vectors (n, D) of numbers that are here."""
        rows = self.places.find(numbers)
        if not len(rows) or rows.max() < len(self.given):
            return np.take(self.given, rows, axis=0)
        own = rows >= len(self.given)
        vectors = np.empty((len(rows), self._own.shape[1]), np.float32)
        vectors[~own] = self.given[rows[~own]]
        vectors[own] = self._own[rows[own] - len(self.given)]
        return vectors

    def score(self, queries: Float32s, numbers: Int64s, metric: Metric) -> Float32s:
        """Return scores (B, K) of numbers (B, K) that are here; -inf where a number is -1."""
        rows = self.places.find(numbers.ravel()).reshape(numbers.shape)
        first = len(self.given)
        if not self._used:
            return score_rows(self.given, queries, rows, metric)
        own = score_rows(self._own, queries, np.where(rows >= first, rows - first, -1), metric)
        if not first:
            return own
        given = score_rows(self.given, queries, np.where(rows < first, rows, -1), metric)
        return np.maximum(own, given)

    def own(self) -> tuple[Int64s, Float32s]:
        """Return the numbers (n,), ascending, and vectors (n, D) that are not given ones."""
        numbers = self.places.numbers()
        numbers = numbers[self.places.find(numbers) >= len(self.given)]
        return numbers, self.gather(numbers)

    def _keep(self, vectors: Float32s) -> Int64s:
        """Return the own rows that vectors are now in; gaps are filled first."""
        reused = self._gaps[len(self._gaps) - min(len(vectors), len(self._gaps)) :]
        del self._gaps[len(self._gaps) - len(reused) :]
        start, self._used = self._used, self._used + len(vectors) - len(reused)
        self._own = grown(self._own, self._used, start)
        rows = np.concatenate([np.array(reused, np.int64), np.arange(start, self._used)])
        self._own[rows] = vectors
        return rows


def write_vectors(
    path: Path, table: Table, numbers: Int64s, *, given: bool = False
) -> dict[str, Any]:
    """Write the vectors of ascending numbers; return what a header says of them.

    With `given` the others are the table's given ones and left out.
    """
    shape = (len(numbers), table.given.shape[1])
    if len(numbers):
        out = np.lib.format.open_memmap(vectors_path(path), "w+", np.float32, shape)
        for start in range(0, len(numbers), _CHUNK):
            out[start : start + _CHUNK] = table.gather(numbers[start : start + _CHUNK])
        out.flush()
    least = len(table.given) if given else 0
    return {"vectors": write_numbers(path, numbers) | {"given": least}}


def read_vectors(files: Sequence[StoreFile], table: Table, held: Int64s) -> None:
    """Fill an empty table with the numbers held, from files and the vectors that it was given.

    Raises:
        ReleaseError: when vectors that were left out are not given, or a file is wrong.
    """
    stored = [_stored(path, header, table.given.shape[1]) for path, header in files]
    path, known = files[0][0], files[0][1]["vectors"]
    if len(stored) == 1 and not len(table.given) and known["identity"] and len(stored[0][0]):
        table.given, table.step = stored[0][1], 1  # a map of the file, by number
        table.load(held)
        return
    left = np.setdiff1d(held, np.concatenate([numbers for numbers, _ in stored]))
    if len(left) and left[-1] // table.step >= len(table.given):
        raise ReleaseError(
            f"{path}: was written without its vectors: give at least {known['given']} by item "
            f"number, got {len(table.given)}"
        )
    table.load(left)
    for numbers, vectors in stored:
        rows = np.flatnonzero(np.isin(numbers, held))
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            table.add(numbers[some], np.ascontiguousarray(vectors[some]))


def _stored(path: Path, header: dict[str, Any], dim: int) -> tuple[Int64s, Float32s]:
    """Return the numbers (n,) whose vectors a file holds, and a map of them (n, D)."""
    numbers = read_numbers(path, header["vectors"])
    shape = (len(numbers), dim)
    if not len(numbers):
        return numbers, np.empty(shape, np.float32)
    return numbers, read_array(vectors_path(path), shape, np.float32, mapped=True)
