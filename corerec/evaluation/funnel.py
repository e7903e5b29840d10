"""Runs the whole funnel over test cases through the serving cores; says what was lost where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from corerec.errors import CoreRecError
from corerec.evaluation import metrics
from corerec.evaluation.cases import Cases
from corerec.stages import (
    Candidates,
    Float32s,
    Int64s,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    StageCore,
    UserContext,
)

Report = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """The three cores of one release and the sizes between them."""

    retrieval: StageCore[RetrieveEntry, RetrieveResult]
    ranking: StageCore[RankEntry, RankResult]
    rerank: StageCore[RerankEntry, RerankResult]
    retrieved: int = 500
    ranked: int = 100
    listed: int = 10


@dataclass
class _Seen:
    """What the funnel did with every case."""

    retrieved: list[Int64s] = field(default_factory=list)
    ranked: list[Int64s] = field(default_factory=list)
    listed: list[Int64s] = field(default_factory=list)
    labels: list[Int64s] = field(default_factory=list)
    probabilities: list[Float32s] = field(default_factory=list)
    counts: list[Int64s] = field(default_factory=list)


def evaluate(
    funnel: Funnel,
    cases: Cases,
    *,
    user_ids: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    counts: Int64s,
    batch: int = 32,
    report: Report | None = None,
) -> dict[str, Any]:
    """Return the metrics of retrieval, ranker and funnel over the cases, beside popularity's.

    Shapes: user_ids and attributes by user row; counts (N,) training interactions of each item,
    which popularity recommends by and novelty is measured with.

    Raises:
        CoreRecError: when a core refuses a case; an evaluation with holes says nothing.
    """
    seen = _Seen()
    for start in range(0, len(cases), batch):
        rows = np.arange(start, min(start + batch, len(cases)))
        users = cases.contexts(rows, user_ids, attributes)
        _run(funnel, users, cases.right[rows], counts, seen)
        if report is not None:
            report(int(rows[-1]) + 1, len(cases))
    popular = np.concatenate(list(_popular_lists(cases, counts, funnel.retrieved)))
    return _summary(funnel, cases, counts, seen, popular)


def _run(
    funnel: Funnel, users: list[UserContext], right: Int64s, counts: Int64s, seen: _Seen
) -> None:
    retrieved = _all(
        funnel.retrieval.run([RetrieveEntry(user=u, k=funnel.retrieved) for u in users])
    )
    ranked = _all(
        funnel.ranking.run(
            [
                RankEntry(user=u, candidates=r.candidates, k=max(1, len(r.candidates)))
                for u, r in zip(users, retrieved, strict=True)
            ]
        )
    )
    final = _all(
        funnel.rerank.run(
            [
                RerankEntry(candidates=r.candidates.top(funnel.ranked), k=funnel.listed, now=u.now)
                for u, r in zip(users, ranked, strict=True)
            ]
        )
    )
    seen.retrieved.append(_matrix([r.candidates.numbers for r in retrieved], funnel.retrieved))
    seen.ranked.append(_matrix([r.candidates.numbers for r in ranked], funnel.retrieved))
    listed = [np.array([item.number for item in r.items], np.int64) for r in final]
    seen.listed.append(_matrix(listed, funnel.listed))
    for result, item in zip(ranked, right, strict=True):
        _note(result.candidates, int(item), counts, seen)


def _note(candidates: Candidates, right: int, counts: Int64s, seen: _Seen) -> None:
    """Keep labels and probabilities of the cases whose right item reached the ranker."""
    labels = (candidates.numbers == right).astype(np.int64)
    if labels.any():
        seen.labels.append(labels)
        seen.probabilities.append(candidates.scores)
        seen.counts.append(counts[candidates.numbers])


def _summary(
    funnel: Funnel, cases: Cases, counts: Int64s, seen: _Seen, popular: Int64s
) -> dict[str, Any]:
    retrieved, ranked = np.concatenate(seen.retrieved), np.concatenate(seen.ranked)
    listed = np.concatenate(seen.listed)
    alone = retrieved[:, : funnel.listed]
    return {
        "cases": len(cases),
        "retrieval": _recalls(retrieved, cases.right),
        "ranker": _ranker(seen),
        "funnel": _list_metrics(listed, cases, counts),
        "ranked_list": _list_metrics(ranked[:, : funnel.listed], cases, counts),
        "retrieval_alone": _list_metrics(alone, cases, counts),
        "popularity": _list_metrics(popular[:, : funnel.listed], cases, counts)
        | _recalls(popular, cases.right),
        "lost": _lost(funnel, retrieved, ranked, listed, cases.right),
    }


def _ranker(seen: _Seen) -> dict[str, float]:
    """Return the ranker's quality on what retrieval gave it, popularity's AUC beside it."""
    if not seen.labels:
        return {}
    labels = np.concatenate(seen.labels)
    return {
        "auc": metrics.auc(labels, np.concatenate(seen.probabilities).astype(np.float64)),
        "auc_popularity": metrics.auc(labels, np.concatenate(seen.counts).astype(np.float64)),
    }


def _list_metrics(lists: Int64s, cases: Cases, counts: Int64s) -> dict[str, float]:
    ranks = metrics.ranks_of(lists, cases.right)
    return {
        "recall@10": metrics.recall_at(ranks, 10),
        "ndcg@10": metrics.ndcg_at(ranks, 10),
        "coverage": metrics.coverage(lists, len(counts)),
        "novelty_bits": metrics.novelty(lists, counts),
    }


def _recalls(lists: Int64s, right: Int64s) -> dict[str, float]:
    ranks = metrics.ranks_of(lists, right)
    return {f"recall@{k}": metrics.recall_at(ranks, k) for k in (100, 500)}


def _lost(
    funnel: Funnel, retrieved: Int64s, ranked: Int64s, listed: Int64s, right: Int64s
) -> dict[str, float]:
    """Return the share of cases by where the right item left; the first four add to 1."""
    came = metrics.ranks_of(retrieved, right) >= 0
    place = metrics.ranks_of(ranked, right)
    passed = came & (place >= 0) & (place < funnel.ranked)
    shown = metrics.ranks_of(listed, right) >= 0
    top = passed & (place < funnel.listed)
    return {
        "not_retrieved": float(np.mean(~came)),
        "ranked_out": float(np.mean(came & ~passed)),
        "reranked_out": float(np.mean(passed & ~shown)),
        "in_the_list": float(np.mean(shown)),
        "reranked_out_although_ranked_top": float(np.mean(top & ~shown)),
        "in_the_list_by_reranking": float(np.mean(shown & ~top)),
    }


def _popular_lists(cases: Cases, counts: Int64s, k: int) -> Iterator[Int64s]:
    """Yield each case's k most frequent items that its user has not seen, as (B, k)."""
    order = np.argsort(-counts, kind="stable")
    for start in range(0, len(cases), 256):
        histories = cases.histories(np.arange(start, min(start + 256, len(cases))), limit=2**31)
        lists = np.full((len(histories), k), -1, np.int64)
        for row, history in enumerate(histories):
            head = order[: k + len(history)]
            fresh = head[~np.isin(head, history)][:k]
            lists[row, : len(fresh)] = fresh
        yield lists


def _matrix(lists: Sequence[Int64s], width: int) -> Int64s:
    out = np.full((len(lists), width), -1, np.int64)
    for row, own in enumerate(lists):
        out[row, : len(own)] = own[:width]
    return out


def _all(results: Sequence[T | CoreRecError]) -> list[T]:
    """Return the results. Raises the first error among them."""
    out = []
    for result in results:
        if isinstance(result, CoreRecError):
            raise result
        out.append(result)
    return out
