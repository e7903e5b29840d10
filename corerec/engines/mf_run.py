"""One training of a matrix factorization: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.pairs import Pairs
from corerec.engines.protocols import Report
from corerec.errors import InvalidArgument
from corerec.stages import Float32s

Validate = Callable[[], float]


class Trainer(Protocol):
    """What iALS and BPR have in common."""

    def epoch(self, number: int, report: Callable[[float], None]) -> None:
        """Train one epoch; `report` takes the share that is done."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what an epoch begins with."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        ...

    def result(self) -> tuple[Float32s, Float32s]:
        """Return item factors (N, D) and the mean user factor (D,), not to be changed later."""
        ...


class Run:
    """Trains to the end, or from a checkpoint to the same end, and knows the best epoch."""

    def __init__(self, trainer: Trainer, epochs: int, patience: int, key: str) -> None:
        self.trainer, self.epochs, self.patience, self.key = trainer, epochs, patience, key
        self.scores: list[float] = []
        """Validation of each epoch; its number where nothing validates, so the last is best."""
        self.best_epoch = -1
        self.best: tuple[Float32s, Float32s] | None = None

    @property
    def done(self) -> bool:
        """Whether the epochs or the patience are at their end."""
        ran = len(self.scores)
        return ran >= self.epochs or (ran > 0 and ran - 1 - self.best_epoch >= self.patience)

    def epoch(
        self,
        take: Callable[[Float32s, Float32s], None],
        validate: Validate | None,
        report: Report | None,
    ) -> None:
        """Train one epoch; `take` is given its factors before `validate` is asked."""
        number = len(self.scores)

        def share(done: float) -> None:
            if report is not None:
                note = f"epoch {number + 1}/{self.epochs}"
                report(round(1000 * (number + done)), 1000 * self.epochs, note)

        self.trainer.epoch(number, share)
        found = self.trainer.result()
        if not (torch.from_numpy(found[0]).isfinite().all()):
            raise InvalidArgument(
                f"factors must stay finite, got NaN or infinity in epoch {number + 1}; lower "
                "learning_rate or raise regularisation"
            )
        take(*found)
        score = float(number) if validate is None else validate()
        if self.best_epoch < 0 or score > self.scores[self.best_epoch]:
            self.best_epoch, self.best = number, found
        self.scores.append(score)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        tensors = {f"run.{k}": v for k, v in self.trainer.tensors().items()}
        if self.best is not None:
            tensors |= {f"best.{i}": torch.from_numpy(v) for i, v in enumerate(self.best)}
        state = {"key": self.key, "scores": self.scores, "best_epoch": self.best_epoch}
        save_checkpoint(path, tensors, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same training; any other is left aside."""
        found = load_checkpoint(path)
        if found is None or found[1].get("key") != self.key:
            return
        tensors, state = found
        self.trainer.restore(
            {k.removeprefix("run."): v for k, v in tensors.items() if k.startswith("run.")}
        )
        self.best = tensors["best.0"].numpy(), tensors["best.1"].numpy()
        self.scores, self.best_epoch = state["scores"], state["best_epoch"]


def key_of(pairs: Pairs, *configs: Any) -> str:
    """Return what tells one training from another: its settings and a digest of its pairs."""
    found = hashlib.sha256(repr(configs).encode())
    for column in (pairs.users.offsets, pairs.users.columns, pairs.users.weights):
        found.update(column.tobytes())
    return found.hexdigest()
