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
    ) -> None:
        self.parameters = list(parameters)
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.steps = 0
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float, max_norm: float) -> None:
        """Move along the gradients, scaled down together where their norm is above `max_norm`."""
        self.steps += 1
        grads = [p.grad.coalesce() if p.grad is not None and p.grad.is_sparse else p.grad
                 for p in self.parameters]  # fmt: skip
        squared = [_dense(g).square().sum() for g in grads if g is not None]
        norm = float(torch.stack(squared).sum().sqrt()) if squared else 0.0
        scale = max_norm / norm if norm > max_norm else 1.0
        for parameter, grad, mean, square in zip(
            self.parameters, grads, self.means, self.squares, strict=True
        ):
            if grad is None:
                continue
            if not grad.is_sparse:
                change = self._change(grad * scale, mean, square, rate)
                parameter.mul_(1 - rate * self.weight_decay).add_(change)
                continue
            rows = grad.indices()[0]
            own_mean, own_square = mean[rows], square[rows]
            change = self._change(grad.values() * scale, own_mean, own_square, rate)
            mean[rows], square[rows] = own_mean, own_square
            parameter[rows] = parameter[rows] * (1 - rate * self.weight_decay) + change

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


def _dense(grad: Tensor) -> Tensor:
    return grad.values() if grad.is_sparse else grad
