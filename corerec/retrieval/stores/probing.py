"""Trains FAISS's inverted lists and reads those nearest to a query."""

# B queries, D width, K candidates, L lists, P lists that are read

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from corerec.retrieval.stores.masks import MaskPlan
from corerec.retrieval.stores.spec import IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_CODES = {
    "ivf-flat": "Flat",
    "ivf-sq8": "SQ8",
    "ivf-sq8-refine": "SQ8",
    "ivf-pq-refine": "PQ{m}x4fs",
    "ivf-rabitq-refine": "RaBitQ",
}
_LEAST = 64
"""Vectors that codes are learned from at least; fewer are repeated."""

_SPARE = 0.1
"""Share that the range of 8-bit codes is widened by, for vectors that the sample did not hold."""


def faiss_metric(metric: Metric) -> int:
    """Return FAISS's name of a metric; cosine is an inner product of vectors of length 1."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def train_index(sample: Float32s, spec: IndexSpec, metric: Metric) -> Any:
    """Return empty lists, their centres and codes learned from a sample (S, D)."""
    codes = _CODES[spec.kind].format(m=spec.pq_m)
    index = _faiss.index_factory(sample.shape[1], f"IVF{spec.nlist},{codes}", faiss_metric(metric))
    index.cp.seed = spec.seed
    index.cp.spherical = metric != "l2"
    index.cp.max_points_per_centroid = spec.points
    index.cp.min_points_per_centroid = 1
    if spec.kind == "ivf-pq-refine":
        index.pq.cp.seed = spec.seed
        index.pq.cp.min_points_per_centroid = 1
    if codes == "SQ8":
        index.sq.rangestat_arg = _SPARE
    if len(sample) < _LEAST:
        sample = np.tile(sample, (-(-_LEAST // len(sample)), 1))
    index.train(np.ascontiguousarray(sample, np.float32))
    return index


class Prober:
    """Searches of one set of inverted lists. Scores are those of the codes, higher is better."""

    def __init__(self, index: Any, metric: Metric) -> None:
        self.index, self._metric = index, metric
        centres = np.empty((index.nlist, index.d), np.float32)
        index.quantizer.reconstruct_n(0, index.nlist, centres)
        self._centres = torch.from_numpy(centres)
        self._squares = self._centres.square().sum(1)

    @property
    def nbytes(self) -> int:
        """Memory held beside the lists, bytes."""
        return int(self._centres.nbytes)

    def nearest(
        self, queries: Float32s, k: int, probes: int, selector: Any = None
    ) -> tuple[Int64s, Float32s]:
        """Return numbers and scores (B, k), -1 for none, from the nearest lists."""
        params = _faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        values, found = self.index.search(queries, k, params=params)
        return found, -values if self._metric == "l2" else values

    def allowed(
        self, queries: Float32s, k: int, plan: MaskPlan, target: float
    ) -> tuple[Int64s, Float32s]:
        """Return numbers and scores (B, k) of allowed items, -1 for none.

        Lists are read, the nearest first, until they hold `target` allowed items; lists that hold
        none are left out. So it does not matter whether the allowed items are near a query.
        """
        score = torch.from_numpy(queries) @ self._centres.T  # (B, L)
        if self._metric == "l2":
            score = 2 * score - self._squares
        held = torch.from_numpy(plan.per_list)
        if not plan.sampled:
            score = score.masked_fill(held == 0, -torch.inf)
        best, places = torch.sort(score, dim=1, descending=True)
        # Lists before which fewer than `target` allowed items were read.
        counts = held[places]
        wanted = (counts.cumsum(1) - counts < target) & (best > -torch.inf)
        width = max(1, int(wanted.sum(1).max()))
        places = torch.where(wanted, places, -1)[:, :width].contiguous()
        if self._metric == "l2":
            best = torch.from_numpy(queries).square().sum(1, keepdim=True) - best
        return self._read(queries, k, places.numpy(), best[:, :width].contiguous().numpy(), plan)

    def _read(
        self, queries: Float32s, k: int, places: Int64s, coarse: Float32s, plan: MaskPlan
    ) -> tuple[Int64s, Float32s]:
        found = np.empty((len(queries), k), np.int64)
        values = np.empty((len(queries), k), np.float32)
        params = _faiss.SearchParametersIVF(nprobe=places.shape[1], sel=plan.selector)
        arrays = [faiss.swig_ptr(part) for part in (places, coarse, values, found)]
        self.index.search_preassigned_c(
            len(queries), faiss.swig_ptr(queries), k, *arrays, False, params
        )
        return found, -values if self._metric == "l2" else values
