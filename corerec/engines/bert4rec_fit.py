"""Trains BERT4Rec: cloze and last-position batches, early stopping, resumable."""

# B windows, L positions, A asked positions, M targets of a batch, C negatives, N items, D width

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from corerec.engines.adam import RowAdam
from corerec.engines.bert4rec_batch import Batch, Events, cloze, cut, last, part, shuffled
from corerec.engines.bert4rec_config import BERT4RecFitConfig
from corerec.engines.bert4rec_net import BERT4RecNet
from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.linear_softmax import linear_softmax
from corerec.engines.losses import sampled_info_nce
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences
from corerec.errors import InvalidArgument

_CHECK_STEPS = 100
"""Steps between two looks at whether the loss is finite: each makes the host wait for a GPU."""


@dataclass(frozen=True)
class BERT4RecFit:
    """How a training went."""

    epochs: list[dict[str, float]]
    """Loss, seconds and, where it was asked for, validation score of each epoch."""
    best_epoch: int
    """The epoch whose weights were kept, from 0."""


def fit_bert4rec(
    net: BERT4RecNet,
    sequences: Sequences,
    fit: BERT4RecFitConfig,
    *,
    seed: int = 0,
    validate: Callable[[], float] | None = None,
    report: Report | None = None,
    checkpoint: Path | None = None,
) -> BERT4RecFit:
    """Train `net` where it is; it ends with the best validated epoch's weights, else the last's.

    With `checkpoint` a killed training goes on after its last whole epoch and ends where an
    unbroken one would.

    Raises:
        InvalidArgument: without events, or when the loss is not finite.
    """
    if not len(sequences):
        raise InvalidArgument("training needs at least one event, got 0")
    trainer = _Trainer(net, sequences, fit, seed)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    while not trainer.done:
        trainer.epoch(report, validate)
        if checkpoint is not None:
            trainer.save(checkpoint)
    return trainer.result()


