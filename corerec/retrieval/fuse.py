"""Joins the candidates of several sources: turns by share, each item once, then the popular list.

Sources take turns so that after any number of draws each has drawn its share, as in stride
scheduling. A draw that is there already, or that a source does not have, is the next one's: its
place goes to the others in the order of their turns.
"""

# S sources, k places, N items

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from corerec.stages import Bytes8, Int64s, Source


class Fused(NamedTuple):
    """Up to k candidates, each once, in the order in which they were drawn."""

    numbers: Int64s
    """(n,) item numbers."""
    sources: Bytes8
    """(n,) values of Source: whose draw brought the item first."""


@dataclass(frozen=True)
class Turns:
    """In which order the places of S lists of k are drawn."""

    order: Int64s
    """(S * k,) places in the lists laid end to end."""
    sources: Bytes8
    """(S * k,) value of Source of each draw."""


@lru_cache(maxsize=256)
def turns(k: int, shares: tuple[float, ...], sources: tuple[int, ...]) -> Turns:
    """Return the turns of sources with these shares: draw i of a source is due at i / share."""
    due = np.concatenate([np.arange(1, k + 1) / share for share in shares])
    order = np.argsort(due, kind="stable")  # ties by the order of the sources
    order.flags.writeable = False
    marks = np.repeat(np.array(sources, np.uint8), k)[order]
    marks.flags.writeable = False
    return Turns(order, marks)


def fuse(
    lists: Int64s,
    drawn: Turns,
    *,
    popular: Int64s,
    places: int,
    seen: Int64s,
    item_count: int,
) -> Fused:
    """Return at most k candidates, at most `places` of them from the popular list.

    The sources keep the other places; popular items that they brought into those, or that were
    seen, take none; places that the popular list cannot fill go back to the sources.

    Shapes: lists (S, k), best first, padded with -1, without seen items; popular (P,) best first;
    seen (E,) in any order. Every number but those of `seen` is below `item_count`.
    """
    k = lists.shape[1]
    numbers, sources = _draw(lists, drawn, item_count)
    head = min(len(numbers), k - places)
    taken = np.zeros(item_count, np.bool_)
    taken[numbers[:head]] = True
    if len(seen):
        taken[seen[(seen >= 0) & (seen < item_count)]] = True
    extra = popular[~taken[popular]][:places]
    room = k - head - len(extra)
    rest, marks = numbers[head:], sources[head:]
    if room and len(rest):
        taken[extra] = True
        free = ~taken[rest]
        rest, marks = rest[free], marks[free]
    return Fused(
        np.concatenate([numbers[:head], rest[:room], extra]),
        np.concatenate(
            [sources[:head], marks[:room], np.full(len(extra), Source.POPULAR, np.uint8)]
        ),
    )


def _draw(lists: Int64s, drawn: Turns, item_count: int) -> tuple[Int64s, Bytes8]:
    """Return what the sources draw, each item at its first draw."""
    numbers, sources = lists.reshape(-1)[drawn.order], drawn.sources
    there = numbers >= 0
    if not there.all():
        numbers, sources = numbers[there], sources[there]
    if len(lists) > 1:
        place = np.arange(len(numbers))
        # Of several assignments to one element the last stays: written backwards, the first draw.
        first = np.empty(item_count, np.int64)
        first[numbers[::-1]] = place[::-1]
        once = first[numbers] == place
        numbers, sources = numbers[once], sources[once]
    return numbers, sources
