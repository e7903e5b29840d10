"""Searches lists of 8- or 4-bit codes: choose lists, scan them, keep the best, score those exactly.

All of it is compiled code without the interpreter's lock, one query after another, so that threads
share a batch. A key is a score and a slot in one integer that orders as the score does.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# B queries, D dimensions, G groups of four, W candidates that are scored exactly

from __future__ import annotations

import numpy as np

from corerec.retrieval.stores.int8_compiled import compiled, compiled_sum
from corerec.retrieval.stores.int8_kernel import (
    GROUP,
    LANES,
    WIDE,
    lowest_bit,
    prefetch,
    score_blocks,
)

NONE = np.int64(-0x8000000000000000)
"""Key of no candidate."""
LOW = np.int64(0xFFFFFFFF)
TOP = np.int64(0x7FFFFFFF)
"""Highest item number that fits a key."""
_SMALL = 12
_AHEAD = 8
"""Rows whose memory is asked for before their turn."""
_NEAREST = 4
_ROOM = 256 + WIDE * LANES


@compiled
def search_lists(queries, lists, probes, least, wanted, distance, by_slot, allowed, held, target,
                 barred_items, barred_from, found):  # fmt: skip
    """Write the keys of the `wanted` best of each query by codes, scored exactly, in no order.

    The nearest `probes` lists are read, fewer where `held` says how many allowed items each list
    has and those read have `target`, and more while fewer than `least` items were found.

    Shapes: queries (B, D) float32; lists, see `int8_lists.Lists`; allowed, bool by item number,
    empty for all; held (L,) or empty; barred_items, numbers of query i from barred_from[i] to
    barred_from[i + 1]; found (B, wanted) int64. The lower half of a key is 2^31 - 1 - number, or
    the slot.
    """
    count = len(lists.centres)
    half = lists.bits == 4
    query = np.zeros(max(lists.centre_codes.shape[1], lists.codes.shape[1] * 8 // lists.bits) * 4,
                     np.int8)  # fmt: skip
    out, floor = np.empty(WIDE * LANES, np.float32), np.empty(1, np.float32)
    most = 2 * max(wanted, min(count, probes)) + _ROOM
    keys, high, low = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    everything = np.empty(0, np.bool_)
    barred = np.zeros((lists.highest[0] >> 3) + 2 if len(barred_items) else 1, np.uint8)
    is_filtered = len(allowed) > 0 or len(barred) > 1
    for row in range(len(queries)):
        own = queries[row]
        start, factor = quantise(own, query)
        # The zero of a code of 4 bits is 8, not 128.
        own_start = start // np.int32(16) if half else start
        if distance:
            factor *= np.float32(2)
        _bar(barred, barred_items, barred_from, row, True)
        asked = min(probes, count)
        while True:
            if 2 * asked + _ROOM > len(keys):
                most = 2 * asked + _ROOM
                keys = np.empty(most, np.int64)
                high, low = np.empty(most, np.int64), np.empty(most, np.int64)
            chosen = _choose(lists, asked, query, start, factor, keys, out, floor, everything,
                             barred, high, low)  # fmt: skip
            floor[0] = -np.inf
            room, kept, seen = 2 * wanted + _ROOM, 0, 0
            for place in range(len(chosen) - 1, -1, -1):
                one = chosen[place] & LOW
                bias = inner(lists.centres[one], own)
                if distance:
                    bias *= np.float32(2)
                if place:
                    _ask_for(lists.codes, lists.first[chosen[place - 1] & LOW])
                kept = _scan(lists.codes, lists.scales, lists.offsets, lists.first[one],
                             lists.last[one], half, query, own_start, factor, bias, keys[:room],
                             kept, wanted, out, floor, lists.numbers, allowed, barred, is_filtered,
                             high, low)  # fmt: skip
                block = lists.chain[one]
                while block >= 0:
                    kept = _scan(lists.codes, lists.scales, lists.offsets, block, block + 1, half,
                                 query, own_start, factor, bias, keys[:room], kept, wanted, out,
                                 floor, lists.numbers, allowed, barred, is_filtered, high,
                                 low)  # fmt: skip
                    block = lists.following[block]
                if len(held):
                    seen += held[one]
                    if seen >= target and kept >= least:
                        break
            if kept >= least or asked == count:
                break
            asked = min(4 * asked, count)
        _bar(barred, barred_items, barred_from, row, False)
        if kept > wanted:
            keep_best(keys, kept, wanted, high, low)
            kept = wanted
        _refine(own, lists, keys, kept, distance, by_slot, found[row])


@compiled
def nearest_lists(vectors, lists, distance, home):
    """Write the list (N,) that each vector (N, D) belongs to: the best few by codes, exactly."""
    query = np.zeros(lists.centre_codes.shape[1] * 4, np.int8)
    out, floor = np.empty(WIDE * LANES, np.float32), np.empty(1, np.float32)
    asked = min(_NEAREST, len(lists.centres))
    most = 2 * asked + _ROOM
    keys, high, low = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    everything, barred = np.empty(0, np.bool_), np.zeros(1, np.uint8)
    for row in range(len(vectors)):
        own = vectors[row]
        start, factor = quantise(own, query)
        if distance:
            factor *= np.float32(2)
        chosen = _choose(lists, asked, query, start, factor, keys, out, floor, everything, barred,
                         high, low)  # fmt: skip
        best, highest = np.int64(0), np.float32(-np.inf)
        for key in chosen:
            place = key & LOW
            score = inner(lists.centres[place], own)
            if distance:
                score = 2 * score - inner(lists.centres[place], lists.centres[place])
            if score > highest:
                best, highest = place, score
        home[row] = best


@compiled
def _bar(barred, items, starts, row, is_on):
    """Set or clear the bits of a query's excluded numbers."""
    if len(barred) == 1:
        return
    for place in range(starts[row], starts[row + 1]):
        number = items[place]
        if 0 <= number < 8 * len(barred):
            bit = np.uint8(1 << (number & 7))
            if is_on:
                barred[number >> 3] |= bit
            else:
                barred[number >> 3] &= ~bit


