"""Messages that several services share: users, candidates, conditions, timings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.stages import (
    MAX_CANDIDATES,
    MAX_HISTORY,
    Candidates,
    Float32s,
    Int64s,
    Predicate,
    UserContext,
)
from corerec.v1 import common_pb2

INT64 = np.dtype("<i8")
FLOAT32 = np.dtype("<f4")
UINT8 = np.dtype("u1")

MAX_PREDICATES = 16
"""Most conditions of one request."""
MAX_VALUES = 1000
"""Most values in any_of or none_of."""
MAX_NAME_BYTES = 256


def column(name: str, raw: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Return a read-only (count,) view of `raw`."""
    wanted = count * dtype.itemsize
    if len(raw) != wanted:
        raise InvalidArgument(
            f"{name} must hold {count} x {dtype.itemsize} = {wanted} bytes, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype)


def write_user(message: common_pb2.UserContext, user: UserContext, newest: int) -> None:
    """Fill an empty message; of the history, only the `newest` events.

    A message inside another is filled in its place: given to a constructor it would be copied.
    """
    items, times = user.items, user.times
    if len(items) > newest:
        items, times = items[-newest:], times[-newest:]
    message.user_id, message.request_time_micros = user.user_id, user.now
    if user.attributes:
        message.attributes.update(user.attributes)
    message.history_count = len(items)
    message.history_item_numbers = items.tobytes()
    message.history_event_times_micros = times.tobytes()


def user_from_proto(message: common_pb2.UserContext) -> UserContext:
    """Return the user. Raises InvalidArgument on columns that do not fit their count."""
    count = message.history_count
    if not 0 <= count <= MAX_HISTORY:
        raise InvalidArgument(f"history_count must be in [0, {MAX_HISTORY}], got {count}")
    if message.request_time_micros < 0:
        raise InvalidArgument(
            f"request_time_micros must be >= 0, got {message.request_time_micros}"
        )
    return UserContext(
        user_id=message.user_id,
        attributes=dict(message.attributes),
        items=column("history_item_numbers", message.history_item_numbers, INT64, count),
        times=column(
            "history_event_times_micros", message.history_event_times_micros, INT64, count
        ),
        now=message.request_time_micros,
    )


def write_candidates(message: common_pb2.Candidates, candidates: Candidates) -> None:
    """Fill an empty message, in its place as `write_user` does."""
    message.item_count = len(candidates.numbers)
    message.item_numbers = candidates.numbers.astype(INT64, copy=False).tobytes()
    message.scores = candidates.scores.astype(FLOAT32, copy=False).tobytes()
    message.sources = candidates.sources.astype(UINT8, copy=False).tobytes()


def candidates_to_proto(candidates: Candidates) -> common_pb2.Candidates:
    """Return the message."""
    message = common_pb2.Candidates()
    write_candidates(message, candidates)
    return message


def candidates_from_proto(message: common_pb2.Candidates) -> Candidates:
    """Return the columns, each a read-only view.

    Raises:
        InvalidArgument: a length does not fit, a number is negative or there twice, a score is not
            finite.
    """
    count = message.item_count
    if not 0 <= count <= MAX_CANDIDATES:
        raise InvalidArgument(f"item_count must be in [0, {MAX_CANDIDATES}], got {count}")
    numbers: Int64s = column("item_numbers", message.item_numbers, INT64, count)
    scores = column("scores", message.scores, FLOAT32, count)
    sources = column("sources", message.sources, UINT8, count)
    if count:
        check_numbers(numbers)
        check_finite("scores", scores)
    return Candidates(numbers=numbers, scores=scores, sources=sources)


def check_numbers(numbers: Int64s, name: str = "item_numbers") -> None:
    """Raise InvalidArgument when a number is negative or there twice. Takes at least one.

    One sort and one search of bytes: NumPy's reductions would cost more than both.
    """
    ordered = numbers.copy()
    ordered.sort()
    if (least := ordered.item(0)) < 0:
        raise InvalidArgument(f"{name} must be >= 0, got {least}")
    if (at := (ordered[1:] == ordered[:-1]).tobytes().find(b"\1")) >= 0:
        raise InvalidArgument(f"{name} must differ, got {int(ordered[at])} twice")


def check_finite(name: str, *columns: Float32s) -> None:
    """Raise InvalidArgument when a value is NaN or infinite."""
    for values in columns:
        if b"\0" in np.isfinite(values).tobytes():
            raise InvalidArgument(f"{name} must be finite, got NaN or infinity")


class Timings(Mapping[str, int]):
    """Microseconds by step name, read when asked for: who passes them on needs the messages."""

    __slots__ = ("messages",)

    def __init__(self, messages: Sequence[common_pb2.StepTiming]) -> None:
        self.messages = messages

    def __getitem__(self, name: str) -> int:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def _read(self) -> dict[str, int]:
        return timings_from_proto(self.messages)


def timings_to_proto(timings: Mapping[str, int]) -> Sequence[common_pb2.StepTiming]:
    """Return one message per step; those that came are passed on."""
    if type(timings) is Timings:  # isinstance asks the metaclass of Mapping first
        return timings.messages
    return [common_pb2.StepTiming(name=n, latency_micros=t) for n, t in timings.items()]


def write_timings(messages: Any, timings: Mapping[str, int]) -> None:
    """Fill an empty repeated field, one message per step."""
    for name, micros in timings.items():
        messages.add(name=name, latency_micros=micros)


def timings_from_proto(messages: Iterable[common_pb2.StepTiming]) -> dict[str, int]:
    """Return microseconds by step name."""
    return {m.name: m.latency_micros for m in messages}


def predicates_to_proto(where: Iterable[Predicate]) -> list[common_pb2.Predicate]:
    """Return one message per condition."""
    return [
        common_pb2.Predicate(
            attribute=p.attribute,
            any_of=p.any_of,
            none_of=p.none_of,
            at_least=p.at_least,
            at_most=p.at_most,
        )
        for p in where
    ]


def predicates_from_proto(
    messages: Iterable[common_pb2.Predicate], name: str = "where"
) -> tuple[Predicate, ...]:
    """Return the conditions.

    Raises:
        InvalidArgument: too many conditions or values, a name that is empty or too long, a bound
            that is not finite, bounds that no number lies between, a condition that asks nothing.
    """
    found = tuple(_predicate(m, f"{name}[{i}]") for i, m in enumerate(messages))
    if len(found) > MAX_PREDICATES:
        raise InvalidArgument(f"{name} must number at most {MAX_PREDICATES}, got {len(found)}")
    return found


def _predicate(message: common_pb2.Predicate, name: str) -> Predicate:
    size = len(message.attribute.encode())
    if not 1 <= size <= MAX_NAME_BYTES:
        raise InvalidArgument(
            f"{name}.attribute must have [1, {MAX_NAME_BYTES}] bytes of UTF-8, got {size}"
        )
    for part, values in (("any_of", message.any_of), ("none_of", message.none_of)):
        if len(values) > MAX_VALUES:
            raise InvalidArgument(
                f"{name}.{part} must number at most {MAX_VALUES}, got {len(values)}"
            )
        for value in values:
            if len(value.encode()) > MAX_NAME_BYTES:
                raise InvalidArgument(
                    f"{name}.{part} must have at most {MAX_NAME_BYTES} bytes a value, "
                    f"got {len(value.encode())}"
                )
    least = message.at_least if message.HasField("at_least") else None
    most = message.at_most if message.HasField("at_most") else None
    for part, bound in (("at_least", least), ("at_most", most)):
        if bound is not None and not math.isfinite(bound):
            raise InvalidArgument(f"{name}.{part} must be finite, got {bound}")
    if least is not None and most is not None and least > most:
        raise InvalidArgument(f"{name}.at_least must be <= at_most, got {least} > {most}")
    if not message.any_of and not message.none_of and least is None and most is None:
        raise InvalidArgument(
            f"{name} must have any_of, none_of, at_least or at_most, got only {message.attribute!r}"
        )
    return Predicate(
        attribute=message.attribute,
        any_of=tuple(message.any_of),
        none_of=tuple(message.none_of),
        at_least=least,
        at_most=most,
    )
