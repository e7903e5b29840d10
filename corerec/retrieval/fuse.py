"""Joins the candidates of several sources: turns by share, each item once, then the popular list.

Sources take turns so that after any number of draws each has drawn its share, as in stride
scheduling. A draw that is there already, or that a source does not have, is the next one's: its
place goes to the others in the order of their turns.
"""

# S sources, k places, P popular items, n candidates

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from corerec.retrieval.fuse_kernel import draw
from corerec.stages import Bytes8, Int64s, Source


class Fused(NamedTuple):
    """Up to k candidates, each once, in the order in which they were drawn."""

    numbers: Int64s
    """(n,) item numbers."""
    sources: Bytes8
    """(n,) values of Source: whose draw brought the item first."""
    at: Int64s
    """(n,) places of that draw in the lists laid end to end, the popular list after them."""


@dataclass(frozen=True)
class Turns:
    """In which order the places of S lists of k are drawn."""

    order: Int64s
    """(S * k,) places in the lists laid end to end."""
    marks: Bytes8
    """(S + 1,) value of Source of each list, the popular one last."""


@lru_cache(maxsize=256)
def turns(k: int, shares: tuple[float, ...], sources: tuple[int, ...]) -> Turns:
    """Return the turns of sources with these shares: draw i of a source is due at i / share."""
    due = np.concatenate([np.arange(1, k + 1) / share for share in shares])
    order = np.argsort(due, kind="stable")  # ties by the order of the sources
    return Turns(order, np.array([*sources, Source.POPULAR], np.uint8))


def fuse(lists: Int64s, drawn: Turns, *, popular: Int64s, places: int) -> Fused:
    """Return at most k candidates, at most `places` of them from the popular list.

    The sources keep the other places; popular items that they brought into those take none; places
    that the popular list cannot fill go back to the sources.

    Shapes: lists (S, k), best first, padded with -1; popular (P,) best first. None holds an item
    that was seen.
    """
    return Fused(*draw(lists, drawn.order, drawn.marks, popular, places))


def plain_fuse(lists: Int64s, drawn: Turns, *, popular: Int64s, places: int) -> Fused:
    """Do what `fuse` does, in NumPy: the definition that its loop is tested against."""
    k = lists.shape[1]
    numbers, sources, at = _draw(lists, drawn)
    head = min(len(numbers), k - places)
    free = np.flatnonzero(~np.isin(popular, numbers[:head]))[:places]
    extra = popular[free]
    room = k - head - len(extra)
    kept = np.arange(min(len(numbers), head + room))
    if room and len(extra):
        rest = np.arange(head, len(numbers))
        rest = rest[~np.isin(numbers[rest], extra)][:room]
        kept = np.concatenate([kept[:head], rest])
    return Fused(
        np.concatenate([numbers[kept], extra]),
        np.concatenate([sources[kept], np.full(len(extra), Source.POPULAR, np.uint8)]),
        np.concatenate([at[kept], lists.size + free]),
    )


def _draw(lists: Int64s, drawn: Turns) -> tuple[Int64s, Bytes8, Int64s]:
    """Return what the sources draw, each item at its first draw, and the places of the draws."""
    at = drawn.order
    numbers, sources = lists.reshape(-1)[at], drawn.marks[at // lists.shape[1]]
    there = numbers >= 0
    if not there.all():
        numbers, sources, at = numbers[there], sources[there], at[there]
    if len(lists) > 1:
        once = np.sort(np.unique(numbers, return_index=True)[1])
        numbers, sources, at = numbers[once], sources[once], at[once]
    return numbers, sources, at
