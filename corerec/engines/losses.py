"""Losses as pure functions of tensors: no module, no state."""

# B rows, C candidate columns, D width of a vector

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
) -> Tensor:
    """Return the mean softmax loss of each positive against one shared set of negatives.

    The negatives may mix in-batch items and uniform samples; log_q is then the log of the
    mixture's probability, subtracted from both sides.

    Shapes: user, positive (B, D) and negatives (C, D), L2-normalised; positive_log_q (B,);
    negative_log_q (C,); hits (B, C) bool, True where a negative is the row's positive, which
    leaves it out. Source: Yi et al., RecSys 2019, eq. 4; mixing: Yang et al., WWW 2020, sec. 3.
    """
    right = (user * positive).sum(1) / temperature - positive_log_q  # (B,)
    # One pass over (B, C): scaled before the product, shifted inside it, masked in place.
    wrong = torch.addmm(-negative_log_q, user / temperature, negatives.T)  # (B, C)
    wrong = wrong.masked_fill_(hits, float("-inf"))
    return (torch.logaddexp(torch.logsumexp(wrong, 1), right) - right).mean()


def full_softmax(user: Tensor, items: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the mean softmax loss over the whole catalogue, for catalogues small enough.

    Shapes: user (B, D) and items (N, D), L2-normalised; targets (B,) rows of items.
    Source: Klenitskiy and Vasilev, RecSys 2023, eq. 2 (cross-entropy over all items).
    """
    return F.cross_entropy(user @ items.T / temperature, targets)
