"""What kind of store holds vectors, and with which parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from corerec.errors import InvalidArgument

Metric = Literal["ip", "cosine", "l2"]
"""How a vector is scored: inner product, cosine, or negative squared distance; higher is better."""

Backend = Literal["numpy", "faiss", "annoy"]

Kind = Literal[
    "flat",
    "hnsw",
    "ivf-flat",
    "ivf-sq8",
    "ivf-sq8-refine",
    "ivf-int8-refine",
    "ivf-int4-refine",
    "ivf-pq-refine",
    "ivf-rabitq-refine",
]
"""Exact scan; graph; inverted lists of vectors, of 8-bit codes, of 8- or 4-bit codes of differences
that are read sixteen at a time (`int8`, `int4`), of 4-bit product codes (fast scan) or of 1-bit
codes. `-refine`: the best by code are scored again by their vectors."""


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """Kind and parameters of a store. A parameter that its kind does not know is ignored."""

    kind: Kind = "flat"
    nlist: int = 0
    """Inverted lists; 0 is the power of two next to the square root of the catalogue."""
    nprobe: int = 0
    """Lists read by a search; 0 is an eighth of them, at least one."""
    pq_m: int = 0
    """4-bit parts of a product code; must divide the dimension; 0 is one a dimension."""
    refine_factor: float = 2.0
    """So many times k candidates are scored again by their vectors. >= 1."""
    m: int = 32
    """Neighbours of a node of the graph, [2, 256]."""
    ef_construction: int = 80
    """Candidates kept while a node is linked, >= 1."""
    ef_search: int = 64
    """Candidates kept during a search of the graph; at least k are kept anyway. >= 1."""
    trees: int = 32
    """Trees that Annoy builds, >= 1."""
    search_nodes: int = 0
    """Nodes that Annoy reads for a search; 0 is trees x k x 4."""
    points: int = 64
    """Vectors a list that its centre is learned from, >= 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        if self.kind not in get_args(Kind):
            raise InvalidArgument(f"kind must be one of {list(get_args(Kind))}, got {self.kind!r}")
        for name in ("nlist", "nprobe", "pq_m", "search_nodes", "seed"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("ef_construction", "ef_search", "trees", "points"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 2 <= self.m <= 256:
            raise InvalidArgument(f"m must be in [2, 256], got {self.m}")
        if not (math.isfinite(self.refine_factor) and self.refine_factor >= 1):
            raise InvalidArgument(
                f"refine_factor must be at least 1 and finite, got {self.refine_factor}"
            )

    @property
    def is_lists(self) -> bool:
        """Whether it is inverted lists."""
        return self.kind.startswith("ivf-")

    @property
    def code_bits(self) -> int:
        """Bits of a code of lists that are read sixteen at a time; 0 of other kinds."""
        return {"ivf-int8-refine": 8, "ivf-int4-refine": 4}.get(self.kind, 0)

    @property
    def is_refined(self) -> bool:
        """Whether vectors are kept beside the codes and the best are scored again by them."""
        return self.kind.endswith("-refine")

    def lists_for(self, count: int) -> int:
        """Return how many lists a catalogue of so many items gets, at least 1."""
        if self.nlist:
            return self.nlist
        # About the square root of the catalogue balances choosing lists and reading them.
        return int(2 ** round(math.log2(math.sqrt(count)))) if count > 1 else 1
