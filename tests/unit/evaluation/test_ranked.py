"""The ranking protocols against loops in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from corerec.engines.sequences import Sequences
from corerec.errors import InvalidArgument
from corerec.evaluation.ranked import draw_negatives, full_ranking, sampled_ranking
from corerec.stages import Float32s, Int64s


def by_hand(
    scores: Float32s, relevant: list[set[int]], seen: list[set[int]], k: int
) -> tuple[float, float, float]:
    hr, recall, ndcg = [], [], []
    for row, own in enumerate(relevant):
        if not own:
            continue
        rest = [i for i in range(scores.shape[1]) if i not in seen[row]]
        rest.sort(key=lambda i: (-scores[row, i], i in own))
        gains = [1 / np.log2(2 + place) for place in range(k)]
        hits = [place for place, item in enumerate(rest[:k]) if item in own]
        hr.append(bool(hits))
        recall.append(len(hits) / len(own))
        ndcg.append(sum(gains[p] for p in hits) / sum(gains[: min(k, len(own))]))
    return float(np.mean(hr)), float(np.mean(recall)), float(np.mean(ndcg))


@pytest.mark.parametrize("k", [1, 5, 60])
def test_the_full_ranking_agrees_with_a_loop(k: int) -> None:
    rng = np.random.default_rng(0)
    # few distinct scores, so that there are many ties
    scores = rng.integers(0, 8, (30, 50)).astype(np.float32)
    users, items = rng.integers(0, 30, 100), rng.integers(0, 50, 100)
    relevant = Sequences.of(users[:60], items[:60], user_count=30, item_count=50)
    seen = Sequences.of(users[60:], items[60:], user_count=30, item_count=50)
    sets = [
        [set(s.items[s.offsets[u] : s.offsets[u + 1]].tolist()) for u in range(30)]
        for s in (relevant, seen)
    ]
    found = full_ranking(lambda rows: scores[rows], relevant, seen, ks=(k,), block=7)
    expected = by_hand(scores, sets[0], sets[1], k)
    assert list(found) == [f"hr@{k}", f"recall@{k}", f"ndcg@{k}"]
    assert list(found.values()) == pytest.approx(expected)


def test_the_full_ranking_of_chosen_users_leaves_the_others_out() -> None:
    scores = np.eye(4, dtype=np.float32)
    relevant = Sequences.of(np.arange(4), np.array([0, 1, 0, 0]), item_count=4)
    found = full_ranking(lambda rows: scores[rows], relevant, rows=np.array([0, 1]), ks=(1,))
    assert found["hr@1"] == 1


def test_sampled_ranking_counts_ties_against_and_the_right_item_itself_not() -> None:
    scores = np.array([[3, 1, 2, 3], [0, 5, 0, 0]], np.float32)
    right = np.array([0, 1])
    tied = sampled_ranking(
        lambda rows: scores[rows], right, np.array([[1, 2, 3], [0, 2, 3]]), ks=(1, 2)
    )
    itself = sampled_ranking(
        lambda rows: scores[rows], right, np.array([[1, 2, 0], [0, 2, 3]]), ks=(1,)
    )
    assert tied == {
        "hr@1": 0.5,
        "ndcg@1": 0.5,
        "hr@2": 1.0,
        "ndcg@2": pytest.approx((1 + 1 / np.log2(3)) / 2),
    }
    assert itself == {"hr@1": 1.0, "ndcg@1": 1.0}


def test_scores_that_are_no_numbers_are_refused() -> None:
    one = Sequences.of(np.zeros(1, np.int64), np.zeros(1, np.int64), item_count=2)

    def score(rows: Int64s) -> Float32s:
        return np.full((len(rows), 2), np.nan, np.float32)

    with pytest.raises(InvalidArgument, match="NaN"):
        full_ranking(score, one)
    with pytest.raises(InvalidArgument, match="NaN"):
        sampled_ranking(score, np.array([0]), np.array([[1]]))


def test_a_ranking_without_relevant_items_is_refused() -> None:
    none = Sequences.of(np.empty(0, np.int64), np.empty(0, np.int64), user_count=2, item_count=2)
    with pytest.raises(InvalidArgument, match="at least one user"):
        full_ranking(lambda rows: np.zeros((len(rows), 2), np.float32), none)


def test_drawn_negatives_are_distinct_and_new_to_the_user() -> None:
    seen = Sequences.of(np.array([0, 0, 1]), np.array([0, 1, 5]), item_count=10)
    drawn = draw_negatives(seen, np.array([0, 1]), np.array([2, 0]), 7, np.random.default_rng(0))
    assert sorted(drawn[0].tolist()) == [3, 4, 5, 6, 7, 8, 9]
    assert len(set(drawn[1].tolist())) == 7
    assert not {0, 5} & set(drawn[1].tolist())
    with pytest.raises(InvalidArgument, match="must leave 8 items"):
        draw_negatives(seen, np.array([0]), np.array([2]), 8, np.random.default_rng(0))
