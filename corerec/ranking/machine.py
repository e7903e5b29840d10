"""Vector instructions for compiled loops: products of small blocks at a core's peak.

A BLAS call for matrices of a hundred columns spends as long around its inner loop as in it, and
writes results that are then read again to add a bias. These are the inner loops alone, as LLVM
instructions inside numba functions; addresses are integers, sizes are the caller's to get right.
"""

# mypy: disable-error-code="import-untyped"
# MR rows of a block, LANES columns of a tile

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic


def _told() -> str:
    # A person may have told numba to compile for another processor.
    given: str | None = config.CPU_FEATURES  # type: ignore[attr-defined]
    return llvm.get_host_cpu_features().flatten() if given is None else given


FEATURES = {name.lstrip("+") for name in _told().split(",") if name.startswith("+")}
"""What numba compiles for, in LLVM's names."""
LANES, MR = 4, 8
if "avx512f" in FEATURES:
    LANES, MR = 16, 12
elif "avx2" in FEATURES:
    LANES, MR = 8, 6
_ROWS_A_POINTER = 3
"""Rows that are addressed from one pointer and multiples of the stride, as x86 can."""

_I32, _I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


class _Bfloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no class for."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


BF16 = _Bfloat()


def instruction(function: Callable[..., Any]) -> Callable[..., None]:
    """Return numba's intrinsic of a function, which compiled code calls without its `typing`."""
    return cast(Callable[..., None], intrinsic(function))


def function_of(builder: Any, name: str, kind: Any) -> Any:
    """Return LLVM's function of a name."""
    return cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]


def literal(*values: Any) -> list[int]:
    """Return the values of numba's types of constants."""
    for value in values:
        if not isinstance(value, types.IntegerLiteral):
            raise RequireLiteralValue("tile numbers and switches must be constants")
    return [value.literal_value for value in values]


def pointer(builder: Any, address: Any, to: Any) -> Any:
    """Return an address as a pointer to a type."""
    return builder.inttoptr(address, to.as_pointer())


def load(builder: Any, address: Any, kind: Any, size: int) -> Any:
    """Return what is at an address that is a multiple of `size`."""
    found = builder.load(pointer(builder, address, kind), typ=kind)
    found.align = size
    return found


def store(builder: Any, value: Any, address: Any, size: int) -> None:
    """Write a value to an address that is a multiple of `size`."""
    builder.store(value, pointer(builder, address, value.type), align=size)


def _store_some(builder: Any, value: Any, address: Any, count: Any) -> None:
    """Store the first `count` numbers of a vector."""
    kind = value.type
    lane = ir.VectorType(_I32, kind.count)
    blank = ir.Constant(lane, ir.Undefined)
    few = builder.insert_element(blank, builder.trunc(count, _I32), ir.Constant(_I32, 0))
    every = builder.shuffle_vector(few, blank, ir.Constant(lane, [0] * kind.count))
    mask = builder.icmp_signed("<", ir.Constant(lane, list(range(kind.count))), every)
    at = pointer(builder, address, kind)
    signature = ir.FunctionType(ir.VoidType(), [kind, at.type, _I32, mask.type])
    name = f"llvm.masked.store.v{kind.count}f32.p0"
    store = function_of(builder, name, signature)
    builder.call(store, [value, at, ir.Constant(_I32, 4), mask])


@instruction
def finish(
    typing: Any,
    to: Any,
    source: Any,
    other: Any,
    count: Any,
    lanes: Any,
    times: Any,
    relu: Any,
) -> Any:
    """Write source + other, or source * other, with ReLU or not.

    Of `lanes` float32, of which the first `count` are written. NaN stays NaN.
    """
    width, product, positive = literal(lanes, times, relu)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        wide = ir.VectorType(F32, width)
        value = load(builder, given[1], wide, 4)
        other = load(builder, given[2], wide, 4)
        value = builder.fmul(value, other) if product else builder.fadd(value, other)
        if positive:
            zero = ir.Constant(wide, [0.0] * width)
            value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
        _store_some(builder, value, given[0], given[3])
        return context.get_dummy_value()

    address, size = types.uintp, types.intp
    return types.void(address, address, address, size, lanes, times, relu), generate


