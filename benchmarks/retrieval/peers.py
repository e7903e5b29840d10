"""Vector searches of other libraries behind one small interface: build, save, load, set, search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
THREADS = 2
POINTS = 64
"""Vectors a list that centres are learned from, for whoever learns them."""


class Contender(Protocol):
    """One library's search, with one parameter that trades recall for time."""

    name: str
    settings: Sequence[Any]
    """Widths of search to try, the narrowest first."""

    def build(self, vectors: Float32s) -> None: ...
    def save(self, path: Path) -> None: ...
    def load(self, path: Path, vectors: Float32s) -> None: ...
    def set(self, setting: Any, k: int) -> None: ...
    def one(self, query: Float32s, k: int) -> Int64s:
        """Return the numbers (k,) of a query (D,), on one thread."""
        ...

    def many(self, queries: Float32s, k: int) -> Int64s:
        """Return the numbers (B, k) of queries (B, D), on all threads."""
        ...

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of the index and of vectors beside it, as far as they can be told apart."""
        ...


class Ours:
    """A store of CoreRec."""

    def __init__(self, name: str, kind: str, **spec: Any) -> None:
        from corerec.retrieval.stores import IndexSpec

        self.name, self.spec = name, IndexSpec(kind=kind, **spec)  # type: ignore[arg-type]
        self.settings = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128)
        self.store: Any = None

    def build(self, vectors: Float32s) -> None:
        from corerec.retrieval.stores import create_index

        given = vectors if self.spec.is_refined else None
        self.store = create_index(
            "faiss", "ip", dim=vectors.shape[1], spec=self.spec, vectors=given
        )
        if self.spec.is_lists:
            count = len(vectors)
            rows = np.random.default_rng(0).choice(
                count, min(count, POINTS * self.spec.nlist), replace=False
            )
            self.store.train(np.ascontiguousarray(vectors[np.sort(rows)]), count)
        self.store.add(np.arange(len(vectors)), np.ascontiguousarray(vectors))

    def save(self, path: Path) -> None:
        from corerec.retrieval.stores.files import write_header

        write_header(path, self.store.write(path, with_vectors=False))

    def load(self, path: Path, vectors: Float32s) -> None:
        from corerec.retrieval.stores import load_store

        self.store = load_store(path, vectors)

    def set(self, setting: Any, k: int) -> None:
        self.store.tune(nprobe=setting, refine_factor=self.spec.refine_factor)

    def one(self, query: Float32s, k: int) -> Int64s:
        faiss.omp_set_num_threads(1)
        found: Int64s = self.store.search(query[None], k)[0][0]
        return found

    def many(self, queries: Float32s, k: int) -> Int64s:
        faiss.omp_set_num_threads(THREADS)
        found: Int64s = self.store.search(queries, k)[0]
        return found

    @property
    def nbytes(self) -> tuple[int, int]:
        held = self.store.held()
        vectors = 4 * self.store.dim * len(self.store)
        return held.index, max(held.vectors, vectors if self.spec.is_refined else 0)


class Faiss:
    """An index of FAISS by its factory string, called as its tutorials do."""

    def __init__(self, name: str, factory: str, settings: Sequence[Any], refine: float = 0) -> None:
        self.name, self.factory, self.settings, self.refine = name, factory, settings, refine
        self.index: Any = None
        self.params: Any = None

    def build(self, vectors: Float32s) -> None:
        self.index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        if "HNSW" in self.factory:
            self.index.hnsw.efConstruction = 100
        if "IVF" in self.factory:
            self.index.cp.spherical = True
            rows = np.random.default_rng(0).choice(
                len(vectors), min(len(vectors), POINTS * self.index.nlist), replace=False
            )
            self.index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
        self.index.add(np.ascontiguousarray(vectors))

    def save(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    def load(self, path: Path, vectors: Float32s) -> None:
        self.index = faiss.read_index(str(path))
        self.vectors = vectors
        if self.refine:
            self.base = self.index
            self.index = faiss.IndexRefineFlat(self.base, faiss.swig_ptr(vectors))

    def set(self, setting: Any, k: int) -> None:
        if "HNSW" in self.factory:
            self.params = faiss.SearchParametersHNSW(efSearch=setting)  # type: ignore[call-arg]
            return
        self.inner = faiss.SearchParametersIVF(nprobe=setting)  # type: ignore[call-arg]
        self.params = self.inner
        if self.refine:
            self.params = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
                k_factor=self.refine, base_index_params=self.inner
            )

    def one(self, query: Float32s, k: int) -> Int64s:
        faiss.omp_set_num_threads(1)
        found: Int64s = self.index.search(query[None], k, params=self.params)[1][0]
        return found

    def many(self, queries: Float32s, k: int) -> Int64s:
        faiss.omp_set_num_threads(THREADS)
        found: Int64s = self.index.search(queries, k, params=self.params)[1]
        return found

    @property
    def nbytes(self) -> tuple[int, int]:
        count, dim = self.vectors.shape
        if "HNSW" in self.factory:
            return self.index.hnsw.neighbors.size() * 4 + count * 8, 4 * count * dim
        base = self.base if self.refine else self.index
        size = base.nlist * dim * 4 + count * (base.code_size + 8)
        return int(size), 4 * count * dim if self.refine else 0


class Hnswlib:
    """hnswlib, by inner product."""

    name = "hnswlib M=16"
    settings = (500, 600, 700, 800, 900, 1000, 1200, 1400)

    def build(self, vectors: Float32s) -> None:
        import hnswlib  # type: ignore[import-not-found]

        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
        self.index.add_items(np.asarray(vectors), num_threads=THREADS)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path, vectors: Float32s) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.load_index(str(path))
        self.vectors = vectors

    def set(self, setting: Any, k: int) -> None:
        self.index.set_ef(max(setting, k))

    def one(self, query: Float32s, k: int) -> Int64s:
        found = self.index.knn_query(query[None], k=k, num_threads=1)[0][0]
        return np.asarray(found, np.int64)

    def many(self, queries: Float32s, k: int) -> Int64s:
        return np.asarray(self.index.knn_query(queries, k=k, num_threads=THREADS)[0], np.int64)

    @property
    def nbytes(self) -> tuple[int, int]:
        count, dim = self.vectors.shape
        return self.index.index_file_size() - 4 * count * dim, 4 * count * dim


class Usearch:
    """usearch, by inner product of float vectors."""

    name = "usearch M=16"
    settings = (500, 600, 700, 800, 900, 1000, 1200, 1400)

    def build(self, vectors: Float32s) -> None:
        from usearch.index import Index

        self.index = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=100
        )
        self.index.add(np.arange(len(vectors)), np.asarray(vectors), threads=THREADS)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, vectors: Float32s) -> None:
        from usearch.index import Index

        found = Index.restore(str(path))
        assert found is not None
        self.index, self.vectors = found, vectors

    def set(self, setting: Any, k: int) -> None:
        self.index.expansion_search = max(setting, k)

    def one(self, query: Float32s, k: int) -> Int64s:
        return np.asarray(self.index.search(query, k, threads=1).keys, np.int64)

    def many(self, queries: Float32s, k: int) -> Int64s:
        return np.asarray(self.index.search(queries, k, threads=THREADS).keys, np.int64)

    @property
    def nbytes(self) -> tuple[int, int]:
        count, dim = self.vectors.shape
        return int(self.index.serialized_length) - 4 * count * dim, 4 * count * dim


class Scann:
    """ScaNN: a partitioning tree, 4-bit codes of two dimensions each, exact reordering."""

    def __init__(self, leaves: int) -> None:
        self.name, self.leaves = f"ScaNN {leaves} leaves", leaves
        self.settings = [
            (read, reorder)
            for read in (8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 96, 128)
            for reorder in (1.3, 1.5, 2.0)
        ]

    def build(self, vectors: Float32s) -> None:
        import scann  # type: ignore[import-untyped]

        builder = scann.scann_ops_pybind.builder(np.asarray(vectors), 500, "dot_product")
        builder = builder.tree(
            num_leaves=self.leaves,
            num_leaves_to_search=16,
            training_sample_size=min(len(vectors), POINTS * self.leaves),
            spherical=True,
        )
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(1000)
        self.index = builder.build()

    def save(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.index.serialize(str(path))

    def load(self, path: Path, vectors: Float32s) -> None:
        import scann

        self.index = scann.scann_ops_pybind.load_searcher(str(path))
        self.vectors, self.path = vectors, path

    def set(self, setting: Any, k: int) -> None:
        self.asked = {
            "leaves_to_search": setting[0],
            "pre_reorder_num_neighbors": math.ceil(setting[1] * k),
            "final_num_neighbors": k,
        }

    def one(self, query: Float32s, k: int) -> Int64s:
        return np.asarray(self.index.search(query, **self.asked)[0], np.int64)

    def many(self, queries: Float32s, k: int) -> Int64s:
        found = self.index.search_batched_parallel(queries, **self.asked)[0]
        return np.asarray(found, np.int64)

    @property
    def nbytes(self) -> tuple[int, int]:
        vectors = 4 * self.vectors.size
        return sum(f.stat().st_size for f in self.path.iterdir()) - vectors, vectors
