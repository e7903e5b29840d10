"""Builds, saves and loads an ItemIndex; how far it searches is chosen by measured recall."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from corerec.config import build_config
from corerec.errors import InvalidArgument, ReleaseError
from corerec.retrieval.choose.truth import exact_best
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.legacy import load_legacy
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.create import create_index, read_store
from corerec.retrieval.stores.files import read_json
from corerec.retrieval.stores.spec import IndexSpec
from corerec.stages import Float32s, Int64s

_FIXED_QUERIES = 512
_CHUNK = 1 << 17
_MOST_BREADTH = 8192
_MORE_REFINED, _MOST_REFINED = 1.5, 16.0
_SCATTERED = 4
"""Times as long as a byte in a row a byte takes that lies anywhere: 57 ns for a vector of 64."""


def build_index(
    vectors: Float32s,
    numbers: Int64s | None = None,
    *,
    model_id: str,
    config: IndexConfig | None = None,
    queries: Float32s | None = None,
    seed: int = 0,
    spec: IndexSpec | None = None,
) -> ItemIndex:
    """Return an index that ranks vectors of any length by their inner product with a query.

    Without a spec the kind goes by the size of the catalogue. What the spec leaves open of the
    search (nprobe, ef_search of a graph) is the least that reaches the target recall. Kinds that
    score the best again read `vectors` for it where numbers are rows: it must not change then.

    Shapes: vectors (N, D); numbers (N,) strictly ascending item numbers, 0..N-1 when not given;
    queries (Q, D) held-out real queries that recall is measured on, items themselves when none.

    Raises:
        InvalidArgument: for a wrong shape, numbers out of order, NaN or Inf.
    """
    config = config or IndexConfig()
    vectors = np.ascontiguousarray(vectors, np.float32)
    numbers = np.arange(len(vectors), dtype=np.int64) if numbers is None else numbers
    _check(vectors, numbers)
    count = len(vectors)
    spec = spec or spec_for(count, config, seed)
    store = create_store(spec, vectors, numbers)
    if spec.is_lists and count:
        store.train(vectors[training_rows(spec, count)], count)
    for start in range(0, count, _CHUNK):
        store.add(numbers[start : start + _CHUNK], vectors[start : start + _CHUNK])
    info = IndexInfo(
        kind=spec.kind,
        dim=vectors.shape[1],
        count=count,
        model_id=model_id,
        recall_at=config.recall_at,
        identity=_is_identity(numbers),
    )
    return finish_index(store, vectors, numbers, info, config, queries, spec)


def create_store(spec: IndexSpec, vectors: Float32s, numbers: Int64s) -> VectorStore:
    """Return an empty store for vectors (N, D) by inner product, read in place where they may be.

    Exact scans go through NumPy: a product of the whole batch is faster than FAISS with exclusions.
    """
    return create_index(
        "numpy" if spec.kind == "flat" else "faiss",
        "ip",
        dim=vectors.shape[1],
        spec=spec,
        vectors=vectors if _is_identity(numbers) else None,
    )


def spec_for(count: int, config: IndexConfig, seed: int) -> IndexSpec:
    """Return the kind of index that a catalogue of so many items gets."""
    if count < config.flat_below:
        return IndexSpec(seed=seed)
    return IndexSpec(kind="ivf-int4-refine", refine_factor=config.refine_factor, seed=seed)


def training_rows(spec: IndexSpec, count: int) -> Int64s:
    """Return the rows, ascending, of the sample that the centres of the lists are learned from."""
    most = min(count, spec.lists_for(count) * spec.points)
    return np.sort(np.random.default_rng(spec.seed).choice(count, most, replace=False))


def finish_index(
    store: VectorStore,
    vectors: Float32s,
    numbers: Int64s,
    info: IndexInfo,
    config: IndexConfig,
    queries: Float32s | None,
    spec: IndexSpec,
) -> ItemIndex:
    """Return a filled store as an index whose search goes as far as the target recall asks.

    What `spec` sets of the search stays as it is.
    """
    recall, asked = 1.0, 0
    if spec.kind != "flat" and info.count:
        if queries is None or not len(queries):
            rng = np.random.default_rng([spec.seed, 1])
            most = min(info.count, _FIXED_QUERIES)
            queries = vectors[rng.choice(info.count, most, replace=False)]
        queries = np.ascontiguousarray(queries[:_FIXED_QUERIES], np.float32)
        recall, asked = _tune(store, vectors, numbers, config, queries, spec), len(queries)
    tuned = store.spec
    info = replace(
        info,
        nlist=tuned.nlist if tuned.is_lists else 0,
        nprobe=tuned.nprobe if tuned.is_lists else 0,
        refine_factor=tuned.refine_factor if tuned.is_refined else 1.0,
        recall=recall,
        queries=asked,
    )
    return ItemIndex(store, info)


def save_index(index: ItemIndex, path: Path, header: Path, *, with_vectors: bool = True) -> None:
    """Write the index to `path` and files beside it, and what it says of itself to `header` (JSON).

    Without vectors those that scores are computed again from are left out where they are the ones
    that the index was given by number: `load_index` must be given them then.
    """
    index.settle()
    store = index.store.write(path, with_vectors=with_vectors)
    count = len(index.store)
    info = replace(index.info, store=store, count=count, identity=_is_identity(index.numbers()))
    write_info(info, header)


def write_info(info: IndexInfo, header: Path) -> None:
    """Write what an index says of itself (JSON)."""
    header.write_text(json.dumps(asdict(info), indent=2) + "\n")


def load_index(
    path: Path,
    header: Path,
    *,
    model_id: str | None = None,
    vectors: Float32s | None = None,
) -> ItemIndex:
    """Return the index at `path`; its bytes are the release's to verify, its shape is checked here.

    `vectors` (M, D) by item number, perhaps a memory-map, are read in place of the index's own.

    Raises:
        ReleaseError: naming the file, when header and index differ, the file cannot be read, or
            `model_id` is given and is not that of the vectors inside.
    """
    return load_part([(path, header)], model_id=model_id, vectors=vectors)


def load_part(
    files: Sequence[tuple[Path, Path]],
    shard: int = 0,
    shards: int = 1,
    *,
    model_id: str | None = None,
    vectors: Float32s | None = None,
) -> ItemIndex:
    """Return the items whose number is `shard` modulo `shards` in files of one index.

    `files` are paths and headers of the index or of all its parts that hold such items; `vectors`
    (M, D) are those of the shard, row i of item number i * shards + shard. See `load_index`.
    """
    infos = [read_info(header, model_id) for _, header in files]
    info, source = infos[0], files[0][1]
    for other, (_, header) in zip(infos, files, strict=True):
        if _alike(other) != _alike(info):
            raise ReleaseError(f"{header}: must be a part of the same index as {source}")
    if info.store is None:
        # A file of before there were stores is a whole one, and has its vectors.
        legacy = load_legacy(files[0][0], info, vectors if shards == 1 else None)
        whole = ItemIndex(legacy, info)
        return whole if shards == 1 else whole.shard(shard, shards)
    spec = build_config(IndexSpec, info.store["spec"], source=source)
    # The store's own header says how many rows there are, removed ones of a graph too.
    if (info.store["dim"], spec.kind) != (info.dim, info.kind):
        raise ReleaseError(
            f"{source}: store of {spec.kind!r}, {info.store['dim']} wide, in an index of "
            f"{info.kind!r}, {info.dim} wide"
        )
    stores = [(path, own.store or {}) for (path, _), own in zip(files, infos, strict=True)]
    store = read_store(stores, spec, vectors, shard, shards)
    if shards == 1 and len(store) != (count := sum(own.count for own in infos)):
        raise ReleaseError(f"{files[0][0]}: holds {len(store)} items, its header says {count}")
    identity = info.identity if len(files) == shards == 1 else _is_identity(store.numbers())
    return ItemIndex(store, replace(info, count=len(store), identity=identity, store=None))


def read_info(header: Path, model_id: str | None = None) -> IndexInfo:
    """Return what an index says of itself. Raises ReleaseError where it is of another model."""
    info = build_config(IndexInfo, read_json(header), source=header)
    if model_id is not None and info.model_id != model_id:
        raise ReleaseError(
            f"{header}: index and query encoder must come from one model, "
            f"got {info.model_id!r} for an encoder of {model_id!r}"
        )
    return info


def _alike(info: IndexInfo) -> tuple[IndexInfo, Any]:
    """Return what headers of parts of one index share."""
    spec = None if info.store is None else info.store["spec"]
    return replace(info, count=0, identity=True, store=None), spec


def _tune(
    store: VectorStore,
    vectors: Float32s,
    numbers: Int64s,
    config: IndexConfig,
    queries: Float32s,
    spec: IndexSpec,
) -> float:
    """Set the least search that reaches the target recall, and return what it reaches.

    Lists of codes may want more candidates that are scored exactly rather than more lists: they get
    half as many again as long as that takes less, or finds what nothing else does.
    """
    k = min(config.recall_at, len(vectors))
    truth = numbers[exact_best(vectors, queries, k, "ip")]
    offset = np.arange(len(queries))[:, None] * (int(numbers[-1]) + 1)
    recalls: dict[int, float] = {}

    def measure(value: int) -> float:
        if value not in recalls:
            store.tune(**_parameter(spec, value))
            found, _ = store.search(queries, k)
            recalls[value] = float(np.isin((found + offset)[found >= 0], truth + offset).sum())
        return recalls[value] / truth.size

    def widen() -> float:
        low, high = 1, store.spec.nlist if spec.is_lists else min(_MOST_BREADTH, len(vectors))
        most, value = high, max(1, high // 8)
        while low <= high:
            if measure(value) >= config.target_recall:
                high = value - 1
            else:
                low = value + 1
            value = (low + high) // 2
        best = min(low, most)
        recall = measure(best)
        store.tune(**_parameter(spec, best))
        return recall

    if spec.nprobe or (spec.kind == "hnsw" and spec.ef_search != IndexSpec().ef_search):
        return measure(spec.nprobe if spec.is_lists else spec.ef_search)
    recall = widen()
    while spec.code_bits and (factor := store.spec.refine_factor) < _MOST_REFINED:
        before, cost = store.spec, _cost(store, k)
        recalls.clear()
        store.tune(refine_factor=_MORE_REFINED * factor)
        other = widen()
        target = config.target_recall
        gained = other > recall if recall < target else _cost(store, k) < cost
        if not gained:
            store.tune(nprobe=before.nprobe, refine_factor=factor)
            break
        recall = other
    return recall


def _cost(store: VectorStore, k: int) -> float:
    """Return the bytes of lists that take as long to read as a search for k items does."""
    spec, width = store.spec, store.dim
    scanned = len(store) * spec.nprobe / spec.nlist
    vectors = spec.refine_factor * k * 4 * width
    return scanned * (width * spec.code_bits / 8 + 4) + _SCATTERED * vectors


def _parameter(spec: IndexSpec, value: int) -> dict[str, Any]:
    return {"nprobe": value} if spec.is_lists else {"ef_search": value}


def _is_identity(numbers: Int64s) -> bool:
    count = len(numbers)
    return bool(count == 0 or (numbers[0] == 0 and numbers[-1] == count - 1))


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
