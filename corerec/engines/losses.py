"""Losses as pure functions of tensors: no module, no state."""

# Q queries, P positives, B rows of a batch, C candidates, H hard negatives, n negatives, D width

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    user: Tensor,
    item: Tensor,
    log_q: Tensor,
    temperature: float,
    item_ids: Tensor | None = None,
) -> Tensor:
    """Return the in-batch softmax loss with sampling-bias correction.

    Shapes: user, item (B, D), L2-normalised; log_q (B,), log of each item's probability of being
    sampled into a batch; item_ids (B,) masks accidental hits: another row's positive that is the
    same item is no negative. Source: Yi et al., RecSys 2019, eq. 4.
    """
    logits = user @ item.T / temperature - log_q  # (B, B)
    if item_ids is not None:
        same = item_ids[:, None] == item_ids[None, :]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(user), device=user.device))


def sampled_info_nce(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    positive_log_q: Tensor,
    negative_log_q: Tensor,
    temperature: float,
    hits: Tensor,
    *,
    owner: Tensor | None = None,
    hard: Tensor | None = None,
) -> Tensor:
    """Return the mean softmax loss of each positive against one shared set of negatives.

    The negatives may mix in-batch items and uniform samples; log_q is then the log of the
    mixture's probability, subtracted from both sides. With `owner` several positives share a query,
    none of which is a negative of another.

    Shapes: user (Q, D), positive (P, D) and negatives (C, D), L2-normalised; positive_log_q (P,);
    negative_log_q (C,); hits (Q, C) bool, True where a negative is a positive of the row, which
    leaves it out; owner (P,) the query of each positive, its own row where absent; hard (Q, H)
    logits of further negatives of each query alone. Source: Yi et al., RecSys 2019, eq. 4; mixing:
    Yang et al., WWW 2020, sec. 3; shared queries: Liang et al., WWW 2018, eq. 2, each positive
    against the negatives alone instead of against all items.
    """
    # One pass over (Q, C): scaled before the product, shifted inside it, masked in place.
    # In float32 from here: autocast makes products in bf16, too coarse to sum.
    wrong = torch.addmm(-negative_log_q, user / temperature, negatives.T).float()  # (Q, C)
    # Not -inf: a row whose every negative is a hit would have a gradient of NaN.
    wrong = wrong.masked_fill_(hits, torch.finfo(wrong.dtype).min)
    total = torch.logsumexp(wrong, 1)  # (Q,)
    if hard is not None:
        total = torch.logaddexp(total, torch.logsumexp(hard, 1))
    if owner is not None:
        user, total = user.index_select(0, owner), total.index_select(0, owner)
    right = (user * positive).sum(1) / temperature - positive_log_q  # (P,)
    return (torch.logaddexp(total, right) - right).mean()


def full_softmax(
    user: Tensor,
    items: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    owner: Tensor | None = None,
    hard: Tensor | None = None,
) -> Tensor:
    """Return the mean softmax loss over the whole catalogue, for catalogues small enough.

    With `owner` several targets share a query: the multinomial likelihood of a user's items.

    Shapes: user (Q, D) and items (N, D), L2-normalised; targets (P,) rows of items; owner (P,) the
    query of each target, its own row where absent; hard (Q, H) logits of negatives that count
    twice. Source: Klenitskiy and Vasilev, RecSys 2023, eq. 2 (cross-entropy over all items); with
    `owner` Liang et al., WWW 2018, eq. 2, each user weighing as many items as it has.
    """
    # Divided before the product, which has fewer numbers; autocast makes the product in bf16.
    logits = (user / temperature @ items.T).float()  # (Q, N)
    if owner is None and hard is None:
        return F.cross_entropy(logits, targets)
    total = torch.logsumexp(logits, 1)  # (Q,)
    if hard is not None:
        total = torch.logaddexp(total, torch.logsumexp(hard, 1))
    if owner is None:
        right = logits.gather(1, targets[:, None]).view(-1)
        return (total - right).mean()
    right = torch.take(logits, owner * logits.shape[1] + targets)  # (P,)
    return (total.index_select(0, owner) - right).mean()


def bpr(right: Tensor, wrong: Tensor, kept: Tensor) -> Tensor:
    """Return the mean pairwise loss: a positive is to score above each of its negatives.

    Shapes: right (P,) logits of positives; wrong (P, n) logits of negatives; kept (P, n) bool,
    False where a negative is in truth a positive, which leaves the pair out. Source: Rendle et al.,
    UAI 2009, eq. 4 (BPR-Opt) without its regulariser, which the optimiser's decay replaces.
    """
    pairs = -F.logsigmoid(right[:, None] - wrong)  # (P, n)
    return (pairs * kept).sum() / kept.sum().clamp(min=1)


def bce(right: Tensor, wrong: Tensor, kept: Tensor) -> Tensor:
    """Return the mean logistic loss of positives against their sampled negatives, all alike.

    Shapes: as in `bpr`. Source: He et al., WWW 2017 (NCF), eq. 7, as a mean instead of a sum.
    """
    positives = F.softplus(-right).sum()
    negatives = (F.softplus(wrong) * kept).sum()
    return (positives + negatives) / (len(right) + kept.sum())
