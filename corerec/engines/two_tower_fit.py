"""Trains the two-tower model: steps, learning rate, early stopping; resumable to the same bits."""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from corerec.engines.adam import RowAdam
from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_loss import TwoTowerLoss
from corerec.engines.two_tower_mining import hard_items
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape, UserInputs
from corerec.engines.two_tower_step import Step, prefetched
from corerec.engines.two_tower_steps import Steps
from corerec.engines.workers import ALONE, Worker
from corerec.errors import InvalidArgument

_CHECK_STEPS = 64
"""Steps between two looks at the loss: each look makes the host wait for a GPU."""


@dataclass(frozen=True)
class TwoTowerFit:
    """A trained model and how the training went."""

    model: TwoTowerNet
    epochs: list[dict[str, float]]
    """Loss and, where it was asked for, validation score of each epoch."""
    best_epoch: int
    """Place in `epochs` of the weights that were kept: the best validated, else the last."""
    seconds: float = 0.0
    """Time of the training steps alone, of all runs together."""
    examples: int = 0
    """Positives that were trained on in that time."""


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
    worker: Worker = ALONE,
) -> TwoTowerFit:
    """Return the model of the best validated epoch; the same seed gives the same model.

    `users` is the table of all users, row 0 unknown. With `checkpoint` a killed training goes on
    after its last whole epoch and ends where an unbroken one would. As one of several workers the
    process trains on its rows of each batch; the first validates and writes the checkpoint, which
    the others must be able to read.

    Raises:
        InvalidArgument: without interactions, or when loss or validation score is not finite.
    """
    trainer = _Trainer(sequences, content, users, shape, config, fit, seed, worker)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    while not trainer.done:
        trainer.epoch(report, validate)
        if checkpoint is not None and worker.is_first:
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
        worker: Worker,
    ) -> None:
        self.sequences, self.fit, self.seed, self.worker = sequences, fit, seed, worker
        self.device = content.title.device
        self.model = TwoTowerNet(config, shape, Generator().manual_seed(seed)).to(self.device)
        is_dense = self.device.type == "cuda" or worker.count > 1
        rows = _dense_rows(self.model) if is_dense else []
        self.loss = TwoTowerLoss(self.model, content, users, sequences, fit)
        self.call = worker.wrap(self.loss)
        self.optimizer = RowAdam(self.model.parameters(), weight_decay=fit.weight_decay, rows=rows)
        self.steps = Steps(sequences, config, shape, fit, worker)
        self.rounds = max(1, min(fit.epochs, round(fit.max_examples / max(1, len(sequences)))))
        self.limit = max(1, fit.max_examples // self.rounds)
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best: dict[str, Tensor] = {}
        self.seconds, self.examples = 0.0, 0
        events = zlib.crc32(np.ascontiguousarray(sequences.items).data)
        self.key = repr((asdict(shape), asdict(config), asdict(fit), seed, len(sequences), events))

    @property
    def done(self) -> bool:
        ran = len(self.epochs)
        validated = self.best_epoch >= 0 and "validation" in self.epochs[self.best_epoch]
        stale = validated and ran - 1 - self.best_epoch >= self.fit.patience
        return ran >= self.rounds or stale

    def epoch(self, report: Report | None, validate: Callable[[TwoTowerNet], float] | None) -> None:
        number = len(self.epochs)
        # All chance comes from seed and epoch, so a resumed run draws what an unbroken one does.
        rng = np.random.default_rng([self.seed, number])
        drawn = int(rng.integers(2**62)) + self.worker.rank
        noise = Generator(device=self.device).manual_seed(drawn)
        hard = None
        if self.fit.hard_negatives and number:
            hard = hard_items(
                self.model, self.loss.content, self.sequences, self.loss.users, self.fit, rng
            )
        started = time.perf_counter()
        loss = self._steps(number, rng, noise, hard, report)
        self.seconds += time.perf_counter() - started
        entry = {"loss": loss}
        self.model.eval()
        if validate is None:
            self.best_epoch = number
        else:
            own = float(validate(self.model)) if self.worker.is_first else 0.0
            score = entry["validation"] = self.worker.first_says(own, self.device)
            if not math.isfinite(score):
                raise InvalidArgument(f"a validation score must be finite, got {score}")
            if self.best_epoch < 0 or score > self.epochs[self.best_epoch]["validation"]:
                self.best_epoch, self.best = number, copy.deepcopy(self.model.state_dict())
        self.epochs.append(entry)

    def _steps(
        self,
        number: int,
        rng: np.random.Generator,
        noise: Generator,
        hard: NDArray[np.int32] | None,
        report: Report | None,
    ) -> float:
        """Run one epoch and return its mean loss."""
        count, stream = self.steps.epoch(self.limit, rng, hard)
        self.model.train()
        total, seen, shown = torch.zeros((), device=self.device), 0, math.nan
        for place, step in enumerate(prefetched(stream, self.device)):
            loss = self._step(step, noise, self._rate((number + place / count) / self.rounds))
            positives = len(step.targets)
            total, seen = total + loss * positives, seen + positives
            if place % _CHECK_STEPS == 0:
                shown = self._finite(total, seen)
            if report is not None:
                note = f"epoch {number + 1}/{self.rounds}, loss {shown:.3f}"
                if number and "validation" in self.epochs[-1]:
                    note += f", validation {self.epochs[-1]['validation']:.4f}"
                report(number * count + place + 1, self.rounds * count, note)
        total = self.worker.total(total)
        seen = int(self.worker.total(torch.tensor(seen, device=self.device)))
        self.examples += seen
        return self._finite(total, seen)

    def _step(self, step: Step, noise: Generator, rate: float) -> Tensor:
        self.optimizer.clear()
        with self._precision():
            loss: Tensor = self.call(step, noise)
        own = loss if step.weight == 1 else loss * step.weight
        own.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step(rate, max_norm=5.0)
        return loss.detach().float()

    def _precision(self) -> AbstractContextManager[object]:
        wanted, device = self.fit.precision, self.device.type
        if wanted == "bf16" or (wanted == "auto" and device == "cuda"):
            return torch.autocast(device, torch.bfloat16)
        return nullcontext()

    def _finite(self, total: Tensor, seen: int) -> float:
        value = float(total) / seen
        if not math.isfinite(value):
            raise InvalidArgument(
                f"the two-tower loss must be finite, got {value}; lower learning_rate "
                f"({self.fit.learning_rate}) or raise temperature "
                f"({self.model.config.temperature})"
            )
        return value

    def _rate(self, progress: float) -> float:
        warm = min(1.0, (progress + 1e-3) / 0.02)
        fall = 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2
        return self.fit.learning_rate * warm * fall

    def result(self) -> TwoTowerFit:
        if self.best:
            self.model.load_state_dict(self.best)
        return TwoTowerFit(
            self.model.eval(), self.epochs, self.best_epoch, self.seconds, self.examples
        )

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"adam.{k}": v for k, v in self.optimizer.state().items()}
        state = {
            "key": self.key,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "examples": self.examples,
        }
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
        self.seconds, self.examples = state["seconds"], state["examples"]


def _dense_rows(model: nn.Module) -> list[nn.Parameter]:
    """Let embeddings have dense gradients, and return their weights.

    Joining the equal rows of a sparse gradient asks a GPU how many are left, and waits for it;
    its memory is fast enough to look at every row instead. Gloo cannot average sparse gradients
    of which one worker's has no row at all, as where all of its users are unknown (pytorch#87497).
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        table.sparse = False
    weights = {id(table.weight) for table in tables}
    return [parameter for parameter in model.parameters() if id(parameter) in weights]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
