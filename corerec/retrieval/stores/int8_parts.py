"""What the store of 8-bit lists is put together from: centres, assignment, exclusions, threads."""

# B queries, D width, N items, L lists

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import faiss
import numpy as np

from corerec.retrieval.stores.base import check_numbers
from corerec.retrieval.stores.int8_lists import Lists
from corerec.retrieval.stores.int8_search import nearest_lists
from corerec.retrieval.stores.spec import IndexSpec, Metric
from corerec.stages import Float32s, Int64s

NO_ITEMS = np.empty(0, np.int64)
_SHARE = 8
"""Queries a thread is given at least."""


def learned_centres(sample: Float32s, spec: IndexSpec, metric: Metric) -> Float32s:
    """Return centres (L, D) learned from a sample."""
    kmeans = faiss.Kmeans(
        sample.shape[1],
        spec.nlist,
        niter=10,
        spherical=metric != "l2",
        seed=spec.seed or 1234,
        max_points_per_centroid=spec.points,
        min_points_per_centroid=1,
    )
    kmeans.train(sample)
    return np.ascontiguousarray(kmeans.centroids, np.float32)


def nearest(lists: Lists, vectors: Float32s, metric: Metric) -> Int64s:
    """Return the list (N,) of each vector."""
    home = np.empty(len(vectors), np.int64)

    def assign(start: int, end: int) -> None:
        nearest_lists(vectors[start:end], lists, metric == "l2", home[start:end])

    share(assign, len(vectors))
    return home


def without_empty(lists: Lists, held: Int64s) -> Lists:
    """Return lists of which those that hold nothing allowed are never chosen."""
    scales = lists.centre_scales.copy()
    scales.reshape(-1)[: len(held)][held == 0] = np.nan
    return lists._replace(centre_scales=scales)


def flat(excluded: Sequence[Int64s] | None) -> tuple[Int64s, Int64s]:
    """Return all excluded numbers in one row, and where each query's begin, (B + 1,)."""
    if excluded is None or not any(map(len, excluded)):
        return NO_ITEMS, np.zeros(1 if excluded is None else len(excluded) + 1, np.int64)
    lengths = accumulate(map(len, excluded), initial=0)
    starts = np.fromiter(lengths, np.int64, len(excluded) + 1)
    return np.concatenate([check_numbers(own) for own in excluded]), starts


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="int8")


def share(work: Any, count: int) -> None:
    """Call work(start, end) for parts of range(count), on as many threads as FAISS may use."""
    threads = count // _SHARE
    if threads > 1:
        threads = min(faiss.omp_get_max_threads(), threads)
    if threads <= 1:
        work(0, count)
        return
    ends = np.linspace(0, count, threads + 1).astype(int).tolist()
    parts = list(pairwise(ends))
    others = [_pool(threads).submit(work, *part) for part in parts[1:]]
    work(*parts[0])
    for other in others:
        other.result()
