"""Builds, saves and loads an ItemIndex; the number of probes is chosen by measured recall."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.config import build_config
from corerec.errors import InvalidArgument, ReleaseError
from corerec.retrieval.index import (
    IndexConfig,
    IndexInfo,
    ItemIndex,
    info_as_json,
    numbers_path,
)
from corerec.stages import Float32s, Int64s

_FIXED_QUERIES = 512
_POINTS = 64
"""Vectors a list that its centre is learned from."""


def build_index(
    vectors: Float32s,
    numbers: Int64s | None = None,
    *,
    model_id: str,
    config: IndexConfig | None = None,
    queries: Float32s | None = None,
    seed: int = 0,
) -> ItemIndex:
    """Return an index that ranks vectors of any length by their inner product with a query.

    Shapes: vectors (N, D); numbers (N,) strictly ascending item numbers, 0..N-1 when not given;
    queries (Q, D) held-out real queries that recall is measured on, items themselves when none.

    Raises:
        InvalidArgument: for a wrong shape, numbers out of order, NaN or Inf.
    """
    config = config or IndexConfig()
    vectors = np.ascontiguousarray(vectors, np.float32)
    numbers = np.arange(len(vectors), dtype=np.int64) if numbers is None else numbers
    _check(vectors, numbers)
    count, dim = vectors.shape
    identity = bool(count == 0 or (numbers[0] == 0 and numbers[-1] == count - 1))
    info = IndexInfo(
        kind="flat",
        dim=dim,
        count=count,
        model_id=model_id,
        recall_at=config.recall_at,
        identity=identity,
    )
    if count < config.flat_below:
        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors)
        return ItemIndex(flat, numbers, info)
    return _build_lists(vectors, numbers, info, config, queries, seed)


def save_index(index: ItemIndex, path: Path, header: Path) -> None:
    """Write the index to `path` and what it says of itself to `header` (JSON)."""
    faiss.write_index(index._index, str(path))
    if not index.info.identity:
        np.save(numbers_path(path), index._numbers, allow_pickle=False)
    header.write_text(json.dumps(info_as_json(index.info), indent=2) + "\n")


def load_index(path: Path, header: Path, *, model_id: str | None = None) -> ItemIndex:
    """Return the index at `path`; its bytes are the release's to verify, its shape is checked here.

    Raises:
        ReleaseError: naming the file, when header and index differ, the file cannot be read, or
            `model_id` is given and is not that of the vectors inside.
    """
    info = build_config(IndexInfo, _read_json(header), source=header)
    if model_id is not None and info.model_id != model_id:
        raise ReleaseError(
            f"{header}: index and query encoder must come from one model, "
            f"got {info.model_id!r} for an encoder of {model_id!r}"
        )
    try:
        inner = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1][:200]
        raise ReleaseError(f"{path}: not a FAISS index: {reason}") from None
    if (inner.d, inner.ntotal) != (info.dim, info.count):
        raise ReleaseError(
            f"{path}: holds {inner.ntotal} vectors of {inner.d}, "
            f"its header says {info.count} of {info.dim}"
        )
    numbers = np.arange(info.count, dtype=np.int64)
    if not info.identity:
        numbers = np.load(numbers_path(path), allow_pickle=False)
        if numbers.shape != (info.count,) or numbers.dtype != np.int64:
            raise ReleaseError(
                f"{numbers_path(path)}: must hold {info.count} int64, got {numbers.shape}"
            )
    return ItemIndex(inner, numbers, info)


def _build_lists(
    vectors: Float32s,
    numbers: Int64s,
    info: IndexInfo,
    config: IndexConfig,
    queries: Float32s | None,
    seed: int,
) -> ItemIndex:
    inner = train_lists(vectors[training_rows(len(vectors), seed)], len(vectors), config, seed)
    inner.add(vectors)
    if info.count >= config.sq8_from:
        inner = faiss.IndexRefineFlat(inner, faiss.swig_ptr(vectors))
    return finish_lists(inner, vectors, numbers, info, config, queries, seed)


def list_count(count: int) -> int:
    """Return how many lists so many items make."""
    # About the square root of the catalogue balances choosing lists and reading them.
    return int(2 ** round(math.log2(math.sqrt(count))))


def training_rows(count: int, seed: int) -> Int64s:
    """Return the rows, ascending, of the sample that the centres of the lists are learned from."""
    most = min(count, list_count(count) * _POINTS)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def train_lists(sample: Float32s, count: int, config: IndexConfig, seed: int) -> Any:
    """Return the empty lists of an index of `count` items, learned from a sample (S, D)."""
    codes = "SQ8" if count >= config.sq8_from else "Flat"
    inner: Any = faiss.index_factory(
        sample.shape[1], f"IVF{list_count(count)},{codes}", faiss.METRIC_INNER_PRODUCT
    )
    inner.cp.seed = seed
    inner.cp.spherical = True
    inner.cp.max_points_per_centroid = _POINTS
    inner.train(np.ascontiguousarray(sample, np.float32))
    return inner


def finish_lists(
    inner: Any,
    vectors: Float32s,
    numbers: Int64s,
    info: IndexInfo,
    config: IndexConfig,
    queries: Float32s | None,
    seed: int,
) -> ItemIndex:
    """Return filled lists as an index whose number of probes is chosen on queries.

    `inner` is what `train_lists` gave with all vectors added, in `IndexRefineFlat` for 8-bit codes.
    """
    is_refined = info.count >= config.sq8_from
    info = replace(
        info,
        kind="ivf-sq8-refine" if is_refined else "ivf-flat",
        nlist=list_count(info.count),
        nprobe=list_count(info.count),
        refine_factor=config.refine_factor if is_refined else 1.0,
    )
    if queries is None or not len(queries):
        rng = np.random.default_rng([seed, 1])
        queries = vectors[rng.choice(len(vectors), min(len(vectors), _FIXED_QUERIES), False)]
    return _choose_probes(inner, vectors, numbers, info, config, queries[:_FIXED_QUERIES])


def _choose_probes(
    inner: Any,
    vectors: Float32s,
    numbers: Int64s,
    info: IndexInfo,
    config: IndexConfig,
    queries: Float32s,
) -> ItemIndex:
    """Return the index with the fewest probes whose measured recall reaches the target."""
    k = min(config.recall_at, info.count)
    exact = faiss.IndexFlatIP(info.dim)
    exact.add(vectors)
    _, truth = exact.search(np.ascontiguousarray(queries, np.float32), k)
    offset = np.arange(len(queries))[:, None] * info.count
    low, high = 1, info.nlist
    recalls: dict[int, float] = {}
    while low <= high:
        probes = (low + high) // 2 if recalls else max(1, info.nlist // 8)
        index = ItemIndex(inner, numbers, replace(info, nprobe=probes))
        _, rows = index._ask(np.ascontiguousarray(queries, np.float32), k, None, probes)
        found = np.isin((rows + offset)[rows >= 0], truth + offset).sum()
        recalls[probes] = float(found / truth.size)
        if recalls[probes] >= config.target_recall:
            high = probes - 1
        else:
            low = probes + 1
    probes = min(low, info.nlist)
    return ItemIndex(
        inner,
        numbers,
        replace(info, nprobe=probes, recall=recalls.get(probes, 1.0), queries=len(queries)),
    )


def _check(vectors: Float32s, numbers: Int64s) -> None:
    if vectors.ndim != 2 or numbers.shape != (len(vectors),):
        raise InvalidArgument(
            f"vectors must be (N, D) and numbers (N,), got {vectors.shape} and {numbers.shape}"
        )
    if len(numbers) and (numbers[0] < 0 or (np.diff(numbers) <= 0).any()):
        raise InvalidArgument("numbers must be ascending, each once, and not negative")
    # FAISS would take NaN without a word and never find it again.
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise InvalidArgument(f"vectors must be finite, row {int(bad.argmax())} is not")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReleaseError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ReleaseError(f"{path}: must hold a JSON object")
    return values
