"""`MatrixFactorization`: users and items as factors, learned by iALS or BPR, users folded in.

Only item factors are kept. A user, known or new, is solved for at the moment of a request from the
items of his history, so nothing is retrained for new users or new events.
"""

# B users, N items, K width, D width of served vectors: K for iALS, K + 1 for BPR

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from corerec.engines.bpr_mf import BprFitConfig, BprTrainer, fold_in
from corerec.engines.exact import ExactSearch
from corerec.engines.files import load_model, save_model
from corerec.engines.ials import IalsFitConfig, IalsTrainer, Ridge, solve_exactly
from corerec.engines.mf_run import Run, key_of
from corerec.engines.pairs import Pairs, Repeats, pairs_of, rows_of
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences, as_sequences
from corerec.errors import ConfigError, FailedPrecondition, ReleaseError
from corerec.stages import Float32s, Int64s, Source, UserContext

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset

__all__ = ["BprFitConfig", "IalsFitConfig", "MatrixFactorization", "MatrixFactorizationConfig"]


@dataclass(frozen=True, kw_only=True)
class MatrixFactorizationConfig:
    """Width and objective."""

    k: int = 50
    """Factors of a user and of an item, >= 1."""
    loss: Literal["ials", "bpr"] = "ials"
    """ials: squared error over all pairs; bpr: log-odds that an item beats another."""
    regularisation: float = 0.005
    """Pull of factors towards zero, > 0: l of the objective in `engines.ials`, the decay of BPR."""
    unobserved_weight: float = 0.1
    """iALS: weight of each pair of user and item beside a pair's own 1, > 0."""
    frequency_power: float = 1.0
    """iALS: how regularisation grows with a row's pairs, 0 (not at all) to 1 (in proportion)."""
    repeats: Repeats = "once"
    """Events of a user with the same item count once, or as the sum of their weights."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, got {self.k}")
        if self.loss not in ("ials", "bpr"):
            raise ConfigError(f"loss must be ials or bpr, got {self.loss!r}")
        for name in ("regularisation", "unobserved_weight"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.frequency_power <= 1:
            raise ConfigError(f"frequency_power must be in [0, 1], got {self.frequency_power}")
        if self.repeats not in ("once", "sum"):
            raise ConfigError(f"repeats must be once or sum, got {self.repeats!r}")


@dataclass(frozen=True, kw_only=True)
class MatrixFactorizationHeader:
    """What matrix_factorization.json holds besides the weights' digest."""

    config: MatrixFactorizationConfig
    fold_rate: float
    """BPR: first step of a served user's descent."""


@dataclass(kw_only=True)
class _Fitted:
    """What serving needs."""

    items: Float32s
    """(N, D)"""
    cold: Float32s
    """(D,) the mean user."""
    pool: Int64s
    """(M,) negatives of a BPR user's descent; empty for iALS."""
    gram: Float32s | None = None
    """(K, K) of the weighted items, made at the first question."""


