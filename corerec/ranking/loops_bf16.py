"""The folded ranker's inner loops on matrix tiles of bfloat16: inputs are rounded, sums float32.

The same steps as `loops_fp32`, 32 rows by 32 columns at a time in four of the eight tile registers,
except that sums U_m z_m of a low rank are computed anew in each layer: kept sums are more than the
first cache holds. What the user adds to a column stays float32, and is where its sum begins.
"""

# mypy: disable-error-code="call-arg"
# B requests, n candidates, T tasks, Du user's inputs, Dp comparisons

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.ranking.ahead import ask
from corerec.ranking.codes import widen_half
from corerec.ranking.layout import (
    ACT,
    BELOW,
    BIAS,
    COLUMNS,
    CROSSED,
    DEPTH,
    FIRST,
    LOGITS,
    READS,
    RELU,
    REQUEST,
    TIMES,
    TO,
    WEIGHT,
    Packed,
)
from corerec.ranking.loops_fp32 import PART, ROWS, Part, add_user
from corerec.ranking.machine import weave
from corerec.ranking.tiles import (
    round_row,
    tile_dot,
    tile_load,
    tile_store,
    tile_zero,
    tiles_begin,
    tiles_end,
)
from corerec.stages import Float32s, Int64s

Bits = NDArray[np.uint16]
ItemRows = Bits | NDArray[np.int8]
"""Items' inputs in bfloat16, or in 8 bits (codes.py)."""
TILE = 1024
"""Bytes of a tile: 16 rows of 64."""


class HalfArena(NamedTuple):
    """One thread's memory, kept between calls."""

    rows: Bits
    """(ROWS, width of a row)"""
    request: Bits
    """The request's matrices"""
    biases: Float32s
    """Biases with what the user adds"""
    scaled: Bits
    """A tile of weights, scaled by the user"""
    scratch: Float32s
    """(32, 32): a block's products"""
    sums: Float32s
    """The sums U_m z_m, block after block, where they are kept"""
    user: Float32s
    """The user's inputs with zeros behind them"""
    stage: Float32s
    """(ROWS, comparisons in vectors): comparisons before they are rounded"""
    config: NDArray[np.uint8]
    """(64,): all eight tiles are 16 rows of 64 bytes"""
    items: int
    """Inputs of an item"""