@compiled
def _choose(lists, asked, query, start, factor, keys, out, floor, everything, barred, high, low):
    """Return the keys of the `asked` lists of the best centres, ascending."""
    floor[0] = -np.inf
    kept = _scan(lists.centre_codes, lists.centre_scales, lists.centre_offsets, 0,
                 len(lists.centre_codes), False, query, start, factor, np.float32(0),
                 keys[: 2 * asked + _ROOM], 0, asked, out, floor, lists.numbers, everything, barred,
                 False, high, low)  # fmt: skip
    if kept > asked:
        keep_best(keys, kept, asked, high, low)
        kept = asked
    chosen = keys[:kept].copy()
    chosen.sort()
    return chosen


@compiled
def _scan(codes, scales, offsets, first, last, half, query, start, factor, bias, keys, kept, wanted,
          out, floor, numbers, allowed, barred, is_filtered, high, low):  # fmt: skip
    """Add the lanes of blocks first..last that score above the floor to keys[:kept].

    When keys are full the `wanted` best stay, and the floor rises to the last of them. Returns how
    many keys there are.
    """
    bits = out.view(np.int32)
    block, room = first, len(keys) - WIDE * LANES
    while block < last:
        is_wide = last - block >= WIDE
        if last - block > WIDE:
            _ask_for(codes, block + WIDE)
        mask = score_blocks(
            codes, scales, offsets, block, is_wide, half, query, start, factor, bias, floor[0], out
        )
        base = block * LANES
        block += WIDE if is_wide else 1
        while mask != np.uint64(0):
            lane = np.int64(lowest_bit(mask))
            mask &= mask - np.uint64(1)
            if is_filtered:
                number = numbers[base + lane]
                if len(allowed) and (number >= len(allowed) or not allowed[number]):
                    continue
                if len(barred) > 1 and barred[number >> 3] >> np.uint8(number & 7) & np.uint8(1):
                    continue
            keys[kept] = key_of(bits[lane], base + lane)
            kept += 1
        if kept > room:
            keep_best(keys, kept, wanted, high, low)
            kept = wanted
            lowest = keys[0]
            for place in range(1, wanted):
                lowest = min(lowest, keys[place])
            floor.view(np.int32)[0] = bits_of(lowest)
    return kept


@compiled
def _ask_for(codes, block):
    """Ask for the memory of WIDE blocks: the processor foresees no new list, and few new pages."""
    size = codes.shape[1] * LANES * GROUP
    at = codes.ctypes.data + block * size
    for offset in range(0, WIDE * size, 64):
        prefetch(at + offset)


