"""The ranker's numbers for (user at a moment, candidate): one set of functions, train and serve.

B cases (requests), n candidates each, L newest history items. What the model embeds (ids, codes)
is in `model.py`; here is everything that is counted, compared or measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import FeatureSchema, UserFeatures, context_features
from corerec.features.context import CONTEXT_WIDTH, DAY_MICROS, HOUR_MICROS
from corerec.ranking.branches import aside
from corerec.ranking.tables import ItemTables, Scratch, pick

RECENT = 10
"""Newest history items that a candidate is compared with one by one."""
NEWEST = 5
"""Newest history items of the short-term match rates."""
LAG_DECAY = 0.8
"""Weight of the history item one place further back."""
TRANSITION_SCALE = 1000.0
MAX_GAP_HOURS = 24.0 * 60
MAX_AGE_DAYS = 3650.0


@dataclass(frozen=True, kw_only=True)
class RankingBatch:
    """B cases with n candidates each, on the device of the model."""

    user_row: Tensor
    """(B,) int64"""
    user_categorical: Tensor
    """(B, Cu) int64"""
    user_dense: Tensor
    """(B, Fd) what `user_dense` returns"""
    history: Tensor
    """(B, L) rows of ItemTables, newest last; N (the blank item) pads the left"""
    now: Tensor
    """(B,) int64 microseconds"""
    candidates: Tensor
    """(B, n) int64 rows of ItemTables"""
    scores: Tensor
    """(B, n) retrieval scores"""
    retrieved: Tensor
    """(B, n) bool: which scores are known"""
    popularity: Tensor
    """(2, B, n) interactions before now: in total, in the last 7 days; empty when serving on a CPU,
    whose features have it from a table of their own"""
    user_side: Tensor | None = None
    """(B, Du) what `RankingModel.user_side` returns, where it is known"""
    compared: Tensor | None = None
    """(Dp, B, n) what `RankingModel.pair_side` returns, where it is known"""


def user_dense_width(schema: FeatureSchema) -> int:
    """Return the width of `user_dense`."""
    return 1 + len(schema.user_numeric) + (CONTEXT_WIDTH + 2 if schema.has_times else 0)


def user_dense(
    schema: FeatureSchema,
    users: UserFeatures,
    history: NDArray[np.int64],
    history_times: NDArray[np.int64],
    now: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the numbers of users: history length, attributes; with times, moment and gap.

    Shapes: users B; history, history_times (B, L) with -1 padding on the left; now (B,).
    """
    length = (history >= 0).sum(axis=1)
    columns = [np.log1p(length)[:, None] / math.log1p(schema.history_length), users.numeric]
    if schema.has_times:
        last = history_times[:, -1]
        known = (length > 0) & (last >= 0)
        hours = np.clip((now - last) / HOUR_MICROS, 0, MAX_GAP_HOURS)
        gap = np.where(known, np.log1p(hours) / math.log1p(MAX_GAP_HOURS), 0)
        columns += [context_features(now), gap[:, None], known[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def newest_history(
    schema: FeatureSchema,
    items: Sequence[NDArray[np.int64]],
    times: Sequence[NDArray[np.int64]],
    rows: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ragged histories, oldest first, as (B, L) arrays with -1 padding on the left.

    Items outside [0, rows), by default those of the training, are left out: the store may know
    newer ones.
    """
    limit = schema.item_count if rows is None else rows
    width = schema.history_length
    numbers = np.full((len(items), width), -1, np.int64)
    moments = np.full((len(items), width), -1, np.int64)
    for row, (own, when) in enumerate(zip(items, times, strict=True)):
        known = (own >= 0) & (own < limit)
        if not known.all():
            own, when = own[known], when[known]
        kept = min(len(own), width)
        if kept:
            numbers[row, width - kept :] = own[-kept:]
            moments[row, width - kept :] = when[-kept:]
    return numbers, moments


def pair_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Return the names of the columns of `pair_features`, in order."""
    names = ["retrieval_score", "retrieved", "popularity"]
    if schema.has_times:
        names += ["recent_popularity", "age", "age_known"]
    names += ["similar_to_last", "most_similar", "similar_to_recent", "similar_to_history"]
    names += ["follows_last", "follows_recent"]
    matched = ["category", "creator", *(feature.name for feature in schema.item_multi)]
    return (*names, *(f"{name}_{span}" for name in matched for span in ("match", "match_newest")))


def pair_features(tables: ItemTables, batch: RankingBatch, scratch: Scratch) -> Tensor:
    """Return the numbers of every (case, candidate); none depends on another case or candidate.

    Shapes: result (F, B, n) float32, first axis as `pair_names`. One feature after the other,
    because writing and reading whole rows of candidates is several times faster than columns.
    """
    follows = aside(1, tables.device, lambda: _transitions(tables, batch))
    matches = aside(2, tables.device, lambda: _matches(tables, batch, scratch))
    rows = [torch.where(batch.retrieved, batch.scores, 0.0), batch.retrieved.float()]
    rows += torch.log1p(batch.popularity[: 2 if tables.schema.has_times else 1]).unbind(0)
    if tables.schema.has_times:
        rows += _age(tables, batch)
    rows += _similarities(tables, batch)
    return torch.stack([*rows, *follows(), *matches()])


def _age(tables: ItemTables, batch: RankingBatch) -> list[Tensor]:
    born = torch.take(tables.born_micros, batch.candidates)  # (B, n)
    known = born >= 0
    # Subtracted as integers: microseconds since 1970 do not fit a float32.
    days = (batch.now[:, None] - born).float().div_(DAY_MICROS).clamp_(0, MAX_AGE_DAYS)
    age = days.log1p_().div_(math.log1p(MAX_AGE_DAYS))
    return [torch.where(known, age, 0.0), known.float()]


@cache
def _lag_weights(length: int, decay: float, device: torch.device) -> Tensor:
    """Return (length,) weights that end in 1 for the newest.

    Made once: a graph of a GPU's work cannot hold a copy of what the host writes anew.
    """
    return torch.tensor([decay**lag for lag in range(length - 1, -1, -1)], device=device)


def _similarities(tables: ItemTables, batch: RankingBatch) -> list[Tensor]:
    """Return cosines in the two-tower's item space: last, maximum, recent mean, whole mean."""
    history = pick(tables.tower, batch.history)  # (B, L, D)
    recent = history[:, -RECENT:]
    size = recent.shape[1]
    weights = _lag_weights(size, LAG_DECAY, tables.device)
    centre = torch.nn.functional.normalize((weights[:, None] * recent).sum(1), dim=-1)
    mean = torch.nn.functional.normalize(history.sum(1), dim=-1)  # (B, D)
    against = torch.cat([recent, centre[:, None], mean[:, None]], dim=1)  # (B, R + 2, D)
    vectors = pick(tables.tower, batch.candidates)  # (B, n, D)
    cosines = torch.bmm(against, vectors.transpose(1, 2))  # (B, R + 2, n)
    there = batch.history[:, -size:] != len(tables)  # (B, R)
    absent = torch.where(there, 0.0, -2.0)[:, :, None]  # a cosine is at least -1
    most = (cosines[:, :size] + absent).amax(1)
    # Nothing to compare with: 0, as for the others.
    most = torch.where(there[:, -1:], most, 0.0)
    return [cosines[:, size - 1], most, cosines[:, size], cosines[:, size + 1]]


def _transitions(tables: ItemTables, batch: RankingBatch) -> list[Tensor]:
    """Return how likely each candidate follows the last item, and the recent ones.

    A candidate is searched for among the sorted followers of each recent item: sizes depend on
    shapes alone, and nothing is added up in an order that changes.
    """
    recent = tables.trained(batch.history[:, -RECENT:])  # (B, R); who came later has no followers
    starts = torch.take(tables.follower_starts, recent)[..., None]  # (B, R, 1)
    sizes = torch.take(tables.follower_starts, recent + 1)[..., None] - starts
    lags = torch.arange(tables.most_followers, device=recent.device)  # (K,)
    there, place = lags < sizes, (starts + lags).clamp_(max=len(tables.followers) - 1)
    codes = torch.where(there, torch.take(tables.followers, place), -1 - lags)
    codes, order = codes.sort(2)  # (B, R, K)
    weights = torch.take(tables.follower_weights, place).gather(2, order)
    wanted = tables.trained(batch.candidates)[:, None].expand(-1, recent.shape[1], -1)
    at = torch.searchsorted(codes, wanted.contiguous()).clamp_(max=codes.shape[2] - 1)  # (B, R, n)
    found = torch.where(codes.gather(2, at) == wanted, weights.gather(2, at), 0.0)
    lag = _lag_weights(recent.shape[1], LAG_DECAY, tables.device)  # the older the less
    both = torch.stack([found[:, -1], (lag[:, None] * found).sum(1)])
    return list(both.mul_(TRANSITION_SCALE).log1p_().unbind(0))


def _matches(tables: ItemTables, batch: RankingBatch, scratch: Scratch) -> list[Tensor]:
    """Return the share of the history, and of its newest items, that has the candidate's values."""
    there = (batch.history != len(tables)).float()  # (B, L)
    newest = there.clone()
    newest[:, :-NEWEST] = 0
    spans = torch.stack([there, newest])  # (2, B, L)
    spans /= spans.sum(2, keepdim=True).clamp_(min=1)
    codes = pick(tables.values, batch.history).long()  # (B, L, J)
    asked = pick(tables.values, batch.candidates).long()  # (B, n, J)
    weights = spans[..., None] * (codes > 0)  # (2, B, L, J); a missing value matches nothing
    cases, length, columns = codes.shape
    case = torch.arange(cases, device=codes.device)[:, None].expand(-1, length * columns).flatten()
    found = scratch.join(
        case, codes.reshape(-1), weights.view(2, -1), asked, tables.value_count
    )  # (2, B, n, J)
    rows = [found[span, ..., column] for column in range(2) for span in range(2)]
    if tables.schema.item_multi:
        share = pick(tables.multi_share, batch.candidates)  # (B, n, M)
        lists = found[..., 2:].reshape(2, *share.shape, -1).sum(-1) * share
        rows += [lists[span, ..., m] for m in range(share.shape[-1]) for span in range(2)]
    return rows
