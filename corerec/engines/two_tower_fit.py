"""Trains the two-tower model: InfoNCE with log-Q correction, early stopping, resumable."""

# B windows, T positions, M targets of a batch, C negatives, R item rows, D width

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from corerec.engines.adam import RowAdam
from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.losses import full_softmax, sampled_info_nce
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_net import (
    ItemContent,
    TwoTowerConfig,
    TwoTowerNet,
    TwoTowerShape,
    UserInputs,
)
from corerec.engines.windows import Batch, batches, cut
from corerec.errors import ConfigError, InvalidArgument
from corerec.features import context_features


@dataclass(frozen=True, kw_only=True)
class TwoTowerFitConfig:
    """How the two-tower is trained."""

    epochs: int = 10
    """Most passes over the training events, >= 1."""
    max_examples: int = 1_000_000
    """Most (prefix, next item) pairs in all epochs together, >= 1: small data is passed `epochs`
    times, larger data less often, and of more than so many pairs one epoch draws some at random."""
    batch_windows: int = 64
    """Windows of `history_length` events in a step."""
    learning_rate: float = 3e-3
    """Highest step of Adam; it warms up over 2% of the steps, then falls along a cosine to 5%."""
    batch_negatives: int = 768
    """Negatives drawn from the batch's own targets, so popular items come more often."""
    uniform_negatives: int = 256
    """Negatives drawn from the whole catalogue, so no item is left out."""
    full_softmax_below: int = 1000
    """Catalogues with fewer items are trained against all of it instead of a sample."""
    patience: int = 2
    """Epochs without a better validation recall before training stops."""
    weight_decay: float = 0.0
    """Pull of the weights towards zero in each step (decoupled)."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("epochs", "max_examples", "batch_windows", "batch_negatives", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.uniform_negatives < 0 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                "uniform_negatives and weight_decay must be >= 0 and learning_rate > 0, got "
                f"{self.uniform_negatives}, {self.weight_decay} and {self.learning_rate}"
            )


@dataclass(frozen=True)
class TwoTowerFit:
    """A trained model and how the training went."""

    model: TwoTowerNet
    epochs: list[dict[str, float]]
    """Loss and validation score of each epoch."""
    best_epoch: int


def fit_two_tower(
    sequences: Sequences,
    content: ItemContent,
    users: UserInputs,
    shape: TwoTowerShape,
    config: TwoTowerConfig,
    fit: TwoTowerFitConfig,
    *,
    seed: int = 0,
    validate: Callable[[TwoTowerNet], float] | None = None,
    report: Report | None = None,
    checkpoint: Path | None = None,
) -> TwoTowerFit:
    """Return the model of the best validated epoch; the same seed gives the same model.

    `users` is the table of all users, row 0 unknown. With `checkpoint` a killed training goes on
    after its last whole epoch and ends where an unbroken one would.

    Raises:
        InvalidArgument: without interactions, or when the loss is not finite.
    """
    trainer = _Trainer(sequences, content, users, shape, config, fit, seed)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    while not trainer.done:
        trainer.epoch(report, validate)
        if checkpoint is not None:
            trainer.save(checkpoint)
    return trainer.result()


class _Trainer:
    def __init__(
        self,
        sequences: Sequences,
        content: ItemContent,
        users: UserInputs,
        shape: TwoTowerShape,
        config: TwoTowerConfig,
        fit: TwoTowerFitConfig,
        seed: int,
    ) -> None:
        self.sequences, self.content, self.users = sequences, content, users
        self.config, self.fit, self.seed = config, fit, seed
        self.device = content.title.device
        self.model = TwoTowerNet(config, shape, Generator().manual_seed(seed)).to(self.device)
        self.optimizer = RowAdam(self.model.parameters(), weight_decay=fit.weight_decay)
        share = np.bincount(sequences.items, minlength=shape.items) / len(sequences.items)
        self.share = torch.from_numpy(share).float().to(self.device)
        events = len(sequences.items)
        self.rounds = max(1, min(fit.epochs, round(fit.max_examples / max(1, events))))
        self.limit = max(1, fit.max_examples // self.rounds)
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best: dict[str, Tensor] = {}
        self.key = repr((asdict(shape), asdict(config), asdict(fit), seed, len(sequences.items)))

    @property
    def done(self) -> bool:
        ran = len(self.epochs)
        return ran >= self.rounds or (
            self.best_epoch >= 0 and ran - 1 - self.best_epoch >= self.fit.patience
        )

    def epoch(self, report: Report | None, validate: Callable[[TwoTowerNet], float] | None) -> None:
        number = len(self.epochs)
        # All chance comes from seed and epoch, so a resumed run draws what an unbroken one does.
        rng = np.random.default_rng([self.seed, number])
        noise = Generator(device=self.device).manual_seed(int(rng.integers(2**62)))
        windows = cut(self.sequences, self.config.history_length, self.limit, rng)
        steps = math.ceil(len(windows) / self.fit.batch_windows)
        self.model.train()
        total, seen = 0.0, 0
        batch_stream = batches(
            self.sequences, windows, self.fit.batch_windows, self.model.shape.items, rng
        )
        for step, batch in enumerate(batch_stream):
            rate = self._rate((number + step / steps) / self.rounds)
            loss, count = self._step(batch, noise, rate)
            total, seen = total + loss * count, seen + count
            if report is not None:
                note = f"epoch {number + 1}/{self.rounds}, loss {total / seen:.3f}"
                if number:
                    note += f", recall {self.epochs[-1].get('validation', 0):.4f}"
                report(number * steps + step + 1, self.rounds * steps, note)
        self.model.eval()
        entry = {"loss": total / seen}
        score = -entry["loss"]
        if validate is not None:
            score = entry["validation"] = validate(self.model)
        if self.best_epoch < 0 or score > self._score(self.epochs[self.best_epoch]):
            self.best_epoch, self.best = number, copy.deepcopy(self.model.state_dict())
        self.epochs.append(entry)

    def result(self) -> TwoTowerFit:
        self.model.load_state_dict(self.best)
        return TwoTowerFit(self.model.eval(), self.epochs, self.best_epoch)

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"adam.{k}": v for k, v in self.optimizer.state().items()}
        state = {"key": self.key, "epochs": self.epochs, "best_epoch": self.best_epoch}
        save_checkpoint(path, tensors, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same training; any other is left aside."""
        found = load_checkpoint(path)
        if found is None or found[1].get("key") != self.key:
            return
        tensors, state = found
        self.model.load_state_dict(_under(tensors, "model."))
        self.best = _under(tensors, "best.")
        self.optimizer.load(_under(tensors, "adam."))
        self.epochs, self.best_epoch = state["epochs"], state["best_epoch"]

    def _score(self, entry: dict[str, float]) -> float:
        return entry.get("validation", -entry["loss"])

    def _rate(self, progress: float) -> float:
        warm = min(1.0, (progress + 1e-3) / 0.02)
        fall = 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2
        return self.fit.learning_rate * warm * fall

    def _step(self, batch: Batch, noise: Generator, rate: float) -> tuple[float, int]:
        loss, count = self._loss(batch, noise)
        self.optimizer.clear()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step(rate, max_norm=5.0)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InvalidArgument(
                f"the two-tower loss must be finite, got {value}; lower learning_rate "
                f"({self.fit.learning_rate}) or raise temperature ({self.config.temperature})"
            )
        return value, count

    def _loss(self, batch: Batch, noise: Generator) -> tuple[Tensor, int]:
        tokens = torch.from_numpy(batch.tokens).to(self.device)  # (B, T)
        valid = torch.from_numpy(batch.valid).to(self.device)
        targets = torch.from_numpy(batch.targets).to(self.device)[valid]  # (M,)
        negatives = self._negatives(targets, noise)  # (C,)
        # Each distinct item goes through the tower once, whatever part it plays in the batch.
        rows, place = torch.unique(
            torch.cat([tokens[valid], targets, negatives]), return_inverse=True
        )
        base = self.model.item(rows, self.content, noise)  # (R, D)
        count = len(targets)
        own, right, wrong = place[:count], place[count : 2 * count], place[2 * count :]
        events = base.new_zeros(*tokens.shape, base.shape[1])  # (B, T, D)
        events[valid] = base[own]
        seen = self.model.user.windows(events, noise)[valid]  # (M, D)
        user = self._join(batch, valid, seen, noise)
        unit = F.normalize(base, dim=-1)
        temperature = self.config.temperature
        if self._is_full:
            return full_softmax(user, unit[wrong], targets, temperature), count
        log_q = self._log_q(torch.cat([targets, negatives]))
        loss = sampled_info_nce(
            user,
            unit[right],
            unit[wrong],
            log_q[:count],
            log_q[count:],
            temperature,
            targets[:, None] == negatives[None, :],
        )
        return loss, count

    def _join(self, batch: Batch, valid: Tensor, seen: Tensor, noise: Generator) -> Tensor:
        rows = torch.from_numpy(batch.user).to(self.device) + 1
        rows = rows[:, None].expand(valid.shape)[valid]  # (M,)
        users = UserInputs(rows, self.users.categorical[rows], self.users.numeric[rows])
        context = None
        if self.model.shape.has_times:
            moments = context_features(batch.times[batch.valid])
            context = torch.from_numpy(moments).to(self.device)
        return self.model.user.join(seen, users, context, noise)

    @property
    def _is_full(self) -> bool:
        return self.model.shape.items < self.fit.full_softmax_below

    def _negatives(self, targets: Tensor, noise: Generator) -> Tensor:
        count = self.model.shape.items
        if self._is_full:
            return torch.arange(count, device=self.device)
        chosen = torch.randperm(len(targets), generator=noise, device=self.device)
        uniform = torch.randint(
            count, (self.fit.uniform_negatives,), generator=noise, device=self.device
        )
        return torch.cat([targets[chosen[: self.fit.batch_negatives]], uniform])

    def _log_q(self, rows: Tensor) -> Tensor:
        drawn, uniform = self.fit.batch_negatives, self.fit.uniform_negatives
        mixed = (drawn * self.share[rows] + uniform / len(self.share)) / (drawn + uniform)
        return mixed.clamp(min=1e-12).log()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
