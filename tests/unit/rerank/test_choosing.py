"""MMR and DPP under caps against oracles that follow their definitions, and the plain twins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.rerank import plain
from corerec.rerank.choosing import BY_SCORE, DPP, FLOOR, MMR, NOTHING, Choice, choose

METHODS = {"score": BY_SCORE, "mmr": MMR, "dpp": DPP}


def select(
    scores: Sequence[float],
    vectors: np.ndarray,
    method: int = MMR,
    *,
    weight: float = 1.0,
    k: int,
    codes: Sequence[int] = (),
    creators: Sequence[int] = (),
    caps: tuple[int, int] = (0, 0),
    above: int = 0,
    relax: bool = False,
    by: object = choose,
) -> Choice:
    """Choose from the rows of `vectors` but the last `above`, which are pins."""
    count = len(vectors)
    none = np.full(count, -1, np.int32)
    return Choice(
        *by(  # type: ignore[operator]
            np.array(scores, np.float64),
            np.arange(count - above),
            np.arange(count - above, count),
            np.array(vectors, np.float32),
            np.array(codes, np.int32) if len(codes) else none,
            np.array(creators, np.int32) if len(creators) else none,
            caps,
            method,
            float(weight),
            k,
            relax,
        )
    )


def world(seed: int, n: int, kinds: int = 3, width: int = 6) -> tuple[np.ndarray, ...]:
    """Return scores, vectors, some of them copies, and codes."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(size=n))[::-1].copy()
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if n > 3:
        vectors[n // 2], vectors[n // 3] = vectors[0], 0
    return scores, vectors, rng.integers(-1, kinds, n).astype(np.int32)


def relevance_of(scores: np.ndarray) -> np.ndarray:
    span = scores[0] - scores[-1]
    return np.ones(len(scores)) if span == 0 else (scores - scores[-1]) / span


def mmr_value(row: int, present: list[int], relevance, vectors, weight: float) -> float:
    likeness = max((float(vectors[row] @ vectors[v]) for v in present), default=0.0)
    return weight * relevance[row] - (1 - weight) * likeness


def dpp_value(row: int, present: list[int], relevance, vectors, weight: float) -> float:
    """Return what equation 9 of Chen et al. is for the list with the row in it."""
    rows = [*present, row]
    likeness = vectors[rows].astype(np.float64) @ vectors[rows].T.astype(np.float64)
    kernel = (1 + likeness) / 2
    np.fill_diagonal(kernel, 1)
    _, volume = np.linalg.slogdet(kernel)
    return weight * relevance[[r for r in rows if r < len(relevance)]].sum() + (1 - weight) * volume


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 25),
    k=st.integers(0, 30),
    weight=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    cap=st.integers(0, 3),
    pinned=st.integers(0, 2),
    relax=st.booleans(),
)
def test_every_choice_of_mmr_has_the_largest_value_of_those_allowed(
    seed: int, n: int, k: int, weight: float, cap: int, pinned: int, relax: bool
) -> None:
    scores, vectors, codes = world(seed, n + pinned)
    scores = scores[:n]
    found = select(
        scores, vectors, weight=weight, k=k, codes=codes, caps=(cap, 0), above=pinned, relax=relax
    )
    present, left = list(range(n, n + pinned)), set(range(n))
    for place, row in enumerate(found.chosen.tolist()):
        inside = codes[present].tolist()
        free = place >= found.relaxed_from or not cap
        allowed = [r for r in left if free or codes[r] < 0 or inside.count(codes[r]) < cap]
        assert row in allowed
        value = {r: mmr_value(r, present, relevance_of(scores), vectors, weight) for r in allowed}
        assert value[row] >= max(value.values()) - 1e-6
        left.remove(row)
        present.append(row)
    if len(found.chosen) < min(k, n):
        inside = codes[present].tolist()
        assert not relax
        assert all(codes[r] >= 0 and inside.count(codes[r]) >= cap for r in left)
    assert found.relaxed_from <= len(found.chosen)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 14),
    weight=st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    pinned=st.integers(0, 2),
)
def test_every_choice_of_dpp_has_the_largest_determinant(
    seed: int, n: int, weight: float, pinned: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n + pinned, 20)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sort(rng.normal(size=n))[::-1]
    relevance = relevance_of(scores)
    found = select(scores, vectors, DPP, weight=weight, k=n, above=pinned)
    present, left = list(range(n, n + pinned)), set(range(n))
    for row in found.chosen.tolist():
        value = {r: dpp_value(r, present, relevance, vectors, weight) for r in left}
        assert value[row] >= max(value.values()) - 1e-6
        left.remove(row)
        present.append(row)
    assert not left


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 40),
    k=st.integers(0, 45),
    method=st.sampled_from(sorted(METHODS)),
    weight=st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    caps=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    pinned=st.integers(0, 3),
    relax=st.booleans(),
)
def test_the_compiled_choice_is_that_of_its_plain_twin(
    seed: int,
    n: int,
    k: int,
    method: str,
    weight: float,
    caps: tuple[int, int],
    pinned: int,
    relax: bool,
) -> None:
    scores, vectors, codes = world(seed, n + pinned, width=24)
    creators = world(seed + 1, n + pinned, kinds=5)[2]
    compiled, twin = (
        select(
            scores[:n],
            vectors,
            METHODS[method],
            weight=weight,
            k=k,
            codes=codes,
            creators=creators,
            caps=caps,
            above=pinned,
            relax=relax,
            by=by,
        )
        for by in (choose, plain.choose)
    )
    assert compiled.chosen.tolist() == twin.chosen.tolist()
    assert compiled.near.tolist() == twin.near.tolist()
    np.testing.assert_allclose(compiled.likeness, twin.likeness, atol=1e-12)
    assert compiled.passed.tolist() == twin.passed.tolist()
    assert compiled.relaxed_from == twin.relaxed_from


