"""Whether an item meets a request's conditions, for the few items that no stage has checked.

Retrieval applies conditions inside its search. Items that come into an answer without it, pinned
ones and the popular list of a gateway without retrieval, are checked here.
"""

from __future__ import annotations

from collections.abc import Sequence

from corerec.stages import Predicate
from corerec.store.catalogue import Item, finite_number


def meets(item: Item, where: Sequence[Predicate]) -> bool:
    """Say whether an item meets every condition."""
    return all(_meets(values_of(item, own.attribute), own) for own in where)


def values_of(item: Item, attribute: str) -> tuple[str, ...]:
    """Return an item's values of an attribute as text; empty when it has none."""
    if attribute in ("title", "category", "creator"):
        text = str(getattr(item, attribute))
        return (text,) if text else ()
    if attribute == "born_micros":
        return (str(item.born_micros),) if item.born_micros >= 0 else ()
    if attribute in item.lists:
        return tuple(item.lists[attribute])
    text = item.attributes.get(attribute, "")
    return (text,) if text else ()


def _meets(values: Sequence[str], own: Predicate) -> bool:
    if own.any_of and not set(values) & set(own.any_of):
        return False
    if own.none_of and set(values) & set(own.none_of):
        return False
    if own.at_least is None and own.at_most is None:
        return True
    numbers = [n for n in map(finite_number, values) if n is not None]
    least = float("-inf") if own.at_least is None else own.at_least
    most = float("inf") if own.at_most is None else own.at_most
    return any(least <= n <= most for n in numbers)
