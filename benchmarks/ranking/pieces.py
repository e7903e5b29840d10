"""Times the products alone: this machine's peak at the kernel's shapes, and the kernel's own steps.

A peak is the best of two: the library's (`torch.mm`, MKL or oneDNN), and the kernel's inner loop
without anything before or after it.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
# K depth, N columns of a product

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from corerec.engines.compiled import compiled
from corerec.ranking import loops_bf16, loops_fp32
from corerec.ranking.fold import Fold
from corerec.ranking.kernel import CpuKernel
from corerec.ranking.layout import ACT, LOGITS, aligned, bits, pack, up
from corerec.ranking.loops_fp32 import ROWS
from corerec.ranking.machine import LANES, MR, block_dot
from corerec.ranking.tiles import tile_dot, tile_load, tile_store, tile_zero, tiles_begin, tiles_end

REPEATS = 20


def best_seconds(call: Callable[[], object], repeats: int = 60) -> float:
    """Return the least processor time of a call; the first one, which compiles, is not counted."""
    call()
    found = []
    for _ in range(repeats):
        begin = time.thread_time()
        call()
        found.append(time.thread_time() - begin)
    return min(found)


@compiled
def _products_fp32(rows, weights, out, depth, columns, repeats):
    stride, side = rows.shape[1] * 4, out.shape[1] * 4
    for _ in range(repeats):
        for column in range(0, columns, 2 * LANES):
            right = weights.ctypes.data + column * depth * 4
            for row in range(0, ROWS, MR):
                left, to = rows.ctypes.data + row * stride, out.ctypes.data
                block_dot(
                    to, to + LANES * 4, side, left, stride, right, right + depth * LANES * 4,
                    depth, 2, 0,
                )  # fmt: skip


@compiled
def _products_bf16(rows, weights, out, blocks, columns, repeats, config):
    stride = rows.shape[1] * 2
    tiles_begin(config.ctypes.data)
    for _ in range(repeats):
        for column in range(0, columns, 32):
            right = weights.ctypes.data + column // 16 * blocks * 1024
            for row in range(0, ROWS, 32):
                left, to = rows.ctypes.data + row * stride, out.ctypes.data
                tile_zero(0)
                tile_zero(1)
                tile_zero(2)
                tile_zero(3)
                for k in range(blocks):
                    tile_load(4, left + k * 64, stride)
                    tile_load(5, left + 16 * stride + k * 64, stride)
                    tile_load(6, right + k * 1024, 64)
                    tile_load(7, right + (blocks + k) * 1024, 64)
                    tile_dot(0, 4, 6)
                    tile_dot(1, 5, 6)
                    tile_dot(2, 4, 7)
                    tile_dot(3, 5, 7)
                tile_store(0, to, 128)
                tile_store(1, to + 2048, 128)
                tile_store(2, to + 64, 128)
                tile_store(3, to + 2112, 128)
    tiles_end()


def peak(depth: int, columns: int, *, half: bool, config: Any = None) -> dict[str, float]:
    """Return operations a second of (rows, K) times (K, N): the library's and the inner loop's."""
    dtype = torch.bfloat16 if half else torch.float32
    left, right = torch.randn(504, depth).to(dtype), torch.randn(depth, columns).to(dtype)
    out = torch.empty(504, columns, dtype=dtype)
    work = 2 * depth * columns
    library = 504 * work / best_seconds(lambda: torch.mm(left, right, out=out))
    deep, wide = up(depth, 32) if half else depth, up(columns, 32)
    weights = bits(aligned(pack(torch.randn(deep, wide), half=half)))
    # Of zeros a core multiplies a seventh more tiles a second than of numbers.
    rows = bits((torch.randn(ROWS, up(deep, 32) + 32) * 0.3).to(dtype))
    scratch = torch.zeros(32, 32).numpy()
    if half:
        given = (rows, weights, scratch, deep // 32, wide, REPEATS, config)
        own = best_seconds(lambda: _products_bf16(*given))
    else:
        own = best_seconds(lambda: _products_fp32(rows, weights, scratch, deep, wide, REPEATS))
    return {"library": library, "inner_loop": REPEATS * ROWS * work / own}


@compiled
def _steps_fp32(packed, arena, out, repeats):
    for _ in range(repeats):
        for step in packed.program:
            if step[ACT] == LOGITS:
                loops_fp32_logits(step, packed, arena, out)
            else:
                loops_fp32_product(step, out.shape[1], packed, arena)


@compiled
def _steps_bf16(packed, arena, out, repeats):
    tiles_begin(arena.config.ctypes.data)
    for _ in range(repeats):
        for step in packed.program:
            loops_bf16_product(step, out.shape[1], packed, arena, out)
    tiles_end()


loops_fp32_logits, loops_fp32_product = loops_fp32.logits, loops_fp32.product
loops_bf16_product = loops_bf16.product


def seconds_of_steps(kernel: CpuKernel, folded: Fold) -> float:
    """Return what all steps take a pair, with biases, ReLU and rounding, without the gathering."""
    out = torch.zeros(folded.steps[-1].weight.shape[1], ROWS).numpy()
    steps: Any = _steps_bf16 if kernel.precision == "bf16" else _steps_fp32
    packed, arena = kernel.memory()
    return best_seconds(lambda: steps(packed, arena, out, REPEATS)) / (REPEATS * ROWS)
