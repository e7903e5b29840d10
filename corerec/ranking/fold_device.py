"""FoldedDcn: a folded DCN-v2 in few of torch's products, for GPUs; any device computes it.

A pair's row holds [last h | x and 1 | y | z0 | z1 ..], so that whatever a step reads lies side by
side. What a request adds goes under the step's weights: its vector where the row has the 1, its
matrix where the row has the z. So a step is one product, batched over the requests.
"""

# B requests, n candidates, Du, Di, Dp inputs of user, item, comparison, Dx = Di + Dp, M cross
# layers, R rank, T tasks; K depth, N columns of a product; all filled up to multiples of UNIT

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.ranking.fold import Fold, Step
from corerec.ranking.layout import up
from corerec.ranking.tables import pick

UNIT = 8
"""A GPU's matrix units read 16 bytes at once."""


@dataclass(frozen=True, kw_only=True)
class _Product:
    """One step; its places are columns of a row."""

    act: str
    reads: slice | None
    """None: the hidden layer before"""
    writes: slice | None
    """None: a hidden layer that is not the last, or the logits"""
    weights: tuple[Tensor, ...]
    """(K, N); in two parts, above and below a request's vector, where it adds one"""
    bias: Tensor | None
    """(N,), where no request adds its own"""
    added: slice | None
    """Columns of the requests' vectors"""
    below: int
    """Rows of the requests' matrices"""
    crossed: slice | None
    """Columns of the requests' matrices"""


