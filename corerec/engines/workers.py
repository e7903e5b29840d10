"""One of several processes that train one model together, each on its share of every batch.

N workers with a batch of B rows do the arithmetic of one worker with the same B: every worker draws
the same batches, keeps each N-th row, and the gradients are averaged, so no learning rate changes.
What differs is chance: dropout and negatives are drawn by each worker for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from corerec.stages import Int64s


@dataclass(frozen=True)
class Worker:
    """Who a process is among those that train; where there are several, torch's group is joined."""

    rank: int = 0
    """Place among the workers, from 0, who validates and writes checkpoints."""
    count: int = 1
    """How many there are."""

    @property
    def is_first(self) -> bool:
        """Whether this one validates and writes."""
        return self.rank == 0

    def wrap(self, loss: nn.Module) -> nn.Module:
        """Return the module to call in its place: going backwards through it averages gradients.

        Gradients must be dense: Gloo crashes where one worker's sparse gradient has no row at all
        (pytorch#87497). Source: Li et al., VLDB 2020 (PyTorch DDP).
        """
        if self.count == 1:
            return loss
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(loss)

    def rows(self, count: int) -> Int64s:
        """Return which of `count` rows of a batch are this worker's.

        A batch of fewer rows than workers is everybody's, so that nobody is left without a step.
        """
        first, step = (self.rank, self.count) if count >= self.count else (0, 1)
        return np.arange(first, count, step)

    def weight(self, own: int, all_rows: int) -> float:
        """Return what a mean over `own` rows is multiplied by, so that the workers' average is the
        mean over all rows of the batch."""
        return 1.0 if own == all_rows else own * self.count / all_rows

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """Return what this worker alone draws from; alone, it is the generator that all share."""
        # Spawning draws nothing: what is shared stays as it is for a single worker.
        return rng if self.count == 1 else rng.spawn(self.count)[self.rank]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of all workers' values."""
        if self.count > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def first_says(self, value: float, device: torch.device) -> float:
        """Return the first worker's value, to all of them, so that all decide alike."""
        if self.count == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.broadcast(told, src=0)
        return float(told)


ALONE = Worker()