@compiled
def matrix(step: Int64s, packed: Packed, arena: HalfArena) -> None:
    """Write one step's U^T diag(user) W, woven as the step reads it."""
    users, below, user = packed.u_user.shape[1], step[BELOW], arena.user
    made, scaled, one = arena.scratch.ctypes.data, arena.scaled.ctypes.data, np.float32(1)
    for tile in range((step[COLUMNS] + 15) // 16):
        even = packed.crossed.ctypes.data + 4 * (step[CROSSED] + tile * users * 16)
        for k in range(0, users, 2):
            weave(scaled + k * 32, even, even + 64, user[k], user[k + 1])
            even += 128
        to = arena.request.ctypes.data + 2 * (step[REQUEST] + tile * below * 16)
        for row in range(0, below, 32):
            upper = packed.u_user.ctypes.data + row * users * 2
            lower = upper + 16 * users * 2
            tile_zero(0)
            tile_zero(1)
            _two(upper, lower, users * 2, scaled, users // 32)
            tile_store(0, made, 64)
            tile_store(1, made + TILE, 64)
            for k in range(0, 32, 2):
                weave(to + (row + k) * 32, made + k * 64, made + k * 64 + 64, one, one)


@compiled
def gather(
    table: ItemRows, numbers: Int64s, pairs: Float32s, packed: Packed, arena: HalfArena
) -> None:
    """Lay the inputs of pairs into rows: the item's from the table, the comparisons (Dp, count).

    Numbers (count,) are rows of the table, which were asked for.
    """
    own, count, x = table.shape[1], pairs.shape[1], packed.x
    if table.itemsize == 1:
        begin, line = table.ctypes.data, arena.rows.shape[1] * 2
        for i in range(count):
            to_bytes = arena.rows.ctypes.data + i * line + 2 * x
            widen_half(begin + numbers[i] * own, own, to_bytes)
    else:
        for i in range(count):
            source, to = table[numbers[i]], arena.rows[i, x : x + own]
            for j in range(own):
                to[j] = source[j]
    for j in range(len(pairs)):
        line, column = pairs[j], arena.stage[:count, j]
        for i in range(count):
            column[i] = line[i]
    wide, stride = arena.stage.shape[1], arena.rows.shape[1] * 2
    for i in range(count):
        to_bytes = arena.rows.ctypes.data + i * stride + 2 * (x + arena.items)
        from_bytes = arena.stage.ctypes.data + 4 * i * wide
        for j in range(0, wide, 16):
            round_row(to_bytes + 2 * j, from_bytes + 4 * j, 0, 16, 0, 0)


@compiled
def _four(upper: int, lower: int, stride: int, left: int, right: int, blocks: int) -> None:
    """Add 32 rows by two columns of tiles to tiles 0 to 3."""
    for k in range(blocks):
        tile_load(4, upper + k * 64, stride)
        tile_load(5, lower + k * 64, stride)
        tile_load(6, left + k * TILE, 64)
        tile_load(7, right + k * TILE, 64)
        tile_dot(0, 4, 6)
        tile_dot(1, 5, 6)
        tile_dot(2, 4, 7)
        tile_dot(3, 5, 7)


@compiled
def _two(upper: int, lower: int, stride: int, left: int, blocks: int) -> None:
    """Add 32 rows by one column of tiles to tiles 0 and 1."""
    for k in range(blocks):
        tile_load(4, upper + k * 64, stride)
        tile_load(5, lower + k * 64, stride)
        tile_load(6, left + k * TILE, 64)
        tile_dot(0, 4, 6)
        tile_dot(1, 5, 6)


@compiled
def product(step: Int64s, count: int, packed: Packed, arena: HalfArena, out: Float32s) -> None:
    """Take `count` rows through a step; the last writes out (T, count).

    Sums that are kept lie where their blocks are stored, and their next layer begins with them.

    Inner functions are given numbers alone: arrays that are passed on are counted each time.
    """
    act, columns, blocks, more = step[ACT], step[COLUMNS], step[DEPTH] // 32, step[BELOW] // 32
    rows, stride = arena.rows.ctypes.data, arena.rows.shape[1] * 2
    reads, to, x = rows + step[READS] * 2, rows + step[TO] * 2, rows + packed.x * 2
    weights = packed.weights.ctypes.data + 2 * step[WEIGHT]
    request = arena.request.ctypes.data + 2 * step[REQUEST]
    biases, made = arena.biases.ctypes.data + 4 * step[BIAS], arena.scratch.ctypes.data
    sums = arena.sums.ctypes.data if packed.keeps and act == TIMES else 0
    for column in range(0, columns, 32):
        two = columns - column > 16
        right = weights + column // 16 * blocks * TILE
        mine = request + column // 16 * more * TILE
        for row in range(0, count, 32):
            if sums:
                made = sums + (column * ROWS + row * 32) * 4
            if sums and not step[FIRST]:
                _begin(made, 128, two)
            else:
                _begin(biases + 4 * column, 0, two)
            _multiply(reads + row * stride, stride, right, blocks, mine, more, two)
            _end(made, two)
            goal = to + row * stride + 2 * column
            if act == TIMES:
                _times(goal, stride, made, x + row * stride + 2 * column, two)
            elif act == RELU:
                _relu(goal, stride, made, two)
            elif act == LOGITS:
                _logits(step, row, column, count, arena, out)
            else:
                _round(goal, stride, made, two)


@compiled
def _multiply(
    left: int, stride: int, right: int, blocks: int, mine: int, more: int, two: bool
) -> None:
    """Add the products of 32 rows and 32 columns, or 16, to tiles 0 to 3."""
    lower, after = left + 16 * stride, blocks * 64
    if two:
        _four(left, lower, stride, right, right + blocks * TILE, blocks)
        _four(left + after, lower + after, stride, mine, mine + more * TILE, more)
    else:
        _two(left, lower, stride, right, blocks)
        _two(left + after, lower + after, stride, mine, more)


@compiled
def _begin(rows: int, stride: int, two: bool) -> None:
    """Set tiles 0 to 3 to 32 rows: all to the biases, with no stride, or to what `_end` stored."""
    lower = rows + 16 * stride
    tile_load(0, rows, stride)
    tile_load(1, lower, stride)
    if two:
        tile_load(2, rows + 64, stride)
        tile_load(3, lower + 64, stride)


@compiled
def _end(made: int, two: bool) -> None:
    """Store tiles 0 to 3."""
    tile_store(0, made, 128)
    tile_store(1, made + 2 * TILE, 128)
    if two:
        tile_store(2, made + 64, 128)
        tile_store(3, made + 2 * TILE + 64, 128)


@compiled
def _times(goal: int, stride: int, made: int, by: int, two: bool) -> None:
    """Round 32 rows of products times x."""
    for _ in range(32):
        if two:
            round_row(goal, made, by, 32, 1, 0)
        else:
            round_row(goal, made, by, 16, 1, 0)
        goal, made, by = goal + stride, made + 128, by + stride


@compiled
def _relu(goal: int, stride: int, made: int, two: bool) -> None:
    """Round 32 rows of products, no less than 0."""
    for _ in range(32):
        if two:
            round_row(goal, made, made, 32, 0, 1)
        else:
            round_row(goal, made, made, 16, 0, 1)
        goal, made = goal + stride, made + 128


@compiled
def _round(goal: int, stride: int, made: int, two: bool) -> None:
    """Round 32 rows of products."""
    for _ in range(32):
        if two:
            round_row(goal, made, made, 32, 0, 0)
        else:
            round_row(goal, made, made, 16, 0, 0)
        goal, made = goal + stride, made + 128


@compiled
def _logits(
    step: Int64s, row: int, column: int, count: int, arena: HalfArena, out: Float32s
) -> None:
    """Write a block of logits to out (T, count)."""
    for t in range(column, min(step[COLUMNS], column + 32)):
        for i in range(row, min(count, row + 32)):
            out[t, i] = arena.scratch[i - row, t - column]


@compiled
def run_bf16(
    packed: Packed,
    arena: HalfArena,
    users: Float32s,
    table: ItemRows,
    candidates: Int64s,
    pairs: Float32s,
    out: Float32s,
    part: Part,
) -> None:
    """Write the logits of a part of B requests by n candidates.

    Shapes: users (B, Du), table (N, Di in vectors), candidates (B, n), pairs (Dp, B, n),
    out (T, B, n).
    """
    tiles_begin(arena.config.ctypes.data)
    for b in range(part.first, part.last):
        add_user(users[b], packed.of_user, packed.biases, arena.biases)
        arena.user[: users.shape[1]] = users[b]
        for step in packed.program:
            if step[BELOW]:
                matrix(step, packed, arena)
        for start in range(part.begin, part.end, ROWS):
            end = min(part.end, start + ROWS)
            if (start - part.begin) % PART == 0:
                asked = candidates[b, start : min(part.end, start + PART)]
                ask(table.ctypes.data, table.shape[1] * table.itemsize, asked, len(table))
            gather(table, candidates[b, start:end], pairs[:, b, start:end], packed, arena)
            for step in packed.program:
                product(step, end - start, packed, arena, out[:, b, start:end])
    tiles_end()
