"""RowDlrm: a DLRM over the ranker's rows, whose parts are embeddings of different widths."""

# P pairs, D width of a row, V embeddings of a row, E their common width, T tasks

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corerec.engines.dlrm import DlrmConfig, DlrmNet


class RowDlrm(nn.Module):
    """Splits rows into embeddings and numbers, projects the embeddings to one width, crosses them.

    Source: Naumov et al. 2019. What differs: the projections, as the ranker's embeddings have the
    widths that they need; numbers are those of the user, the item and the pair.
    """

    def __init__(
        self, layout: Sequence[tuple[int, bool]], width: int, config: DlrmConfig, tasks: int
    ) -> None:
        """Take the parts of a row in order, each a width and whether it is an embedding."""
        super().__init__()
        self.widths = [part for part, _ in layout]
        self.embedded = [embedded for _, embedded in layout]
        self.project = nn.ModuleList(
            nn.Linear(part, width, bias=False) for part, embedded in layout if embedded
        )
        numbers = sum(part for part, embedded in layout if not embedded)
        self.net = DlrmNet(len(self.project), width, numbers, config, tasks)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits. Shapes: rows (P, D), result (P, T)."""
        parts = torch.split(rows, self.widths, dim=1)
        vectors = [part for part, embedded in zip(parts, self.embedded, strict=True) if embedded]
        numbers = [p for p, embedded in zip(parts, self.embedded, strict=True) if not embedded]
        joined = torch.stack(
            [layer(part) for layer, part in zip(self.project, vectors, strict=True)], dim=1
        )  # (P, V, E)
        logits: Tensor = self.net(joined, torch.cat(numbers, dim=1))
        return logits
