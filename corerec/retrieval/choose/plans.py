"""Plans: which indexes are tried, what memory each needs by arithmetic, how each is searched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from corerec.retrieval.stores import IndexSpec

PARTS = (1.0, 0.5, 2.0)
"""Numbers of lists that are tried, as parts of the middle one; the first for every kind."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An index to build, and the search parameters to try on it without building it again."""

    name: str
    spec: IndexSpec
    factors: tuple[float, ...] = (1.0,)
    """Refine factors to try; each gets the smallest width of search that reaches the target."""

    @property
    def parameter(self) -> str:
        """Name of the width of search, "" where there is none."""
        if self.spec.kind == "flat":
            return ""
        return "ef_search" if self.spec.kind == "hnsw" else "nprobe"

    def start(self, at: int, count: int) -> int:
        """Return the narrowest search that is tried: one that reads twice what is asked for."""
        # Narrower ones find too little, and the store then reads on as it must.
        if self.spec.kind == "hnsw":
            return at
        lists = self.spec.lists_for(count)
        return max(1, min(math.ceil(2 * at * lists / count), self.widest(count)))

    def widest(self, count: int) -> int:
        """Return the widest search that is tried: a quarter of the lists, or 16 x as deep."""
        if self.spec.kind == "hnsw":
            return min(count, 8192)
        return max(1, self.spec.lists_for(count) // 4)


def plans_for(count: int, dim: int, part: float = 1.0) -> list[Plan]:
    """Return the plans for a catalogue of so many items, one of each kind.

    `part` times the middle number of lists is taken, at least 4.
    """
    found = [Plan(name="flat", spec=IndexSpec(kind="flat"))]
    if count < 1000:
        return found
    found += [
        Plan(name=f"hnsw-m{m}", spec=IndexSpec(kind="hnsw", m=m, ef_construction=80))
        for m in (16, 32)
    ]
    found += _lists(list_count(count, part), dim)
    return found


def list_count(count: int, part: float = 1.0) -> int:
    """Return `part` of the middle number of lists: the power of two next to 4 square roots."""
    # Twice to four times what balances choosing and reading: choosing is the cheaper of the two.
    middle = 2 ** round(math.log2(4 * math.sqrt(max(count, 1))))
    return max(4, min(int(middle * part), count // 20))


def _lists(nlist: int, dim: int) -> Iterator[Plan]:
    lists = IndexSpec(kind="ivf-flat", nlist=nlist)
    yield Plan(name=f"ivf-flat-{nlist}", spec=lists)
    yield Plan(name=f"ivf-sq8-{nlist}", spec=replace(lists, kind="ivf-sq8"))
    yield Plan(
        name=f"ivf-int8-{nlist}",
        spec=replace(lists, kind="ivf-int8-refine", refine_factor=1.05),
        factors=(1.05,),
    )
    yield Plan(
        name=f"ivf-int4-{nlist}",
        spec=replace(lists, kind="ivf-int4-refine", refine_factor=1.35),
        factors=(1.35, 2.0),
    )
    for parts in sorted({dim, dim // 2} - {0}):
        if dim % parts == 0:
            yield Plan(
                name=f"ivf-pq{parts}-{nlist}",
                spec=replace(lists, kind="ivf-pq-refine", pq_m=parts),
                factors=(1.5, 2.0) if parts == dim else (2.0, 4.0),
            )
    yield Plan(
        name=f"ivf-rabitq-{nlist}",
        spec=replace(lists, kind="ivf-rabitq-refine"),
        factors=(4.0, 8.0),
    )


def predicted_bytes(spec: IndexSpec, count: int, dim: int) -> int:
    """Return about what memory an index needs, vectors included: arithmetic, nothing is built."""
    vectors, places = 4 * dim * count, 4 * count
    centres = 4 * dim * spec.lists_for(count) if spec.is_lists else 0
    codes = {
        "flat": 8,
        "hnsw": 8 * spec.m + 16,
        "ivf-flat": 8,
        "ivf-sq8": dim + 8 - 4 * dim,
        "ivf-sq8-refine": dim + 8,
        "ivf-int8-refine": 4 * math.ceil(dim / 4) + 21,
        "ivf-int4-refine": 4 * math.ceil(dim / 8) + 21,
        "ivf-pq-refine": (spec.pq_m or dim) / 2 + 8,
        "ivf-rabitq-refine": math.ceil(dim / 8) + 16,
    }[spec.kind]
    return int(vectors + codes * count + places + centres)
