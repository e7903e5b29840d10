"""Reads index files of before there were stores: plain FAISS files whose ids are rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.errors import ReleaseError
from corerec.retrieval.index import IndexInfo
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.edit import list_ids
from corerec.retrieval.stores.files import read_faiss, read_numbers
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.lists import ListsStore
from corerec.retrieval.stores.spec import IndexSpec
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss


def load_legacy(path: Path, info: IndexInfo, vectors: Float32s | None) -> VectorStore:
    """Return the store of an index file: a scan, lists of vectors, or codes in IndexRefineFlat.

    Raises:
        ReleaseError: naming the file that cannot be read, or does not fit its header.
    """
    index = read_faiss(path, info.dim, info.count)
    numbers = read_numbers(path, {"count": info.count, "identity": info.identity})
    if info.kind == "flat":
        store = FlatStore(info.dim)
        store.add(numbers, _vectors(index, info))
        return store
    if info.kind not in ("ivf-flat", "ivf-sq8-refine"):
        raise ReleaseError(f"{path}: a file without a store cannot be of kind {info.kind!r}")
    spec = IndexSpec(kind=info.kind, nprobe=info.nprobe, refine_factor=info.refine_factor)
    base = _faiss.downcast_index(index.base_index) if info.kind == "ivf-sq8-refine" else index
    if vectors is None and info.kind == "ivf-sq8-refine":
        by_row = _vectors(_faiss.downcast_index(index.refine_index), info)
        vectors = by_row if info.identity else _by_number(by_row, numbers)
    if not info.identity:
        _renumber(base, numbers)
    lists = ListsStore(info.dim, "ip", spec, given=vectors)
    # What FAISS read is one object: a copy of the lists lives without it.
    lists.adopt(_faiss.clone_index(base))
    return lists


def _vectors(index: Any, info: IndexInfo) -> Float32s:
    """Return a copy of the vectors (N, D) of a flat index."""
    size = info.count * info.dim
    memory = _faiss.rev_swig_ptr(index.get_xb(), size) if size else np.empty(0, np.float32)
    return np.array(memory, np.float32).reshape(info.count, info.dim)


def _by_number(vectors: Float32s, numbers: Int64s) -> Float32s:
    out = np.zeros((int(numbers[-1]) + 1, vectors.shape[1]), np.float32)
    out[numbers] = vectors
    return out


def _renumber(index: Any, numbers: Int64s) -> None:
    """Turn the rows in FAISS's lists into item numbers."""
    lists = _faiss.downcast_InvertedLists(index.invlists)
    for place in range(index.nlist):
        ids = list_ids(lists, place)
        ids[:] = numbers[ids]
