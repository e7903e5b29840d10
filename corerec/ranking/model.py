"""RankingModel: embeds users, items and their comparison into one row per pair, and crosses them.

The crossing network is a DCN-v2 or a DLRM, with one head for each task.

The row is [user | item | pair]. Serving relies on that order: the user part is the same for all
candidates of a request, the item part never changes while a release is served.
"""

# B cases, n candidates, L history, A attended history, E item width, T tasks

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from corerec.engines.ctr_objective import Objective, check_tasks
from corerec.engines.dcn import Dcn, DcnConfig
from corerec.engines.dlrm import DlrmConfig
from corerec.errors import ConfigError
from corerec.features import FeatureSchema
from corerec.ranking.features import RankingBatch, pair_names, user_dense_width
from corerec.ranking.rows import RowDlrm
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
    network: Literal["dcn", "dlrm"] = "dcn"
    """What crosses the row of a pair."""
    dcn: DcnConfig = field(default_factory=DcnConfig)
    dlrm: DlrmConfig = field(default_factory=DlrmConfig)
    """Its embeddings are projected to `item_width`."""
    tasks: tuple[str, ...] = ("interaction",)
    """What is predicted, a head each: types of event of the data, or all as one "interaction"."""
    objective: str = ""
    """The formula over the tasks' probabilities that candidates are ranked by, such as
    "click + 5 * like"; "" is their sum."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.network not in ("dcn", "dlrm"):
            raise ConfigError(f"network must be dcn or dlrm, got {self.network!r}")
        check_tasks(self.tasks)
        Objective(self.objective, self.tasks)


def _embedding(count: int, width: int, blank: int | None = None) -> nn.Embedding:
    table = nn.Embedding(count, width, padding_idx=blank)
    nn.init.normal_(table.weight, std=0.05)
    if blank is not None:
        with torch.no_grad():
            table.weight[blank] = 0
    return table


class RankingModel(nn.Module):
    """P(task | user, item, moment) as a logit a task, before calibration."""

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
        tasks = len(config.tasks)
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]]).repeat(tasks, 1))  # (T, 2)
        self.objective = Objective(config.objective, config.tasks)
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
        wide = self.user_side_width + self.item_side_width + self.pair_side_width
        self.dcn = Dcn(wide, config.dcn, tasks) if config.network == "dcn" else None
        self.dlrm: RowDlrm | None = None
        if config.network == "dlrm":
            self.dlrm = RowDlrm(self._layout(), width, config.dlrm, tasks)

    def _layout(self) -> list[tuple[int, bool]]:
        """Return the parts of a row in order: width, and whether it is an embedding."""
        own, code = self.config, self.config.code_width
        user = [(own.user_width, True), *[(code, True)] * len(self.user_codes)]
        user += [(user_dense_width(self.schema), False), (own.item_width, True)]
        item = [(own.item_width, True)]
        item += [(code, True)] * (len(self.item_codes) + len(self.item_lists))
        item += [(own.title_width, True)]
        item += [(own.vector_width, True)] * (2 if self.schema.vector_width else 1)
        item += [(len(self.schema.item_numeric), False)]
        return [*user, *item, (self.pair_side_width, False)]

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
        known = batch.history.clamp(max=blank)  # (B, L); who came later has no embedding
        weights = weights.masked_fill(known == blank, -1e9).softmax(-1)  # (B, L)
        pooled = (weights[:, None] @ self.history(known))[:, 0]  # (B, E); blank rows are 0
        return torch.cat([self.user(rows), *codes, batch.user_dense, pooled], dim=-1)

    def item_side(self, tables: ItemTables, numbers: Tensor) -> Tensor:
        """Return what is fixed per item. Shapes: numbers (P,) table rows, result (P, Di)."""
        parts = [self.item(numbers.clamp(max=self.schema.item_count))]
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
        blank = self.schema.item_count
        recent = batch.history[:, -self.config.attended :].clamp(max=blank)  # (B, A)
        length = recent.shape[1]
        seen = self.history(recent)  # (B, A, E), 0 where blank
        summed = self.lag_weights[-length:] @ seen  # (B, E)
        asked = torch.cat([seen, summed[:, None]], dim=1)
        alike = torch.bmm(asked, wanted.transpose(1, 2))  # (B, A + 1, n)
        each = alike[:, :-1]
        bias = self.lag_bias[-length:].masked_fill(recent == blank, -1e9)
        attended = ((each + bias[:, :, None]).softmax(1) * each).sum(1)  # (B, n)
        learned = torch.stack([alike[:, -1], attended, alike[:, -2]])
        return torch.cat([scaled, learned])

    def forward(self, tables: ItemTables, batch: RankingBatch, pairs: Tensor) -> Tensor:
        """Return logits, one pair a row of the network: the plain form, which training uses.

        Shapes: pairs (F, B, n) from `pair_features`; result (T, B, n).
        """
        cases, count = batch.candidates.shape
        item = self.item_side(tables, batch.candidates.reshape(-1)).view(cases, count, -1)
        pair = self.pair_side(batch, pairs, item[..., : self.config.item_width])
        user = self.user_side(batch)[:, None].expand(-1, count, -1)
        rows = torch.cat([user, item, pair.permute(1, 2, 0)], dim=-1).view(cases * count, -1)
        network = self.dlrm if self.dcn is None else self.dcn
        if network is None:
            raise ConfigError(f"network must be dcn or dlrm, got {self.config.network!r}")
        logits: Tensor = network(rows)  # (P, T)
        return logits.T.reshape(-1, cases, count)

    @property
    def ranks_by_probability(self) -> bool:
        """Whether the score is the probability of the only task, whose order is the logits'."""
        return self.objective.formula == self.config.tasks[0] and len(self.config.tasks) == 1

    def probability(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities of the tasks. Shapes: logits, result (T, ...)."""
        scale, bias = self.calibration.T.view(2, -1, *[1] * (logits.dim() - 1)).unbind(0)
        return torch.sigmoid(scale * logits + bias)

    def score(self, logits: Tensor) -> Tensor:
        """Return the objective over the probabilities. Shapes: logits (T, ...), result (...)."""
        found: Tensor = self.objective(list(self.probability(logits).unbind(0)))
        return found
