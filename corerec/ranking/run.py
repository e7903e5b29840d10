"""One training of the ranker: the loop, and the state that a checkpoint holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.fused_adam import FusedAdam
from corerec.engines.workers import Worker
from corerec.errors import FailedPrecondition
from corerec.ranking.examples import RankingExamples
from corerec.ranking.fit_config import RankerFitConfig
from corerec.ranking.losses import ndcg_at_10, ranker_loss
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.prepare import PreparedExamples

Report = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what to show beside the bar."""


def predict(
    model: RankingModel, prepared: PreparedExamples, cases: int = 256
) -> NDArray[np.float32]:
    """Return (T, B, 1 + n) logits of all cases, without dropout."""
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(prepared), cases):
            rows = np.arange(start, min(start + cases, len(prepared)))
            batch, pairs = prepared.batch(rows)
            parts.append(model(prepared.tables, batch, pairs).cpu().numpy())
    return np.concatenate(parts, axis=1)


class RankerRun:
    """The state of one training: what a checkpoint holds, and the loop that moves it on."""

    def __init__(
        self,
        train: PreparedExamples,
        held_out: PreparedExamples,
        config: RankingModelConfig,
        fit: RankerFitConfig,
        seed: int,
        checkpoint: Path | None,
        report: Report | None,
        worker: Worker,
        heard: Callable[[float], None] | None,
    ) -> None:
        self.train, self.held_out, self.fit, self.seed = train, held_out, fit, seed
        self.checkpoint, self.report, self.worker = checkpoint, report, worker
        self.heard = heard
        torch.manual_seed(seed)
        tables = train.tables
        self.model = RankingModel(tables.schema, config, tables.tower.shape[1]).to(tables.device)
        pairs = train.pairs  # (B, F, 1 + n)
        self.model.pair_mean.copy_(pairs.mean((0, 2)))
        self.model.pair_std.copy_(pairs.std((0, 2), correction=0).clamp(min=1e-3))
        self.call = worker.wrap(self.model)
        ids = {"user.weight", "item.weight", "history.weight"}
        named = list(self.model.named_parameters())
        self.optimizers = {
            "ids": FusedAdam((p for n, p in named if n in ids), weight_decay=fit.id_decay),
            "rest": FusedAdam((p for n, p in named if n not in ids), weight_decay=fit.weight_decay),
        }
        self.weights = torch.tensor(
            fit.task_weights or (1.0,) * len(config.tasks), device=tables.device
        )
        self.steps = math.ceil(len(train) / fit.batch_cases)
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best: dict[str, Tensor] = {}
        self.identity = _identity(train.examples, held_out.examples, config, fit, seed)

    def go_on(self) -> None:
        """Train until the last epoch or until patience ends."""
        while len(self.epochs) < self.fit.epochs:
            if self.epochs and len(self.epochs) - 1 - self.best_epoch >= self.fit.patience:
                return
            epoch = len(self.epochs)
            # Seeded per epoch: a resumed run draws what an uninterrupted one would.
            torch.manual_seed(self.seed * 1_000_003 + epoch + 1)
            self.epochs.append({"loss": self._epoch(epoch), **self._validate()})
            if self.heard is not None:
                self.heard(self.epochs[-1]["ndcg_10"])
            if (
                self.best_epoch < 0
                or self.epochs[-1]["ndcg_10"] > self.epochs[self.best_epoch]["ndcg_10"]
            ):
                self.best_epoch = epoch
                self.best = {k: v.clone() for k, v in self.model.state_dict().items()}
            self._save()

    def _validate(self) -> dict[str, float]:
        ndcg = logloss = 0.0
        if self.worker.is_first:
            logits = predict(self.model, self.held_out)
            ndcg, logloss = ndcg_at_10(self.scores(logits)), self._logloss(logits)
        says, device = self.worker.first_says, self.weights.device
        return {"ndcg_10": says(ndcg, device), "logloss": says(logloss, device)}

    def _epoch(self, epoch: int) -> float:
        self.model.train()
        order = torch.randperm(len(self.train)).numpy()
        if self.worker.count > 1:
            # One order for all workers; dropout for each its own.
            torch.manual_seed(int(torch.randint(2**62, ())) + self.worker.rank)
        total = torch.zeros((), device=self.weights.device)
        for step in range(self.steps):
            rows = order[step * self.fit.batch_cases : (step + 1) * self.fit.batch_cases]
            loss = self._step(rows, epoch * self.steps + step)
            total += loss.detach()  # read once an epoch: nothing in a step waits for the device
            if self.report:
                done = epoch * self.steps + step + 1
                self.report(done, self.fit.epochs * self.steps, f"epoch {epoch + 1}")
        total = self.worker.total(total)
        mean = float(total) / (self.steps * self.worker.count)
        if not math.isfinite(mean):
            raise FailedPrecondition(
                f"the ranker's loss is not finite in epoch {epoch + 1}; lower learning_rate"
            )
        return mean

    def _step(self, rows: NDArray[np.int64], step: int) -> Tensor:
        total = self.fit.epochs * self.steps
        warm = min(1.0, (step + 1) / max(1, total // 20))
        rate = self.fit.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / total))
        own = rows[self.worker.rows(len(rows))]
        weight, rows = self.worker.weight(len(own), len(rows)), own
        batch, pairs = self.train.batch(rows)
        logits = self.call(self.train.tables, batch, pairs)
        labels = _task_labels(self.train.examples, rows, logits.device)
        loss = ranker_loss(logits, labels, self.weights, self.fit.listwise)
        loss = loss if weight == 1 else loss * weight
        for optimizer in self.optimizers.values():
            optimizer.clear()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for optimizer in self.optimizers.values():
            optimizer.step(rate)
        return loss

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (B, 1 + n), what candidates are ordered by. Shapes: logits (T, B, 1 + n)."""
        if self.model.ranks_by_probability:
            only: NDArray[np.float32] = logits[0]
            return only
        with torch.no_grad():
            found = self.model.score(torch.from_numpy(logits).to(self.weights.device))
        scores: NDArray[np.float32] = found.cpu().numpy()
        return scores

    def _logloss(self, logits: NDArray[np.float32]) -> float:
        """Return the weighted mean over tasks of the validation's logistic loss."""
        held = torch.from_numpy(logits)
        labels = _task_labels(self.held_out.examples, slice(None), held.device)
        weights = (self.weights / self.weights.sum()).cpu()
        return float(ranker_loss(held, labels, weights, 0.0))

    def best_model(self) -> RankingModel:
        """Return the model with the weights of the best epoch."""
        self.model.load_state_dict(self.best)
        return self.model

    def _save(self) -> None:
        if self.checkpoint is None or not self.worker.is_first:
            return
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        for name, optimizer in self.optimizers.items():
            tensors |= {f"{name}/{k}": v for k, v in optimizer.state().items()}
        state = {"epochs": self.epochs, "best_epoch": self.best_epoch, "identity": self.identity}
        save_checkpoint(self.checkpoint, tensors, state)

    def resume(self) -> None:
        """Load the checkpoint, when there is one and it is of this very run."""
        found = load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None or found[1].get("identity") != self.identity:
            return
        tensors, state = found
        self.model.load_state_dict(_under(tensors, "model/"))
        self.best = _under(tensors, "best/")
        self.epochs, self.best_epoch = state["epochs"], state["best_epoch"]
        for name, optimizer in self.optimizers.items():
            optimizer.load(_under(tensors, f"{name}/"))


def _task_labels(
    examples: RankingExamples, rows: NDArray[np.int64] | slice, device: torch.device
) -> Tensor | None:
    """Return (T, B) labels of the positives, None where all are 1."""
    if examples.labels is None:
        return None
    return torch.from_numpy(examples.labels[rows].T.copy()).to(device)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _identity(
    train: RankingExamples,
    held_out: RankingExamples,
    config: RankingModelConfig,
    fit: RankerFitConfig,
    seed: int,
) -> str:
    """Return a digest of everything that decides the result."""
    digest = hashlib.sha256(json.dumps([asdict(config), asdict(fit), seed]).encode())
    for part in (train, held_out):
        for array in (part.candidates, part.retrieval_scores, part.history, part.labels):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
