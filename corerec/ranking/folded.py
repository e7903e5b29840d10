"""FoldedRanker: the ranking model rearranged for serving. Same numbers, a fraction of the work.

Write x0 = [user | item | pair]. The input of cross layer l is x0 * g_l with
g_l = c_l + sum_{m<l} U_m z_m, z_l = V_l^T x_l and c_l = 1 + b_1 + .. + b_{l-1}. So z_1, the
constant parts of the other z_l, the head's U_m^T (w * x0) and the first deep layer are linear in
x0: their item part is a table made at load, their user part is computed once a request. What is
left per pair are small products. This is exact; `RankingModel.forward` is the oracle.

It holds for low-rank crosses beside a plain deep part. A full matrix has no small z to keep, and
stacked crosses, batch normalisation and DLRM's products are not linear in x0: `serving_form` gives
the plain model for those.
"""

# B requests, n candidates, P = B n pairs, R rank, M cross layers, K linear columns, T tasks

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from corerec.engines.dcn import CrossLayer, Dcn
from corerec.ranking.features import RankingBatch
from corerec.ranking.model import RankingModel
from corerec.ranking.precision import Precision, Ranker, check_precision
from corerec.ranking.tables import ItemTables, wider

TABLE_BYTES = 1 << 30
"""Largest item table that is kept; for more items its rows are computed when they are needed."""
CHUNK = 16_384


