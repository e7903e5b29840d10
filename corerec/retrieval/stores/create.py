"""Makes stores, and loads those that were saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from corerec.config import build_config
from corerec.errors import InvalidArgument, ReleaseError
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.files import FORMAT, StoreFile, header_path, read_json
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.graph import GraphStore
from corerec.retrieval.stores.lists import ListsStore
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.retrieval.stores.trees import AnnoyStore
from corerec.stages import Float32s

if TYPE_CHECKING:
    from corerec.retrieval.stores.int8 import Int8Store

    Store = FlatStore | GraphStore | ListsStore | Int8Store


def create_index(
    backend: Backend = "faiss",
    metric: Metric = "ip",
    *,
    dim: int,
    spec: IndexSpec | None = None,
    vectors: Float32s | None = None,
) -> VectorStore:
    """Return an empty store of vectors of `dim` numbers.

    NumPy is always an exact scan; Annoy's forest takes the `trees` of the spec; FAISS is any kind.
    `vectors` (M, D) float32, perhaps a read-only memory-map, holds vectors by item number: kinds
    with `-refine` read from it what was added the same, instead of keeping copies.

    Raises:
        InvalidArgument: for an unknown backend or metric, dim < 1, or a spec that does not fit.
        FailedPrecondition: when Annoy is not installed, saying how to install it.
    """
    spec = spec or IndexSpec()
    for name, value, known in (("backend", backend, Backend), ("metric", metric, Metric)):
        if value not in get_args(known):
            raise InvalidArgument(f"{name} must be one of {list(get_args(known))}, got {value!r}")
    if dim < 1:
        raise InvalidArgument(f"dim must be at least 1, got {dim}")
    if backend != "faiss" and spec.kind != "flat":
        raise InvalidArgument(f"backend {backend!r} takes kind 'flat', got {spec.kind!r}")
    if vectors is not None and vectors.shape[1:] != (dim,):
        raise InvalidArgument(f"vectors must be (M, {dim}), got {vectors.shape}")
    return _make(backend, metric, dim, spec, vectors)


def load_store(path: Path, vectors: Float32s | None = None) -> VectorStore:
    """Return the store that was saved to `path`; `vectors` as for `create_index`.

    Raises:
        ReleaseError: naming the file that is missing, torn or of another format; also when the
            vectors were left out of the files and are not given.
    """
    header = read_json(header_path(path))
    if header.get("format") != FORMAT:
        raise ReleaseError(f"{header_path(path)}: format must be {FORMAT}, got {header}")
    spec = build_config(IndexSpec, header["spec"], source=header_path(path))
    return read_store([(path, header)], spec, vectors)


def read_store(
    files: Sequence[StoreFile],
    spec: IndexSpec,
    vectors: Float32s | None = None,
    shard: int = 0,
    shards: int = 1,
) -> VectorStore:
    """Return one store of what files hold of the items whose number is `shard` modulo `shards`.

    The files are of one store, or of its parts. Lists become those that the whole would have; a
    graph of several files, or of some of a file, is linked anew. `vectors` (M, D), perhaps a
    memory-map, are those of the shard: row i is item number i * shards + shard.

    Raises:
        ReleaseError: naming the file that is not what its header says, or whose vectors were left
            out and are not given.
    """
    header = files[0][1]

    def made() -> Store:
        dim = int(header["dim"])
        return _make(header["backend"], header["metric"], dim, spec, vectors, shards)

    store = made()
    if not isinstance(store, FlatStore | GraphStore):
        store.read(files, shard, shards)
        return store
    if len(files) == shards == 1:
        store.read(*files[0])
        return store
    for path, own in files:
        part = made()
        assert isinstance(part, FlatStore | GraphStore)
        part.read(path, own)
        numbers = part.numbers()
        numbers = numbers[numbers % shards == shard]
        if len(files) == 1 and len(numbers) == len(part):
            return part
        store.add(numbers, part.vectors(numbers))
    return store


def like(store: VectorStore, *, trained: bool = False) -> VectorStore:
    """Return an empty store of the same backend, metric and spec; lists choose their number anew.

    With `trained` lists keep their centres.
    """
    spec = store.spec
    if spec.code_bits and trained:
        from corerec.retrieval.stores.int8 import Int8Store

        assert isinstance(store, Int8Store)
        return store.emptied()
    if spec.is_lists:
        spec = replace(spec, nlist=0)
    return _make(store.backend, store.metric, store.dim, spec, None)


def _make(
    backend: str,
    metric: Metric,
    dim: int,
    spec: IndexSpec,
    vectors: Float32s | None,
    step: int = 1,
) -> Store:
    if backend == "annoy":
        return AnnoyStore(dim, metric, spec)
    if spec.kind == "flat":
        return FlatStore(dim, metric, spec, backend="faiss" if backend == "faiss" else "numpy")
    if spec.kind == "hnsw":
        return GraphStore(dim, metric, spec)
    if spec.code_bits:
        # Loading numba takes a fraction of a second that other kinds need not wait for.
        from corerec.retrieval.stores.int8 import Int8Store

        return Int8Store(dim, metric, spec, given=vectors, step=step)
    return ListsStore(dim, metric, spec, given=vectors, step=step)
