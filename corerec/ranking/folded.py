"""FoldedRanker: the ranking model rearranged for serving. Same numbers, a fraction of the work.

`fold.py` has the mathematics; here the parts of a release meet: a table of the items' inputs made
at load, users and comparisons computed by the model, the rest by a form of the network.
"""

# B requests, n candidates, P = B n pairs, T tasks

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.ranking.features import RankingBatch
from corerec.ranking.fold import fold, folds
from corerec.ranking.fold_device import FoldedDcn
from corerec.ranking.fold_dlrm import FoldedDlrm
from corerec.ranking.kernel import CpuKernel, precision_here
from corerec.ranking.laid import LaidArrays
from corerec.ranking.layout import bits
from corerec.ranking.model import RankingModel
from corerec.ranking.precision import PRECISIONS, Precision, Ranker, check_precision
from corerec.ranking.tables import ItemTables, wider
from corerec.stages import Float32s

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

    def logits(self, laid: LaidArrays) -> None:
        """Return None: all is computed by torch."""

    def refresh(self, rows: Tensor) -> None:
        """Read rows (n,) of the tables anew: nothing to do, all are read each time."""


def serving_form(model: RankingModel, tables: ItemTables, precision: Precision = "fp32") -> Ranker:
    """Return the fastest form of the model in this precision; fp32 gives its numbers.

    Raises:
        InvalidArgument: a precision that is not of PRECISIONS.
        FailedPrecondition: one that this model has no form in, on the device of the tables.
    """
    check_precision(precision)
    if precision not in precisions_of(model, tables.device):
        raise FailedPrecondition(
            "precision must be fp32 or bf16, or for low-rank DCN-v2 on a CPU int8, "
            f"got {precision!r} on {tables.device.type} for a network of "
            f"{'DLRM' if model.dlrm is not None else 'DCN-v2'}"
        )
    if model.dcn is not None and not folds(model.dcn):
        return PlainRanker(model, tables, precision)
    return FoldedRanker(model, tables, precision=precision)


def precisions_of(model: RankingModel, device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions that a model has a form in: of 8-bit inputs there is one on CPUs."""
    coded = model.dcn is not None and folds(model.dcn) and device.type == "cpu"
    return PRECISIONS if coded else tuple(p for p in PRECISIONS if p != "int8")


class Form(Protocol):
    """A folded network, with the numbers of items that it reads from a table."""

    def table(self, rows: int) -> Tensor:
        """Return room (rows, at least the width of `items`) for so many items."""

    def items(self, inputs: Tensor) -> Tensor:
        """Return what is kept of items. Shapes: inputs (m, Di), result (m, ...)."""

    def __call__(self, user: Tensor, table: Tensor, candidates: Tensor, pairs: Tensor) -> Tensor:
        """Return logits (T, B, n). Shapes: user (B, Du), candidates (B, n), pairs (Dp, B, n)."""


def form_of(model: RankingModel, precision: Precision, device: torch.device) -> Form:
    """Return the fastest form of a model whose network folds."""
    users, items, half = model.user_side_width, model.item_side_width, precision == "bf16"
    if model.dlrm is not None:
        # On a CPU its products are so small that rounding costs more than it saves.
        return FoldedDlrm(model.dlrm, users, items, half=half and device.type != "cpu")
    if model.dcn is None or not folds(model.dcn):
        raise InvalidArgument("a network of full crosses does not fold: it has no small z to keep")
    folded = fold(model.dcn, users)
    if device.type != "cpu":
        return FoldedDcn(folded, items, half=half)
    if precision_here(precision) != precision:
        log.warning("no matrix instructions for bf16 here: scores are computed in fp32")
    return CpuKernel(folded, items, precision)


class FoldedRanker:
    """Scores batches with per-item and per-request work taken out of the per-pair part."""

    def __init__(
        self,
        model: RankingModel,
        tables: ItemTables,
        table_bytes: int = TABLE_BYTES,
        *,
        precision: Precision = "fp32",
        form: Form | None = None,
    ) -> None:
        """Fold `model` on the device of the tables; `form` is used instead of the fastest there.

        Raises InvalidArgument for a network that does not fold.
        """
        self.model, self.tables = model.to(tables.device).eval(), tables
        self._form = form or form_of(model, precision, tables.device)
        self.table: Tensor | None = None
        """(R, ...): what the form keeps of items"""
        if tables.room * self._form.table(1).nbytes <= table_bytes:
            self.table = self._form.table(tables.room)
            numbers = torch.arange(len(tables) + 1, device=tables.device)
            for part in torch.split(numbers, CHUNK):
                self.refresh(part)

    @torch.no_grad()
    def refresh(self, rows: Tensor) -> None:
        """Compute rows (n,) of the table anew, after the tables changed there."""
        if self.table is None or not len(rows):
            return
        if (more := self.tables.room - len(self.table)) > 0:
            self.table = wider(self.table, more)
        self._fill(self.table, rows, rows)

    def _fill(self, table: Tensor, at: Tensor, rows: Tensor) -> None:
        fresh = self._form.items(self.model.item_side(self.tables, rows)).to(table.dtype)
        table[at, : fresh.shape[1]] = fresh

    def logits(self, laid: LaidArrays) -> Float32s | None:
        """Return (T, B, n) where the form is compiled and what it keeps of items is at hand."""
        if self.table is None or not isinstance(self._form, CpuKernel):
            return None
        return self._form.score(laid.side, bits(self.table), laid.rows, laid.compared)

    @torch.no_grad()
    def __call__(self, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return `RankingModel.forward`. Shapes: pairs (F, B, n), result (T, B, n)."""
        model, candidates = self.model, batch.candidates
        table = self.table
        if table is None:
            table = self._form.table(candidates.numel())
            rows = torch.arange(len(table), device=table.device)
            self._fill(table, rows, candidates.reshape(-1))
            candidates = rows.view(candidates.shape)
        user, compared = batch.user_side, batch.compared  # laid out with the requests on a CPU
        if user is None or compared is None:
            # Comparisons are of embeddings as they were trained, whatever the table holds.
            wanted = model.item(batch.candidates.clamp(max=len(self.tables)))  # (B, n, E)
            user, compared = model.user_side(batch), model.pair_side(batch, pairs, wanted)
        return self._form(user, table, candidates, compared)
