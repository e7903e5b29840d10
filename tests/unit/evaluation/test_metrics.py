"""Metrics against naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corerec.errors import InvalidArgument
from corerec.evaluation import metrics

RNG = np.random.default_rng(0)


def test_ranks_of_finds_the_place_or_says_it_is_not_there() -> None:
    lists = np.array([[4, 2, 9], [1, -1, -1], [5, 6, 7]])
    assert metrics.ranks_of(lists, np.array([2, 8, 5])).tolist() == [1, -1, 0]
    assert metrics.ranks_of(np.empty((2, 0), np.int64), np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_and_ndcg_equal_naive_loops(k: int) -> None:
    ranks = RNG.integers(-1, 15, 200)
    hits, gain = 0, 0.0
    for rank in ranks:
        if 0 <= rank < k:
            hits += 1
            gain += 1 / math.log2(rank + 2)
    assert metrics.recall_at(ranks, k) == pytest.approx(hits / 200)
    assert metrics.ndcg_at(ranks, k) == pytest.approx(gain / 200)


def test_coverage_and_novelty_equal_naive_loops() -> None:
    lists = RNG.integers(-1, 30, (20, 5))
    counts = RNG.integers(0, 100, 40)
    shown = [int(i) for row in lists for i in row if i >= 0]
    total = sum(int(c) + 1 for c in counts)
    bits = [-math.log2((int(counts[i]) + 1) / total) for i in shown]
    assert metrics.coverage(lists, 40) == pytest.approx(len(set(shown)) / 40)
    assert metrics.novelty(lists, counts) == pytest.approx(sum(bits) / len(bits))


def test_auc_counts_ties_as_half() -> None:
    labels = RNG.integers(0, 2, 120)
    scores = RNG.integers(0, 8, 120) / 8.0
    wins = 0.0
    positives, negatives = scores[labels > 0], scores[labels == 0]
    for p in positives:
        for n in negatives:
            wins += 1.0 if p > n else 0.5 if p == n else 0.0
    assert metrics.auc(labels, scores) == pytest.approx(wins / len(positives) / len(negatives))


def test_auc_needs_both_classes() -> None:
    with pytest.raises(InvalidArgument, match="auc needs both classes, got 2 positives of 2"):
        metrics.auc(np.ones(2, np.int64), np.zeros(2))


def test_logloss_equals_a_naive_loop_and_survives_certainty() -> None:
    labels = RNG.integers(0, 2, 50)
    p = RNG.random(50)
    naive = -sum(
        math.log(q) if y else math.log(1 - q) for y, q in zip(labels, p, strict=True)
    ) / len(labels)
    assert metrics.logloss(labels, p) == pytest.approx(naive)
    assert math.isfinite(metrics.logloss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_no_cases_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least one case, got 0"):
        metrics.recall_at(np.empty(0, np.int64), 10)


def test_calibration_error_equals_its_definition_bin_by_bin() -> None:
    rng = np.random.default_rng(0)
    said = np.append(rng.random(500), [0.0, 1.0])
    came = (rng.random(502) < said**2).astype(np.int64)
    expected = 0.0
    for low in range(10):
        inside = (said >= low / 10) & ((said < (low + 1) / 10) | ((low == 9) & (said == 1)))
        if inside.any():
            expected += inside.mean() * abs(said[inside].mean() - came[inside].mean())
    assert metrics.expected_calibration_error(came, said, bins=10) == pytest.approx(expected)
    assert metrics.expected_calibration_error(came, came.astype(float)) == 0
    with pytest.raises(InvalidArgument, match="bins must be at least 1, got 0"):
        metrics.expected_calibration_error(came, said, bins=0)
    with pytest.raises(InvalidArgument, match="at least one case"):
        metrics.expected_calibration_error(came[:0], said[:0])
