"""Softmax cross-entropy over a whole catalogue without ever holding all of its scores."""

# M rows, m rows of a chunk, N items, D width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SCORES_CPU = 1 << 20
"""Scores of a chunk on a CPU: 4 MB, which stays in a shared cache."""
_SCORES_CUDA = 1 << 26


def linear_softmax(rows: Tensor, items: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of `softmax(rows @ items.T + bias)` against `targets`.

    The gradients are computed with the loss, chunk by chunk, so that the (M, N) scores are read
    while a cache still holds them. A row's loss is at most 87 nats; its gradient is exact.

    Shapes: rows (M, D), M >= 1; items (N, D); bias (N,); targets (M,) in [0, N).
    Source: the loss is Klenitskiy and Vasilev, RecSys 2023, eq. 2; the chunks are those of
    Hsu et al., Liger Kernel, 2024, sec. 3.2 (fused linear cross-entropy).
    """
    loss: Tensor = _LinearSoftmax.apply(rows, items, bias, targets)
    return loss


class _LinearSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, items: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        count = len(rows)
        by_row = torch.empty_like(rows)
        by_item = torch.zeros_like(items)
        by_bias = torch.zeros_like(bias)
        losses = rows.new_empty(count, dtype=torch.float32)
        scores = _SCORES_CUDA if rows.is_cuda else _SCORES_CPU
        step = max(32, scores // len(items))
        for start in range(0, count, step):
            part = slice(start, start + step)
            own, right = rows[part], targets[part, None]
            shares = torch.addmm(bias, own, items.T).float().softmax(1)  # (m, N)
            hit = shares.gather(1, right)
            losses[part] = -hit[:, 0].clamp_min(1e-38).log()
            shares.scatter_(1, right, hit - 1)  # now the gradient by score, times M
            by_row[part] = shares @ items
            by_item += shares.T @ own
            by_bias += shares.sum(0)
        ctx.save_for_backward(by_row, by_item, by_bias)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        by_row, by_item, by_bias = ctx.saved_tensors
        scale = grads[0] / len(by_row)
        return by_row * scale, by_item * scale, by_bias * scale, None
