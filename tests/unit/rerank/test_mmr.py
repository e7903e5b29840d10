"""MMR under caps against a brute-force oracle that follows the definition word by word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.rerank import mmr
from corerec.rerank.mmr import Group, select


def value_of(row, scores, vectors, lam, present):
    span = scores[0] - scores[-1]
    relevance = 1.0 if span == 0 else (scores[row] - scores[-1]) / span
    likeness = max((float(vectors[row] @ v) for v in present), default=0.0)
    return lam * relevance - (1 - lam) * likeness


def world(seed: int, n: int, kinds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(size=n))[::-1].copy()
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return scores, vectors, rng.integers(-1, kinds, n).astype(np.int32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 25),
    k=st.integers(0, 30),
    lam=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    cap=st.integers(0, 3),
    pinned=st.integers(0, 2),
    relax=st.booleans(),
)
def test_every_choice_has_the_largest_marginal_value_of_those_allowed(
    seed: int, n: int, k: int, lam: float, cap: int, pinned: int, relax: bool
) -> None:
    scores, vectors, codes = world(seed, n, 3)
    above = world(seed + 1, pinned, 3)[1]
    taken = [0, 1][:pinned]
    groups = [Group(codes=codes, cap=cap, taken=taken)] if cap else []
    found = select(scores, vectors, mmr_lambda=lam, k=k, groups=groups, above=above, relax=relax)
    counts = {code: taken.count(code) for code in range(3)}
    present, left = list(above), set(range(n))
    for place, row in enumerate(found.chosen):
        relaxed = place >= found.relaxed_from
        allowed = [r for r in left if relaxed or not cap or codes[r] < 0 or counts[codes[r]] < cap]
        assert row in allowed
        best = max(value_of(r, scores, vectors, lam, present) for r in allowed)
        assert value_of(row, scores, vectors, lam, present) >= best - 1e-5
        left.remove(row)
        present.append(vectors[row])
        if codes[row] >= 0:
            counts[codes[row]] += 1
    if len(found.chosen) < min(k, n):
        assert not relax
        assert all(codes[r] >= 0 and counts[codes[r]] >= cap for r in left)
    assert found.relaxed_from <= len(found.chosen)


@pytest.mark.parametrize("cap", [0, 2])
def test_order_by_score_is_the_same_with_vectors_and_without_them(cap: int) -> None:
    for seed in range(20):
        scores, vectors, codes = world(seed, 30, 4)
        groups = [Group(codes=codes, cap=cap)] if cap else []
        with_them = select(scores, vectors, mmr_lambda=1.0, k=10, groups=groups)
        without = select(scores, None, mmr_lambda=1.0, k=10, groups=groups)
        assert with_them == without
        if not cap:
            assert without.chosen == list(range(10))


def test_equal_scores_keep_their_order() -> None:
    vectors = np.eye(4, dtype=np.float32)
    found = select(np.ones(4), vectors, mmr_lambda=0.5, k=4)
    assert found.chosen == [0, 1, 2, 3]


def test_a_copy_of_the_first_item_waits_for_something_else() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    scores = np.array([1.0, 0.9, 0.5])
    assert select(scores, vectors, mmr_lambda=0.5, k=3).chosen == [0, 2, 1]
    assert select(scores, vectors, mmr_lambda=0.9, k=3).chosen == [0, 1, 2]


def test_what_is_in_the_list_already_counts_as_above() -> None:
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    scores = np.array([1.0, 0.9])
    pin = np.array([[1, 0]], np.float32)
    assert select(scores, vectors, mmr_lambda=0.1, k=2, above=pin).chosen == [1, 0]
    groups = [Group(codes=np.array([7, 8], np.int32), cap=1, taken=[7])]
    found = select(scores, None, mmr_lambda=1.0, k=2, groups=groups)
    assert (found.chosen, found.passed) == ([1], {0: 0})


def test_passed_rows_name_the_place_that_they_would_have_won() -> None:
    codes = np.array([0, 0, 1, 0, 1, -1], np.int32)
    scores = np.arange(6, 0, -1.0)
    found = select(scores, None, mmr_lambda=1.0, k=6, groups=[Group(codes=codes, cap=1)])
    assert found.chosen == [0, 2, 5]
    assert found.passed == {1: 1, 3: 2, 4: 2}
    relaxed = select(
        scores, None, mmr_lambda=1.0, k=5, groups=[Group(codes=codes, cap=1)], relax=True
    )
    assert relaxed.chosen == [0, 2, 5, 1, 3]
    assert relaxed.relaxed_from == 3


def test_many_candidates_are_chosen_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        scores, vectors, codes = world(seed, 40, 5)
        groups = [Group(codes=codes, cap=2)]
        few = select(scores, vectors, mmr_lambda=0.5, k=15, groups=groups, relax=True)
        with monkeypatch.context() as patched:
            patched.setattr(mmr, "_TABLE_ROWS", 0)
            many = select(scores, vectors, mmr_lambda=0.5, k=15, groups=groups, relax=True)
        assert few == many
