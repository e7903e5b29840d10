"""RankingModel: embeds users, items and their comparison into one row per pair, and crosses them.

The row is [user | item | pair]. Serving relies on that order: the user part is the same for all
candidates of a request, the item part never changes while a release is served.
"""

# B cases, n candidates, L history, A attended history, E item width

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from corerec.engines.dcn import Dcn, DcnConfig
from corerec.features import FeatureSchema
from corerec.ranking.features import RankingBatch, pair_names, user_dense_width
from corerec.ranking.tables import ItemTables, pick

CLAMP = 8.0
"""Standardised pair features are cut here: serving may see values that training never did."""
LEARNED_PAIRS = 3
"""Comparisons of candidate and history in the model's own item space."""


@dataclass(frozen=True, kw_only=True)
class RankingModelConfig:
    """Sizes of the ranking model; all widths in floats."""

    item_width: int = 32
    """Embedding of an item as a candidate, and another as part of a history."""
    user_width: int = 8
    code_width: int = 8
    """Embedding of each categorical or list column."""
    title_width: int = 8
    vector_width: int = 16
    """What content vectors, and the two-tower's item vector, are projected to."""
    attended: int = 20
    """Newest history items that are compared with a candidate in the model's own space, >= 1."""
    user_unknown: float = 0.2
    """Share of training cases whose user id is hidden, so that row 0 learns what strangers like."""
    dcn: DcnConfig = field(default_factory=DcnConfig)


def _embedding(count: int, width: int, blank: int | None = None) -> nn.Embedding:
    table = nn.Embedding(count, width, padding_idx=blank)
    nn.init.normal_(table.weight, std=0.05)
    if blank is not None:
        with torch.no_grad():
            table.weight[blank] = 0
    return table


