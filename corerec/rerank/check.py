"""What an entry must obey before it is reranked."""

from __future__ import annotations

import numpy as np

from corerec.errors import InvalidArgument
from corerec.rerank.rules import MAX_RERANK_K
from corerec.stages import MAX_CANDIDATES, Candidates, RerankEntry


def check_entry(entry: RerankEntry, limit: int) -> None:
    """Raise InvalidArgument unless k, columns, scores and item numbers below `limit` are right."""
    if not 1 <= entry.k <= MAX_RERANK_K:
        raise InvalidArgument(f"k must be in [1, {MAX_RERANK_K}], got {entry.k}")
    if entry.now < 0:
        raise InvalidArgument(f"request_time_micros must be >= 0, got {entry.now}")
    numbers, scores = entry.candidates.numbers, entry.candidates.scores
    if not len(numbers) == len(scores) == len(entry.candidates.sources):
        raise InvalidArgument(
            "candidate columns must be equally long, got "
            f"{len(numbers)} item numbers, {len(scores)} scores and "
            f"{len(entry.candidates.sources)} sources"
        )
    if len(numbers) > MAX_CANDIDATES:
        raise InvalidArgument(f"candidates must be at most {MAX_CANDIDATES}, got {len(numbers)}")
    if len(numbers):
        _check_values(entry.candidates, limit)


def _check_values(candidates: Candidates, limit: int) -> None:
    if not np.isfinite(candidates.scores).all():
        row = int(np.argmin(np.isfinite(candidates.scores)))
        raise InvalidArgument(f"scores must be finite, got {candidates.scores[row]} in place {row}")
    ordered = np.sort(candidates.numbers)
    if ordered[0] < 0 or ordered[-1] >= limit:
        bad = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise InvalidArgument(f"item numbers must be in [0, {limit}), got {bad}")
    if (double := ordered[1:] == ordered[:-1]).any():
        number = ordered[1:][double][0]
        raise InvalidArgument(f"item numbers must be given once, got {number} twice")
