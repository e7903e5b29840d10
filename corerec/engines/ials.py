"""Implicit alternating least squares: each half step solves one ridge regression a row.

The objective, for pairs S with confidences w, users U and items I, is

    sum over S of w (x_u.y_i - 1)^2 + a sum over U x I of (x_u.y_i)^2
        + sum over u of l_u |x_u|^2 + sum over i of l_i |y_i|^2,

    l_u = l (pairs of u + a |I|)^n,  l_i = l (pairs of i + a |U|)^n

Source: Hu, Koren and Volinsky, ICDM 2008; this form with the frequency-scaled regularisation:
Rendle, Krichene, Zhang and Koren, RecSys 2022, "Revisiting the Performance of iALS on Item
Recommendation Benchmarks", eq. 1 to 5. What differs: a half step takes some steps of conjugate
gradients from the last epoch's factors (Takacs, Pilaszy and Tikk, RecSys 2011) in place of a
Cholesky solution, which is there too; items are the last to be solved, because serving solves
users anew.
"""

# R rows, N items, P pairs, K width, B rows of a batch

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from corerec.engines.pairs import Pairs, Rows
from corerec.errors import ConfigError, InvalidArgument
from corerec.stages import Float32s, Int64s

Solver = Literal["cg", "cholesky"]
_LANES = 8
"""The compiled loops want a width that is a multiple of this; the rest is zeros."""
_NUMBERS = 16_000_000
"""Numbers that the matrices of one batch of exact solutions may hold: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class IalsFitConfig:
    """How iALS is trained."""

    epochs: int = 16
    """Most pairs of half steps, >= 1."""
    patience: int = 3
    """Epochs without a better validation before training stops, >= 1."""
    solver: Solver = "cg"
    """cg: some steps of conjugate gradients, K^2 work a row; cholesky: exact, K^3 work a row."""
    cg_steps: int = 3
    """Steps of conjugate gradients in a half step, >= 1."""
    start_scale: float = 0.1
    """Length of a vector to start from, about, > 0."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("epochs", "patience", "cg_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.start_scale > 0:
            raise ConfigError(f"start_scale must be above 0, got {self.start_scale}")
        if self.solver not in ("cg", "cholesky"):
            raise ConfigError(f"solver must be cg or cholesky, got {self.solver!r}")


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """The constants of the objective above."""

    unobserved_weight: float
    """a"""
    regularisation: float
    """l"""
    frequency_power: float
    """n"""

    def penalties(self, counts: Int64s, others: int) -> Float32s:
        """Return l_u of rows with so many pairs, or l_i; `others` is how many columns there are."""
        scale = counts + self.unobserved_weight * others
        return (self.regularisation * scale**self.frequency_power).astype(np.float32)

    def gram(self, fixed: Float32s) -> Float32s:
        """Return a Y'Y, (K, K)."""
        return np.float32(self.unobserved_weight) * (fixed.T @ fixed)


class IalsTrainer:
    """The factors of both sides while they are trained."""

    def __init__(self, pairs: Pairs, width: int, ridge: Ridge, fit: IalsFitConfig, seed: int):
        self.pairs, self.width, self.ridge, self.fit = pairs, width, ridge, fit
        padded = -(-width // _LANES) * _LANES
        self.users = np.zeros((len(pairs.users), padded), np.float32)
        self.items = np.zeros((len(pairs.items), padded), np.float32)
        rng = np.random.default_rng([seed, 0])
        start = rng.standard_normal((len(pairs.items), width), dtype=np.float32)
        self.items[:, :width] = start * np.float32(fit.start_scale / np.sqrt(width))

    def epoch(self, number: int, report: Callable[[float], None]) -> None:
        """Solve the users for the items, then the items for the users."""
        self._half_step(self.pairs.users, self.items, self.users)
        report(0.5)
        self._half_step(self.pairs.items, self.users, self.items)
        report(1.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return what an epoch begins with."""
        return {"users": torch.from_numpy(self.users), "items": torch.from_numpy(self.items)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        self.users[:], self.items[:] = tensors["users"].numpy(), tensors["items"].numpy()

    def result(self) -> tuple[Float32s, Float32s]:
        """Return copies of the item factors (N, K) and of the mean user factor (K,)."""
        known = self.pairs.users.counts > 0
        mean = self.users[known, : self.width].mean(0, dtype=np.float64).astype(np.float32)
        return self.items[:, : self.width].copy(), mean

    def _half_step(self, rows: Rows, fixed: Float32s, solution: Float32s) -> None:
        penalties = self.ridge.penalties(rows.counts, len(fixed))
        gram = self.ridge.gram(fixed)
        if self.fit.solver == "cholesky":
            own = slice(self.width)
            solution[:, own] = solve_exactly(rows, fixed[:, own], gram[own, own], penalties)
            return
        _conjugate_gradients(rows, fixed, gram, penalties, solution, self.fit.cg_steps)


def _conjugate_gradients(
    rows: Rows,
    fixed: Float32s,
    gram: Float32s,
    penalties: Float32s,
    solution: Float32s,
    steps: int,
) -> None:
    # Compiled code is imported by those who train only: serving has no use for it.
    from corerec.engines.ials_kernel import conjugate_gradients

    def run(span: tuple[int, int]) -> None:
        first, last = span
        pairs = rows.offsets, rows.columns, rows.weights
        conjugate_gradients(first, last, *pairs, fixed, gram, penalties, solution, steps)

    threads = torch.get_num_threads()
    # A row costs its pairs, and the product with the Gram matrix as much as half its width.
    ends = rows.offsets[1:] + np.arange(1, len(rows) + 1) * (fixed.shape[1] // 2)
    parts = 1 if threads == 1 else 16 * threads
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], parts + 1)[1:-1])
    edges = [0, *cuts.tolist(), len(rows)]
    spans = [(a, b) for a, b in pairwise(edges) if a < b]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, spans))


def solve_exactly(rows: Rows, fixed: Float32s, gram: Float32s, penalties: Float32s) -> Float32s:
    """Return x of (gram + penalty I + Y'WY) x = Y'w for each row, by Cholesky, (R, K).

    Shapes: fixed (N, K), gram (K, K), penalties (R,). Rows without pairs become 0.

    Raises:
        InvalidArgument: when a matrix is not positive definite in float32.
    """
    count, width = len(rows), fixed.shape[1]
    out = np.zeros((count, width), np.float32)
    every, common = torch.from_numpy(fixed), torch.from_numpy(gram)
    batch = max(1, min(1024, _NUMBERS // max(1, width * width)))
    for start in range(0, count, batch):
        end = min(count, start + batch)
        left = common.repeat(end - start, 1, 1)  # (B, K, K)
        right = torch.zeros(end - start, width, 1)
        left.diagonal(dim1=1, dim2=2).add_(torch.from_numpy(penalties[start:end])[:, None])
        for row in range(start, end):
            span = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
            own = every[torch.from_numpy(rows.columns[span]).long()]  # (n, K)
            weighted = own
            if len(rows.weights):
                weighted = own * torch.from_numpy(rows.weights[span])[:, None]
            left[row - start].addmm_(weighted.T, own)
            right[row - start, :, 0] = weighted.sum(0)
        factor, failed = torch.linalg.cholesky_ex(left)
        if bool(failed.any()):
            raise InvalidArgument(
                "the normal equations must be positive definite; raise regularisation, got a "
                f"penalty of {float(penalties[start:end].min()):g}"
            )
        out[start:end] = torch.cholesky_solve(right, factor)[:, :, 0].numpy()
    return out
