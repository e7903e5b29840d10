"""Adam that touches only the rows of embeddings that a step has used.

The optimisers of `torch.optim` update every row of an embedding in every step, which is what a
large catalogue cannot afford, and loading them imports PyTorch's compiler, which takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class RowAdam:
    """Adam with decoupled weight decay; a row without a gradient keeps value and moments.

    Source: Kingma and Ba, ICLR 2015, algorithm 1; decay: Loshchilov and Hutter, ICLR 2019; the
    rows of sparse gradients as in torch.optim.SparseAdam.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        rows: Iterable[nn.Parameter] = (),
    ) -> None:
        """Optimise `parameters`; of those in `rows` a row that a step did not use stays as it is.

        Parameters with sparse gradients need not be named: only their used rows are touched.
        """
        self.parameters = list(parameters)
        named = {id(parameter) for parameter in rows}
        self._row_wise = {i for i, own in enumerate(self.parameters) if id(own) in named}
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.steps = 0
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float, max_norm: float = math.inf) -> None:
        """Move along the gradients, scaled down together where their norm is above `max_norm`.

        Nothing is read back from the device, so a GPU is never waited for; only sparse gradients
        on one are (joining equal rows asks how many are left): make embeddings dense there and
        name them in `rows`.
        """
        self.steps += 1
        grads = [p.grad.coalesce() if p.grad is not None and p.grad.is_sparse else p.grad
                 for p in self.parameters]  # fmt: skip
        scale = None if math.isinf(max_norm) else _scale(grads, max_norm)
        for place, (parameter, grad) in enumerate(zip(self.parameters, grads, strict=True)):
            if grad is None:
                continue
            mean, square = self.means[place], self.squares[place]
            if grad.is_sparse:
                self._some_rows(parameter, grad, scale, mean, square, rate)
                continue
            if scale is not None:
                grad = grad * scale
            if place in self._row_wise:
                self._used_rows(parameter, grad, mean, square, rate)
                continue
            change = self._change(grad, mean, square, rate)
            parameter.mul_(1 - rate * self.weight_decay).add_(change)

    def _some_rows(
        self,
        parameter: Tensor,
        grad: Tensor,
        scale: Tensor | None,
        mean: Tensor,
        square: Tensor,
        rate: float,
    ) -> None:
        rows, values = grad.indices()[0], grad.values()
        own_mean, own_square = mean.index_select(0, rows), square.index_select(0, rows)
        change = self._change(
            values if scale is None else values * scale, own_mean, own_square, rate
        )
        mean.index_copy_(0, rows, own_mean)
        square.index_copy_(0, rows, own_square)
        own = parameter.index_select(0, rows).mul_(1 - rate * self.weight_decay).add_(change)
        parameter.index_copy_(0, rows, own)

    def _used_rows(
        self, parameter: Tensor, grad: Tensor, mean: Tensor, square: Tensor, rate: float
    ) -> None:
        """Do what a sparse gradient would: a row whose gradient is all zero was not used."""
        used = (grad != 0).flatten(1).any(1).view(-1, *[1] * (grad.dim() - 1))
        own_mean, own_square = mean.clone(), square.clone()
        change = self._change(grad, own_mean, own_square, rate)
        mean.copy_(torch.where(used, own_mean, mean))
        square.copy_(torch.where(used, own_square, square))
        moved = parameter * (1 - rate * self.weight_decay) + change
        parameter.copy_(torch.where(used, moved, parameter))

    def _change(self, grad: Tensor, mean: Tensor, square: Tensor, rate: float) -> Tensor:
        """Return what to add to the parameter; moments are updated in place."""
        first, second = self.betas
        mean.lerp_(grad, 1 - first)
        square.mul_(second).addcmul_(grad, grad, value=1 - second)
        size = rate / (1 - first**self.steps)
        root = (square.sqrt() / math.sqrt(1 - second**self.steps)).add_(self.epsilon)
        return mean.div(root).mul_(-size)

    def state(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint needs."""
        tensors = {"steps": torch.tensor(self.steps)}
        for name, group in (("mean", self.means), ("square", self.squares)):
            tensors |= {f"{name}.{i}": tensor for i, tensor in enumerate(group)}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.steps = int(tensors["steps"])
        for name, group in (("mean", self.means), ("square", self.squares)):
            for i, tensor in enumerate(group):
                tensor.copy_(tensors[f"{name}.{i}"])


def _scale(grads: list[Tensor | None], max_norm: float) -> Tensor | None:
    """Return what brings the norm of all gradients to at most `max_norm`, on their device."""
    squared = [_dense(g).square().sum() for g in grads if g is not None]
    if not squared:
        return None
    return (max_norm / torch.stack(squared).sum().sqrt()).clamp(max=1.0)


def _dense(grad: Tensor) -> Tensor:
    return grad.values() if grad.is_sparse else grad