class PlainRanker:
    """Scores batches with the model as it was trained, for the networks that do not fold."""

    def __init__(
        self, model: RankingModel, tables: ItemTables, precision: Precision = "fp32"
    ) -> None:
        self.model, self.tables = model.to(tables.device).eval(), tables
        self._half = precision == "bf16"

    def __call__(self, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return the logits of `RankingModel.forward`: pairs (F, B, n), result (T, B, n)."""
        with torch.autocast(self.tables.device.type, torch.bfloat16, enabled=self._half):
            logits: Tensor = self.model(self.tables, batch, pairs)
        return logits.float()

    def refresh(self, rows: Tensor) -> None:
        """Read rows (n,) of the tables anew: nothing to do, all are read each time."""


def serving_form(model: RankingModel, tables: ItemTables, precision: Precision = "fp32") -> Ranker:
    """Return the fastest form of the model in this precision; fp32 gives its numbers.

    Raises InvalidArgument for a precision that is not of PRECISIONS.
    """
    check_precision(precision)
    dcn = model.dcn
    folds = dcn is not None and bool(dcn.config.cross_rank) and not dcn.config.batch_norm
    if folds and dcn is not None and dcn.config.structure == "parallel" and precision == "fp32":
        return FoldedRanker(model, tables)
    return PlainRanker(model, tables, precision)


class FoldedRanker:
    """Scores batches with per-item and per-request work taken out of the per-pair part."""

    def __init__(
        self, model: RankingModel, tables: ItemTables, table_bytes: int = TABLE_BYTES
    ) -> None:
        """Fold `model`, which is in evaluation mode, on the device of the tables."""
        self.model, self.tables = model.to(tables.device).eval(), tables
        self.dcn = cast(Dcn, model.dcn)
        self._fold()
        width = model.item_side_width + self.columns
        self.table: tuple[Tensor, Tensor] | None = None
        if (len(tables) + 1) * width * 4 <= table_bytes:
            item, linear = model.item_side_width, self.columns
            self.table = (
                torch.zeros(tables.room, item, device=tables.device),
                torch.zeros(tables.room, linear, device=tables.device),
            )
            numbers = torch.arange(len(tables) + 1, device=tables.device)
            for part in torch.split(numbers, CHUNK):
                self.refresh(part)

    @torch.no_grad()
    def refresh(self, rows: Tensor) -> None:
        """Compute rows (n,) of the table anew, after the tables changed there."""
        if self.table is None or not len(rows):
            return
        if (more := self.tables.room - len(self.table[0])) > 0:
            self.table = wider(self.table[0], more), wider(self.table[1], more)
        for kept, fresh in zip(self.table, self._compute(rows), strict=True):
            kept.index_copy_(0, rows, fresh)

    @torch.no_grad()
    def _fold(self) -> None:
        dcn = self.dcn
        layers = [cast(CrossLayer, layer) for layer in dcn.cross]
        v = [layer.v.detach() for layer in layers]  # M of (D, R)
        u = [layer.u.detach() for layer in layers]
        heads = cast(nn.Linear, dcn.cross_head).weight.detach()  # (T, D)
        constants = [torch.ones_like(heads[0])]
        for layer in layers:
            constants.append(constants[-1] + layer.bias.detach())
        first = cast(nn.Linear, dcn.deep[0])
        linear = [c[:, None] * own for c, own in zip(constants, v, strict=False)]
        linear += [head[:, None] * own for head in heads for own in u]
        linear += [(heads * constants[-1]).T, first.weight.detach().T]
        fold = torch.cat(linear, dim=1)  # (D, K)
        self.rank, self.depth, self.columns = v[0].shape[1], len(layers), fold.shape[1]
        self.tasks = len(heads)
        users, items = self.model.user_side_width, self.model.item_side_width
        self.pairs = self.model.pair_side_width
        self.fold_user, self.fold_item, self.fold_pair = (
            part.contiguous() for part in torch.split(fold, [users, items, self.pairs])
        )
        self.deep = [cast(nn.Linear, layer) for layer in list(dcn.deep)[1:]]
        self.bias = torch.zeros(self.columns, device=fold.device)
        self.bias[-len(first.bias) :] = first.bias.detach()
        self.v = [torch.split(part, [users, items, self.pairs]) for part in v]  # (D part, R)
        self.u = [
            torch.split(torch.cat(u[:m], dim=1), [users, items, self.pairs])
            for m in range(1, len(u))
        ]  # (D part, m R)

    def _compute(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is fixed per item: its inputs (P, Di) and their linear columns (P, K)."""
        item = self.model.item_side(self.tables, numbers)
        return item, item @ self.fold_item

    def __call__(self, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return `RankingModel.forward`. Shapes: pairs (F, B, n), result (T, B, n)."""
        cases, count = batch.candidates.shape
        flat = batch.candidates.reshape(-1)
        if self.table is None:
            item, linear = self._compute(flat)
        else:
            item, linear = (part.index_select(0, flat) for part in self.table)
        wanted = item[:, : self.model.config.item_width].view(cases, count, -1)
        pair = self.model.pair_side(batch, pairs, wanted).view(self.pairs, -1)  # (Dp, P)
        user = self.model.user_side(batch)  # (B, Du)
        linear.addmm_(pair.T, self.fold_pair)
        linear.view(cases, count, -1).add_(torch.addmm(self.bias, user, self.fold_user)[:, None])
        logits = self._cross(user, item, pair, linear).add_(self._deep(linear))  # (P, T)
        return logits.T.reshape(-1, cases, count)

    def _cross(self, user: Tensor, item: Tensor, pair: Tensor, linear: Tensor) -> Tensor:
        """Return (P, T), the cross network's part.

        Shapes: user (B, Du), item (P, Di), pair (Dp, P), linear (P, K).
        """
        rank, cases = self.rank, len(user)
        z = linear[:, :rank]  # (P, R)
        for layer in range(1, self.depth):
            u_user, u_item, u_pair = self.u[layer - 1]
            v_user, v_item, v_pair = self.v[layer]
            # V^T (x0 * U z), the three parts of x0 one after the other.
            fresh = linear[:, layer * rank : (layer + 1) * rank].addmm(
                (z @ u_item.T).mul_(item), v_item
            )  # (P, R)
            fresh.addmm_((u_pair @ z.T).mul_(pair).T, v_pair)
            # The user's is one small matrix a request.
            of_user = u_user.T @ (user[:, :, None] * v_user)  # (B, m R, R)
            fresh.view(cases, -1, rank).baddbmm_(z.reshape(cases, -1, z.shape[1]), of_user)
            z = torch.cat([z, fresh], dim=1)
        width, tasks = self.depth * rank, self.tasks
        constants = linear[:, width * (1 + tasks) :][:, :tasks]
        heads = linear[:, width : width * (1 + tasks)].view(-1, tasks, width)
        return (z[:, None] * heads).sum(2).add_(constants)

    def _deep(self, linear: Tensor) -> Tensor:
        """Return (P, T) the deep network's part."""
        dcn = self.dcn
        hidden = linear[:, (1 + self.tasks) * self.depth * self.rank + self.tasks :].relu()
        for layer in self.deep:
            hidden = torch.addmm(layer.bias, hidden, layer.weight.T).relu_()
        return torch.addmm(dcn.deep_head.bias, hidden, dcn.deep_head.weight.T)
