"""Products alone: this machine's peaks at the kernel's shapes, and the kernel's own steps.

The peak of a product is the best of two that write their results: the library's (`torch.mm`, MKL or
oneDNN), and the kernel's inner loop. The inner loop is timed with nowhere to write to, too: no
product is as fast, but it is what the arithmetic allows.
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
LIBRARY_ROWS = 504
"""As many as a request has, rounded up to whole blocks."""


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
def _products_fp32(rows, weights, out, depth, columns, repeats, writes):
    """Multiply; each block goes to its own place of `out` (ROWS, N), or all to the same."""
    stride, side = rows.shape[1] * 4, out.shape[1] * 4
    for _ in range(repeats):
        for column in range(0, columns, 2 * LANES):
            right = weights.ctypes.data + column * depth * 4
            for row in range(0, ROWS, MR):
                left, to = rows.ctypes.data + row * stride, out.ctypes.data
                if writes:
                    to += row * side + 4 * column
                block_dot(
                    to, to + LANES * 4, side, left, stride, right, right + depth * LANES * 4,
                    depth, 2, 0,
                )  # fmt: skip


@compiled
def _products_bf16(rows, weights, out, blocks, columns, repeats, writes, config):
    """Multiply; each block goes to its own place of `out` (ROWS, N), or all to the same."""
    stride, side = rows.shape[1] * 2, out.shape[1] * 4
    tiles_begin(config.ctypes.data)
    for _ in range(repeats):
        for column in range(0, columns, 32):
            right = weights.ctypes.data + column // 16 * blocks * 1024
            for row in range(0, ROWS, 32):
                left, to = rows.ctypes.data + row * stride, out.ctypes.data
                if writes:
                    to += row * side + 4 * column
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
                tile_store(0, to, side)
                tile_store(1, to + 16 * side, side)
                tile_store(2, to + 64, side)
                tile_store(3, to + 16 * side + 64, side)
    tiles_end()


def products(
    depth: int, columns: int, *, half: bool, config: Any = None
) -> dict[str, Callable[[], object]]:
    """Return calls of (rows, K) times (K, N), of as many rows as `rows_of` says.

    The library's; ours, with float32 results (ROWS, N); and our inner loop, whose results all go
    to the same place.
    """
    dtype = torch.bfloat16 if half else torch.float32
    left, right = torch.randn(LIBRARY_ROWS, depth).to(dtype), torch.randn(depth, columns).to(dtype)
    out = torch.empty(LIBRARY_ROWS, columns, dtype=dtype)
    deep, wide = up(depth, 32) if half else depth, up(columns, 32)
    weights = bits(aligned(pack(torch.randn(deep, wide), half=half)))
    # Of zeros a core multiplies a seventh more tiles a second than of numbers.
    rows = bits((torch.randn(ROWS, up(deep, 32) + 32) * 0.3).to(dtype))
    narrow, full = torch.zeros(32, 32).numpy(), aligned(torch.zeros(ROWS, wide)).numpy()

    def own(results: Any, writes: bool) -> Callable[[], object]:
        if half:
            given = (rows, weights, results, deep // 32, wide, REPEATS, writes, config)
            return lambda: _products_bf16(*given)
        return lambda: _products_fp32(rows, weights, results, deep, wide, REPEATS, writes)

    return {
        "library": lambda: torch.mm(left, right, out=out),
        "product": own(full, True),
        "inner_loop": own(narrow, False),
    }


def rows_of(name: str) -> int:
    """Return how many rows a call of one of `products` multiplies."""
    return LIBRARY_ROWS if name == "library" else REPEATS * ROWS


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


def steps_of(kernel: CpuKernel, folded: Fold) -> Callable[[], object]:
    """Return all steps of REPEATS * ROWS pairs: biases, ReLU and rounding, without gathering."""
    out = torch.zeros(folded.steps[-1].weight.shape[1], ROWS).numpy()
    steps: Any = _steps_bf16 if kernel.precision == "bf16" else _steps_fp32
    packed, arena = kernel.memory()
    return lambda: steps(packed, arena, out, REPEATS)
