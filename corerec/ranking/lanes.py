"""Dot products of four vectors with sixteen others at once, kept in the processor's registers.

The sixteen are laid out as (D, 16), so that a step takes one number of each vector against
sixteen: a compiler does not find this form by itself.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, import-untyped"
# R vectors that are taken together

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
TOGETHER = 4

_FLOAT = ir.FloatType()
_LANES = ir.VectorType(_FLOAT, LANES)


@intrinsic
def dots(typingctx, first, second, third, fourth, against, width, out):
    """Write (4, 16) dot products; all but `width` are addresses of float32.

    Shapes: four of (D,), D = width > 0; against (D, 16); out (4, 16).
    """
    i64 = types.int64
    signature = types.void(i64, i64, i64, i64, i64, i64, i64)

    def generate(context, builder, sig, args):
        _emit(builder, args[:TOGETHER], *args[TOGETHER:])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fetch(typingctx, address):
    """Ask for the line of memory at an address, so that it is there when it is read."""

    def generate(context, builder, sig, args):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        to_read, keep, of_data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(ask, [builder.inttoptr(args[0], byte), to_read, keep, of_data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _emit(builder, vectors, against, width, out) -> None:
    """Write the loop over the dimensions; see `dots`."""
    scalars = [builder.inttoptr(one, _FLOAT.as_pointer()) for one in vectors]
    rows = builder.inttoptr(against, _LANES.as_pointer())
    kept = [cgutils.alloca_once_value(builder, ir.Constant(_LANES, None)) for _ in vectors]
    with cgutils.for_range(builder, width) as loop:
        row = builder.load(builder.gep(rows, [loop.index]), align=4)
        for scalar, total in zip(scalars, kept, strict=True):
            number = builder.load(builder.gep(scalar, [loop.index]))
            blank = ir.Constant(_LANES, ir.Undefined)
            wide = builder.insert_element(blank, number, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
            wide = builder.shuffle_vector(wide, blank, zeros)
            # Two operations that a processor with a fused one may join.
            product = builder.fmul(wide, row, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
    targets = builder.inttoptr(out, _LANES.as_pointer())
    for place, total in enumerate(kept):
        target = builder.gep(targets, [ir.Constant(ir.IntType(64), place)])
        builder.store(builder.load(total), target, align=4)
