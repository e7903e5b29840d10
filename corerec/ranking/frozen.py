"""Frozen: many arrays given to compiled code as one address.

Each array that crosses has its type and its header looked at, and code of its own that unpacks it:
thirty take 4 microseconds, and 35 when other processes had the caches. What stays the same between
calls is written down once, and read by compiled code as it reads its own tuples.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, attr-defined"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic

from corerec.engines.compiled import compiled


def array(number: Any, dimensions: int) -> Any:
    """Return numba's type of arrays in C order."""
    return types.Array(number, dimensions, "C")


def bundle(*kinds: Any, of: Any = None) -> Any:
    """Return numba's type of tuples of these types, or of named ones."""
    return types.Tuple(kinds) if of is None else types.NamedTuple(kinds, of)


class Frozen:
    """Arrays, numbers and tuples of them at an address, as long as this lives."""

    def __init__(self, parts: Any, kind: Any) -> None:
        """Write the parts down. Raises TypeError when they are not of numba's type `kind`."""
        if typeof(parts) != kind:
            raise TypeError(f"parts must be of {kind}, got {typeof(parts)}")
        self._parts, self._memory = parts, np.zeros(_size(parts), np.uint8)
        self.address: int = self._memory.ctypes.data
        _write(parts, self.address)


@intrinsic
def _measure(typingctx, parts):
    """Return how many bytes the parts' description takes, some 80 an array."""

    def generate(context, builder, sig, args):
        return context.get_constant(types.int64, context.get_abi_sizeof(args[0].type))

    return types.int64(parts), generate


@intrinsic
def _freeze(typingctx, parts, address):
    """Write parts to an address."""

    def generate(context, builder, sig, args):
        value = _unowned(context, builder, parts, args[0])
        builder.store(value, builder.inttoptr(args[1], value.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(parts, types.int64), generate


def _unowned(context, builder, kind, value):
    """Return the value with arrays that count no references: `Frozen` holds them."""
    if isinstance(kind, types.Array):
        own = context.make_array(kind)(context, builder, value=value)
        own.meminfo = cgutils.get_null_value(own.meminfo.type)
        own.parent = cgutils.get_null_value(own.parent.type)
        return own._getvalue()
    if isinstance(kind, types.BaseTuple):
        for place, part in enumerate(kind.types):
            found = _unowned(context, builder, part, builder.extract_value(value, place))
            value = builder.insert_value(value, found, place)
    return value


@intrinsic
def _thaw(typingctx, address, kind):
    """Return the parts, of a type that is a constant, that were written to an address."""
    own = kind.instance_type

    def generate(context, builder, sig, args):
        form = context.get_value_type(own)
        found = builder.load(builder.inttoptr(args[0], form.as_pointer()), typ=form)
        found.align = 8
        return found

    return own(types.int64, kind), generate


measure: Any = _measure
freeze: Any = _freeze
thaw: Any = _thaw
"""Return the parts of a type that were frozen at an address."""


@compiled
def _size(parts: Any) -> int:
    size: int = measure(parts)
    return size


@compiled
def _write(parts: Any, address: int) -> None:
    freeze(parts, address)