@instruction
def weave(typing: Any, to: Any, even: Any, odd: Any, by_even: Any, by_odd: Any) -> Any:
    """Write even * by_even and odd * by_odd, 16 float32 each, in turns as 32 bfloat16."""

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        wide, thin = ir.VectorType(F32, 16), ir.VectorType(BF16, 16)
        lane = ir.IntType(32)
        halves = []
        for source, by in ((given[1], given[3]), (given[2], given[4])):
            blank = ir.Constant(wide, ir.Undefined)
            one = builder.insert_element(blank, by, ir.Constant(lane, 0))
            every = builder.shuffle_vector(
                one, blank, ir.Constant(ir.VectorType(lane, 16), [0] * 16)
            )
            value = builder.fmul(load(builder, source, wide, 4), every)
            halves.append(builder.fptrunc(value, thin))
        turns = [place // 2 + 16 * (place % 2) for place in range(32)]
        mask = ir.Constant(ir.VectorType(lane, 32), turns)
        store(builder, builder.shuffle_vector(*halves, mask), given[0], 2)
        return context.get_dummy_value()

    address, real = types.uintp, types.float32
    return types.void(address, address, address, real, real), generate


@instruction
def block_dot(
    typing: Any,
    to: Any,
    second_to: Any,
    stride_to: Any,
    left: Any,
    stride: Any,
    right: Any,
    second: Any,
    depth: Any,
    tiles: Any,
    more: Any,
) -> Any:
    """Write, or add when `more`, the product of MR rows and one or two tiles of LANES columns.

    Rows are float32 with a stride in bytes, tiles are (depth, LANES) one row after the other; the
    second tile is read from and its columns are written to addresses of their own. Depth is at
    least 1.
    """
    columns, again = literal(tiles, more)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        *outs, out_stride, rows, row_stride, first, other, count = given[:8]
        wide = ir.VectorType(F32, LANES)
        signature = ir.FunctionType(wide, [wide] * 3)
        fma = function_of(builder, f"llvm.fma.v{LANES}f32", signature)

        def number(value: int) -> Any:
            return ir.Constant(_I64, value)

        def result_at(row: int, column: int) -> Any:
            return builder.add(outs[column], builder.mul(out_stride, number(row)))

        places = [(row, column) for row in range(MR) for column in range(columns)]
        nothing = ir.Constant(wide, [0.0] * LANES)
        begin = [load(builder, result_at(*p), wide, 4) if again else nothing for p in places]
        starts = [
            builder.add(rows, builder.mul(row_stride, number(row)))
            for row in range(0, MR, _ROWS_A_POINTER)
        ]
        steps = [number(0)]
        for _row in range(1, _ROWS_A_POINTER):
            steps.append(builder.add(steps[-1], row_stride))
        entry = builder.block
        loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        place = builder.phi(_I64)
        place.add_incoming(number(0), entry)
        moving = []
        for start in [*starts, first, other]:
            phi = builder.phi(_I64)
            phi.add_incoming(start, entry)
            moving.append(phi)
        sums = []
        for value in begin:
            phi = builder.phi(wide)
            phi.add_incoming(value, entry)
            sums.append(phi)
        right_tiles = [load(builder, moving[-2 + c], wide, 4) for c in range(columns)]
        fresh = []
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        blank = ir.Constant(wide, ir.Undefined)
        for row in range(MR):
            at = builder.add(moving[row // _ROWS_A_POINTER], steps[row % _ROWS_A_POINTER])
            one = load(builder, at, F32, 4)
            one = builder.insert_element(blank, one, ir.Constant(ir.IntType(32), 0))
            every = builder.shuffle_vector(one, blank, lanes)
            for column in range(columns):
                sum_of = sums[row * columns + column]
                fresh.append(builder.call(fma, [every, right_tiles[column], sum_of]))
        for phi, value in zip(sums, fresh, strict=True):
            phi.add_incoming(value, loop)
        for phi in moving[:-2]:
            phi.add_incoming(builder.add(phi, number(4)), loop)
        for phi in moving[-2:]:
            phi.add_incoming(builder.add(phi, number(4 * LANES)), loop)
        following = builder.add(place, number(1))
        place.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
        builder.position_at_end(done)
        for value, where in zip(fresh, places, strict=True):
            store(builder, value, result_at(*where), 4)
        return context.get_dummy_value()

    address, size = types.uintp, types.intp
    given = (address, address, size, address, size, address, address, size, tiles, more)
    return types.void(*given), generate
