"""The arrays of lists of 8- or 4-bit codes: laid out at once, appended to and erased from in place.

A list is a run of blocks of sixteen slots, and a chain of single blocks for what came later. A slot
holds a code, its scale, its item number and its vector. An erased slot has a scale of NaN, whose
score exceeds nothing, and is the first to be taken again.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# N items, D dimensions, G groups of four, S slots, L lists

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.retrieval.stores.arrays import large
from corerec.retrieval.stores.int8_compiled import compiled
from corerec.retrieval.stores.int8_kernel import GROUP, LANES
from corerec.stages import Float32s, Int64s

_CHUNK = 1 << 16
_ROOM = 1.25
"""Slots that are reserved beyond those in use; memory that is not touched costs nothing."""


class Lists(NamedTuple):
    """What the search reads. All arrays are of one store and change together."""

    centres: Float32s
    """(L, D)."""
    centre_codes: NDArray[np.uint8]
    """(blocks, G, 16, 4), of the centres themselves."""
    centre_scales: Float32s
    """(blocks, 16)."""
    centre_offsets: Float32s
    """(blocks, 16) of distances: the negative squared lengths; (1, 16) of zeros otherwise."""
    first: Int64s
    """(L,) first block of a list's run."""
    last: Int64s
    """(L,) the block after its run."""
    chain: Int64s
    """(L,) first block of its chain, -1 for none."""
    free: Int64s
    """(L,) an empty slot of its blocks, -1 for none."""
    following: Int64s
    """(S / 16,) the next block of a chain, -1 for none."""
    home: Int64s
    """(S / 16,) the list of a block."""
    next_free: Int64s
    """(S,) the next empty slot of the same list, -1 for none."""
    bits: int
    """Of a code: 8 or 4."""
    codes: NDArray[np.uint8]
    """(S / 16, G, 16, 4), each 128 above its value: of a vector's difference to its centre. Of 4
    bits, 8 above: two groups in one, the first in the lower halves of the bytes."""
    scales: Float32s
    """(S / 16, 16) what a code's step is worth, NaN in an empty slot."""
    offsets: Float32s
    """(S / 16, 16) of distances: the negative squared lengths; (1, 16) of zeros otherwise."""
    numbers: Int64s
    """(S,) item numbers, -1 in an empty slot."""
    vectors: Float32s
    """(S, D)."""
    used: Int64s
    """(1,) blocks in use."""
    highest: Int64s
    """(1,) the highest item number that ever was here."""


