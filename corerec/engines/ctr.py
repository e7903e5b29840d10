"""CtrModel: what the estimators for tables share. Tables in, a calibrated probability a task out.

The networks are in `dcn.py` and `dlrm.py`, the training loop in `ctr_fit.py`.
"""

# P rows, F categorical fields, M numbers, T tasks

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn

from corerec.config import build_config
from corerec.engines.ctr_config import CtrFitConfig
from corerec.engines.ctr_examples import CtrExamples, check_columns, check_labels
from corerec.engines.ctr_fit import Trainer, run_key
from corerec.engines.ctr_judge import by_task, weighted_mean
from corerec.engines.ctr_net import CtrNet, FieldEmbedding
from corerec.engines.ctr_objective import Objective, check_tasks
from corerec.engines.device import choose_device, send
from corerec.engines.files import load_model, save_model
from corerec.engines.protocols import Report
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.stages import Float32s

CHUNK = 8_192
"""Rows that are scored at once."""
EMBEDDING_STD = 0.01
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class CtrHeader:
    """Everything of a model besides its weights."""

    embedding_dim: int
    cardinalities: tuple[int, ...]
    numbers: int
    tasks: tuple[str, ...]
    objective: str
    seed: int
    config: dict[str, Any]
    training: CtrFitConfig
    validation: dict[str, dict[str, float]]
    """Of each task: auc, logloss and ece on the validation rows, before and after calibration."""