@pytest.mark.parametrize("method", ["mmr", "dpp"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9])
def test_a_hundred_items_are_chosen_as_the_plain_twin_does(method: str, weight: float) -> None:
    for seed in range(10):
        scores, vectors, codes = world(seed, 100, kinds=9, width=64)
        compiled, twin = (
            select(
                scores,
                vectors,
                METHODS[method],
                weight=weight,
                k=60,
                codes=codes,
                caps=(8, 0),
                by=by,
            )
            for by in (choose, plain.choose)
        )
        assert compiled.chosen.tolist() == twin.chosen.tolist()


@pytest.mark.parametrize("cap", [0, 2])
def test_order_by_score_is_mmr_whose_weight_is_one(cap: int) -> None:
    for seed in range(20):
        scores, vectors, codes = world(seed, 30, 4)
        compared = select(scores, vectors, weight=1.0, k=10, codes=codes, caps=(cap, 0))
        plainly = select(scores, vectors, BY_SCORE, k=10, codes=codes, caps=(cap, 0))
        assert compared.chosen.tolist() == plainly.chosen.tolist()
        assert compared.passed.tolist() == plainly.passed.tolist()
        assert plainly.near.tolist() == [NOTHING] * 10
        if not cap:
            assert plainly.chosen.tolist() == list(range(10))


@pytest.mark.parametrize("method", [BY_SCORE, MMR, DPP])
def test_equal_values_keep_the_order_by_score(method: int) -> None:
    found = select(np.ones(4), np.eye(4), method, weight=0.5, k=4)
    assert found.chosen.tolist() == [0, 1, 2, 3]
    copies = np.tile(np.array([0.6, 0.8]), (5, 1))
    assert select(np.ones(5), copies, method, weight=0.5, k=5).chosen.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", [MMR, DPP])
def test_a_copy_of_the_first_item_waits_for_something_else(method: int) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]])
    scores = [1.0, 0.9, 0.5]
    assert select(scores, vectors, method, weight=0.5, k=3).chosen.tolist() == [0, 2, 1]
    assert select(scores, vectors, method, weight=0.99, k=3).chosen.tolist() == [0, 1, 2]


def test_mmr_looks_at_one_item_above_and_dpp_at_all_of_them() -> None:
    # The third lies between the first two, no nearer to either than the fourth is to the second.
    half = np.sqrt(0.5)
    vectors = np.array([[1, 0, 0], [0, 1, 0], [half, half, 0], [0, half, half]])
    scores = [1.0, 1.0, 1.0, 1.0]
    assert select(scores, vectors, MMR, weight=0.0, k=3).chosen.tolist() == [0, 1, 2]
    assert select(scores, vectors, DPP, weight=0.0, k=3).chosen.tolist() == [0, 1, 3]


def test_more_copies_than_directions_come_by_score_at_the_end() -> None:
    vectors = np.repeat(np.eye(3), 4, axis=0)
    scores = np.arange(12, 0, -1.0)
    found = select(scores, vectors, DPP, weight=0.1, k=12).chosen.tolist()
    assert sorted(found[:3]) == [0, 4, 8]
    assert found[3:] == sorted(found[3:])
    assert 0 < FLOOR < 1e-3


def test_what_is_in_the_list_already_counts_as_above() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0]])
    for method in (MMR, DPP):
        found = select([1.0, 0.9], vectors, method, weight=0.1, k=2, above=1)
        assert found.chosen.tolist() == [1, 0]
        assert found.near.tolist() == [-2, -2]
    found = select([1.0, 0.9], vectors, BY_SCORE, k=2, codes=[7, 8, 7], caps=(1, 0), above=1)
    assert (found.chosen.tolist(), found.passed.tolist()) == ([1], [0, -1])


def test_passed_rows_name_the_place_that_they_would_have_won() -> None:
    codes, vectors = [0, 0, 1, 0, 1, -1], np.zeros((6, 0))
    scores = np.arange(6, 0, -1.0)
    found = select(scores, vectors, BY_SCORE, k=6, codes=codes, caps=(1, 0))
    assert found.chosen.tolist() == [0, 2, 5]
    assert found.passed.tolist() == [-1, 1, -1, 2, 2, -1]
    relaxed = select(scores, vectors, BY_SCORE, k=5, creators=codes, caps=(0, 1), relax=True)
    assert relaxed.chosen.tolist() == [0, 2, 5, 1, 3]
    assert relaxed.relaxed_from == 3


def test_a_weight_near_one_orders_by_score() -> None:
    scores, vectors, _ = world(3, 40)
    for method in (MMR, DPP):
        found = select(scores, vectors, method, weight=1 - 1e-9, k=40)
        assert found.chosen.tolist() == list(range(40))
