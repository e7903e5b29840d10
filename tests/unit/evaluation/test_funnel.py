"""The funnel's evaluation over hand-written cores whose every answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from corerec.errors import InvalidArgument
from corerec.evaluation.cases import Cases
from corerec.evaluation.funnel import Funnel, evaluate
from corerec.stages import (
    Candidates,
    RankedItem,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
)

ITEMS = 50


def _candidates(numbers: list[int]) -> Candidates:
    count = len(numbers)
    scores = np.linspace(0.9, 0.1, count).astype(np.float32)
    return Candidates(
        numbers=np.array(numbers, np.int64), scores=scores, sources=np.ones(count, np.uint8)
    )


class _Core:
    release = "r"

    def check(self, entry: object) -> None:
        return None

    def warm(self) -> None:
        return None


class _FirstTwenty(_Core):
    """Retrieves items 0..19 that were not seen."""

    def run(self, entries: Sequence[RetrieveEntry]) -> list[RetrieveResult]:
        out = []
        for entry in entries:
            seen = set(entry.user.items.tolist())
            out.append(
                RetrieveResult(candidates=_candidates([i for i in range(20) if i not in seen]))
            )
        return out


class _Backwards(_Core):
    """Ranks the highest number first."""

    def run(self, entries: Sequence[RankEntry]) -> list[RankResult]:
        return [
            RankResult(candidates=_candidates(sorted(e.candidates.numbers.tolist())[::-1][: e.k]))
            for e in entries
        ]


class _WithoutNineteen(_Core):
    """Takes item 19 out."""

    def run(self, entries: Sequence[RerankEntry]) -> list[RerankResult]:
        return [
            RerankResult(
                items=[
                    RankedItem(
                        number=n,
                        item_id=str(n),
                        title="",
                        category="",
                        creator="",
                        score=0.5,
                        rank_score=0.5,
                        source=1,
                        rank_position=1,
                    )
                    for n in e.candidates.numbers.tolist()
                    if n != 19
                ][: e.k]
            )
            for e in entries
        ]


class _Refuses(_FirstTwenty):
    def run(self, entries: Sequence[RetrieveEntry]) -> list[RetrieveResult]:
        return [InvalidArgument("k is wrong") for _ in entries]  # type: ignore[misc]


def _cases(right: list[int]) -> Cases:
    count = len(right)
    return Cases(
        user_row=np.arange(count),
        right=np.array(right),
        now=np.full(count, 5),
        first=np.arange(count),
        before=np.arange(count) + 1,  # each user has seen one item: its own row's
        items=np.arange(20, 20 + count),
        times=np.zeros(count, np.int64),
    )


def _run(right: list[int], **sizes: int) -> dict[str, object]:
    funnel = Funnel(
        retrieval=_FirstTwenty(), ranking=_Backwards(), rerank=_WithoutNineteen(), **sizes
    )
    return evaluate(
        funnel,
        _cases(right),
        user_ids=[f"u{i}" for i in range(len(right))],
        attributes=[{}] * len(right),
        counts=np.arange(ITEMS)[::-1].copy(),
        batch=2,
    )


def test_every_case_is_lost_exactly_where_it_was_lost() -> None:
    # 19 is ranked first and taken out; 18 is shown; 12 is ranked below the list of 5; 2 does not
    # reach rerank; 40 is not retrieved.
    found = _run([19, 18, 12, 2, 40], retrieved=20, ranked=10, listed=5)
    assert found["lost"] == {
        "not_retrieved": pytest.approx(0.2),
        "ranked_out": pytest.approx(0.2),
        "reranked_out": pytest.approx(0.4),
        "in_the_list": pytest.approx(0.2),
        "reranked_out_although_ranked_top": pytest.approx(0.2),
        "in_the_list_by_reranking": pytest.approx(0.0),
    }


def test_lists_are_compared_with_retrieval_alone_and_popularity() -> None:
    found = _run([0, 1], retrieved=20, ranked=10, listed=5)
    assert found["retrieval_alone"]["recall@10"] == 1.0  # type: ignore[index]
    assert found["popularity"]["recall@10"] == 1.0  # type: ignore[index]  # item 0 is most frequent
    assert found["funnel"]["recall@10"] == 0.0  # type: ignore[index]
    assert found["retrieval"]["recall@100"] == 1.0  # type: ignore[index]
    assert found["ranker"]["auc"] < 0.1  # type: ignore[index]


def test_a_refused_case_fails_the_evaluation() -> None:
    funnel = Funnel(retrieval=_Refuses(), ranking=_Backwards(), rerank=_WithoutNineteen())
    with pytest.raises(InvalidArgument, match="k is wrong"):
        evaluate(
            funnel, _cases([1]), user_ids=["u"], attributes=[{}], counts=np.ones(ITEMS, np.int64)
        )


def test_a_context_holds_only_what_came_before() -> None:
    cases = Cases(
        user_row=np.array([1]),
        right=np.array([9]),
        now=np.array([30]),
        first=np.array([2]),
        before=np.array([4]),
        items=np.array([1, 2, 3, 4, 9, 6]),
        times=np.array([1, 2, 10, 20, 30, 40]),
    )
    (context,) = cases.contexts(np.array([0]), ["a", "b"], [{}, {"sex": "F"}])
    assert (context.user_id, context.now, dict(context.attributes)) == ("b", 30, {"sex": "F"})
    assert context.items.tolist() == [3, 4]
    assert context.times.tolist() == [10, 20]
    with pytest.raises(InvalidArgument, match="right must have 1 values, got 2"):
        Cases(
            user_row=cases.user_row,
            right=np.array([1, 2]),
            now=cases.now,
            first=cases.first,
            before=cases.before,
            items=cases.items,
            times=cases.times,
        )
