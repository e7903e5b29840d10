"""The folded ranker's inner loops in float32: a chunk of pairs goes through all steps in the cache.

`CpuKernel` is the interface. Every pair's numbers come from its own row and its request's alone, in
the same order whatever else is computed: scores are bit-equal however requests share a batch.
"""

# mypy: disable-error-code="call-arg"
# B requests, n candidates, T tasks, Du user's inputs, Dp comparisons

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.ranking.ahead import ask
from corerec.ranking.codes import widen
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
from corerec.ranking.machine import LANES, MR, block_dot, finish
from corerec.stages import Float32s, Int64s

ItemRows = Float32s | NDArray[np.int8]
"""Items' inputs as they are, or in 8 bits (codes.py)."""
ROWS = 96
"""Pairs of a chunk, a multiple of MR and of 32: their rows stay in a core's second cache."""


PART = 5 * ROWS
"""Pairs whose rows of the table are asked for at once."""


class Arena(NamedTuple):
    """One thread's memory, kept between calls."""

    rows: Float32s
    """(ROWS + MR, width of a row)"""
    sums: Float32s
    """(ROWS + MR, inputs of a pair): sum U_m z_m so far"""
    request: Float32s
    """The request's matrices"""
    biases: Float32s
    """Biases with what the user adds"""
    scaled: Float32s
    """Two tiles of weights, scaled by the user"""
    scratch: Float32s
    """(32, 2 tiles): a block's products"""
    items: int
    """Inputs of an item"""


class Part(NamedTuple):
    """Which requests and which of their candidates one thread computes, the ends left out."""

    first: int
    last: int
    begin: int
    end: int


@compiled
def add_user(user: Float32s, weights: Float32s, biases: Float32s, out: Float32s) -> None:
    """Write biases plus what the user adds to the first of them."""
    out[:] = biases
    used, count = weights.shape[1], len(user)
    whole = count // 4 * 4
    for place in range(0, whole, 4):
        a, b, c, d = user[place], user[place + 1], user[place + 2], user[place + 3]
        first, second = weights[place], weights[place + 1]
        third, fourth = weights[place + 2], weights[place + 3]
        for j in range(used):
            out[j] += a * first[j] + b * second[j] + c * third[j] + d * fourth[j]
    for place in range(whole, count):
        by, first = user[place], weights[place]
        for j in range(used):
            out[j] += by * first[j]


