"""Shards: any number of them, merged, gives exactly what one gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.errors import CoreRecError, InvalidArgument
from corerec.features import FeatureSchema, UserIndex
from corerec.release import Release
from corerec.retrieval.build import build_index
from corerec.retrieval.front import Front
from corerec.retrieval.index import IndexConfig
from corerec.retrieval.merge import merge
from corerec.retrieval.options import RetrievalOptions
from corerec.retrieval.popular import PopularList
from corerec.retrieval.shard import ShardCore
from corerec.retrieval.sources import IndexedVectors, UserEncoder
from corerec.retrieval.stores.spec import IndexSpec, Kind
from corerec.stages import (
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    Source,
    UserContext,
)

KINDS = {"two_tower": (Source.TWO_TOWER, 24), "matrix_factorization": (
    Source.MATRIX_FACTORIZATION, 17)}  # fmt: skip
WEIGHTS = {"two_tower": 1.0, "matrix_factorization": 0.3}


def of_shard(source: IndexedVectors, shard: int, shards: int) -> IndexedVectors:
    """The items of a whole source whose number is `shard` modulo `shards`."""
    vectors = np.ascontiguousarray(source.vectors[shard::shards])
    return replace(
        source,
        vectors=vectors,
        index=source.index.shard(shard, shards, vectors=vectors),
        shard=shard,
        shards=shards,
        mean=source.mean_vector(),
    )


def _whole(kind: str, vectors: np.ndarray) -> IndexedVectors:
    return IndexedVectors(
        kind=kind,
        source=KINDS[kind][0],
        vectors=vectors,
        index=build_index(vectors, model_id=kind),
        model_id=kind,
        weight=WEIGHTS[kind],
    )


def _world(seed: int, count: int) -> tuple[list[IndexedVectors], PopularList]:
    """Vectors with doubles and zeros, so that many scores are equal or nearly so."""
    rng = np.random.default_rng(seed)
    sources = []
    for kind, (_, dim) in KINDS.items():
        vectors = rng.normal(size=(count, dim)).astype(np.float32)
        vectors[rng.random(count) < 0.2] = 0
        copies = rng.random(count) < 0.3
        vectors[copies] = vectors[rng.integers(0, max(1, count // 20), int(copies.sum()))]
        sources.append(_whole(kind, vectors))
    listed = rng.permutation(count)[: count // 3].astype(np.int64)
    scores = np.sort(rng.integers(0, 9, len(listed)))[::-1].astype(np.float32)
    return sources, PopularList(listed, scores)


def _front(release: Release, users: Sequence[UserContext], seed: int) -> Front:
    rng = np.random.default_rng([seed, 1])
    queries = {
        kind: rng.normal(size=(len(users), dim)).astype(np.float32)
        for kind, (_, dim) in KINDS.items()
    }
    queries["matrix_factorization"][1::3] = np.nan  # users whom a source does not know
    return Front(
        release="r",
        encoders=[
            UserEncoder(
                kind=kind,
                source=KINDS[kind][0],
                encode=lambda asked, kind=kind: queries[kind][: len(asked)],  # type: ignore[misc]
                weight=WEIGHTS[kind],
            )
            for kind in KINDS
        ],
        schema=FeatureSchema.load(release.file("schema.json")),
        users=UserIndex([]),
        options=RetrievalOptions(quotas={"two_tower": 2.0}, popular_share=0.2),
    )


def _answers(
    front: Front, cores: Sequence[ShardCore], entries: Sequence[RetrieveEntry]
) -> list[RetrieveResult]:
    encoded = front.encode(entries)
    searches = [own for own in encoded.entries if isinstance(own, SearchEntry)]
    found = [core.run(searches) for core in cores]
    out = []
    for entry, search, *results in zip(entries, searches, *found, strict=True):
        assert all(isinstance(result, SearchResult) for result in results), results
        out.append(front.fuse(entry, search, results))
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 900), k=st.sampled_from([1, 7, 60, 500, 2000])
)
def test_flat_shards_give_the_bits_that_one_gives(
    tiny_release: Path, seed: int, count: int, k: int
) -> None:
    sources, popular = _world(seed, count)
    rng = np.random.default_rng([seed, 2])
    users = []
    for length in (0, 3, 40, 900):
        items = rng.integers(-3, count + 3, length)
        users.append(UserContext(items=items, times=np.zeros(length, np.int64)))
    entries = [
        RetrieveEntry(user=user, k=k, exclude_seen=row != 2, explain=True)
        for row, user in enumerate(users)
    ]
    front = _front(Release.open(tiny_release), users, seed)
    whole = ShardCore(
        release="r", sources=sources, popular=popular, item_count=len(sources[0].vectors)
    )
    expected = _answers(front, [whole], entries)
    for shards in (2, 4, 8):
        cores = [
            ShardCore(
                release="r",
                sources=[of_shard(source, shard, shards) for source in sources],
                popular=popular,
                item_count=len(sources[0].vectors),
                shard=shard,
                shards=shards,
            )
            for shard in range(shards)
        ]
        for mine, other in zip(expected, _answers(front, cores, entries), strict=True):
            assert np.array_equal(mine.candidates.numbers, other.candidates.numbers)
            assert np.array_equal(mine.candidates.scores, other.candidates.scores)
            assert np.array_equal(mine.candidates.sources, other.candidates.sources)
            assert mine.coverage == other.coverage
            assert mine.found_by.keys() == other.found_by.keys()
            for source, scores in mine.found_by.items():
                assert np.array_equal(scores, other.found_by[source], equal_nan=True)


@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-int8-refine", "ivf-int4-refine"])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_that_share_centres_find_what_one_finds(shards: int, kind: Kind) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(6_000, 24)).astype(np.float32)
    config = IndexConfig(flat_below=1, recall_at=50, target_recall=0.9)
    spec = IndexSpec(kind=kind)
    index = build_index(vectors, model_id="two_tower", config=config, spec=spec)
    assert index.info.kind == kind
    source = IndexedVectors(
        kind="two_tower",
        source=Source.TWO_TOWER,
        vectors=vectors,
        index=index,
        model_id="two_tower",
    )
    popular = PopularList(np.empty(0, np.int64), np.empty(0, np.float32))
    entries = [
        SearchEntry(queries={"two_tower": query}, k=50, excluded=rng.integers(0, 6_000, 20))
        for query in rng.normal(size=(40, 24)).astype(np.float32)
    ]
    whole = ShardCore(release="r", sources=[source], popular=popular, item_count=6_000)
    parts = [
        ShardCore(
            release="r",
            sources=[of_shard(source, shard, shards)],
            popular=popular,
            item_count=6_000,
            shard=shard,
            shards=shards,
        ).run(entries)
        for shard in range(shards)
    ]
    hits, equal = {1: 0, shards: 0}, 0
    for row, (entry, one) in enumerate(zip(entries, whole.run(entries), strict=True)):
        assert isinstance(one, SearchResult)
        joined = merge([part[row] for part in parts], 50)["two_tower"]  # type: ignore[misc]
        alone = one.lists[0]
        exact = vectors @ entry.queries["two_tower"]
        exact[entry.excluded] = -np.inf
        best = np.argsort(-exact)[:50]
        hits[1] += len(np.intersect1d(best, alone.numbers))
        hits[shards] += len(np.intersect1d(best, joined.numbers))
        # What one finds, its parts find too; a part that looks further may find better ones.
        assert (joined.scores >= alone.scores).all()
        if np.array_equal(joined.numbers, alone.numbers):
            equal += 1
            assert np.array_equal(joined.scores, alone.scores)
    assert equal >= 36
    assert hits[1] / 2_000 >= 0.85
    assert hits[shards] >= hits[1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 900), k=st.integers(1, 300))
def test_each_list_of_a_shard_is_the_best_of_its_items_by_brute_force(
    seed: int, count: int, k: int
) -> None:
    sources, popular = _world(seed, count)
    rng = np.random.default_rng([seed, 3])
    out = rng.integers(-2, count + 2, 30)
    queries = {kind: rng.normal(size=dim).astype(np.float32) for kind, (_, dim) in KINDS.items()}
    own = [of_shard(source, 1, 3) for source in sources]
    core = ShardCore(release="r", sources=own, popular=popular, item_count=count, shard=1, shards=3)
    (result,) = core.run([SearchEntry(queries=queries, k=k, excluded=out)])
    assert isinstance(result, SearchResult)
    mine = np.setdiff1d(np.arange(1, count, 3), out)
    exact = {
        source.kind: source.vectors.astype(np.float64) @ queries[source.kind] for source in sources
    }
    total = sum(WEIGHTS[kind] * scores for kind, scores in exact.items())
    for found in result.lists[:-1]:
        best = np.sort(exact[found.kind][mine])[::-1][:k]
        assert np.isin(found.numbers, mine).all()
        assert len(np.unique(found.numbers)) == len(found.numbers) == len(best)
        assert np.allclose(found.scores, best, atol=1e-5)
        assert np.allclose(exact[found.kind][found.numbers], best, atol=1e-5)
        order = np.lexsort((found.numbers, -found.scores))
        assert np.array_equal(order, np.arange(len(order)))  # ties by lower number
        assert np.allclose(found.totals, total[found.numbers], atol=1e-5)
    listed = {int(n): float(s) for n, s in zip(popular.numbers, popular.scores, strict=True)}
    expected = sorted((n for n in mine.tolist() if n in listed), key=lambda n: (-listed[n], n))[:k]
    assert result.lists[-1].kind == "popular"
    assert result.lists[-1].numbers.tolist() == expected


def test_a_missing_shard_lowers_coverage_by_its_share(tiny_release: Path) -> None:
    sources, popular = _world(0, 400)
    users = [UserContext(items=np.array([3]), times=np.zeros(1, np.int64))]
    front, entries = (
        _front(Release.open(tiny_release), users, 0),
        [RetrieveEntry(user=users[0], k=50)],
    )
    (search,) = front.encode(entries).entries
    assert isinstance(search, SearchEntry)
    results = [
        ShardCore(
            release="r",
            sources=[of_shard(source, shard, 4) for source in sources],
            popular=popular,
            item_count=len(sources[0].vectors),
            shard=shard,
            shards=4,
        ).run([search])[0]
        for shard in range(4)
    ]
    found = front.fuse(entries[0], search, [results[0], None, results[2], results[3]])
    assert found.coverage == pytest.approx(0.75)
    assert len(found.candidates) == 50
    assert not (found.candidates.numbers % 4 == 1).any()
    assert front.fuse(entries[0], search, [None] * 4).coverage == 0
    assert len(front.fuse(entries[0], search, [None] * 4).candidates) == 0


def test_entries_that_break_a_rule_get_an_error_in_their_place() -> None:
    sources, popular = _world(0, 100)
    core = ShardCore(
        release="r", sources=sources, popular=popular, item_count=len(sources[0].vectors)
    )
    good = {kind: np.ones(dim, np.float32) for kind, (_, dim) in KINDS.items()}
    tower = {"two_tower": good["two_tower"]}
    cases = (
        (SearchEntry(queries=good, k=0), r"k must be in \[1, 2000\], got 0"),
        (SearchEntry(queries=good, k=2001), r"k must be in \[1, 2000\], got 2001"),
        (
            SearchEntry(queries={"two_tower": np.ones(23, np.float32)}, k=5),
            r"query of two_tower must be float32 of shape \(24,\), got float32 \(23,\)",
        ),
        (
            SearchEntry(queries={"two_tower": tower["two_tower"] * np.float32(np.nan)}, k=5),
            "query of two_tower must be finite",
        ),
        (SearchEntry(queries={"bert4rec": good["two_tower"]}, k=5), "got 'bert4rec'"),
        (
            SearchEntry(queries=tower, k=5, excluded=np.zeros((2, 2), np.int64)),
            "excluded must be one-dimensional int64",
        ),
    )
    for bad, rule in cases:
        with pytest.raises(InvalidArgument, match=rule):
            core.check(bad)
        neighbours = SearchEntry(queries=tower, k=3), SearchEntry(queries=good, k=9)
        before, error, after = core.run([neighbours[0], bad, neighbours[1]])
        assert isinstance(error, CoreRecError)
        assert isinstance(before, SearchResult)
        assert isinstance(after, SearchResult)
    assert core.run([]) == []
    with pytest.raises(InvalidArgument, match=r"shard must be in \[0, 2\), got 2"):
        ShardCore(release="r", sources=[], popular=popular, item_count=9, shard=2, shards=2)
