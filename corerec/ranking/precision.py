"""In what numbers a ranker computes, and what every form of it that serves can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corerec.errors import InvalidArgument

if TYPE_CHECKING:
    from corerec.ranking.features import RankingBatch
    from corerec.ranking.laid import LaidArrays
    from corerec.ranking.model import RankingModel
    from corerec.ranking.tables import ItemTables

Precision = Literal["fp32", "bf16", "int8"]
"""fp32 has the plain model's numbers; bf16 is faster; int8 keeps the items' inputs in 8 bits and
computes as bf16 does where it can. A release says how far off both are."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Ranker(Protocol):
    """Scores batches as `RankingModel.forward` does."""

    model: RankingModel
    tables: ItemTables

    def __call__(self, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return logits (T, B, n). Shapes: pairs (F, B, n) from `pair_features`."""

    def logits(self, laid: LaidArrays) -> NDArray[np.float32] | None:
        """Return (T, B, n) without torch; None where only the call above computes them."""

    def refresh(self, rows: Tensor) -> None:
        """Compute what is kept of rows (n,) of the tables anew, after they changed."""


def check_precision(precision: str) -> None:
    """Raise InvalidArgument when there is no such precision."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InvalidArgument(f"precision must be one of {known}, got {precision!r}")
