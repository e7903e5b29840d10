"""Trains a tabular model: masked losses of several tasks, seeded, early stopping, resumable."""

# B rows of a step, P rows in all, F fields, M numbers, T tasks

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.engines.adam import RowAdam
from corerec.engines.checkpoint import load_checkpoint, save_checkpoint
from corerec.engines.ctr_config import CtrFitConfig
from corerec.engines.ctr_examples import CtrExamples
from corerec.engines.ctr_net import CtrNet
from corerec.engines.device import send
from corerec.engines.fused_adam import FusedAdam
from corerec.engines.protocols import Report
from corerec.errors import FailedPrecondition
from corerec.stages import Int64s


def masked_loss(logits: Tensor, labels: Tensor, observed: Tensor | None, weights: Tensor) -> Tensor:
    """Return the weighted sum over tasks of the mean logistic loss of the rows that were observed.

    Shapes: logits, labels (B, T), observed (B, T) of 0 and 1, weights (T,). A task that no row
    observed adds 0 and moves nothing. Source: Ma et al., KDD 2018 (MMoE), section 4, shared bottom.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    if observed is None:
        return (each.mean(0) * weights).sum()
    return ((each * observed).sum(0) / observed.sum(0).clamp(min=1) * weights).sum()


class Trainer:
    """The state of one training: what a checkpoint holds, and the loop that moves it on."""

    def __init__(
        self, net: CtrNet, data: CtrExamples, config: CtrFitConfig, seed: int, key: str
    ) -> None:
        self.net, self.data, self.config, self.seed, self.key = net, data, config, seed, key
        self.device = net.calibration.device
        tasks = len(net.calibration)
        self.weights = torch.tensor(config.task_weights or (1.0,) * tasks, device=self.device)
        table = net.fields.weight
        rest = FusedAdam(
            (p for p in net.parameters() if p is not table), weight_decay=config.weight_decay
        )
        fields = RowAdam([table], betas=rest.betas) if net.fields.sparse else FusedAdam([table])
        self.optimizers: dict[str, RowAdam | FusedAdam] = {"rest": rest, "fields": fields}
        self.steps = math.ceil(len(data) / config.batch_rows)
        self.mean = {k: v.clone() for k, v in net.state_dict().items()} if config.average else None
        self.epochs: list[dict[str, float]] = []
        self.best_epoch = -1
        self.best: dict[str, Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether the last epoch or the end of patience is reached."""
        ran = len(self.epochs)
        waits = self.epochs and "validation" in self.epochs[-1]
        return ran >= self.config.epochs or bool(
            waits and ran - 1 - self.best_epoch >= self.config.patience
        )

    def epoch(self, report: Report | None, validate: Callable[[], dict[str, float]] | None) -> None:
        """Train one epoch; `validate` looks at the net and returns entries, `validation` one."""
        number, total = len(self.epochs), torch.zeros((), device=self.device)
        # All chance comes from seed and epoch, so a resumed run draws what an unbroken one does.
        rng = np.random.default_rng([self.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        self.net.train()
        for step, batch in enumerate(self._batches(rng)):
            at = number * self.steps + step
            # Nothing here waits for the device: the loss is read once an epoch.
            total += self._step(batch, at)
            if report is not None:
                report(at + 1, self.config.epochs * self.steps, self._note(number))
        loss = float(total) / self.steps
        if not math.isfinite(loss):
            raise FailedPrecondition(
                f"the loss must be finite, got {loss} in epoch {number + 1}; "
                f"lower learning_rate ({self.config.learning_rate})"
            )
        self._judge({"loss": loss}, validate)

    def _judge(
        self, entry: dict[str, float], validate: Callable[[], dict[str, float]] | None
    ) -> None:
        own = {k: v.clone() for k, v in self.net.state_dict().items()}
        if self.mean is not None:
            self.net.load_state_dict(self.mean)
        self.net.eval()
        entry |= validate() if validate is not None else {}
        best = self.epochs[self.best_epoch].get("validation") if self.epochs else None
        if best is None or "validation" not in entry or entry["validation"] > best:
            self.best_epoch = len(self.epochs)
            self.best = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict(own)
        self.epochs.append(entry)

    def _note(self, number: int) -> str:
        note = f"epoch {number + 1}/{self.config.epochs}"
        if number and "validation" in self.epochs[-1]:
            note += f", {self.config.metric} {abs(self.epochs[-1]['validation']):.4f}"
        return note

    def _batches(self, rng: np.random.Generator) -> Iterator[_Batch]:
        order = rng.permutation(len(self.data))
        # Batches of even size: a last one of a few rows would move the net as much as a full one.
        ends = np.linspace(0, len(order), self.steps + 1).astype(np.int64)
        for low, high in pairwise(ends.tolist()):
            yield self._batch(order[low:high])

    def _batch(self, rows: Int64s) -> _Batch:
        data = self.data
        if data.numbers is None:
            numbers = np.empty((len(rows), 0), np.float32)
        else:
            numbers = data.numbers[rows]
        if data.labels is None:
            raise FailedPrecondition("rows to learn from must have labels")
        return _Batch(
            codes=send(data.codes[rows], self.device),
            numbers=send(numbers, self.device),
            labels=send(data.labels[rows], self.device),
            observed=None if data.observed is None else send(data.observed[rows], self.device),
        )

    def _step(self, batch: _Batch, at: int) -> Tensor:
        fit, codes = self.config, batch.codes
        if fit.hide:
            kept = torch.rand(codes.shape, device=self.device) >= fit.hide
            codes = codes * kept
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fit.precision == "bfloat16"):
            logits = self.net(codes, batch.numbers)
        loss = masked_loss(logits, batch.labels, batch.observed, self.weights)
        whole = loss + self._pull(codes) if fit.embedding_l2 else loss
        for optimizer in self.optimizers.values():
            optimizer.clear()
        whole.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        progress = at / (fit.epochs * self.steps)
        rate = fit.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, RowAdam):
                optimizer.step(rate, math.inf)
            else:
                optimizer.step(rate)
        self._move_mean(at)
        return loss.detach()

    def _pull(self, codes: Tensor) -> Tensor:
        """Return the penalty of the squared embeddings."""
        fields = self.net.fields
        own = fields(codes) if fields.sparse else fields.weight
        return self.config.embedding_l2 / 2 * own.square().sum()

    @torch.no_grad()
    def _move_mean(self, at: int) -> None:
        if self.mean is None:
            return
        # The first steps forget faster, or the random start would stay in the mean.
        part = 1 - min(self.config.average, (at + 1) / (at + 11))
        for name, tensor in self.net.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor, part)

    def result(self) -> None:
        """Give the net the weights of the best epoch."""
        self.net.load_state_dict(self.best)
        self.net.eval()

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"mean.{k}": v for k, v in (self.mean or {}).items()}
        for name, optimizer in self.optimizers.items():
            tensors |= {f"{name}.{k}": v for k, v in optimizer.state().items()}
        state = {"key": self.key, "epochs": self.epochs, "best_epoch": self.best_epoch}
        save_checkpoint(path, tensors, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same training; any other is left aside."""
        found = load_checkpoint(path)
        if found is None or found[1].get("key") != self.key:
            return
        tensors, state = found
        self.net.load_state_dict(_under(tensors, "net."))
        self.best = _under(tensors, "best.")
        if self.mean is not None:
            self.mean = {k: v.to(self.device) for k, v in _under(tensors, "mean.").items()}
        for name, optimizer in self.optimizers.items():
            optimizer.load(_under(tensors, f"{name}."))
        self.epochs, self.best_epoch = state["epochs"], state["best_epoch"]


class _Batch(NamedTuple):
    codes: Tensor
    numbers: Tensor
    labels: Tensor
    observed: Tensor | None


def run_key(data: CtrExamples, *described: object) -> str:
    """Return a digest of everything that decides a training."""
    found = hashlib.sha256(repr(described).encode())
    for name in ("codes", "numbers", "labels", "observed"):
        array = getattr(data, name)
        if array is not None:
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
