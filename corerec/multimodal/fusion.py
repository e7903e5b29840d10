"""Fusion: several vectors of an item, of which any may be missing, become one."""

# R rows, M modalities, W width of a modality, D width out

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn

from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.strategies import (
    Attention,
    Bilinear,
    Concat,
    Gated,
    Projection,
    Strategy,
    Weighted,
)

StrategyName = Literal["concat", "weighted", "attention", "gated", "bilinear"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

_CLASSES: dict[StrategyName, type[Strategy]] = {
    "concat": Concat,
    "weighted": Weighted,
    "attention": Attention,
    "gated": Gated,
    "bilinear": Bilinear,
}


class FusionOutput(NamedTuple):
    """What fusion returns."""

    vector: Tensor
    """(R, D), not normalised; zero in a row without any modality."""
    weights: Tensor
    """(R, M), without gradient, in the order of `names`: how much each modality had to say. A row
    sums to one over the modalities that it has; zero where missing."""


class MultiModalFusion(nn.Module):
    """Fuses the modalities of each row into one vector, whichever of them the row has.

    The result is the sum of one contribution a modality. A missing modality contributes zero and
    its input has no influence at all, be it NaN; a row without any becomes the zero vector, which
    is nobody's neighbour. Weights are the strategy's own for `weighted` and `attention`; for
    `concat`, `gated` and `bilinear`, which have none, each contribution's share of the sum of
    their norms. Sources are named at each strategy in `corerec.multimodal.strategies`.

    `base` names a modality as wide as the result that enters as it is, without a linear map: give
    it where one modality is trained with the fusion, such as an id's embedding. `rank` is the
    width of what `attention` and `bilinear` compute inside.

    An input that is there must be finite; checking it here would stall a GPU in every step, so
    that is left to where vectors enter (`corerec.data.vectors`).

    Raises:
        ConfigError: for an unknown strategy, no modality, a width, `dim` or `rank` below 1, or a
            base that is not as wide as the result.
    """

    def __init__(
        self,
        strategy: str,
        widths: Mapping[str, int],
        dim: int,
        *,
        generator: Generator,
        rank: int = 32,
        base: str = "",
    ) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise ConfigError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        if not widths:
            raise ConfigError("widths must name at least one modality, got none")
        for name, size in {**widths, "dim": dim, "rank": rank}.items():
            if size < 1:
                raise ConfigError(f"{name} must be at least 1 wide, got {size}")
        if base and widths.get(base) != dim:
            raise ConfigError(
                f"base must be a modality of width {dim}, got {base!r} of {widths.get(base)}"
            )
        self.strategy: StrategyName = strategy
        self.widths = dict(widths)
        self.dim = dim
        place = list(widths).index(base) if base else None
        self.parts = _CLASSES[self.strategy](tuple(widths.values()), dim, rank, place, generator)

    def start_as_base(self, name: str, share: float) -> None:
        """Let a modality that lies in the base's space start as a share of what comes in.

        Raises:
            ConfigError: when it is not as wide as the result, or the base itself.
        """
        part = self.parts.project[self.names.index(name)] if name in self.widths else None
        if not isinstance(part, Projection) or self.widths[name] != self.dim:
            raise ConfigError(f"{name!r} must be a modality of width {self.dim} besides the base")
        part.start_as(share)

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities, in the order of the weights' columns."""
        return tuple(self.widths)

    def forward(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> FusionOutput:
        """Return vectors (R, D) and weights (R, M).

        Shapes: inputs (R, W) by modality, one that is left out is missing in all rows; present
        (R,) bool by modality, all rows where left out.

        Raises:
            InvalidArgument: for unknown modalities, no input, or shapes that do not fit.
        """
        present = present or {}
        if unknown := [name for name in (*inputs, *present) if name not in self.widths]:
            raise InvalidArgument(f"modalities must be among {list(self.widths)}, got {unknown}")
        if not inputs:
            raise InvalidArgument(f"inputs must have at least one of {list(self.widths)}, got none")
        first = next(iter(inputs.values()))
        ready, masks = [], []
        for name, width in self.widths.items():
            mask = self._mask(name, first, inputs, present)
            ready.append(self._input(name, width, mask, first, inputs))
            masks.append(mask)
        there = torch.stack(masks, dim=1)  # (R, M)
        contributions, weights = self.parts(ready, there)
        if weights is None:
            weights = _shares(contributions.detach(), there)
        return FusionOutput(contributions.sum(1), weights.detach())

    def _mask(
        self, name: str, first: Tensor, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (R,) bool: which rows have the modality."""
        if name not in inputs:
            return torch.zeros(len(first), dtype=torch.bool, device=first.device)
        mask = present.get(name)
        if mask is None:
            return torch.ones(len(first), dtype=torch.bool, device=first.device)
        if mask.shape != (len(first),) or mask.dtype != torch.bool:
            raise InvalidArgument(
                f"present[{name!r}] must be bool of shape {(len(first),)}, "
                f"got {mask.dtype} of {tuple(mask.shape)}"
            )
        return mask

    def _input(
        self, name: str, width: int, mask: Tensor, first: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return (R, W) with zeros in the rows that lack the modality."""
        given = inputs.get(name)
        if given is None:
            return first.new_zeros(len(first), width)
        if given.shape != (len(first), width):
            raise InvalidArgument(
                f"inputs[{name!r}] must have shape {(len(first), width)}, got {tuple(given.shape)}"
            )
        # Not a product: zero times NaN is NaN.
        return torch.where(mask[:, None], given, given.new_zeros(()))


def _shares(contributions: Tensor, present: Tensor) -> Tensor:
    """Return (R, M): each contribution's share of the norms; equal shares where all are zero."""
    norms = contributions.norm(dim=-1)  # (R, M)
    total = norms.sum(1, keepdim=True)
    equal = present / present.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, norms / total.clamp(min=torch.finfo(norms.dtype).tiny), equal)
