"""What a store works out about a mask of allowed items, once for all searches with that mask."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from corerec.retrieval.stores.base import Mask
from corerec.retrieval.stores.places import Places
from corerec.stages import Bytes8, Int64s

_faiss: Any = faiss
_SAMPLE = 1 << 17
"""About so many allowed items are counted by list when there are more."""
_KEPT = 32
_DENSE = 1 << 27
"""Numbers below are flagged in a table, 128 MiB at most."""


@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """One mask, as a store of lists uses it."""

    bits: Bytes8
    """The mask, packed; FAISS's selector reads this memory."""
    selector: Any
    count: int
    """Allowed items that the store holds, about."""
    per_list: Int64s
    """(L,) allowed items of each list, about."""
    sampled: bool
    """Whether the counts are of a sample, so that a list with none may hold some."""
    version: int
    """State of the store that was counted."""


class MaskPlans:
    """The plans of the masks that were used last."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[int, int], MaskPlan] = OrderedDict()

    def get(
        self, mask: Mask, version: int, stale: int, lists: Callable[[], Places], nlist: int
    ) -> MaskPlan:
        """Return the plan of a mask, made afresh when more than `stale` changes came since.

        A mask may be the same array with other contents, so its bits are what is compared.
        """
        bits = np.packbits(mask, bitorder="little")
        key = (len(mask), zlib.crc32(bits.data))
        plan = self._plans.get(key)
        if plan is None or version - plan.version > stale or not np.array_equal(plan.bits, bits):
            plan = _plan(mask, bits, version, lists(), nlist)
            self._plans[key] = plan
            if len(self._plans) > _KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return plan


class Marks:
    """A flag by item number, with which a few numbers are found among many."""

    def __init__(self) -> None:
        self._flags = np.empty(0, np.bool_)

    def take_out(self, found: Int64s, unwanted: list[Int64s] | None) -> None:
        """Replace each row's unwanted numbers, which ascend, by -1 in found (B, K)."""
        for line, own in zip(found, unwanted or (), strict=unwanted is not None):
            if not len(own):
                continue
            if own[-1] >= _DENSE:
                line[np.isin(line, own)] = -1
                continue
            size = max(int(own[-1]), int(line.max(initial=0))) + 1
            if size > len(self._flags):
                if size > _DENSE:
                    line[np.isin(line, own)] = -1
                    continue
                self._flags = np.zeros(size * 5 // 4, np.bool_)
            self._flags[own] = True
            line[self._flags[line] & (line >= 0)] = -1
            self._flags[own] = False


def _plan(mask: Mask, bits: Bytes8, version: int, lists: Places, nlist: int) -> MaskPlan:
    allowed = int(np.count_nonzero(mask))
    # Odd, so that what goes by even and odd numbers is not mistaken.
    step = 1 if allowed <= _SAMPLE else allowed // _SAMPLE * 2 + 1
    sample = np.flatnonzero(mask[::step]) * step
    found = lists.find(sample)
    per_list = np.bincount(found[found >= 0], minlength=nlist) * step
    return MaskPlan(
        bits=bits,
        selector=_faiss.IDSelectorBitmap(bits),
        count=int(per_list.sum()),
        per_list=per_list,
        sampled=step > 1,
        version=version,
    )