class FoldedDcn:
    """Scores pairs of users and rows of a table of items."""

    def __init__(self, folded: Fold, items: int, *, half: bool) -> None:
        """Lay a fold out for products in bfloat16 when `half`, else in float32."""
        self._kind = torch.bfloat16 if half else torch.float32
        self._items, self._wide, self._tasks = items, folded.wide, folded.steps[-1].weight.shape[1]
        self._rank = _up(folded.u_user.shape[1])
        self._true = {step.name: step.weight.shape[1] for step in folded.steps}
        self._true["x"] = self._true["y"] = folded.wide
        self._sizes = {name: _up(size) for name, size in self._true.items()}
        self._sizes["x"] = self._sizes["y"] = _up(folded.wide + 1)
        hidden = [name for name in self._sizes if name[0] == "h"]
        names = [hidden[-1], "x", "y", *(name for name in self._sizes if name[0] == "z")]
        self._places = dict(zip(names, _after([self._sizes[name] for name in names]), strict=True))
        adding = [step for step in folded.steps if step.of_user is not None]
        crossed = [step for step in folded.steps if step.crossed is not None]
        self._of_user = self._side_by_side(adding, [step.of_user for step in adding])
        self._bias = self._side_by_side(adding, [step.bias for step in adding])[0]
        self._crossed = self._side_by_side(crossed, [step.crossed for step in crossed])
        u_user = F.pad(folded.u_user, (0, 0, 0, self._rank - folded.u_user.shape[1]))
        self._u_user = u_user.flatten(0, 1).to(self._kind)  # (M R, Du)
        self._products = self._lay_out(folded.steps, self._at(adding), self._at(crossed))
        # Behind an item's inputs: room for those of the comparison, and the 1.
        self._behind = torch.zeros(self._sizes["x"] - items, device=u_user.device)
        self._behind[folded.wide - items] = 1

    def table(self, rows: int) -> Tensor:
        """Return room for so many items."""
        size = rows, self._sizes["x"]
        return torch.zeros(size, dtype=self._kind, device=self._behind.device)

    def items(self, inputs: Tensor) -> Tensor:
        """Return the first parts of rows. Shapes: inputs (m, Di), result (m, up(Dx + 1))."""
        return torch.cat([inputs, self._behind.expand(len(inputs), -1)], 1)

    def __call__(self, user: Tensor, table: Tensor, candidates: Tensor, pairs: Tensor) -> Tensor:
        """Return logits (T, B, n). Shapes: user (B, Du), candidates (B, n), pairs (Dp, B, n)."""
        (cases, count), at = candidates.shape, self._places
        rows = user.new_empty(cases, count, at[next(reversed(at))].stop, dtype=self._kind)
        x = rows[..., at["x"]]
        x[:] = pick(table, candidates)
        x[..., self._items : self._wide] = pairs.permute(1, 2, 0)
        added = torch.addmm(self._bias, user, self._of_user).to(self._kind)  # (B, C)
        scaled = (user[:, :, None] * self._crossed).to(self._kind)  # (B, Du, C')
        crossed = self._u_user @ scaled  # (B, M R, C')
        out = x
        for step in self._products:
            left = out if step.reads is None else rows[..., step.reads]
            to = None if step.writes is None else rows[..., step.writes]
            # Written in its place by the call that makes it: a copy costs as much as a product.
            out = self._product(step, left, added, crossed, to if step.act == "none" else None)
            if step.act == "relu":
                out = torch.clamp_min(out, 0, out=to)
            if step.act == "times x":
                out = torch.mul(out, x, out=to)
        return out[..., : self._tasks].float().permute(2, 0, 1)

    def _product(
        self, step: _Product, left: Tensor, added: Tensor, crossed: Tensor, to: Tensor | None
    ) -> Tensor:
        """Return a step's product (B, n, N) of what it reads (B, n, K)."""
        if step.added is None:
            (weight,) = step.weights
            return left @ weight if step.bias is None else F.linear(left, weight.T, step.bias)
        above, under = (weight.expand(len(left), -1, -1) for weight in step.weights)
        parts = [above, added[:, None, step.added], under]
        if step.crossed is not None:
            parts.append(crossed[:, : step.below, step.crossed])
        return torch.bmm(left, torch.cat(parts, 1), out=to)

    def _lay_out(
        self, steps: Sequence[Step], added: dict[str, slice], crossed: dict[str, slice]
    ) -> list[_Product]:
        """Return the products of the steps, in their order."""
        found: list[_Product] = []
        scales: list[Tensor] = []
        for step in steps:
            names = [name for name in step.reads if name in self._places]
            weights: tuple[Tensor, ...] = (self._padded(step).to(self._kind),)
            if step.act == "times x":
                # The sum over all z so far is one product: none is kept, and none is rounded.
                scales += weights
                weights, names = (torch.cat(scales),), ["z0", step.reads[0]]
            if step.below:
                names.append(f"z{step.below - 1}")
            reads = (
                slice(self._places[names[0]].start, self._places[names[-1]].stop) if names else None
            )
            if step.name in added and reads is not None:
                one = self._places["x"].start - reads.start + self._wide
                weights = weights[0][:one], weights[0][one + 1 :]
            bias = None if step.name in added or step.bias is None else step.bias
            if bias is not None:
                bias = _wider(bias, self._sizes[step.name]).to(self._kind)
            found.append(
                _Product(
                    act=step.act, reads=reads, writes=self._places.get(step.name), weights=weights,
                    bias=bias, added=added.get(step.name), below=step.below * self._rank,
                    crossed=crossed.get(step.name),
                )
            )  # fmt: skip
        return found

    def _padded(self, step: Step) -> Tensor:
        """Return a step's weight (K, N) with every part filled up."""
        weight = _wider(step.weight, self._sizes[step.name])
        parts = torch.split(weight, [self._true[name] for name in step.reads])
        return torch.cat(
            [
                F.pad(part, (0, 0, 0, self._sizes[name] - len(part)))
                for name, part in zip(step.reads, parts, strict=True)
            ]
        )

    def _side_by_side(self, steps: Sequence[Step], parts: Sequence[Tensor | None]) -> Tensor:
        """Return the steps' (.., N) of one kind as (.., C); of none, zeros."""
        found = [
            torch.zeros(1, self._sizes[step.name], device=step.weight.device)
            if part is None
            else _wider(part, self._sizes[step.name])
            for step, part in zip(steps, parts, strict=True)
        ]
        return torch.cat([part.view(-1, part.shape[-1]) for part in found], 1)

    def _at(self, steps: Sequence[Step]) -> dict[str, slice]:
        """Return where each step's columns are among those of all of these, side by side."""
        names = [step.name for step in steps]
        return dict(zip(names, _after([self._sizes[name] for name in names]), strict=True))


def _up(size: int) -> int:
    return up(size, UNIT)


def _after(sizes: Sequence[int]) -> list[slice]:
    """Return the places of parts that lie one after the other."""
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _wider(part: Tensor, columns: int) -> Tensor:
    return F.pad(part, (0, columns - part.shape[-1]))