class RankingModel(nn.Module):
    """P(interaction | user, item, moment) as a logit, before calibration."""

    pair_mean: Tensor
    pair_std: Tensor
    calibration: Tensor

    def __init__(self, schema: FeatureSchema, config: RankingModelConfig, tower_width: int) -> None:
        super().__init__()
        self.schema, self.config, self.tower_width = schema, config, tower_width
        count, width, code = schema.item_count, config.item_width, config.code_width
        self.user = _embedding(schema.user_count + 1, config.user_width)
        self.user_codes = nn.ModuleList(
            _embedding(f.cardinality, code) for f in schema.user_categorical
        )
        self.history = _embedding(count + 1, width, blank=count)
        self.history_weights = nn.Parameter(torch.linspace(-2, 0, schema.history_length))
        self.item = _embedding(count + 1, width, blank=count)
        self.item_codes = nn.ModuleList(
            _embedding(f.cardinality, code) for f in schema.item_categorical
        )
        self.item_lists = nn.ModuleList(
            _embedding(f.cardinality, code, blank=0) for f in schema.item_multi
        )
        self.title = _embedding(schema.title_buckets + 1, config.title_width, blank=0)
        self.tower = nn.Linear(tower_width, config.vector_width, bias=False)
        self.vectors = nn.Linear(max(schema.vector_width, 1), config.vector_width, bias=False)
        self.lag_weights = nn.Parameter(torch.linspace(0, 1, config.attended))
        self.lag_bias = nn.Parameter(torch.zeros(config.attended))
        pairs = len(pair_names(schema))
        self.register_buffer("pair_mean", torch.zeros(pairs))
        self.register_buffer("pair_std", torch.ones(pairs))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # scale, bias
        self.user_side_width = (
            config.user_width + code * len(self.user_codes) + user_dense_width(schema) + width
        )
        self.item_side_width = (
            width
            + code * (len(self.item_codes) + len(self.item_lists))
            + config.title_width
            + config.vector_width * (2 if schema.vector_width else 1)
            + len(schema.item_numeric)
        )
        self.pair_side_width = pairs + LEARNED_PAIRS
        self.dcn = Dcn(
            self.user_side_width + self.item_side_width + self.pair_side_width, config.dcn
        )

    def user_side(self, batch: RankingBatch) -> Tensor:
        """Return (B, user_side_width)."""
        rows = batch.user_row
        if self.training and self.config.user_unknown > 0:
            rows = rows * (torch.rand(len(rows), device=rows.device) >= self.config.user_unknown)
        codes = [table(batch.user_categorical[:, i]) for i, table in enumerate(self.user_codes)]
        blank = self.schema.item_count
        # A batch may hold less history than the schema's length, never more.
        length = batch.history.shape[1]
        weights = self.history_weights[-length:].expand(batch.history.shape)
        weights = weights.masked_fill(batch.history == blank, -1e9).softmax(-1)  # (B, L)
        pooled = (weights[:, None] @ self.history(batch.history))[:, 0]  # (B, E); blank rows are 0
        return torch.cat([self.user(rows), *codes, batch.user_dense, pooled], dim=-1)

    def item_side(self, tables: ItemTables, numbers: Tensor) -> Tensor:
        """Return what is fixed per item. Shapes: numbers (P,), result (P, item_side_width)."""
        parts = [self.item(numbers)]
        categorical = pick(tables.categorical, numbers)  # (P, C)
        parts += [table(categorical[:, i]) for i, table in enumerate(self.item_codes)]
        multi = pick(tables.multi, numbers)  # (P, M, K)
        share = pick(tables.multi_share, numbers)  # (P, M)
        parts += [
            table(multi[:, i]).sum(1) * share[:, i, None] for i, table in enumerate(self.item_lists)
        ]
        tokens = pick(tables.title_tokens, numbers)  # (P, T)
        words = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        parts.append(self.title(tokens).sum(1) / words)
        parts.append(self.tower(pick(tables.tower, numbers)))
        if self.schema.vector_width:
            parts.append(self.vectors(pick(tables.vectors, numbers)))
        return torch.cat([*parts, pick(tables.numeric, numbers)], dim=-1)

    def pair_side(self, batch: RankingBatch, pairs: Tensor, wanted: Tensor) -> Tensor:
        """Return what compares user and candidate.

        Shapes: pairs (F, B, n) from `pair_features`; wanted (B, n, E), embeddings of the
        candidates, the first columns of `item_side`; result (pair_side_width, B, n).
        """
        scale = (1 / self.pair_std)[:, None, None]
        offset = (self.pair_mean / self.pair_std)[:, None, None]
        scaled = (pairs * scale - offset).clamp(-CLAMP, CLAMP)
        recent = batch.history[:, -self.config.attended :]  # (B, A)
        length = recent.shape[1]
        seen = self.history(recent)  # (B, A, E), 0 where blank
        summed = self.lag_weights[-length:] @ seen  # (B, E)
        asked = torch.cat([seen, summed[:, None]], dim=1)
        alike = torch.bmm(asked, wanted.transpose(1, 2))  # (B, A + 1, n)
        each = alike[:, :-1]
        bias = self.lag_bias[-length:].masked_fill(recent == self.schema.item_count, -1e9)
        attended = ((each + bias[:, :, None]).softmax(1) * each).sum(1)  # (B, n)
        learned = torch.stack([alike[:, -1], attended, alike[:, -2]])
        return torch.cat([scaled, learned])

    def forward(self, tables: ItemTables, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return logits, one pair a row of the DCN: the plain form, which training uses.

        Shapes: pairs (F, B, n) from `pair_features`; result (B, n).
        """
        cases, count = batch.candidates.shape
        item = self.item_side(tables, batch.candidates.reshape(-1)).view(cases, count, -1)
        pair = self.pair_side(batch, pairs, item[..., : self.config.item_width])
        user = self.user_side(batch)[:, None].expand(-1, count, -1)
        logits: Tensor = self.dcn(
            torch.cat([user, item, pair.permute(1, 2, 0)], dim=-1).view(cases * count, -1)
        )
        return logits.view(cases, count)

    def probability(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities of interaction, in the order of the logits."""
        return torch.sigmoid(self.calibration[0] * logits + self.calibration[1])
