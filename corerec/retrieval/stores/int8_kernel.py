"""Scores blocks of sixteen coded vectors against a query: one AVX-512 VNNI instruction a step.

A block of 8-bit codes is laid out as (G, 16, 4): of four dimensions after four, sixteen vectors'
codes side by side, so that one step multiplies and sums four dimensions of all sixteen. Codes of 4
bits lie so too, two groups of four dimensions in one: the first in the lower halves of the bytes.
Processors without that instruction do the same with what they have.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped"
# G groups of four dimensions, or of eight with codes of 4 bits; 16 lanes of a block

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
GROUP = 4
WIDE = 4
"""Blocks that are scored together."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = ir.VectorType(_I8, LANES * GROUP)
_INTS = ir.VectorType(_I32, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


def has_vnni() -> bool:
    """Return whether this processor multiplies and sums sixteen times four bytes at once."""
    found = llvmlite.binding.get_host_cpu_features()
    return all(found.get(name, False) for name in ("avx512f", "avx512vnni", "avx512bw"))


def block_scorer(vnni: bool) -> Any:
    """Return the compiled function that scores blocks, with the VNNI instruction or without.

    It is called as (codes, scales, offsets, block, wide, half, query, start, factor, bias, least,
    out), scores one block, or with `wide` four that follow each other, and returns which lanes
    exceed `least` as bits. With `half` codes have 4 bits.

    Shapes: codes (blocks, G, 16, 4) uint8; scales (blocks, 16) float32; offsets the same, or
    (1, 16) for all; query (4G,) int8, (8G,) with `half`; `start` int32, the negative sum of the
    query times 128, or 8 with `half`, since codes are so much above their values; out (64,)
    float32.
    """
    one, wide_ones = _intrinsic(1, vnni, half=False), _intrinsic(WIDE, vnni, half=False)
    half_one, half_wide = _intrinsic(1, vnni, half=True), _intrinsic(WIDE, vnni, half=True)

    @njit(nogil=True)
    def score_blocks(
        codes, scales, offsets, block, wide, half, query, start, factor, bias, least, out
    ):
        groups = codes.shape[1]
        stride = np.int64(1 if len(offsets) > 1 else 0)
        code = codes.ctypes.data + block * groups * 64
        scale = scales.ctypes.data + block * 64
        offset = offsets.ctypes.data + stride * block * 64
        asked, target = query.ctypes.data, out.ctypes.data
        if half and wide:
            return half_wide(
                code, groups, asked, start, scale, offset, stride, factor, bias, least, target
            )
        if half:
            return half_one(
                code, groups, asked, start, scale, offset, stride, factor, bias, least, target
            )
        if wide:
            return wide_ones(
                code, groups, asked, start, scale, offset, stride, factor, bias, least, target
            )
        return one(code, groups, asked, start, scale, offset, stride, factor, bias, least, target)

    return score_blocks


def _intrinsic(blocks: int, vnni: bool, half: bool) -> Any:
    """Return a function of addresses that scores so many blocks; see `_emit`."""

    @intrinsic
    def score(
        typingctx, codes, groups, query, start, scales, offsets, stride, factor, bias, least, out
    ):
        i64, i32, f32 = types.int64, types.int32, types.float32
        signature = types.uint64(i64, i64, i64, i32, i64, i64, i64, f32, f32, f32, i64)
        return signature, lambda context, builder, sig, args: _emit(
            builder, args, blocks, vnni, half
        )

    return score


def _emit(builder: Any, args: Any, blocks: int, vnni: bool, half: bool) -> Any:
    """Emit the scores of `blocks` blocks: store them at `out`, return which lanes exceed `least`.

    A score is bias + offset + factor * scale * (start + codes . query); a lane of scale NaN never
    exceeds. `stride` is 1 where each block has offsets of its own, 0 where all share one block's.
    """
    codes, groups, query, start, scales, offsets, stride, factor, bias, least, out = args
    codes_at = builder.inttoptr(codes, _BYTES.as_pointer())
    query_at = builder.inttoptr(query, _I32.as_pointer())
    scales_at, offsets_at, out_at = (
        builder.inttoptr(address, _FLOATS.as_pointer()) for address in (scales, offsets, out)
    )
    sums = [cgutils.alloca_once(builder, _INTS) for _ in range(blocks)]
    for own in sums:
        builder.store(_spread(builder, start, _INTS), own)
    with cgutils.for_range(builder, groups) as loop:
        parts = _parts_of(builder, query_at, loop.index, 2 if half else 1)
        for block, own in enumerate(sums):
            place = builder.add(loop.index, builder.mul(groups, ir.Constant(_I64, block)))
            code = _load(builder, codes_at, place)
            for codes_of, part in zip(
                _halves(builder, code) if half else [code], parts, strict=True
            ):
                builder.store(_multiplied(builder, builder.load(own), codes_of, part, vnni), own)
    mask = ir.Constant(_I64, 0)
    for block, own in enumerate(sums):
        place = ir.Constant(_I64, block)
        scale = _load(builder, scales_at, place)
        offset = _load(builder, offsets_at, builder.mul(stride, place))
        score = builder.sitofp(builder.load(own), _FLOATS)
        score = builder.fmul(score, builder.fmul(scale, _spread(builder, factor, _FLOATS)))
        score = builder.fadd(score, builder.fadd(offset, _spread(builder, bias, _FLOATS)))
        builder.store(score, builder.gep(out_at, [place])).align = 4
        above = builder.fcmp_ordered(">", score, _spread(builder, least, _FLOATS))
        bits = builder.zext(builder.bitcast(above, ir.IntType(LANES)), _I64)
        mask = builder.or_(mask, builder.shl(bits, ir.Constant(_I64, block * LANES)))
    return mask


def _parts_of(builder: Any, query: Any, place: Any, count: int) -> list[Any]:
    """Return the four dimensions of each of `count` groups from place * count, in all lanes."""
    first = builder.mul(place, ir.Constant(_I64, count))
    places = [builder.add(first, ir.Constant(_I64, own)) for own in range(count)]
    parts = [_spread(builder, builder.load(builder.gep(query, [own])), _INTS) for own in places]
    return [builder.bitcast(own, _BYTES) for own in parts]


def _halves(builder: Any, codes: Any) -> list[Any]:
    """Return the codes in the lower halves of bytes, and those in the upper ones."""
    low = ir.Constant(_BYTES, [15] * LANES * GROUP)
    four = ir.Constant(_BYTES, [4] * LANES * GROUP)
    return [builder.and_(codes, low), builder.lshr(codes, four)]


def _multiplied(builder: Any, sums: Any, code: Any, part: Any, vnni: bool) -> Any:
    """Return sixteen sums with the products of four unsigned and four signed bytes each added."""
    if vnni:
        kind = ir.FunctionType(_INTS, [_INTS, _BYTES, _BYTES])
        call = builder.module.declare_intrinsic("llvm.x86.avx512.vpdpbusd.512", (), kind)
        return builder.call(call, [sums, code, part])
    wide = ir.VectorType(_I32, LANES * GROUP)
    product = builder.mul(builder.zext(code, wide), builder.sext(part, wide))
    for own in range(GROUP):
        places = list(range(own, LANES * GROUP, GROUP))
        mask = ir.Constant(_INTS, places)
        sums = builder.add(sums, builder.shuffle_vector(product, product, mask))
    return sums


def _load(builder: Any, pointer: Any, place: Any) -> Any:
    value = builder.load(builder.gep(pointer, [place]))
    value.align = 4  # NumPy aligns to 16 bytes, less than a vector's size
    return value


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """Return a vector of which every lane is `value`."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(_INTS, [0] * LANES)
    return builder.shuffle_vector(first, empty, zeros)


@intrinsic
def _prefetch(typingctx, address):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        call = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
        place = builder.inttoptr(args[0], _I8.as_pointer())
        builder.call(call, [place, *(ir.Constant(_I32, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def _lowest_bit(typingctx, mask):
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), emit


prefetch: Any = _prefetch
"""Ask for the cache line at an address."""
lowest_bit: Any = _lowest_bit
"""Return the place of the lowest set bit of a uint64 that is not 0."""
score_blocks: Any = block_scorer(has_vnni())
"""The scorer of this processor; see `block_scorer`."""
