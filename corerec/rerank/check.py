"""What an entry must obey before it is reranked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled_exactly
from corerec.errors import InvalidArgument
from corerec.rerank.rules import MAX_RERANK_K
from corerec.stages import MAX_CANDIDATES, Candidates, Int64s, RerankEntry

Columns = tuple[Int64s, NDArray[np.float64], int]
"""Item numbers (n,), scores (n,), and the largest number, -1 of none."""

_WRONG = -2


def check_entry(entry: RerankEntry, limit: int) -> Columns:
    """Return an entry's columns, copied: what came over a wire is read-only, another type.

    Raises:
        InvalidArgument: k, columns, scores or item numbers, which are below `limit`, are wrong.
    """
    if not 1 <= entry.k <= MAX_RERANK_K:
        raise InvalidArgument(f"k must be in [1, {MAX_RERANK_K}], got {entry.k}")
    if entry.now < 0:
        raise InvalidArgument(f"request_time_micros must be >= 0, got {entry.now}")
    candidates = entry.candidates
    if not len(candidates.numbers) == len(candidates.scores) == len(candidates.sources):
        raise InvalidArgument(
            "candidate columns must be equally long, got "
            f"{len(candidates.numbers)} item numbers, {len(candidates.scores)} scores and "
            f"{len(candidates.sources)} sources"
        )
    if len(candidates) > MAX_CANDIDATES:
        raise InvalidArgument(f"candidates must be at most {MAX_CANDIDATES}, got {len(candidates)}")
    numbers = np.array(candidates.numbers, np.int64)
    scores = np.array(candidates.scores, np.float64)
    if (largest := largest_number(numbers, scores, limit)) == _WRONG:
        _tell(candidates, limit)
    return numbers, scores, largest


@compiled_exactly
def largest_number(numbers: Int64s, scores: NDArray[np.float64], limit: int) -> int:
    """Return the largest of numbers (n,), -1 of none; -2 when a value is wrong.

    Numbers must be in [0, limit), each once, and scores (n,) finite.
    """
    bits = 1
    while (1 << bits) < 2 * len(numbers):
        bits += 1
    seen, largest = np.full(1 << bits, -1, np.int64), -1
    for row in range(len(numbers)):
        number = numbers[row]
        if number < 0 or number >= limit or not np.isfinite(scores[row]):
            return _WRONG
        # Fibonacci hashing: neighbours and multiples come to lie apart.
        hashed = np.uint64(number) * np.uint64(0x9E3779B97F4A7C15)
        place = np.int64(hashed >> np.uint64(64 - bits))
        while seen[place] >= 0:
            if seen[place] == number:
                return _WRONG
            place = (place + 1) & ((1 << bits) - 1)
        seen[place], largest = number, max(largest, number)
    return largest


def _tell(candidates: Candidates, limit: int) -> None:
    """Raise InvalidArgument that names the first wrong value."""
    if not np.isfinite(candidates.scores).all():
        row = int(np.argmin(np.isfinite(candidates.scores)))
        raise InvalidArgument(f"scores must be finite, got {candidates.scores[row]} in place {row}")
    ordered = np.sort(candidates.numbers)
    if ordered[0] < 0 or ordered[-1] >= limit:
        bad = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise InvalidArgument(f"item numbers must be in [0, {limit}), got {bad}")
    number = ordered[1:][ordered[1:] == ordered[:-1]][0]
    raise InvalidArgument(f"item numbers must be given once, got {number} twice")
