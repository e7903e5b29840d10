"""Conditions as they are typed: category=Rugs|Lamps, brand!=Acme, price<=20, price>=5."""

from __future__ import annotations

import re
from collections.abc import Iterable

from corerec.errors import InvalidArgument
from corerec.stages import Predicate

_CONDITION = re.compile(r"([^=!<>]+)(<=|>=|!=|=)(.*)", re.DOTALL)


def parse_where(conditions: Iterable[str]) -> tuple[Predicate, ...]:
    """Return the conditions, those on one attribute apart. Raises InvalidArgument."""
    return tuple(_parse(text) for text in conditions)


def _parse(text: str) -> Predicate:
    match = _CONDITION.fullmatch(text)
    if match is None or not match[3]:
        raise InvalidArgument(
            "--where must be ATTRIBUTE=VALUE, =VALUE|VALUE, !=VALUE, <=NUMBER or >=NUMBER, "
            f"got {text!r}"
        )
    attribute, sign, value = match[1].strip(), match[2], match[3].strip()
    values = tuple(value.split("|"))
    if sign == "=":
        return Predicate(attribute=attribute, any_of=values)
    if sign == "!=":
        return Predicate(attribute=attribute, none_of=values)
    try:
        number = float(value)
    except ValueError:
        raise InvalidArgument(
            f"--where {attribute}{sign} must have a number, got {value!r}"
        ) from None
    if sign == "<=":
        return Predicate(attribute=attribute, at_most=number)
    return Predicate(attribute=attribute, at_least=number)
