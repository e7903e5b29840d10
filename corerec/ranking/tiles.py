"""Matrix tiles (Intel AMX) for compiled loops: eight registers of 16 rows of 64 bytes.

A tile of bfloat16 is 16 rows of 32 inputs, or 16 pairs of inputs by 16 columns; their product is 16
by 16 float32. Addresses are integers, sizes are the caller's to get right.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from corerec.ranking.machine import (
    BF16,
    F32,
    FEATURES,
    function_of,
    instruction,
    literal,
    load,
    pointer,
    store,
)

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_BYTES = _I8.as_pointer()


@functools.cache
def has_amx() -> bool:
    """Return whether this process may use matrix tiles of bfloat16; asks the kernel for them."""
    if not {"amx-bf16", "avx512bf16"} <= FEATURES:
        return False
    if platform.system() != "Linux":
        return False
    prctl, request, tile_data = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
    return bool(ctypes.CDLL(None).syscall(prctl, request, tile_data) == 0)


def _call(context: Any, builder: Any, name: str, kinds: list[Any], given: list[Any]) -> Any:
    builder.call(function_of(builder, name, ir.FunctionType(ir.VoidType(), kinds)), given)
    return context.get_dummy_value()


def _tile(number: int) -> Any:
    return ir.Constant(_I8, number)


@instruction
def tiles_begin(typing: Any, config: Any) -> Any:
    """Set up the tile registers as the 64 bytes at an address say."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        at = pointer(builder, given[0], _I8)
        return _call(context, builder, "llvm.x86.ldtilecfg", [_BYTES], [at])

    return types.void(types.uintp), generate


@instruction
def tiles_end(typing: Any) -> Any:
    """Give the tile registers back."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        return _call(context, builder, "llvm.x86.tilerelease", [], [])

    return types.void(), generate


@instruction
def tile_zero(typing: Any, tile: Any) -> Any:
    """Set a tile to zeros."""
    (number,) = literal(tile)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        return _call(context, builder, "llvm.x86.tilezero", [_I8], [_tile(number)])

    return types.void(tile), generate


def _move(name: str) -> Callable[..., Any]:
    def typed(typing: Any, tile: Any, address: Any, stride: Any) -> Any:
        (number,) = literal(tile)

        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            at = pointer(builder, given[1], _I8)
            kinds = [_I8, _BYTES, _I64]
            return _call(context, builder, name, kinds, [_tile(number), at, given[2]])

        return types.void(tile, types.uintp, types.intp), generate

    return typed


tile_load = instruction(_move("llvm.x86.tileloadd64"))
tile_store = instruction(_move("llvm.x86.tilestored64"))


@instruction
def tile_dot(typing: Any, to: Any, left: Any, right: Any) -> Any:
    """Add the product of two bfloat16 tiles to one of float32."""
    numbers = literal(to, left, right)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        tiles = [_tile(number) for number in numbers]
        return _call(context, builder, "llvm.x86.tdpbf16ps", [_I8] * 3, tiles)

    return types.void(to, left, right), generate


@instruction
def round_row(
    typing: Any, to: Any, source: Any, by: Any, columns: Any, times: Any, relu: Any
) -> Any:
    """Write 16 or 32 float32 as bfloat16: as they are, times the bfloat16 of `by`, or with ReLU.

    Two vectors are rounded by one instruction. NaN stays NaN.
    """
    width, product, positive = literal(columns, times, relu)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        wide, thin = ir.VectorType(F32, 16), ir.VectorType(BF16, 16)
        zero, parts = ir.Constant(wide, [0.0] * 16), []
        for place in range(0, width, 16):
            at = builder.add(given[1], ir.Constant(_I64, 4 * place))
            value = load(builder, at, wide, 4)
            if product:
                at = builder.add(given[2], ir.Constant(_I64, 2 * place))
                value = builder.fmul(value, builder.fpext(load(builder, at, thin, 2), wide))
            if positive:
                value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
            parts.append(value)
        if width == 16:
            found = builder.fptrunc(parts[0], thin)
        else:
            kind = ir.FunctionType(ir.VectorType(BF16, 32), [wide, wide])
            both = function_of(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", kind)
            found = builder.call(both, [parts[1], parts[0]])
        store(builder, found, given[0], 2)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, address, columns, times, relu), generate