@compiled
def _refine(query, lists, keys, kept, distance, by_slot, found):
    """Write the keys of exact scores to `found` (W,), NONE where there are fewer."""
    vectors, width = lists.vectors, 4 * len(query)
    at, score = vectors.ctypes.data, np.empty(1, np.float32)
    bits = score.view(np.int32)
    for place in range(min(_AHEAD, kept)):
        for offset in range(0, width, 64):
            prefetch(at + (keys[place] & LOW) * width + offset)
    for place in range(kept):
        if place + _AHEAD < kept:
            for offset in range(0, width, 64):
                prefetch(at + (keys[place + _AHEAD] & LOW) * width + offset)
        slot = keys[place] & LOW
        if distance:
            score[0] = -squared_distance(vectors[slot], query)
        else:
            score[0] = inner(vectors[slot], query)
        score[0] += np.float32(0)  # -0 is 0
        found[place] = key_of(bits[0], slot if by_slot else TOP - lists.numbers[slot])
    for place in range(kept, len(found)):
        found[place] = NONE


@compiled
def unpack(found, slots, by_slot, numbers, scores):
    """Write the items of ascending keys (B, W), best first, -1 and -inf where there are fewer.

    Shapes: slots (S,) item numbers by slot; numbers, scores (B, k).
    """
    width = found.shape[1]
    for row in range(len(found)):
        bits = scores[row].view(np.int32)
        for place in range(numbers.shape[1]):
            key = found[row, width - 1 - place] if place < width else NONE
            if key == NONE:
                numbers[row, place], scores[row, place] = -1, -np.inf
                continue
            numbers[row, place] = slots[key & LOW] if by_slot else TOP - (key & LOW)
            bits[place] = bits_of(key)


@compiled
def keep_best(keys, count, wanted, high, low):
    """Move the `wanted` greatest of the distinct keys[:count] to the front, in no order."""
    first, end, need = 0, count, wanted
    while end - first > need and need > 0:
        size = end - first
        if size <= _SMALL:
            for place in range(first, first + need):
                best = place
                for other in range(place + 1, end):
                    if keys[other] > keys[best]:
                        best = other
                keys[place], keys[best] = keys[best], keys[place]
            return
        a, b, c = keys[first], keys[first + size // 2], keys[end - 1]
        pivot = max(min(a, b), min(max(a, b), c))
        above, below = 0, 0
        # Without a branch: which side a key falls to cannot be foreseen.
        for place in range(first, end):
            key = keys[place]
            high[above] = key
            low[below] = key
            is_above = np.int64(key >= pivot)
            above += is_above
            below += 1 - is_above
        keys[first : first + above] = high[:above]
        if above >= need:
            end = first + above
        else:
            first += above
            need -= above
            keys[first : first + below] = low[:below]
            end = first + below


@compiled
def key_of(bits, slot):
    """Return an int64 that orders as the float of these bits, with `slot` as its lower half."""
    ordered = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return (np.int64(ordered) << np.int64(32)) | np.int64(slot)


@compiled
def bits_of(key):
    """Return the bits of the float that a key was made of."""
    ordered = np.int32(key >> np.int64(32))
    return ordered ^ ((ordered >> np.int32(31)) & np.int32(0x7FFFFFFF))


@compiled
def quantise(query, codes):
    """Write the 8-bit codes of a query (D,); return -128 times their sum, and their scale."""
    largest = np.float32(0)
    for value in query:
        largest = max(largest, abs(value))
    scale = largest / np.float32(127) if largest > 0 else np.float32(1)
    total = 0
    for place in range(len(query)):
        codes[place] = np.int8(np.rint(query[place] / scale))
        total += np.int64(codes[place])
    return np.int32(-128 * total), np.float32(scale)


@compiled_sum
def inner(a, b):
    """Return the inner product of two rows."""
    total = np.float32(0)
    for place in range(len(a)):
        total += a[place] * b[place]
    return total


@compiled_sum
def squared_distance(a, b):
    """Return the squared distance of two rows."""
    total = np.float32(0)
    for place in range(len(a)):
        total += (a[place] - b[place]) ** 2
    return total
