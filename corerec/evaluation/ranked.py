"""Ranks what a model scores, by the two protocols of the literature: all items, or sampled ones.

The same functions measure every model of the library, so its numbers can be compared. The two
protocols' figures never can (Krichene and Rendle, KDD 2020).
"""

# B users of a block, C cases, N items, M negatives of a case, R relevant items of a block

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.sequences import Sequences
from corerec.errors import InvalidArgument
from corerec.evaluation.metrics import ndcg_at, recall_at
from corerec.stages import Float32s, Int64s, UserContext

Score = Callable[[Int64s], "Float32s | Tensor"]
"""Takes user rows (B,) and returns their scores of all items (B, N), higher is better."""


class _Vectors(Protocol):
    def encode_users(self, users: Sequence[UserContext]) -> Float32s: ...
    def encode_items(self) -> Float32s: ...


def scorer(model: _Vectors, histories: Sequences, user_ids: Sequence[str] | None = None) -> Score:
    """Return the scores of a model whose users come with these histories, none cut short.

    Shapes: user_ids by user row, anonymous where absent.
    """
    items = torch.from_numpy(model.encode_items())  # (N, D)

    def score(rows: Int64s) -> Tensor:
        users = []
        for row in rows.tolist():
            span = slice(int(histories.offsets[row]), int(histories.offsets[row + 1]))
            user_id = "" if user_ids is None else user_ids[row]
            users.append(
                UserContext(
                    user_id=user_id, items=histories.items[span], times=histories.times[span]
                )
            )
        return torch.from_numpy(model.encode_users(users)) @ items.T

    return score


def full_ranking(
    score: Score,
    relevant: Sequences,
    seen: Sequences | None = None,
    *,
    rows: Int64s | None = None,
    ks: Sequence[int] = (10, 20),
    block: int = 256,
) -> dict[str, float]:
    """Return hr@k, recall@k and ndcg@k of each user's relevant items among all items.

    hr: the share of users with at least one hit in the first k. recall: hits over all relevant
    items. ndcg: gains 1 / log2(2 + place) over those of an ideal list with min(k, relevant) hits.
    With one relevant item a user (leave-one-out) hr and recall are the same. Each metric is the
    mean over users with a relevant item. `seen` items, by user row, are taken out of the ranking
    first; an item tied with a relevant one is ranked above it, so equal scores earn nothing.

    Shapes: relevant and seen by user row; rows (C,) users to measure, all with relevant items
    where absent. Source: He et al., SIGIR 2020, LightGCN's evaluation, which UltraGCN uses too.

    Raises:
        InvalidArgument: when a score is NaN, or no user has a relevant item.
    """
    counts = np.diff(relevant.offsets)
    rows = np.flatnonzero(counts) if rows is None else np.asarray(rows, np.int64)
    rows = rows[counts[rows] > 0]
    if not len(rows):
        raise InvalidArgument("a ranking needs at least one user with a relevant item, got 0")
    sums = np.zeros(3 * len(ks))
    for start in range(0, len(rows), block):
        own = rows[start : start + block]
        hits = _hits(torch.as_tensor(score(own)), own, relevant, seen, max(ks))
        # Duplicates among a user's relevant items are one item.
        sums += np.concatenate([_sums(hits, _distinct(relevant, own), k) for k in ks])
    names = [f"{metric}@{k}" for k in ks for metric in ("hr", "recall", "ndcg")]
    return dict(zip(names, (sums / len(rows)).tolist(), strict=True))