@compiled
def matrix(step: Int64s, user: Float32s, packed: Packed, arena: Arena) -> None:
    """Write one step's U^T diag(user) W, in tiles."""
    users, below = packed.u_user.shape[1], step[BELOW]
    size, scaled = users * LANES, arena.scaled
    room = (below + MR - 1) // MR * MR * LANES
    tiles = (step[COLUMNS] + LANES - 1) // LANES
    for tile in range(0, tiles, 2):
        width = min(2, tiles - tile) * size
        start = step[CROSSED] + tile * size
        own = packed.crossed[start : start + width]
        for place in range(width // LANES):
            by, at = user[place % users], place * LANES
            source, goal = own[at : at + LANES], scaled[at : at + LANES]
            for j in range(LANES):
                goal[j] = source[j] * by
        first = arena.request.ctypes.data + 4 * (step[REQUEST] + tile * room)
        second, right = first + room * 4, scaled.ctypes.data
        for row in range(0, below, MR):
            left, at = packed.u_user.ctypes.data + row * users * 4, row * LANES * 4
            if width > size:
                beside = right + size * 4
                block_dot(
                    first + at, second + at, LANES * 4, left, users * 4, right, beside, users, 2, 0
                )
            else:
                block_dot(first + at, first, LANES * 4, left, users * 4, right, right, users, 1, 0)


@compiled
def vectors(step: Int64s, user: Float32s, packed: Packed, arena: Arena) -> None:
    """Write the logits' U^T diag(user) w, a task after the other."""
    users, below = packed.u_user.shape[1], step[BELOW]
    scaled = arena.scaled
    for t in range(step[COLUMNS]):
        start, to = step[CROSSED] + t * users, step[REQUEST] + t * below
        own, result = packed.crossed[start : start + users], arena.request[to : to + below]
        for k in range(users):
            scaled[k] = own[k] * user[k]
        for row in range(below):
            left, total = packed.u_user[row], np.float32(0)
            for k in range(users):
                total += left[k] * scaled[k]
            result[row] = total


@compiled
def gather(table: ItemRows, numbers: Int64s, pairs: Float32s, packed: Packed, arena: Arena) -> None:
    """Lay the inputs of pairs into rows: the item's from the table, the comparisons (Dp, count).

    Numbers (count,) are rows of the table, which were asked for. What whole blocks of codes write
    behind an item's inputs is written again, here and in the steps.
    """
    own, count, x = arena.items, pairs.shape[1], packed.x
    if table.itemsize == 1:
        begin, width, stride = table.ctypes.data, table.shape[1], arena.rows.shape[1] * 4
        for i in range(count):
            to_bytes = arena.rows.ctypes.data + i * stride + 4 * x
            widen(begin + numbers[i] * width, width, to_bytes)
    else:
        for i in range(count):
            source, to = table[numbers[i]], arena.rows[i, x : x + own]
            for j in range(own):
                to[j] = source[j]
    for j in range(len(pairs)):
        source, to = pairs[j], arena.rows[:count, x + own + j]
        for i in range(count):
            to[i] = source[i]


@compiled
def logits(step: Int64s, packed: Packed, arena: Arena, out: Float32s) -> None:
    """Write the last step's results, few columns of long sums, to out (T, count)."""
    depth, below, at = step[DEPTH], step[BELOW], step[READS]
    for t in range(len(out)):
        fixed, own = step[WEIGHT] + t * depth, step[REQUEST] + t * below
        first, second = packed.weights[fixed : fixed + depth], arena.request[own : own + below]
        bias, result = arena.biases[step[BIAS] + t], out[t]
        for i in range(len(result)):
            row = arena.rows[i]
            left, right = row[at : at + depth], row[at + depth : at + depth + below]
            total = bias
            for k in range(depth):
                total += left[k] * first[k]
            for k in range(below):
                total += right[k] * second[k]
            result[i] = total


@compiled
def product(step: Int64s, count: int, packed: Packed, arena: Arena) -> None:
    """Take `count` rows through a step, MR rows by two tiles at a time.

    Inner functions are given numbers alone: arrays that are passed on are counted each time.
    """
    depth, below, act, columns = step[DEPTH], step[BELOW], step[ACT], step[COLUMNS]
    rows, stride = arena.rows.ctypes.data, arena.rows.shape[1] * 4
    reads, to, x = rows + step[READS] * 4, rows + step[TO] * 4, rows + packed.x * 4
    weights = packed.weights.ctypes.data + 4 * step[WEIGHT]
    request = arena.request.ctypes.data + 4 * step[REQUEST]
    biases = arena.biases.ctypes.data + 4 * step[BIAS]
    made, side = arena.scratch.ctypes.data, 2 * LANES * 4
    sums, sums_side = arena.sums.ctypes.data, arena.sums.shape[1] * 4
    room = (below + MR - 1) // MR * MR * LANES * 4
    again = act == TIMES and step[FIRST] == 0
    for column in range(0, columns, 2 * LANES):
        tile, width = column // LANES, min(columns - column, 2 * LANES)
        right, mine = weights + tile * depth * LANES * 4, request + tile * room
        for row in range(0, count, MR):
            left = reads + row * stride
            if act == TIMES:
                made, side = sums + row * sums_side + column * 4, sums_side
            _block(made, side, left, stride, right, depth, width, again)
            if below:
                if width > LANES:
                    second, after = made + LANES * 4, left + depth * 4
                    block_dot(made, second, side, after, stride, mine, mine + room, below, 2, 1)
                else:
                    after = left + depth * 4
                    block_dot(made, made, side, after, stride, mine, mine, below, 1, 1)
            goal, by = to + row * stride + column * 4, biases + column * 4
            if act == TIMES:
                by = x + row * stride + column * 4
            _finish(act, goal, stride, made, side, by, width)


@compiled
def _block(
    made: int, side: int, left: int, stride: int, right: int, depth: int, width: int, again: bool
) -> None:
    """Write, or add, the products of MR rows and up to two tiles."""
    second, beside = made + LANES * 4, right + depth * LANES * 4
    if width > LANES:
        if again:
            block_dot(made, second, side, left, stride, right, beside, depth, 2, 1)
        else:
            block_dot(made, second, side, left, stride, right, beside, depth, 2, 0)
    elif again:
        block_dot(made, made, side, left, stride, right, right, depth, 1, 1)
    else:
        block_dot(made, made, side, left, stride, right, right, depth, 1, 0)


@compiled
def _finish(act: int, goal: int, stride: int, made: int, side: int, by: int, width: int) -> None:
    """Write a block's products where they belong: with the bias, or times x.

    A part may end within a tile: what follows belongs to the next part.
    """
    for at in range(0, width * 4, LANES * 4):
        keep = min(LANES, width - at // 4)
        to, source, other = goal + at, made + at, by + at
        for _ in range(MR):
            if act == TIMES:
                finish(to, source, other, keep, LANES, 1, 0)
                other += stride
            elif act == RELU:
                finish(to, source, other, keep, LANES, 0, 1)
            else:
                finish(to, source, other, keep, LANES, 0, 0)
            to += stride
            source += side


@compiled
def run_fp32(
    packed: Packed,
    arena: Arena,
    users: Float32s,
    table: ItemRows,
    candidates: Int64s,
    pairs: Float32s,
    out: Float32s,
    part: Part,
) -> None:
    """Write the logits of a part of B requests by n candidates.

    Shapes: users (B, Du), table (N, Di), candidates (B, n), pairs (Dp, B, n), out (T, B, n).
    """
    for b in range(part.first, part.last):
        add_user(users[b], packed.of_user, packed.biases, arena.biases)
        for step in packed.program:
            if step[BELOW] and step[ACT] == LOGITS:
                vectors(step, users[b], packed, arena)
            elif step[BELOW]:
                matrix(step, users[b], packed, arena)
        for start in range(part.begin, part.end, ROWS):
            end = min(part.end, start + ROWS)
            if (start - part.begin) % PART == 0:
                asked = candidates[b, start : min(part.end, start + PART)]
                ask(table.ctypes.data, table.shape[1] * table.itemsize, asked, len(table))
            gather(table, candidates[b, start:end], pairs[:, b, start:end], packed, arena)
            for step in packed.program:
                if step[ACT] == LOGITS:
                    logits(step, packed, arena, out[:, b, start:end])
                else:
                    product(step, end - start, packed, arena)
