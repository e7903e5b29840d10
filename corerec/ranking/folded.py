"""FoldedRanker: the ranking model rearranged for serving. Same numbers, a fraction of the work.

`fold.py` has the mathematics; here the parts of a release meet: a table of the items' inputs made
at load, users and comparisons computed by the model, the rest by `CpuKernel` on a CPU and by the
fold's steps elsewhere.
"""

# B requests, n candidates, P = B n pairs, T tasks

from __future__ import annotations

import logging

import torch
from torch import Tensor

from corerec.errors import InvalidArgument
from corerec.ranking.features import RankingBatch
from corerec.ranking.fold import evaluate, fold, folds
from corerec.ranking.kernel import CpuKernel
from corerec.ranking.model import RankingModel
from corerec.ranking.precision import Precision, Ranker, check_precision
from corerec.ranking.tables import ItemTables, wider

log = logging.getLogger(__name__)

TABLE_BYTES = 4 << 30
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
    if model.dcn is not None and folds(model.dcn):
        return FoldedRanker(model, tables, precision=precision)
    return PlainRanker(model, tables, precision)


class FoldedRanker:
    """Scores batches with per-item and per-request work taken out of the per-pair part."""

    def __init__(
        self,
        model: RankingModel,
        tables: ItemTables,
        table_bytes: int = TABLE_BYTES,
        *,
        precision: Precision = "fp32",
    ) -> None:
        """Fold `model` on the device of the tables.

        Raises InvalidArgument for a network that does not fold.
        """
        self.model, self.tables = model.to(tables.device).eval(), tables
        if model.dcn is None:
            raise InvalidArgument(f"a ranker that folds is a dcn, got {model.config.network}")
        self._fold = fold(model.dcn, model.user_side_width)
        self._half = precision == "bf16"
        self._kernel: CpuKernel | None = None
        if tables.device.type == "cpu":
            self._kernel = CpuKernel(self._fold, model.item_side_width, precision)
            if self._kernel.precision != precision:
                log.warning("no matrix instructions for bf16 here: scores are computed in fp32")
        self.table: Tensor | None = None
        """(R, at least Di): the inputs of items, in the numbers that pairs are computed in"""
        if tables.room * self._room(1).nbytes <= table_bytes:
            self.table = self._room(tables.room)
            numbers = torch.arange(len(tables) + 1, device=tables.device)
            for part in torch.split(numbers, CHUNK):
                self.refresh(part)

    def _room(self, rows: int) -> Tensor:
        if self._kernel is not None:
            return self._kernel.table(rows)
        return torch.zeros(rows, self.model.item_side_width, device=self.tables.device)

    @torch.no_grad()
    def refresh(self, rows: Tensor) -> None:
        """Compute rows (n,) of the table anew, after the tables changed there."""
        if self.table is None or not len(rows):
            return
        if (more := self.tables.room - len(self.table)) > 0:
            self.table = wider(self.table, more)
        self.table[rows, : self.model.item_side_width] = self._items(rows).to(self.table.dtype)

    def _items(self, rows: Tensor) -> Tensor:
        return self.model.item_side(self.tables, rows)

    @torch.no_grad()
    def __call__(self, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return `RankingModel.forward`. Shapes: pairs (F, B, n), result (T, B, n)."""
        model, candidates = self.model, batch.candidates
        table = self.table
        if table is None:
            table = self._room(candidates.numel())
            table[:, : model.item_side_width] = self._items(candidates.reshape(-1)).to(table.dtype)
            candidates = torch.arange(len(table), device=table.device).view(candidates.shape)
        user, compared = batch.user_side, batch.compared  # (B, Du), (Dp, B, n)
        if user is None:
            user = model.user_side(batch)
        if compared is None:
            # Comparisons are of embeddings as they were trained, whatever the table holds.
            wanted = model.item(batch.candidates.clamp(max=len(self.tables)))  # (B, n, E)
            compared = model.pair_side(batch, pairs, wanted)
        if self._kernel is not None:
            return self._kernel(user, table, candidates, compared)
        x = torch.cat([table[candidates], compared.permute(1, 2, 0)], dim=-1)
        with torch.autocast(table.device.type, torch.bfloat16, enabled=self._half):
            logits = evaluate(self._fold, user, x)
        return logits.float().permute(2, 0, 1)
