"""Builds an index and measures it: recall, latency of one query alone and of batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from corerec.retrieval.choose.plans import Plan
from corerec.retrieval.choose.target import Target
from corerec.retrieval.choose.trial import Trial
from corerec.retrieval.choose.truth import recalls
from corerec.retrieval.stores import IndexSpec, Metric, VectorStore, create_index
from corerec.stages import Float32s, Int64s

Report = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

_SINGLES, _BATCHES = 200, 3
_SAMPLE_POINTS = 64
CHUNK = 1 << 18
"""Items that are added at a time where the kind lets it be seen how far it is."""
_CONFIDENT = 1.645
"""Standard errors from a mean to the lower end of its one-sided 95% interval."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What all trials of one catalogue, or of its part, are measured on."""

    vectors: Float32s
    """(N, D), by item number; perhaps a memory-map."""
    queries: Float32s
    """(Q, D)."""
    truth: Int64s
    """(Q, K) numbers of the exact best."""
    metric: Metric


def build(plan: Plan, sample: Sample, target: Target, report: Report) -> tuple[VectorStore, float]:
    """Return the index of a plan over all vectors of a sample, and the seconds it took."""
    started = time.perf_counter()
    vectors, count = sample.vectors, len(sample.vectors)
    spec = replace(plan.spec, seed=target.seed)
    store = create_index(
        "faiss", sample.metric, dim=vectors.shape[1], spec=spec, vectors=_given(vectors, spec)
    )
    faiss.omp_set_num_threads(target.threads)
    if spec.is_lists:
        report(f"train {plan.name}", 0, 1)
        most = min(count, _SAMPLE_POINTS * spec.lists_for(count))
        rows = np.sort(np.random.default_rng(target.seed).choice(count, most, replace=False))
        store.train(np.ascontiguousarray(vectors[rows], np.float32), count)
        report(f"train {plan.name}", 1, 1)
    for start, end in _parts(count, whole=spec.code_bits > 0):
        report(f"build {plan.name}", start, count)
        added = np.ascontiguousarray(vectors[start:end], np.float32)
        store.add(np.arange(start, end, dtype=np.int64), added)
    report(f"build {plan.name}", count, count)
    return store, time.perf_counter() - started


def sweep(
    plan: Plan, store: VectorStore, sample: Sample, target: Target, seconds: float
) -> list[Trial]:
    """Return trials of one built index: wider searches until the target is reached, then between.

    The width doubles until recall is reached; the smallest that reaches it is then looked for.
    """
    trials = []
    for factor in plan.factors:
        if not plan.parameter:
            trials.append(measure(plan, store, sample, target, seconds))
            continue
        if store.spec.is_refined:
            store.tune(refine_factor=factor)
        trials += _widths(plan, store, sample, target, seconds)
    return trials


def measure(
    plan: Plan, store: VectorStore, sample: Sample, target: Target, seconds: float
) -> Trial:
    """Return what an index does with the parameters that it has now."""
    k = min(target.at, len(sample.vectors))
    shares = _recalls(store, sample, k)
    single, p99 = _singles(store, sample.queries, k)
    held = store.held()
    flat = 4 * sample.vectors.shape[1] * len(sample.vectors)
    return Trial(
        plan=plan.name,
        spec=store.spec,
        count=len(sample.vectors),
        recall=float(shares.mean()),
        recall_low=lower_end(shares),
        single_ms=single,
        single_p99_ms=p99,
        batch_per_second=_batches(store, sample.queries, k, target),
        index_bytes=held.index,
        # Vectors that were given to the store are in memory as well, whoever holds them.
        vector_bytes=max(held.vectors, flat) if store.spec.is_refined else held.vectors,
        build_seconds=round(seconds, 1),
    )


def lower_end(shares: Float32s) -> float:
    """Return the lower end of the 95% confidence interval of the mean of shares (Q,)."""
    mean = float(shares.mean())
    if len(shares) < 2 or mean == 1:
        return mean
    return mean - _CONFIDENT * float(shares.std(ddof=1)) / math.sqrt(len(shares))


def _widths(
    plan: Plan, store: VectorStore, sample: Sample, target: Target, seconds: float
) -> list[Trial]:
    count = len(sample.vectors)
    low, width, most = 0, plan.start(min(target.at, count), count), plan.widest(count)
    found: dict[int, Trial] = {}

    def reached(width: int) -> bool:
        store.tune(**{plan.parameter: width})
        found[width] = measure(plan, store, sample, target, seconds)
        return found[width].recall_low >= target.recall

    while not reached(width):
        if width >= most or _is_flat(found, width):
            return list(found.values())
        low, width = width, min(2 * width, most)
    high = width
    while high - low > max(1, high // 8) and low:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return list(found.values())


def _is_flat(found: dict[int, Trial], width: int) -> bool:
    """Say whether twice the width brought nothing: then codes, not lists, are what limits."""
    before = found.get(width // 2)
    return before is not None and width >= 32 and found[width].recall - before.recall < 0.002


def _recalls(store: VectorStore, sample: Sample, k: int) -> Float32s:
    if store.spec.kind == "flat":
        return np.ones(len(sample.queries), np.float32)  # it is what the truth is found by
    step = 256
    parts = [
        recalls(store.search(sample.queries[i : i + step], k)[0], sample.truth[i : i + step])
        for i in range(0, len(sample.queries), step)
    ]
    return np.concatenate(parts)


def _singles(store: VectorStore, queries: Float32s, k: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of single queries, in milliseconds."""
    faiss.omp_set_num_threads(1)
    taken, spent = [], 0.0
    for i in range(_SINGLES + 5):
        row = i % len(queries)
        started = time.perf_counter()
        store.search(queries[row : row + 1], k)
        seconds = time.perf_counter() - started
        spent += seconds
        if i >= 5:  # the first are slower
            taken.append(seconds)
        if spent > 2 and len(taken) >= 10:
            break
    return float(np.median(taken)) * 1e3, float(np.quantile(taken, 0.99)) * 1e3


def _batches(store: VectorStore, queries: Float32s, k: int, target: Target) -> float:
    """Return queries a second of the fastest of some batches."""
    faiss.omp_set_num_threads(target.threads)
    best, spent = 0.0, 0.0
    for i in range(_BATCHES + 1):
        rows = (np.arange(target.batch) + i * target.batch) % len(queries)
        batch = np.ascontiguousarray(queries[rows])
        started = time.perf_counter()
        store.search(batch, k)
        seconds = time.perf_counter() - started
        spent += seconds
        best = max(best, len(batch) / seconds)
        if spent > 5:
            break
    return best


def _parts(count: int, *, whole: bool) -> list[tuple[int, int]]:
    if whole:
        return [(0, count)]
    return [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _given(vectors: Any, spec: IndexSpec) -> Any:
    """Return the vectors for a store to share, where it can."""
    if not spec.is_refined or vectors.dtype != np.float32:
        return None
    return vectors
