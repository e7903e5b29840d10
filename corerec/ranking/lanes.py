"""Loops over vectors of sixteen floats that stay in the processor's registers.

`dots` is four vectors' products with sixteen others, `attend` a softmax and its mean. A compiler
does not find these forms by itself. Addresses are integers; sizes are the caller's to get right.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped"
# R vectors that are taken together

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
TOGETHER = 4

_FLOAT = ir.FloatType()
_LANES = ir.VectorType(_FLOAT, LANES)


@intrinsic
def _dots(typingctx, first, second, third, fourth, against, width, out, step):
    """Write (4, 16) dot products, a row every `step` bytes; the others are addresses of float32.

    Shapes: four of (D,), D = width > 0; against (D, 16); out (4, 16).
    """
    i64 = types.int64
    signature = types.void(i64, i64, i64, i64, i64, i64, i64, i64)

    def generate(context, builder, sig, args):
        _emit_dots(builder, args[:TOGETHER], *args[TOGETHER:])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _fetch(typingctx, address):
    """Ask for the line of memory at an address, so that it is there when it is read."""

    def generate(context, builder, sig, args):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        to_read, keep, of_data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(ask, [builder.inttoptr(args[0], byte), to_read, keep, of_data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _emit_dots(builder, vectors, against, width, out, step) -> None:
    """Write the loop over the dimensions; see `_dots`."""
    scalars = [builder.inttoptr(one, _FLOAT.as_pointer()) for one in vectors]
    rows = builder.inttoptr(against, _LANES.as_pointer())
    kept = [cgutils.alloca_once_value(builder, ir.Constant(_LANES, None)) for _ in vectors]
    with cgutils.for_range(builder, width) as loop:
        row = _read(builder, rows, loop.index)
        for scalar, total in zip(scalars, kept, strict=True):
            wide = _spread(builder, builder.load(builder.gep(scalar, [loop.index])))
            # Two operations that a processor with a fused one may join.
            product = builder.fmul(wide, row, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
    for place, total in enumerate(kept):
        target = builder.add(out, builder.mul(step, ir.Constant(ir.IntType(64), place)))
        target = builder.inttoptr(target, _LANES.as_pointer())
        builder.store(builder.load(total), target, align=4)


@intrinsic
def _attend(typingctx, numbers, biases, count):
    """Return the mean of numbers, weighted by the softmax of number plus bias.

    Shapes: addresses of (count * 16,) float32 each.
    """
    i64 = types.int64

    def generate(context, builder, sig, args):
        return _emit_attend(builder, *args)

    return types.float32(i64, i64, i64), generate


def _emit_attend(builder, numbers, biases, count):
    own = builder.inttoptr(numbers, _LANES.as_pointer())
    added = builder.inttoptr(biases, _LANES.as_pointer())
    most = cgutils.alloca_once_value(builder, _all(-3e38))
    with cgutils.for_range(builder, count) as loop:
        summed = builder.fadd(_read(builder, own, loop.index), _read(builder, added, loop.index))
        above = builder.fcmp_ordered(">", summed, builder.load(most))
        builder.store(builder.select(above, summed, builder.load(most)), most)
    highest = _spread(builder, _reduce(builder, "fmax", [builder.load(most)]))
    total, weighted = (cgutils.alloca_once_value(builder, _all(0)) for _ in range(2))
    with cgutils.for_range(builder, count) as loop:
        number = _read(builder, own, loop.index)
        summed = builder.fadd(number, _read(builder, added, loop.index))
        weight = _exp(builder, builder.fsub(summed, highest))
        builder.store(builder.fadd(builder.load(total), weight), total)
        product = builder.fmul(weight, number)
        builder.store(builder.fadd(builder.load(weighted), product), weighted)
    zero = ir.Constant(_FLOAT, 0)
    sums = [_reduce(builder, "fadd", [zero, builder.load(own)]) for own in (weighted, total)]
    return builder.fdiv(*sums)


def _all(value: float) -> ir.Constant:
    return ir.Constant(_LANES, [value] * LANES)


def _read(builder, pointer, place):
    return builder.load(builder.gep(pointer, [place]), align=4)


def _spread(builder, number):
    """Return a vector of which every lane is `number`."""
    blank = ir.Constant(_LANES, ir.Undefined)
    first = builder.insert_element(blank, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, blank, zeros)


def _reduce(builder, how: str, given):
    """Return the sum or the maximum of the lanes of the last of `given`."""
    kind = ir.FunctionType(_FLOAT, [value.type for value in given])
    name = f"llvm.vector.reduce.{how}.v{LANES}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, given, fastmath=("reassoc", "nnan"))


def _exp(builder, x):
    """Return exp of lanes <= 0, to a float's precision; below -87 what it is there.

    Source: the expf of the Cephes library, Moshier 1989.
    """
    floor = _all(-87.0)
    x = builder.select(builder.fcmp_ordered(">", x, floor), x, floor)
    integers = ir.VectorType(ir.IntType(32), LANES)
    # Cut towards zero, so half less rounds.
    twos = builder.fptosi(builder.fsub(builder.fmul(x, _all(1.44269504)), _all(0.5)), integers)
    whole = builder.sitofp(twos, _LANES)
    for part in (0.693359375, -2.12194440e-4):  # ln 2 in two parts
        x = builder.fsub(x, builder.fmul(whole, _all(part)))
    total = _all(1.9875691500e-4)
    for factor in (
        1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1, 1,
    ):  # fmt: skip
        product = builder.fmul(total, x, flags=("contract",))
        total = builder.fadd(product, _all(factor), flags=("contract",))
    power = builder.shl(twos, ir.Constant(integers, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(total, integers), power), _LANES)


dots: Any = _dots
"""Write (4, 16) dot products; see `_dots`."""
attend: Any = _attend
"""Return a mean weighted by a softmax; see `_attend`."""
fetch: Any = _fetch
"""Ask for the line of memory at an address."""
