"""Counts what one request needs of each stage: operations, and bytes that are read far from a core.

A multiplication with its addition is two operations. Weights that every request reads are not
counted as bytes: they stay near the core. What the counts are of is said beside each.
"""

# n candidates, D width of item vectors, L events of a user, R rows of a product

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.ranking.counts import operations_per_request, shapes
from corerec.ranking.fold import Fold, fold
from corerec.ranking.model import RankingModel
from corerec.retrieval.stores.spec import IndexSpec

Kind = Literal["fp32", "bf16", "int8"]
RECENT = 20
"""Newest events that candidates are compared with one by one (corerec/ranking/features.py)."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product: (R, inner) by (inner, outer)."""

    rows: int
    inner: int
    outer: int

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.inner * self.outer


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one request needs of one stage."""

    stage: str
    step: str
    """Name of the step in the stage's own timings."""
    kind: Kind
    """Numbers that are multiplied."""
    operations: float
    bytes: float
    run: int
    """Bytes that lie together: a row, a list."""
    table: float
    """Bytes of the table that they are read from."""
    products: tuple[Product, ...] = ()
    """The matrix products among the operations."""
    what: str

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.operations / self.bytes


def encode(tower: Mapping[str, Any], items: int) -> Work:
    """Return the query encoder's work: attention over the user's events, then a feed-forward part.

    Keys and values of items are in a table, so an event costs two products of a vector with one.
    """
    dim, length, hidden = (tower[name] for name in ("dim", "history_length", "hidden"))
    products = (
        Product(rows=1, inner=dim, outer=dim),
        Product(rows=1, inner=dim, outer=dim),
        Product(rows=1, inner=dim, outer=hidden),
        Product(rows=1, inner=hidden, outer=dim),
    )
    row = 3 * dim * 4
    return Work(
        stage="encode",
        step="two_tower_encode",
        kind="fp32",
        operations=4.0 * length * dim + sum(p.operations for p in products),
        bytes=float(length * row),
        run=row,
        table=float(items * row),
        products=products,
        what=f"{length} events of {row} B; products of {dim} x {dim}, {dim} x {hidden} and back",
    )


def search(index: Mapping[str, Any], found: int) -> Work:
    """Return the search's work: codes of the lists that are looked at, then exact vectors.

    Raises SystemExit for another kind of index than lists of 8- or 4-bit differences.
    """
    bits = IndexSpec(kind=index["kind"]).code_bits
    if not bits:
        kinds = "ivf-int8-refine or ivf-int4-refine"
        raise SystemExit(f"the index must be {kinds} to be counted, got {index['kind']!r}")
    dim, lists, probes = index["dim"], index["nlist"], index["nprobe"]
    code = dim * bits // 8
    scanned = index["count"] * probes / lists
    refined = found * index["refine_factor"]
    return Work(
        stage="search",
        step="two_tower_search",
        kind="int8",
        operations=2.0 * dim * (scanned + lists + refined),
        bytes=code * scanned + 4 * dim * refined,
        run=int(code * index["count"] / lists),
        table=float(code * index["count"]),
        what=f"{probes} of {lists} lists: {scanned:,.0f} codes of {code} B, and {refined:.0f} "
        "vectors exactly",
    )


def features(row_bytes: float, dim: int, candidates: int, items: int) -> Work:
    """Return the work of the features of pairs: each candidate against the user's newest events."""
    product = Product(rows=candidates, inner=dim, outer=RECENT + 2)
    return Work(
        stage="features",
        step="features",
        kind="fp32",
        operations=product.operations,
        bytes=candidates * row_bytes,
        run=int(row_bytes),
        table=items * row_bytes,
        products=(product,),
        what=f"{candidates} rows of {row_bytes:.0f} B, each against {RECENT + 2} vectors",
    )


def rank(model: RankingModel, candidates: int, items: int, kind: Kind) -> Work:
    """Return the folded ranker's work: its products a pair, and what is once a request."""
    assert model.dcn is not None
    folded = fold(model.dcn, model.user_side_width)
    products = tuple(pair_products(folded, candidates))
    row = folded.wide * (2 if kind == "bf16" else 4)
    return Work(
        stage="rank",
        step="score",
        kind=kind,
        operations=sum(p.operations for p in products) + operations_per_request(folded),
        bytes=float(candidates * row),
        run=row,
        table=float(items * row),
        products=products,
        what=f"{candidates} pairs of {folded.wide} inputs, {folded.users} more of the user once; "
        f"{sum(p.operations for p in products) / candidates:,.0f} operations a pair",
    )


def pair_products(folded: Fold, candidates: int) -> list[Product]:
    """Return the products that are computed for every pair."""
    return [
        Product(rows=candidates, inner=inner, outer=outer) for _, inner, outer in shapes(folded)
    ]


def rerank(ranked: int, chosen: int, dim: int, items: int) -> Work:
    """Return the work of greedy MMR: each choice against all that are left."""
    return Work(
        stage="rerank",
        step="rules",
        kind="fp32",
        operations=2.0 * ranked * chosen * dim,
        bytes=4.0 * ranked * dim,
        run=4 * dim,
        table=4.0 * items * dim,
        products=(Product(rows=ranked, inner=dim, outer=chosen),),
        what=f"{chosen} of {ranked}: as many products of vectors of {dim}",
    )


def wire(candidates: int, ranked: int, chosen: int, events: int) -> tuple[tuple[int, int], ...]:
    """Return bytes of request and answer on each of the four ways, from caller to rerank.

    A candidate is 13 bytes (number, score, source), an event 16, a final item about 120 of text.
    """
    of_user = 80 + 16 * events
    final = 120 * chosen
    return (
        (60, final + 400),
        (of_user, 13 * candidates),
        (of_user + 13 * candidates, 13 * ranked),
        (13 * ranked + 80, final),
    )
