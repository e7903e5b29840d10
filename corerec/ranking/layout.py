"""Layout: where the parts of a pair's row lie, and a fold's weights as compiled loops read them.

A row holds [h0 .. | last h | x | y | z0 | z1 ..], so that whatever a step reads lies side by side.
Weights are packed in tiles: (K, LANES) of float32 one after the other, or pairs of rows woven into
blocks of 32 by 16 bfloat16, which is how matrix tiles are read.
"""

# K depth of a product, N its columns, M cross layers, R rank, Du user's inputs, C columns in all

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.ranking.fold import Fold, Step
from corerec.ranking.machine import LANES, MR
from corerec.stages import Float32s, Int64s

READS, DEPTH, WEIGHT, BELOW, REQUEST, COLUMNS, BIAS, ACT, TO, CROSSED, FIRST = range(11)
"""Columns of a program, which has a step a row; offsets and sizes in numbers, not bytes."""
RELU, TIMES, LOGITS = 1, 2, 3
ACTS = {"none": 0, "relu": RELU, "times x": TIMES}
_KEEPS = 64
"""Rank, filled up to tiles, from which in bfloat16 a sum U_m z_m is read back from the second cache
in less time than it is made anew: measured, 6% of all steps at rank 64, and at rank 16 the other
way about."""


class Packed(NamedTuple):
    """What the compiled loops read; bfloat16 as uint16."""

    program: Int64s
    """(steps, 11)"""
    weights: Float32s
    of_user: Float32s
    """(Du, C'): what the user adds to the first C' of the steps' columns"""
    biases: Float32s
    """(C,)"""
    crossed: Float32s
    """The steps' crossed weights: float32 in both precisions, woven when the user scaled them"""
    u_user: Float32s
    """(M R and MR rows of zeros, Du)"""
    x: int
    """Where x begins in a row"""
    keeps: bool
    """Whether sums U_m z_m are kept from layer to layer; in bfloat16. Else each is made anew."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A fold in the memory order of one precision."""

    packed: Packed
    tasks: int
    width: int
    """Numbers in a pair's row"""
    request: int
    """Numbers of a request's matrices"""