def empty_lists(centres: Float32s, blocks: int, *, bits: int, distance: bool) -> Lists:
    """Return lists without items around centres (L, D), with room for so many blocks."""
    count, dim = centres.shape
    groups, rows = -(-dim // GROUP), -(-count // LANES)
    codes, scales = encode(centres)
    centre_codes = np.full((rows, groups, LANES, GROUP), 128, np.uint8)
    centre_scales = np.full((rows, LANES), np.nan, np.float32)
    _place(codes, centre_codes, np.arange(count))
    centre_scales.reshape(-1)[:count] = scales
    centre_offsets = np.zeros((rows if distance else 1, LANES), np.float32)
    if distance:
        centre_offsets.reshape(-1)[:count] = -np.einsum("ld,ld->l", centres, centres)
    return Lists(
        centres=centres,
        centre_codes=centre_codes,
        centre_scales=centre_scales,
        centre_offsets=centre_offsets,
        first=np.zeros(count, np.int64),
        last=np.zeros(count, np.int64),
        chain=np.full(count, -1, np.int64),
        free=np.full(count, -1, np.int64),
        following=np.empty(blocks, np.int64),
        home=np.empty(blocks, np.int64),
        next_free=np.empty(blocks * LANES, np.int64),
        bits=bits,
        codes=large((blocks, -(-groups * bits // 8), LANES, GROUP), np.uint8),
        scales=large((blocks, LANES), np.float32),
        offsets=large((blocks, LANES), np.float32)
        if distance
        else np.zeros((1, LANES), np.float32),
        numbers=large((blocks * LANES,), np.int64),
        vectors=large((blocks * LANES, dim), np.float32),
        used=np.zeros(1, np.int64),
        highest=np.zeros(1, np.int64),
    )


def laid_out(
    centres: Float32s,
    numbers: Int64s,
    vectors: Float32s,
    home: Int64s,
    *,
    bits: int,
    distance: bool,
) -> tuple[Lists, Int64s]:
    """Return lists that hold items, each list in one run, and the slots (N,) of the items.

    Shapes: centres (L, D), numbers (N,), vectors (N, D), home (N,) the list of each.
    """
    sizes = np.bincount(home, minlength=len(centres))
    blocks = -(-sizes // LANES)
    ends = np.cumsum(blocks)
    lists = empty_lists(centres, int(ends[-1] * _ROOM) + 64, bits=bits, distance=distance)
    lists.first[:], lists.last[:], lists.used[0] = ends - blocks, ends, ends[-1]
    for name in ("home", "following"):
        getattr(lists, name)[: ends[-1]] = -1
    lists.home[: ends[-1]] = np.repeat(np.arange(len(centres)), blocks)
    order = np.lexsort((numbers, home))
    begins = np.cumsum(sizes) - sizes
    own = home[order]
    slots = np.empty(len(numbers), np.int64)
    slots[order] = lists.first[own] * LANES + np.arange(len(numbers)) - begins[own]
    _open(lists, 0, int(ends[-1]))
    for start in range(0, len(order), _CHUNK):
        _fill(lists, numbers, vectors, home, slots, order[start : start + _CHUNK], distance)
    _free_slots(lists, 0, int(ends[-1]))
    return lists, slots


def append(
    lists: Lists, numbers: Int64s, vectors: Float32s, home: Int64s, *, distance: bool
) -> tuple[Lists, Int64s]:
    """Return the lists with further items in empty slots and new blocks, and the items' slots."""
    most = len(numbers) // LANES + min(len(numbers), len(lists.centres)) + 1
    needed = int(lists.used[0]) + most
    if needed > len(lists.home):
        lists = _roomier(lists, int(needed * _ROOM) + 64)
    slots = np.empty(len(numbers), np.int64)
    before = int(lists.used[0])
    _take_slots(home, slots, lists.free, lists.next_free, lists.chain, lists.following, lists.home,
                lists.used)  # fmt: skip
    _open(lists, before, int(lists.used[0]))
    _fill(lists, numbers, vectors, home, slots, np.arange(len(numbers)), distance)
    return lists, slots


def erase(lists: Lists, slots: Int64s) -> None:
    """Empty slots that hold items."""
    lists.scales.reshape(-1)[slots] = np.nan
    lists.numbers[slots] = -1
    _give_slots(slots, lists.free, lists.next_free, lists.home)


def encode(rows: Float32s) -> tuple[NDArray[np.uint8], Float32s]:
    """Return 8-bit codes (n, D) of rows and what a step of each row's is worth, (n,)."""
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(127)
    scales[scales == 0] = 1
    codes = np.rint(rows / scales[:, None]) + 128
    return codes.astype(np.uint8), scales.astype(np.float32)


def _place(codes: NDArray[np.uint8], target: NDArray[np.uint8], slots: Int64s) -> None:
    """Write codes (n, D) into the blocks (S / 16, G, 16, 4) of their slots."""
    width = target.shape[1] * GROUP
    if codes.shape[1] < width:
        codes = np.pad(codes, ((0, 0), (0, width - codes.shape[1])), constant_values=128)
    block, lane = np.divmod(slots, LANES)
    target[block, :, lane] = codes.reshape(len(codes), -1, GROUP)


def _open(lists: Lists, start: int, end: int) -> None:
    """Make blocks empty."""
    lists.codes[start:end] = 128
    lists.scales[start:end] = np.nan
    lists.numbers[start * LANES : end * LANES] = -1
    lists.vectors[start * LANES : end * LANES] = 0
    if len(lists.offsets) > 1:
        lists.offsets[start:end] = 0


def _fill(
    lists: Lists,
    numbers: Int64s,
    vectors: Float32s,
    home: Int64s,
    slots: Int64s,
    rows: Int64s,
    distance: bool,
) -> None:
    """Write the items of some rows into their slots."""
    _write(lists, numbers, np.ascontiguousarray(vectors), home, slots, rows, distance)


def _free_slots(lists: Lists, start: int, end: int) -> None:
    """Chain the empty slots of blocks to their lists."""
    empty = np.flatnonzero(lists.numbers[start * LANES : end * LANES] < 0) + start * LANES
    _give_slots(empty[::-1].copy(), lists.free, lists.next_free, lists.home)


def _roomier(lists: Lists, blocks: int) -> Lists:
    """Return the same lists in arrays of so many blocks."""
    used, fresh = int(lists.used[0]), {}
    for name in ("following", "home", "codes", "scales"):
        fresh[name] = _longer(getattr(lists, name), blocks, used)
    if len(lists.offsets) > 1:
        fresh["offsets"] = _longer(lists.offsets, blocks, used)
    for name in ("next_free", "numbers", "vectors"):
        fresh[name] = _longer(getattr(lists, name), blocks * LANES, used * LANES)
    return lists._replace(**fresh)


def _longer(array, size: int, used: int):
    fresh = large((size, *array.shape[1:]), array.dtype)
    fresh[:used] = array[:used]
    return fresh


@compiled
def _write(lists, numbers, vectors, home, slots, rows, distance):
    """Do what `encode` and `_place` do, item by item: a few cost a few."""
    dim = vectors.shape[1]
    scales, offsets = lists.scales.reshape(-1), lists.offsets.reshape(-1)
    for row in rows:
        slot, own, centre = slots[row], vectors[row], lists.centres[home[row]]
        block, lane = slot // LANES, slot % LANES
        largest, square = np.float32(0), np.float32(0)
        for place in range(dim):
            largest = max(largest, abs(own[place] - centre[place]))
            square += own[place] * own[place]
        steps = np.float32(127) if lists.bits == 8 else np.float32(7.5)
        scale = largest / steps if largest > 0 else np.float32(1)
        for place in range(dim):
            code = np.rint((own[place] - centre[place]) / scale)
            group, part = place // GROUP, place % GROUP
            if lists.bits == 8:
                lists.codes[block, group, lane, part] = np.uint8(code + np.float32(128))
            else:
                shift = 4 * (group & 1)
                above = np.int64(min(code + np.float32(8), np.float32(15))) << shift
                others = np.int64(lists.codes[block, group >> 1, lane, part]) & (240 >> shift)
                lists.codes[block, group >> 1, lane, part] = np.uint8(others | above)
            lists.vectors[slot, place] = own[place]
        scales[slot], lists.numbers[slot] = scale, numbers[row]
        if distance:
            offsets[slot] = -square
        lists.highest[0] = max(lists.highest[0], numbers[row])


@compiled
def _take_slots(homes, slots, free, next_free, chain, following, home, used):
    """Choose an empty slot for each item in its list; a list without one gets a new block."""
    for row in range(len(homes)):
        own = homes[row]
        if free[own] < 0:
            block = used[0]
            used[0] += 1
            home[block], following[block] = own, chain[own]
            chain[own] = block
            for lane in range(LANES):
                next_free[block * LANES + lane] = block * LANES + lane + 1
            next_free[block * LANES + LANES - 1] = -1
            free[own] = block * LANES
        slots[row] = free[own]
        free[own] = next_free[slots[row]]


@compiled
def _give_slots(slots, free, next_free, home):
    """Put slots at the head of the empty ones of their lists."""
    for slot in slots:
        own = home[slot // LANES]
        next_free[slot] = free[own]
        free[own] = slot