class CtrModel(ABC, Generic[C]):
    """Learns the probability of each task from rows of codes and numbers.

    `score` is the objective over the probabilities, such as "click + 5 * like".
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[Any]]

    def __init__(
        self,
        embedding_dim: int = 16,
        *,
        tasks: Sequence[str] = ("click",),
        objective: str = "",
        config: C | None = None,
        training: CtrFitConfig | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        """Take the sizes; `objective` "" is the sum of the tasks.

        Raises:
            ConfigError: for a size out of range, or an objective over unknown tasks.
        """
        if embedding_dim < 1:
            raise ConfigError(f"embedding_dim must be >= 1, got {embedding_dim}")
        check_tasks(tasks)
        self.embedding_dim, self.tasks, self.seed = embedding_dim, tuple(tasks), seed
        self.objective = Objective(objective, self.tasks)
        self.config: C = self.default_config() if config is None else config
        self.training = training or CtrFitConfig()
        if len(self.training.task_weights) not in (0, len(self.tasks)):
            raise ConfigError(
                f"task_weights must be {len(self.tasks)}, one a task, "
                f"got {self.training.task_weights}"
            )
        self.device = choose_device(device)
        self.epochs: list[dict[str, float]] = []
        """Of each epoch: loss, and with validation `validation` (higher is better) and more."""
        self.best_epoch = -1
        self.validation: dict[str, dict[str, float]] = {}
        """Of each task: auc, logloss and ece on the validation rows, before and after calibration;
        empty without them."""
        self._cardinalities: tuple[int, ...] = ()
        self._numbers = 0
        self._net: CtrNet | None = None

    @classmethod
    @abstractmethod
    def default_config(cls) -> C:
        """Return the sizes that are taken where none are given."""

    @abstractmethod
    def _core(self, fields: int, numbers: int) -> nn.Module:
        """Return the network over vectors (P, F, E) and numbers (P, M): logits (P, T)."""

    @property
    def net(self) -> CtrNet:
        """The network. Raises FailedPrecondition before `fit`."""
        if self._net is None:
            raise FailedPrecondition(f"{type(self).__name__} knows nothing yet: call fit first")
        return self._net

    def fit(
        self,
        data: CtrExamples,
        *,
        validation: CtrExamples | None = None,
        validate: Callable[[Self], float] | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
    ) -> Self:
        """Learn from rows with labels (P, T), tasks in the order of `tasks`, and return itself.

        Training stops by `validation` (or by `validate`, higher is better), the best epoch's
        weights are kept and, with `validation`, each task's probability is calibrated on it.
        Without both the last epoch is kept. With `checkpoint` a run that was stopped goes on to
        the result of one that was not.

        Raises:
            InvalidArgument: for rows without labels, or of other fields or tasks.
            FailedPrecondition: when the loss stops being finite.
        """
        check_labels(data, self.tasks)
        self._cardinalities = data.cardinalities or tuple(
            max(1, int(most) + 1) for most in data.codes.max(axis=0)
        )
        self._numbers = data.number_count
        if validation is not None:
            check_labels(validation, self.tasks)
            check_columns(validation, len(self._cardinalities), self._numbers)
        on = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=on):
            torch.manual_seed(self.seed)
            net = self._net = self._make()
            if data.numbers is not None:
                net.standardise(data.numbers)
            key = "" if checkpoint is None else self._key(data, validation)
            trainer = Trainer(net, data, self.training, self.seed, key)
            if checkpoint is not None:
                trainer.resume(checkpoint)
            judge = self._judge(validation, validate)
            while not trainer.done:
                trainer.epoch(report, judge)
                if checkpoint is not None:
                    trainer.save(checkpoint)
            trainer.result()
        self.epochs, self.best_epoch = trainer.epochs, trainer.best_epoch
        self.validation = {}
        if validation is not None:
            logits = self.logits(validation)
            self.validation, scaling = by_task(logits, validation, self.tasks, calibrate=True)
            self.net.calibration.copy_(torch.from_numpy(scaling))
        return self

    def logits(self, data: CtrExamples) -> Float32s:
        """Return (P, T) logits before calibration."""
        net = self.net
        check_columns(data, len(self._cardinalities), self._numbers)
        found = np.empty((len(data), len(self.tasks)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(data), CHUNK):
                part = slice(start, start + CHUNK)
                # Copies: a mapped file is read-only, which torch refuses to share.
                codes = send(np.array(data.codes[part]), self.device)
                numbers = torch.zeros(len(codes), 0, device=self.device)
                if data.numbers is not None:
                    numbers = send(np.array(data.numbers[part]), self.device)
                found[part] = net(codes, numbers).float().cpu().numpy()
        return found

    def predict(self, data: CtrExamples) -> Float32s:
        """Return (P, T) calibrated probabilities. Raises InvalidArgument for other fields."""
        logits = torch.from_numpy(self.logits(data))
        found: Float32s = self.net.probability(logits.to(self.device)).cpu().numpy()
        return found

    def score(self, data: CtrExamples) -> Float32s:
        """Return (P,) the objective over the probabilities.

        Raises:
            InvalidArgument: naming a row where the objective is not finite.
        """
        probabilities = self.predict(data).astype(np.float64)
        found: Float32s = self.objective(list(probabilities.T)).astype(np.float32)
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found)))
            raise InvalidArgument(
                f"objective {self.objective.formula!r} must be finite, row {row} gave {found[row]}"
            )
        return found

    def save(self, folder: Path) -> None:
        """Write `<kind>.json` and `<kind>.safetensors` into a folder."""
        net = self.net
        header = CtrHeader(
            embedding_dim=self.embedding_dim,
            cardinalities=self._cardinalities,
            numbers=self._numbers,
            tasks=self.tasks,
            objective=self.objective.formula,
            seed=self.seed,
            config=asdict(self.config),  # type: ignore[call-overload]  # C is a dataclass
            training=self.training,
            validation=self.validation,
        )
        save_model(folder, self.kind, header, net.state_dict())

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Return what `save` wrote; its scores are bit-equal.

        Raises:
            ReleaseError: for files that are missing or do not fit each other.
            ConfigError: for a header with a wrong key or value.
        """
        header, tensors, _ = load_model(folder, cls.kind, CtrHeader)
        config = build_config(cls.config_class, header.config, folder / f"{cls.kind}.json")
        own = cls(
            header.embedding_dim,
            tasks=header.tasks,
            objective=header.objective,
            config=config,
            training=header.training,
            seed=header.seed,
            device=device,
        )
        own._cardinalities, own._numbers = header.cardinalities, header.numbers
        own.validation = header.validation
        own._net = own._make()
        own._net.load_state_dict(tensors)
        own._net.eval()
        return own

    def _make(self) -> CtrNet:
        fields = FieldEmbedding(
            self._cardinalities,
            self.embedding_dim,
            std=EMBEDDING_STD,
            sparse=sum(self._cardinalities) > self.training.sparse_above,
        )
        core = self._core(len(self._cardinalities), self._numbers)
        return CtrNet(fields, core, self._numbers, len(self.tasks)).to(self.device)

    def _judge(
        self, data: CtrExamples | None, validate: Callable[[Self], float] | None
    ) -> Callable[[], dict[str, float]] | None:
        """Return what looks at the net after each epoch, None where nothing does."""
        if data is None and validate is None:
            return None
        weights = self.training.task_weights or (1.0,) * len(self.tasks)

        def judge() -> dict[str, float]:
            found: dict[str, float] = {}
            if data is not None:
                metrics, _ = by_task(self.logits(data), data, self.tasks, calibrate=False)
                found["logloss"] = weighted_mean(metrics, "logloss_before", weights)
                found["validation"] = -found["logloss"]
                if self.training.metric == "auc":
                    found["auc"] = weighted_mean(metrics, "auc", weights)
                    found["validation"] = found["auc"]
            if validate is not None:
                found["validation"] = validate(self)
            return found

        return judge

    def _key(self, data: CtrExamples, validation: CtrExamples | None) -> str:
        parts = [self.kind, self.embedding_dim, self.tasks, self.config, self.training, self.seed]
        held = "" if validation is None else run_key(validation)
        return run_key(data, *parts, self._cardinalities, held)
