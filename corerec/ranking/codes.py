"""Items' inputs in 8 bits: 16 at a time share a scale, the largest of them is 127 times it.

A row is self-contained, so items that come later need nothing of the others: the scales of its
blocks (float32), then the codes. It takes 1.25 bytes an input, where bfloat16 takes 2.
"""

# mypy: disable-error-code="import-untyped"
# m items, Di inputs of an item, W bytes of a row

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from numba import types
from torch import Tensor

from corerec.engines.compiled import compiled
from corerec.ranking.machine import BF16, F32, instruction, literal, load, store

BLOCK = 16
"""Inputs that share a scale."""
_LARGEST = 127
_SCALE_BYTES = 4
_BLOCK_BYTES = BLOCK + _SCALE_BYTES


def width_of(inputs: int) -> int:
    """Return the bytes of a row of so many inputs."""
    return -(-inputs // BLOCK) * _BLOCK_BYTES


def encode(inputs: Tensor) -> Tensor:
    """Return rows (m, W) int8 of inputs (m, Di); of a block that is not finite nothing is."""
    count, wide = inputs.shape
    if not inputs.numel():
        return torch.zeros(count, width_of(wide), dtype=torch.int8)
    blocks = -(-wide // BLOCK)
    padded = torch.nn.functional.pad(inputs.float(), (0, blocks * BLOCK - wide))
    values = padded.view(count, blocks, BLOCK)
    scales = values.abs().amax(2) / _LARGEST
    codes = (values / scales.where(scales > 0, 1.0)[:, :, None]).round().nan_to_num(0.0, 0.0, 0.0)
    codes = codes.clamp(-_LARGEST, _LARGEST)  # the scales of the tiniest inputs are rounded
    return torch.cat(
        [scales.view(torch.int8), codes.to(torch.int8).view(count, blocks * BLOCK)], dim=1
    )


def decode(rows: Tensor) -> Tensor:
    """Return what a kernel reads of rows (m, W), before it rounds: (m, Di rounded up to BLOCK)."""
    blocks = rows.shape[1] // _BLOCK_BYTES
    if not rows.numel():
        return torch.zeros(len(rows), blocks * BLOCK)
    scales = rows[:, : blocks * _SCALE_BYTES].contiguous().view(torch.float32)
    codes = rows[:, blocks * _SCALE_BYTES :].view(len(rows), blocks, BLOCK).float()
    return (codes * scales[:, :, None]).view(len(rows), blocks * BLOCK)


@instruction
def _widen(typing: Any, to: Any, codes: Any, scale: Any, half: Any) -> Any:
    """Write 16 codes times their scale, whose address is given, as bfloat16 or float32."""
    (thin,) = literal(half)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        wide = ir.VectorType(F32, BLOCK)
        small = load(builder, given[1], ir.VectorType(ir.IntType(8), BLOCK), 1)
        values = builder.sitofp(builder.sext(small, ir.VectorType(ir.IntType(32), BLOCK)), wide)
        blank = ir.Constant(wide, ir.Undefined)
        one = builder.insert_element(
            blank, load(builder, given[2], F32, 4), ir.Constant(ir.IntType(32), 0)
        )
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), [0] * BLOCK)
        values = builder.fmul(values, builder.shuffle_vector(one, blank, zeros))
        if thin:
            values = builder.fptrunc(values, ir.VectorType(BF16, BLOCK))
        store(builder, values, given[0], 2 if thin else 4)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, half), generate


@compiled
def widen_half(row: int, width: int, to: int) -> None:
    """Write a row of `width` bytes at an address to another as bfloat16, whole blocks."""
    blocks = width // _BLOCK_BYTES
    codes = row + blocks * _SCALE_BYTES
    for block in range(blocks):
        at = block * BLOCK
        _widen(to + 2 * at, codes + at, row + block * _SCALE_BYTES, 1)


@compiled
def widen(row: int, width: int, to: int) -> None:
    """Do as `widen_half` in float32."""
    blocks = width // _BLOCK_BYTES
    codes = row + blocks * _SCALE_BYTES
    for block in range(blocks):
        at = block * BLOCK
        _widen(to + 4 * at, codes + at, row + block * _SCALE_BYTES, 0)