def up(size: int, unit: int) -> int:
    """Return size rounded up to a multiple of unit."""
    return -(-size // unit) * unit


def lay_out(fold: Fold, *, half: bool) -> Layout:
    """Return the layout of a fold on the CPU, for bfloat16 when `half`."""
    unit, lanes = (32, 16) if half else (1, LANES)
    places, sizes, width = _places(fold, unit)
    columns, used, count = _columns(fold, lanes)
    program = np.zeros((len(fold.steps), 11), np.int64)
    biases, of_user = np.zeros(count, np.float32), np.zeros((fold.users, used), np.float32)
    weights: list[Tensor] = []
    crossed = [torch.zeros(1)]
    packed = request = 0
    keeps, above = half and sizes["z0"] >= _KEEPS, list[Tensor]()
    for row, step, bias in zip(program, fold.steps, columns, strict=True):
        wide, last = step.weight.shape[1], step.name == "logits"
        if step.bias is not None:
            biases[bias : bias + wide] = step.bias.numpy()
        if step.of_user is not None:
            of_user[:, bias : bias + wide] = step.of_user.numpy()
        padded, first = _padded(step, fold, sizes), step.reads[0]
        if half and step.act == "times x" and not keeps:
            above.append(padded)
            padded, first = torch.cat(above), "z0"
        row[READS], row[DEPTH], row[WEIGHT] = places[first], len(padded), packed
        row[COLUMNS], row[BIAS], row[TO] = wide, bias, places.get(step.name, 0)
        row[ACT], row[FIRST] = (LOGITS if last else ACTS[step.act]), step.reads == ("z0",)
        # In float32 logits are sums along a row, a column of weights after the other.
        weights.append(padded.T.flatten() if last and not half else pack(padded, half=half))
        packed += weights[-1].numel()
        if step.crossed is not None and fold.users:
            below = step.below * sizes["z0"]
            row[BELOW], row[REQUEST] = below, request
            row[CROSSED] = sum(part.numel() for part in crossed)
            own = torch.zeros(up(fold.users, unit), wide)
            own[: fold.users] = step.crossed
            crossed.append(own.T.flatten() if last and not half else pack(own, half=False))
            # In float32 blocks of MR rows may write beyond the last one.
            request += up(wide, lanes) * up(below, unit if half else MR)
    return Layout(
        packed=Packed(
            program=program,
            weights=bits(aligned(torch.cat(weights))),
            of_user=of_user,
            biases=bits(aligned(torch.from_numpy(biases))),
            crossed=bits(aligned(torch.cat(crossed))),
            u_user=bits(aligned(_of_users(fold, sizes["z0"], unit, half=half))),
            x=places["x"],
            keeps=keeps,
        ),
        tasks=fold.steps[-1].weight.shape[1],
        width=width,
        request=request,
    )


def _places(fold: Fold, unit: int) -> tuple[dict[str, int], dict[str, int], int]:
    """Return where each part of a row begins, how wide it is, and how wide they are together."""
    sizes = {step.name: up(step.weight.shape[1], unit) for step in fold.steps}
    sizes["x"] = up(fold.wide, unit)
    del sizes["logits"]
    hidden = [name for name in sizes if name[0] == "h"]
    crosses = [name for name in sizes if name[0] == "z"]
    places, width = {}, 0
    for name in (*hidden, "x", "y", *crosses):
        places[name] = width
        width += sizes[name]
    return places, sizes, width


def _columns(fold: Fold, lanes: int) -> tuple[list[int], int, int]:
    """Return where each step's columns begin in a vector of all, those that users add to first.

    Then the count of these, and of all.
    """
    found, at = [0] * len(fold.steps), 0
    used = 0
    for own in (True, False):
        for place, step in enumerate(fold.steps):
            if (step.of_user is not None) == own:
                found[place] = at
                at += up(step.weight.shape[1], lanes)
        used = at if own else used
    return found, used, at


def _padded(step: Step, fold: Fold, sizes: dict[str, int]) -> Tensor:
    """Return the weights with each part's rows as far apart as the parts are in a row."""
    widths = {own.name: own.weight.shape[1] for own in fold.steps} | {"x": fold.wide}
    parts = torch.split(step.weight, [widths[name] for name in step.reads])
    return torch.cat(
        [
            torch.nn.functional.pad(part, (0, 0, 0, sizes[name] - len(part)))
            for part, name in zip(parts, step.reads, strict=True)
        ]
    )


def _of_users(fold: Fold, rank: int, unit: int, *, half: bool) -> Tensor:
    depth, own = fold.u_user.shape[:2]
    found = torch.zeros(depth, rank, up(fold.users, unit))
    found[:, :own, : fold.users] = fold.u_user
    found = torch.cat([found.flatten(0, 1), torch.zeros(MR, found.shape[2])])
    return found.bfloat16() if half else found


def pack(weight: Tensor, *, half: bool) -> Tensor:
    """Return (K, N) as tiles in one vector; K a multiple of 32 in bfloat16."""
    depth, count = weight.shape
    lanes = 16 if half else LANES
    padded = torch.nn.functional.pad(weight, (0, up(count, lanes) - count))
    if not half:
        return padded.reshape(depth, -1, lanes).permute(1, 0, 2).flatten()
    woven = padded.reshape(depth // 32, 16, 2, -1, 16).permute(3, 0, 1, 4, 2)
    return woven.flatten().bfloat16()


def aligned(tensor: Tensor) -> Tensor:
    """Return a copy that begins at a cache line, with a vector of room behind it.

    Vectors that straddle two lines are read at half the speed; torch aligns to 64 bytes.
    """
    room = torch.zeros(tensor.numel() + 32, dtype=tensor.dtype)
    found = room[: tensor.numel()].view(tensor.shape)
    found.copy_(tensor)
    return found


def bits(tensor: Tensor) -> Any:
    """Return a tensor's memory as an array, bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
