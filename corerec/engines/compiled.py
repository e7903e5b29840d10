"""How inner loops are compiled: to machine code at the first call, kept in a cache beside the file.

Compiled functions release the interpreter's lock, so threads run them side by side. Loading numba
takes a fraction of a second, so modules that may do without import this where they need it.
"""

from __future__ import annotations

import functools
import hashlib
import numbers
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return the function compiled; sums may be taken in another order, and NaN is not expected."""
    return _compiled(function, fastmath=True)


def compiled_exactly(function: F) -> F:
    """Return the function compiled; NaN, infinity and the order of sums are kept."""
    return _compiled(function, fastmath=False)


def compiled_sum(function: F) -> F:
    """Return the function compiled; sums may be taken in another order, NaN is kept."""
    return _compiled(function, fastmath={"reassoc", "nsz", "contract"})


def _compiled(function: F, *, fastmath: bool | set[str]) -> F:
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    done = njit(**options)(function)
    try:
        done._cache = _Cache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # No folder for the cache may be written, as in a container: compile in each process.
        return cast(F, done)
    return cast(F, done)


class _Cache(FunctionCache):
    """Numba's cache, which also looks at what a function took from other files.

    Numba's own notices changes of the function's file alone, and constants and functions of other
    modules are part of the machine code. And numba's own cannot be read at all, by any process,
    once it has code for arguments of a class that is gone, or that only the process had.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for a signature, None when there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except (ImportError, AttributeError):
            self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except (ImportError, AttributeError):
            self.flush()  # type: ignore[no-untyped-call]
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        taken = "\n".join(sorted(_taken(self._py_func, set())))
        own = hashlib.sha256(taken.encode()).hexdigest()
        return (*super()._index_key(sig, codegen), own)  # type: ignore[no-untyped-call]


def _taken(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    """Yield what a function and those that it calls find in their modules."""
    seen.add(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        own = getattr(value, "py_func", value)
        if isinstance(value, (numbers.Number, str, tuple)):
            yield f"{function.__qualname__}.{name} = {value!r}"
        elif value is not None and not isinstance(value, (ModuleType, type)):
            yield f"{name}: {_hash_of(getattr(own, '__module__', ''))}"
        if isinstance(own, FunctionType) and value is not own and own not in seen:
            yield from _taken(own, seen)


@functools.cache
def _hash_of(module: str) -> str:
    """Return a hash of a module's file, "" where there is none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