class MatrixFactorization(ExactSearch):
    """Factors of users and items whose dot product is the score.

    iALS: Hu, Koren and Volinsky, ICDM 2008, regularised as in Rendle et al., RecSys 2022; see
    `corerec.engines.ials`. BPR: Rendle et al., UAI 2009; see `corerec.engines.bpr_mf`. A user
    without known items gets the mean user, whose list is close to the popular one.
    """

    kind = "matrix_factorization"
    source = Source.MATRIX_FACTORIZATION

    def __init__(
        self,
        k: int | None = None,
        *,
        config: MatrixFactorizationConfig | None = None,
        training: IalsFitConfig | BprFitConfig | None = None,
        seed: int = 0,
    ) -> None:
        """Make a model that is not fitted; `k`, where given, is `config.k`, 50 without either.

        Raises:
            ConfigError: for a value out of range, or when `training` is not of `config.loss`.
        """
        config = config or MatrixFactorizationConfig()
        self.config = config if k is None else replace(config, k=k)
        fits = {"ials": IalsFitConfig, "bpr": BprFitConfig}[self.config.loss]
        self.training = training or fits()
        if not isinstance(self.training, fits):
            raise ConfigError(
                f"training of loss {self.config.loss} must be a {fits.__name__}, "
                f"got {type(self.training).__name__}"
            )
        self.seed = seed
        self.history: list[float] = []
        """Validation of each epoch (its number without one); empty before `fit`, after `load`."""
        self.best_epoch = -1
        """Epoch whose factors are kept, from 0."""
        self._fitted: _Fitted | None = None
        self._fold_rate = getattr(self.training, "learning_rate", 0.0)

    def fit(
        self,
        data: Dataset | Sequences,
        *,
        events: Sequences | None = None,
        weights: Float32s | None = None,
        validate: Callable[[Self], float] | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
    ) -> Self:
        """Learn from all events of `data`, or from `events` alone, and return itself.

        `weights` are confidences above 0 in the order of the events by user, as in
        `Sequences.items`, 1 where absent; BPR has no use for them. `validate` is asked after each
        epoch, higher is better; the best epoch's factors are kept. With `checkpoint` a run that
        was stopped goes on to the result of one that was not.

        Raises:
            InvalidArgument: without events, or for weights that are not finite and above 0.
        """
        learned = as_sequences(data) if events is None else events
        pairs = pairs_of(learned, weights, self.config.repeats)
        trainer = self._trainer(pairs)
        key = key_of(pairs, self.config, self.training, self.seed)
        run = Run(trainer, self.training.epochs, self.training.patience, key)
        if checkpoint is not None:
            run.resume(checkpoint)
        pool = trainer.pool() if isinstance(trainer, BprTrainer) else np.empty(0, np.int64)

        def take(items: Float32s, cold: Float32s) -> None:
            self._fitted = _Fitted(items=items, cold=cold, pool=pool)
            self._items = items

        while not run.done:
            run.epoch(take, None if validate is None else lambda: validate(self), report)
            if checkpoint is not None:
                run.save(checkpoint)
        if run.best is not None:
            take(*run.best)
        self.history, self.best_epoch = run.scores, run.best_epoch
        return self

    @property
    def item_count(self) -> int:
        """N, after fit."""
        return len(self.encode_items())

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, D): each user solved for from the known items of his history.

        iALS: the exact solution of the user's half step. Histories are taken whole.
        """
        own = self._known()
        rows = rows_of([user.items for user in users], len(own.items), self.config.repeats)
        if self.config.loss == "bpr":
            rate, decay = self._fold_rate, self.config.regularisation
            return fold_in(rows, own.items, own.cold, own.pool, rate, decay)
        if own.gram is None:
            own.gram = self._ridge.gram(own.items)
        penalties = self._ridge.penalties(rows.counts, len(own.items))
        found = solve_exactly(rows, own.items, own.gram, penalties)
        found[rows.counts == 0] = own.cold
        return found

    def encode_items(self) -> Float32s:
        """Return (N, D) by item number."""
        return self._known().items

    def save(self, folder: Path) -> None:
        """Write matrix_factorization.json and matrix_factorization.safetensors into a folder."""
        own = self._known()
        named = {"items": own.items, "cold": own.cold, "pool": own.pool}
        tensors = {name: torch.from_numpy(array) for name, array in named.items()}
        header = MatrixFactorizationHeader(config=self.config, fold_rate=self._fold_rate)
        save_model(folder, self.kind, header, tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return what `save` wrote; its scores are bit-equal.

        Raises:
            ReleaseError: naming the file that is missing or does not verify.
        """
        header, tensors, _ = load_model(folder, cls.kind, MatrixFactorizationHeader)
        model = cls(config=header.config)
        width = header.config.k + (header.config.loss == "bpr")
        shapes = [tuple(tensors[n].shape) for n in ("items", "cold", "pool") if n in tensors]
        if len(shapes) != 3 or shapes[0][1:] != (width,) or shapes[1] != (width,):
            raise ReleaseError(
                f"{folder / cls.kind}.safetensors: must hold items (N, {width}), "
                f"cold ({width},) and pool (M,), got {shapes}"
            )
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        model._fitted = _Fitted(items=arrays["items"], cold=arrays["cold"], pool=arrays["pool"])
        model._items, model._fold_rate = arrays["items"], header.fold_rate
        return model

    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise FailedPrecondition("MatrixFactorization must be fitted first: call fit or load")
        return self._fitted

    @property
    def _ridge(self) -> Ridge:
        own = self.config
        return Ridge(
            unobserved_weight=own.unobserved_weight,
            regularisation=own.regularisation,
            frequency_power=own.frequency_power,
        )

    def _trainer(self, pairs: Pairs) -> IalsTrainer | BprTrainer:
        own, fit = self.config, self.training
        if isinstance(fit, IalsFitConfig):
            return IalsTrainer(pairs, own.k, self._ridge, fit, self.seed)
        return BprTrainer(pairs, own.k, own.regularisation, fit, self.seed)