class _Trainer:
    def __init__(
        self, net: BERT4RecNet, sequences: Sequences, fit: BERT4RecFitConfig, seed: int
    ) -> None:
        self.net, self.fit, self.seed = net, fit, seed
        self.device = net.bias.device
        self.events = Events.of(sequences, net.has_times)
        self.sampled = net.item_count >= fit.full_softmax_below
        # A sampled step costs what it uses, not what the catalogue holds. Sparse gradients would
        # make a GPU wait for the host; there dense ones move used rows only.
        net.item.sparse = self.sampled and self.device.type == "cpu"
        self.optimizer = RowAdam(
            net.parameters(),
            weight_decay=fit.weight_decay,
            rows=[*net.item.parameters(), net.bias] if self.sampled else [],
        )
        share = np.bincount(sequences.items, minlength=net.item_count) / len(sequences)
        self.share = torch.from_numpy(share).float().to(self.device)
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best: dict[str, Tensor] = {}
        self.key = repr((asdict(net.config), asdict(fit), net.item_count, seed, len(sequences)))

    @property
    def done(self) -> bool:
        ran = len(self.epochs)
        waited = ran - 1 - self.best_epoch
        return ran >= self.fit.epochs or (self.best_epoch >= 0 and waited >= self.fit.patience)

    def epoch(self, report: Report | None, validate: Callable[[], float] | None) -> None:
        number = len(self.epochs)
        # All chance comes from seed and epoch, so a resumed run draws what an unbroken one does.
        rng = np.random.default_rng([self.seed, number])
        noise = Generator(device=self.device).manual_seed(int(rng.integers(2**62)))
        started = time.perf_counter()
        self.net.train()
        total = torch.zeros((), device=self.device)
        batches, steps = self._batches(rng)
        note = f"epoch {number + 1}/{self.fit.epochs}"
        for step, batch in enumerate(batches):
            self._step(batch.to(self.device), noise, number + step / steps, total)
            if step % _CHECK_STEPS == _CHECK_STEPS - 1 or step == steps - 1:
                mean = self._finite(total, step + 1)
                note = f"epoch {number + 1}/{self.fit.epochs}, loss {mean:.3f}"
            if report is not None:
                report(number * steps + step + 1, self.fit.epochs * steps, note)
        self.net.eval()
        entry = {"loss": mean, "seconds": time.perf_counter() - started}
        if validate is not None:
            entry["validation"] = validate()
        best = self.epochs[self.best_epoch] if self.best_epoch >= 0 else None
        if best is None or validate is None or entry["validation"] > best["validation"]:
            self.best_epoch, self.best = number, copy.deepcopy(self.net.state_dict())
        self.epochs.append(entry)

    def result(self) -> BERT4RecFit:
        self.net.load_state_dict(self.best)
        self.net.eval()
        return BERT4RecFit(self.epochs, self.best_epoch)

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.net.state_dict().items()}
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
        self.net.load_state_dict(_under(tensors, "model."))
        self.best = {k: v.to(self.device) for k, v in _under(tensors, "best.").items()}
        self.optimizer.load(_under(tensors, "adam."))
        self.epochs, self.best_epoch = state["epochs"], state["best_epoch"]

    def _batches(self, rng: np.random.Generator) -> tuple[Iterator[Batch], int]:
        """Return an epoch's batches of both kinds, mixed, and how many they are."""
        both_ways = self.net.config.history == "both"
        fit, sequences, length = self.fit, self.events.sequences, self.net.config.max_len
        asked = cut(sequences, min(fit.last_events, length), length, rng)
        asked = part(asked, fit.last_share, rng)
        hidden = part(cut(sequences, length, length, rng), 1 - fit.last_share, rng)
        counts = [-(-len(windows) // fit.batch_sequences) for windows in (asked, hidden)]
        kinds = rng.permutation(np.repeat([0, 1], counts))

        def stream() -> Iterator[Batch]:
            of_asked, of_hidden = (
                shuffled(windows, fit.batch_sequences, rng) for windows in (asked, hidden)
            )
            for kind in kinds.tolist():
                if kind == 0:
                    yield last(self.events, next(of_asked), length, rng, both_ways)
                else:
                    yield cloze(self.events, next(of_hidden), fit.mask_share, length, rng)

        return stream(), len(kinds)

    def _step(self, batch: Batch, noise: Generator, epoch: float, total: Tensor) -> None:
        with self._precision():
            hidden = self.net(batch.tokens, batch.allowed, batch.asked, noise)  # (B, A, D)
            hidden = hidden.flatten(0, 1).index_select(0, batch.kept)  # (M, D)
            loss = self._loss(hidden, batch.targets, noise)
        self.optimizer.clear()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step(self._rate(epoch / self.fit.epochs), max_norm=5.0)
        total += loss.detach()

    def _loss(self, hidden: Tensor, targets: Tensor, noise: Generator) -> Tensor:
        net = self.net
        if not self.sampled:
            return linear_softmax(hidden, net.item.weight[:-1], net.bias[:, 0], targets)
        wrong = self._negatives(targets, noise)  # (C,)
        return sampled_info_nce(
            torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1),  # (M, D + 1)
            net.vectors(targets),
            net.vectors(wrong),
            self._log_q(targets, len(targets)),
            self._log_q(wrong, len(targets)),
            1.0,
            targets[:, None] == wrong[None, :],
        )

    def _negatives(self, targets: Tensor, noise: Generator) -> Tensor:
        """Return (C,) items: a half, at most, of the batch's own targets, the rest uniform."""
        half, count = self.fit.negatives // 2, self.net.item_count
        drawn = torch.randperm(len(targets), generator=noise, device=self.device)[:half]
        rest = self.fit.negatives - len(drawn)
        uniform = torch.randint(count, (rest,), generator=noise, device=self.device)
        return torch.cat([targets[drawn], uniform])

    def _log_q(self, rows: Tensor, targets: int) -> Tensor:
        drawn = min(self.fit.negatives // 2, targets)
        rest = self.fit.negatives - drawn
        mixed = drawn * self.share[rows] + rest / self.net.item_count
        return (mixed / self.fit.negatives).log()

    def _rate(self, progress: float) -> float:
        warm = min(1.0, (progress + 1e-3) / 0.03)
        fall = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        return self.fit.learning_rate * warm * fall

    def _precision(self) -> AbstractContextManager[object]:
        wanted = self.fit.precision
        if wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda"):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _finite(self, total: Tensor, steps: int) -> float:
        mean = float(total) / steps
        if not math.isfinite(mean):
            raise InvalidArgument(
                f"BERT4Rec's loss must be finite, got {mean}; lower learning_rate "
                f"({self.fit.learning_rate})"
            )
        return mean


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
