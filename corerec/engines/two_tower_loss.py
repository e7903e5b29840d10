"""The two-tower's loss of a step as one module, so that data-parallel training can wrap it."""

# B windows or bags, T positions, Q queries, P positives, C negatives, H hard ones, R rows, D width

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor, nn

from corerec.engines.losses import bce, bpr, full_softmax, sampled_info_nce
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerFitConfig
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_shape import ItemContent, UserInputs
from corerec.engines.two_tower_step import Step
from corerec.engines.two_tower_user import HistoryAttention, HistoryBag
from corerec.stages import Float32s


class TwoTowerLoss(nn.Module):
    """Both towers over a step, and the loss between them."""

    def __init__(
        self,
        net: TwoTowerNet,
        content: ItemContent,
        users: UserInputs,
        sequences: Sequences,
        fit: TwoTowerFitConfig,
    ) -> None:
        super().__init__()
        self.net, self.content, self.users, self.fit = net, content, users, fit
        self.log_q = torch.from_numpy(_log_q(sequences, net.shape.items, fit)).to(
            content.title.device
        )

    def forward(self, step: Step, noise: Generator) -> Tensor:
        """Return the mean loss of the step's positives, a scalar."""
        net, tau = self.net, self.net.config.temperature
        # In float32 where autocast has made it bf16: vectors are summed and compared from here on.
        base = net.item(step.rows, self.content, noise).float()  # (R, D)
        unit = net.item_vectors(base)
        user = self._queries(step, base, noise)  # (Q, D)
        hard = self._hard(step, user, unit)
        owner = step.owner if len(step.owner) else None
        if self.fit.loss == "info_nce":
            if not len(step.negatives):
                items = unit[: net.shape.items]
                return full_softmax(user, items, step.targets, tau, owner=owner, hard=hard)
            return sampled_info_nce(
                user,
                unit.index_select(0, step.right),
                unit.index_select(0, step.negatives),
                self.log_q[step.targets],
                self.log_q[step.negative_items],
                tau,
                _hits(step, len(user), len(unit)),
                owner=owner,
                hard=hard,
            )
        own = user if owner is None else user.index_select(0, owner)  # (P, D)
        right = (own * unit.index_select(0, step.right)).sum(1) / tau
        wrong = torch.einsum("pd,pnd->pn", own, _pick(unit, step.each)) / tau
        kept = step.each_kept
        if hard is not None:
            mine = hard if owner is None else hard.index_select(0, owner)  # (P, H)
            wrong = torch.cat([wrong, mine], dim=1)
            kept = torch.cat([kept, mine > _ABSENT], dim=1)
        return (bpr if self.fit.loss == "bpr" else bce)(right, wrong, kept)

    def _queries(self, step: Step, base: Tensor, noise: Generator) -> Tensor:
        """Return (Q, D) vectors of the step's queries."""
        tower = self.net.user
        users = UserInputs(
            step.users, self.users.categorical[step.users], self.users.numeric[step.users]
        )
        profile = tower.profile(users, noise)  # (B, D)
        if isinstance(tower.history, HistoryAttention):
            seen = _windows(tower.history, step, base, noise)
            profile = profile.index_select(0, step.query_user)
        else:
            seen = _bags(tower.history, step, base)
        return tower.join(seen, profile, step.context if step.context.numel() else None)

    def _hard(self, step: Step, user: Tensor, unit: Tensor) -> Tensor | None:
        """Return (Q, H) logits of hard negatives, as comparable as a drawn one's; None without."""
        if not step.hard.numel():
            return None
        rows = step.hard.clamp(min=0)
        logits = torch.einsum("qd,qhd->qh", user, _pick(unit, rows)).float()
        logits = logits / self.net.config.temperature
        if len(step.negatives):
            logits = logits - self.log_q[step.rows[rows]]
        return logits.masked_fill(step.hard < 0, _ABSENT)


_ABSENT = -1e4
"""Logit of a negative that is not there; its share of any softmax is zero."""


def _windows(attention: HistoryAttention, step: Step, base: Tensor, noise: Generator) -> Tensor:
    """Return (Q, D) what each position of the windows has seen."""
    size = len(step.users) * step.length
    events = base.new_zeros(size, base.shape[1])  # (B * T, D)
    events = events.index_copy(0, step.at, base.index_select(0, step.tokens))
    seen = attention.windows(events.view(len(step.users), step.length, -1), noise)
    return seen.reshape(size, -1).index_select(0, step.at)


def _bags(bag: HistoryBag, step: Step, base: Tensor) -> Tensor:
    """Return (B, D) the mean of each bag, as one product of (B, R) and (R, D)."""
    shares = step.shares.new_zeros(len(step.users), len(base))  # (B, R), fp32 under autocast
    shares = shares.index_put((step.at, step.tokens), step.shares, accumulate=True)
    return shares @ bag.members(base)


def _hits(step: Step, queries: int, rows: int) -> Tensor:
    """Return (Q, C) bool: where a shared negative is a positive of the query."""
    if not len(step.owner):
        return step.right[:, None] == step.negatives[None, :]
    mine = torch.zeros(queries, rows, dtype=torch.bool, device=step.rows.device)
    mine[step.owner, step.right] = True
    return mine.index_select(1, step.negatives)


def _pick(table: Tensor, places: Tensor) -> Tensor:
    """Return table[places]. Shapes: table (R, D), places (P, n), result (P, n, D)."""
    return table.index_select(0, places.reshape(-1)).view(*places.shape, table.shape[1])


def _log_q(sequences: Sequences, items: int, fit: TwoTowerFitConfig) -> Float32s:
    """Return (N,) log of each item's probability to be drawn as a shared negative."""
    share = np.bincount(sequences.items, minlength=items) / max(1, len(sequences))
    drawn, uniform = fit.batch_negatives, fit.uniform_negatives
    mixed = (drawn * share + uniform / items) / (drawn + uniform)
    found: Float32s = np.log(np.maximum(mixed, 1e-12)).astype(np.float32)
    return found