def sampled_ranking(
    score: Score,
    right: Int64s,
    negatives: Int64s,
    *,
    rows: Int64s | None = None,
    ks: Sequence[int] = (10,),
    block: int = 256,
) -> dict[str, float]:
    """Return hr@k and ndcg@k of each case's right item among its given negatives.

    A negative that is the right item itself is no rival (in the split of the NCF paper 156 users
    have one); a negative tied with the right item is ranked above it.

    Shapes: right (C,), negatives (C, M), rows (C,) user rows, the case's own number where absent.
    Source: He et al., WWW 2017 (NCF), sec. 4.1.

    Raises:
        InvalidArgument: when a score is NaN, or without cases.
    """
    rows = np.arange(len(right)) if rows is None else np.asarray(rows, np.int64)
    ranks = np.empty(len(right), np.int64)
    for start in range(0, len(right), block):
        part = slice(start, start + block)
        scores = _checked(torch.as_tensor(score(rows[part])))  # (B, N)
        places = torch.from_numpy(np.column_stack([right[part], negatives[part]]))
        found = scores.gather(1, places.to(scores.device))  # (B, 1 + M)
        rival = torch.from_numpy(negatives[part] != right[part, None]).to(scores.device)
        ranks[part] = ((found[:, 1:] >= found[:, :1]) & rival).sum(1).cpu().numpy()
    named: Mapping[str, Callable[[Int64s, int], float]] = {"hr": recall_at, "ndcg": ndcg_at}
    return {f"{name}@{k}": metric(ranks, k) for k in ks for name, metric in named.items()}


def draw_negatives(
    seen: Sequences, rows: Int64s, right: Int64s, count: int, rng: np.random.Generator
) -> Int64s:
    """Return (C, count) distinct items of each case that are neither seen nor right, uniform.

    Shapes: seen by user row; rows (C,) user rows; right (C,).

    Raises:
        InvalidArgument: when a user leaves fewer than `count` items.
    """
    found = np.empty((len(rows), count), np.int64)
    free = np.ones(seen.item_count, bool)
    for case, (row, own) in enumerate(zip(rows.tolist(), right.tolist(), strict=True)):
        known = seen.items[seen.offsets[row] : seen.offsets[row + 1]]
        free[known] = free[own] = False
        left = np.flatnonzero(free)
        if len(left) < count:
            raise InvalidArgument(f"user row {row} must leave {count} items, got {len(left)}")
        found[case] = rng.choice(left, count, replace=False)
        free[known] = free[own] = True
    return found


def _hits(
    scores: Tensor, rows: Int64s, relevant: Sequences, seen: Sequences | None, k: int
) -> NDArray[np.bool_]:
    """Return (B, min(k, N)): whether each place of each list holds a relevant item."""
    scores = _checked(scores).clone()
    mine = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mine[_pairs(relevant, rows, scores.device)] = True
    # One step down to the next float: a relevant item loses its ties.
    lower = torch.nextafter(scores[mine], torch.full_like(scores[mine], -torch.inf))
    scores[mine] = lower
    if seen is not None:
        scores[_pairs(seen, rows, scores.device)] = -torch.inf
    best, places = scores.topk(min(k, scores.shape[1]), dim=1)
    hits: NDArray[np.bool_] = (mine.gather(1, places) & best.isfinite()).cpu().numpy()
    return hits


def _sums(hits: NDArray[np.bool_], relevant: Int64s, k: int) -> NDArray[np.float64]:
    """Return the sums over users of hr, recall and ndcg at k."""
    hits = hits[:, :k]
    gains = 1.0 / np.log2(2.0 + np.arange(k))
    ideal = np.cumsum(gains)[np.minimum(relevant, k) - 1]  # (B,)
    own = hits.sum(1)
    gained = hits @ gains[: hits.shape[1]]
    return np.array([np.sum(own > 0), np.sum(own / relevant), np.sum(gained / ideal)])


def _pairs(events: Sequences, rows: Int64s, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return places (B row, item) of all events of these users."""
    counts = events.offsets[rows + 1] - events.offsets[rows]
    ends = np.cumsum(counts)
    offset = np.repeat(events.offsets[rows] - (ends - counts), counts)
    place = np.repeat(np.arange(len(rows)), counts)
    items = events.items[np.arange(len(place)) + offset]
    return torch.from_numpy(place).to(device), torch.from_numpy(items).to(device)


def _distinct(events: Sequences, rows: Int64s) -> Int64s:
    place, items = _pairs(events, rows, torch.device("cpu"))
    pairs = np.unique(place.numpy() * events.item_count + items.numpy())
    return np.bincount(pairs // events.item_count, minlength=len(rows))


def _checked(scores: Tensor) -> Tensor:
    if bool(scores.isnan().any()):
        raise InvalidArgument("scores must not be NaN, got NaN")
    return scores
