"""Adam as one pass over the weights, for models whose every weight moves in every step.

It is the kernel of `torch.optim.AdamW(fused=True)`, called directly: that class imports PyTorch's
compiler, which takes seconds. For large embedding tables see `adam.RowAdam`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class FusedAdam:
    """Adam with decoupled weight decay, on CPUs and CUDA; nothing in a step waits for the device.

    Source: Kingma and Ba, ICLR 2015, algorithm 1; decay: Loshchilov and Hutter, ICLR 2019.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.betas, self.epsilon, self.weight_decay = betas, epsilon, weight_decay
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.counts = [torch.zeros((), device=p.device) for p in self.parameters]

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move along the gradients; a parameter without one keeps value and moments."""
        own = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        if not own:
            return
        counts = [self.counts[i] for i in own]
        torch._foreach_add_(counts, 1)
        torch._fused_adamw_(
            [self.parameters[i] for i in own],
            [g for i in own if (g := self.parameters[i].grad) is not None],
            [self.means[i] for i in own],
            [self.squares[i] for i in own],
            [],
            counts,
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint needs."""
        groups = {"mean": self.means, "square": self.squares, "count": self.counts}
        return {f"{name}.{i}": t for name, group in groups.items() for i, t in enumerate(group)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
