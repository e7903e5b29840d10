"""The files of a store: an index, item numbers where rows are not the numbers, and a header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from corerec.errors import ReleaseError
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.stages import Int64s

FORMAT = 1
StoreFile = tuple[Path, dict[str, Any]]
"""Where a store's index lies, and its header."""


class _Described(Protocol):
    @property
    def backend(self) -> Backend: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def dim(self) -> int: ...
    @property
    def spec(self) -> IndexSpec: ...


def numbers_path(path: Path) -> Path:
    """Return where the item numbers of an index lie when its rows are not the numbers."""
    return path.with_suffix(".numbers.npy")


def vectors_path(path: Path) -> Path:
    """Return where the vectors of an index of codes lie."""
    return path.with_suffix(".vectors.npy")


def header_path(path: Path) -> Path:
    """Return where the header of a store lies."""
    return path.with_suffix(".store.json")


def write_header(path: Path, header: dict[str, Any]) -> None:
    """Write the header of the store at `path`."""
    header_path(path).write_text(json.dumps(header, indent=2) + "\n")


def describe(store: _Described) -> dict[str, Any]:
    """Return what a header says of every store."""
    return {
        "format": FORMAT,
        "backend": store.backend,
        "metric": store.metric,
        "dim": store.dim,
        "spec": asdict(store.spec),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raises ReleaseError when the file does not hold one."""
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReleaseError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ReleaseError(f"{path}: must hold a JSON object")
    return values


def write_numbers(path: Path, numbers: Int64s) -> dict[str, Any]:
    """Write ascending numbers of rows unless they are 0..n-1; return what a header says of them."""
    count = len(numbers)
    identity = not count or bool(numbers[0] == 0 and numbers[-1] == count - 1)
    if not identity:
        np.save(numbers_path(path), numbers, allow_pickle=False)
    return {"count": count, "identity": identity}


def read_numbers(path: Path, header: dict[str, Any]) -> Int64s:
    """Return the numbers of rows. Raises ReleaseError when the file is not what it should be."""
    count = int(header["count"])
    if header["identity"]:
        return np.arange(count, dtype=np.int64)
    numbers: Int64s = read_array(numbers_path(path), (count,), np.int64)
    return numbers


def read_array(path: Path, shape: tuple[int, ...], dtype: type, *, mapped: bool = False) -> Any:
    """Return an array of a file, or a map of it. Raises ReleaseError for another shape or type."""
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseError(f"{path}: not readable as an array: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise ReleaseError(
            f"{path}: must hold {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}"
        )
    return array


def read_faiss(path: Path, dim: int, count: int) -> Any:
    """Return a FAISS index. Raises ReleaseError when it is none or has another shape."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1][:200]
        raise ReleaseError(f"{path}: not a FAISS index: {reason}") from None
    if (index.d, index.ntotal) != (dim, count):
        raise ReleaseError(
            f"{path}: holds {index.ntotal} vectors of {index.d}, its header says {count} of {dim}"
        )
    return index
