"""Metrics as pure functions of arrays, vectorised, each with its source.

A case has one right item; `ranks` holds its place in each case's list, 0 for the first place and
-1 when the list does not hold it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.stages import Int64s

Float64s = NDArray[np.float64]


def ranks_of(lists: Int64s, right: Int64s) -> Int64s:
    """Return the place of each case's right item in its list, -1 where it is not there.

    Shapes: lists (C, K) item numbers, each once a row, padded with -1; right (C,).
    """
    hits = lists == right[:, None]  # (C, K)
    return np.where(hits.any(1), hits.argmax(1), -1) if lists.shape[1] else np.full(len(right), -1)


def recall_at(ranks: Int64s, k: int) -> float:
    """Return the share of cases whose right item is among the first k (also called hit rate).

    Source: Cremonesi et al., RecSys 2010, sec. 3 (recall with one relevant item a case).
    """
    _need_cases(ranks)
    return float(np.mean((ranks >= 0) & (ranks < k)))


def ndcg_at(ranks: Int64s, k: int) -> float:
    """Return the mean of 1 / log2(2 + rank) over cases, 0 beyond the first k.

    Source: Järvelin and Kekäläinen, TOIS 2002, with one relevant item: the ideal gain is 1.
    """
    _need_cases(ranks)
    inside = (ranks >= 0) & (ranks < k)
    gains = 1.0 / np.log2(2.0 + np.where(inside, ranks, 0))
    return float(np.mean(np.where(inside, gains, 0.0)))


def coverage(lists: Int64s, item_count: int) -> float:
    """Return the share of the catalogue that appears in at least one list.

    Shapes: lists (C, K), padded with -1. Source: Ge et al., RecSys 2010, sec. 2.1.
    """
    shown = np.unique(lists)
    return float(np.count_nonzero(shown >= 0) / item_count)


def novelty(lists: Int64s, counts: Int64s) -> float:
    """Return the mean self-information of the items shown, in bits: rare items carry more.

    Shapes: lists (C, K), padded with -1; counts (N,) interactions of each item; one is added to
    each so that an item without any stays finite. Source: Zhou et al., PNAS 2010, "surprisal".
    """
    share = (counts + 1.0) / (counts.sum() + len(counts))
    shown = lists[lists >= 0]
    if not len(shown):
        return 0.0
    return float(np.mean(-np.log2(share[shown])))


def logloss(labels: Int64s, probabilities: Float64s) -> float:
    """Return the mean negative log-likelihood of binary labels, in nats.

    Shapes: labels (N,) of 0 and 1; probabilities (N,), clipped to [1e-7, 1 - 1e-7].
    Source: Good, JRSS B 1952.
    """
    _need_cases(labels)
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))))


def auc(labels: Int64s, scores: Float64s) -> float:
    """Return the probability that a positive scores above a negative; ties count one half.

    Shapes: labels (N,) of 0 and 1; scores (N,). Source: Hanley and McNeil, Radiology 1982 (the
    Mann-Whitney statistic).

    Raises:
        InvalidArgument: when there is no positive or no negative.
    """
    positive = int(np.count_nonzero(labels > 0))
    negative = len(labels) - positive
    if not positive or not negative:
        raise InvalidArgument(f"auc needs both classes, got {positive} positives of {len(labels)}")
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(ties)
    rank = (last - (ties - 1) / 2.0)[place]  # mean rank of a group of ties, from 1
    gain = rank[labels > 0].sum() - positive * (positive + 1) / 2.0
    return float(gain / (positive * negative))


def expected_calibration_error(labels: Int64s, probabilities: Float64s, bins: int = 15) -> float:
    """Return the mean distance between what was said and what came, over bins of what was said.

    Shapes: labels (N,) of 0 and 1; probabilities (N,) in [0, 1]. The bins are equally wide, and
    each weighs as many rows as it holds. Source: Guo et al., ICML 2017, eq. 3, for the
    probability of the positive class.
    """
    _need_cases(labels)
    if bins < 1:
        raise InvalidArgument(f"bins must be at least 1, got {bins}")
    place = np.clip((probabilities * bins).astype(np.int64), 0, bins - 1)
    said = np.bincount(place, probabilities, minlength=bins)
    came = np.bincount(place, labels > 0, minlength=bins)
    return float(np.abs(said - came).sum() / len(labels))


def _need_cases(values: NDArray[np.int64]) -> None:
    if not len(values):
        raise InvalidArgument("a metric needs at least one case, got 0")
