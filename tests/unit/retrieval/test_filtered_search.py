"""Conditions through a shard: every source keeps to them, and the index still finds the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.errors import InvalidArgument
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.build import build_index
from corerec.retrieval.filters import AttributeTable
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.popular import PopularList
from corerec.retrieval.shard import ShardCore
from corerec.retrieval.sources import IndexedVectors
from corerec.retrieval.stores import IndexSpec, create_index
from corerec.stages import (
    Predicate,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    Source,
    UserContext,
)

COUNT, DIM, K = 20_000, 16, 50
LISTS = IndexConfig(flat_below=1, recall_at=K, target_recall=0.96)
SHARES = {"half": 0.5, "some": 0.05, "few": 0.005}


def _units(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, DIM))
    x = centres[rng.integers(40, size=rows)] + rng.normal(size=(rows, DIM)) * 0.7
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.random(COUNT) < share for name, share in SHARES.items()}


@pytest.fixture(scope="module")
def table(columns: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "attributes.parquet"
    texts = {name: np.where(mask, "yes", "no").tolist() for name, mask in columns.items()}
    pl.DataFrame(texts | {"price": np.arange(COUNT) % 100}).write_parquet(path)
    return path


def _core(table: Path, config: IndexConfig | None = None) -> ShardCore:
    vectors = _units(COUNT, 0)
    index = build_index(vectors, model_id="m", config=config, queries=_units(128, 3))
    source = IndexedVectors(
        kind="two_tower", source=Source.TWO_TOWER, vectors=vectors, index=index, model_id="m"
    )
    popular = PopularList(np.arange(0, 3000, 3), np.arange(1000, 0, -1).astype(np.float32))
    return ShardCore(
        release="r",
        sources=[source],
        popular=popular,
        item_count=COUNT,
        attributes=AttributeTable(table, pl.read_parquet_schema(table), COUNT),
    )


def _yes(name: str) -> tuple[Predicate, ...]:
    return (Predicate(attribute=name, any_of=("yes",)),)


@pytest.mark.parametrize("name", list(SHARES))
@pytest.mark.parametrize("kind", ["flat", "lists"])
def test_recall_under_conditions_stays_and_k_come_back_whenever_k_exist(
    table: Path, columns: dict[str, np.ndarray], name: str, kind: str
) -> None:
    core = _core(table, None if kind == "flat" else LISTS)
    vectors, queries = _units(COUNT, 0), _units(60, 5)
    rng = np.random.default_rng(2)
    out = [rng.integers(0, COUNT, 40) for _ in queries]
    entries = [
        SearchEntry(queries={"two_tower": query}, k=K, excluded=own, where=_yes(name))
        for query, own in zip(queries, out, strict=True)
    ]
    hits = 0
    for query, own, result in zip(queries, out, core.run(entries), strict=True):
        assert isinstance(result, SearchResult)
        scores = np.where(columns[name], vectors @ query, -np.inf)
        scores[own] = -np.inf
        best = np.argsort(-scores)[: min(K, int(np.isfinite(scores).sum()))]
        near, popular = result.lists
        assert len(near.numbers) == len(best)
        for found in (near.numbers, popular.numbers):
            assert columns[name][found].all()
            assert not np.isin(found, own).any()
        hits += len(np.intersect1d(near.numbers, best)) / len(best)
    assert hits / len(queries) >= (1.0 if kind == "flat" else 0.95)


def test_a_batch_of_several_conditions_answers_as_each_alone(table: Path) -> None:
    core = _core(table)
    queries = _units(12, 7)
    wheres = [
        (),
        _yes("few"),
        _yes("half"),
        (*_yes("half"), Predicate(attribute="price", at_most=9)),
    ]
    entries = [
        SearchEntry(queries={"two_tower": query}, k=20 + row % 2, where=wheres[row % 4])
        for row, query in enumerate(queries)
    ]
    bad = SearchEntry(queries={"two_tower": queries[0]}, k=5, where=_yes("hlaf"))
    results = core.run([*entries, bad])
    assert isinstance(results[-1], InvalidArgument)
    assert "unknown attribute 'hlaf'; did you mean 'half'?" in str(results[-1])
    for entry, result in zip(entries, results, strict=False):
        (alone,) = core.run([entry])
        assert isinstance(result, SearchResult)
        assert isinstance(alone, SearchResult)
        for one, other in zip(result.lists, alone.lists, strict=True):
            assert np.array_equal(one.numbers, other.numbers)
            assert np.array_equal(one.scores, other.scores)


def test_what_codes_alone_find_is_scored_by_the_vectors() -> None:
    vectors = _units(3_000, 0)
    store = create_index("faiss", "ip", dim=DIM, spec=IndexSpec(kind="ivf-sq8", nprobe=16))
    store.add(np.arange(3_000), vectors)
    info = IndexInfo(kind="ivf-sq8", dim=DIM, count=3_000, model_id="m")
    source = IndexedVectors(
        kind="two_tower",
        source=Source.TWO_TOWER,
        vectors=vectors,
        index=ItemIndex(store, info),
        model_id="m",
    )
    popular = PopularList(np.arange(10), np.ones(10, np.float32))
    core = ShardCore(release="r", sources=[source], popular=popular, item_count=3_000)
    for query in _units(5, 3):
        (result,) = core.run([SearchEntry(queries={"two_tower": query}, k=K)])
        assert isinstance(result, SearchResult)
        near = result.lists[0]
        assert np.allclose(near.scores, vectors[near.numbers] @ query, atol=1e-6)
        assert (np.diff(near.scores) <= 0).all()
        assert np.array_equal(near.scores, near.totals)


def test_every_source_of_a_release_keeps_to_the_conditions(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    quotas = {"item_to_item": 0.3, "trending": 0.3, "fresh": 0.3}
    core = RetrievalCore.load(release, config=RetrievalOptions(quotas=quotas, popular_share=0.3))
    categories = np.array(release.catalogue.categories)
    name = release.catalogue.category_names[0]
    born = release.catalogue.born_micros
    young = float(np.quantile(born, 0.4))
    where = (
        Predicate(attribute="category", any_of=(name,)),
        Predicate(attribute="born_micros", at_least=young),
    )
    allowed = np.flatnonzero((categories == name) & (born >= young))
    for items in ([3, 40, 17], []):
        history = np.array(items, np.int64)
        user = UserContext(items=history, times=np.zeros(len(items), np.int64))
        (result,) = core.run([RetrieveEntry(user=user, k=500, where=where)])
        assert isinstance(result, RetrieveResult), result
        expected = np.setdiff1d(allowed, history)
        assert sorted(result.candidates.numbers.tolist()) == expected.tolist()
