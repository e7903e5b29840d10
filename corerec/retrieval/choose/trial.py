"""A trial: one index with one set of search parameters, and what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from corerec.retrieval.choose.target import Target
from corerec.retrieval.stores import IndexSpec


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one index did on the queries."""

    plan: str
    """Name of the plan that it was built by."""
    spec: IndexSpec
    count: int
    """Items in the index: all of the catalogue, or those of its part."""
    recall: float
    """Mean over the queries."""
    recall_low: float
    """Lower end of the 95% confidence interval of that mean."""
    single_ms: float
    """Median of one query alone, on one thread."""
    single_p99_ms: float
    batch_per_second: float
    """Queries a second in batches, on the target's threads."""
    index_bytes: int
    """Codes, lists, graph, numbers: what is there beyond the vectors."""
    vector_bytes: int
    """Vectors that exact scores are computed from."""
    build_seconds: float

    @property
    def bytes(self) -> int:
        """All memory."""
        return self.index_bytes + self.vector_bytes

    def cost(self, target: Target) -> float:
        """Return milliseconds by what the target prefers; lower is better."""
        batch_ms = 1000 * target.threads / self.batch_per_second
        if target.prefer == "single":
            return self.single_ms
        if target.prefer == "batch":
            return batch_ms
        return math.sqrt(self.single_ms * batch_ms)

    def reaches(self, target: Target) -> bool:
        """Return whether recall and memory are what is asked for."""
        fits = target.memory is None or self.bytes <= target.memory
        return fits and self.recall_low >= target.recall

    def text(self) -> str:
        """Return kind and parameters in one line."""
        spec = self.spec
        if spec.kind == "flat":
            return "flat"
        if spec.kind == "hnsw":
            return f"hnsw m={spec.m} ef={spec.ef_search}"
        parts = [f"{spec.kind} nlist={spec.nlist} nprobe={spec.nprobe}"]
        if spec.kind == "ivf-pq-refine":
            parts.append(f"m={spec.pq_m}")
        if spec.is_refined:
            parts.append(f"refine={spec.refine_factor:g}")
        return " ".join(parts)
