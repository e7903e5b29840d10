"""Which trials are worth having: those that no other beats in everything, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence

from corerec.retrieval.choose.target import Target
from corerec.retrieval.choose.trial import Trial


def frontier(trials: Sequence[Trial], target: Target) -> list[Trial]:
    """Return the trials that none beats in recall, cost and bytes at once, by rising cost."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.cost(target), -t.recall, t.bytes)):
        if not any(_beats(other, trial) for other in kept):
            kept.append(trial)
    return kept


def cheapest(trials: Sequence[Trial], target: Target) -> Trial | None:
    """Return the fastest trial that reaches the target, None where there is none."""
    good = [trial for trial in trials if trial.reaches(target)]
    return min(good, key=lambda t: (t.cost(target), t.bytes), default=None)


def nearest(trials: Sequence[Trial], target: Target) -> Trial | None:
    """Return the trial of highest recall that fits the memory, or the smallest if none fits."""
    fits = [t for t in trials if target.memory is None or t.bytes <= target.memory]
    if fits:
        return max(fits, key=lambda t: (t.recall_low, -t.cost(target)))
    return min(trials, key=lambda t: t.bytes, default=None)


def _beats(one: Trial, other: Trial) -> bool:
    """Say whether one, which is no slower, is no worse in the rest."""
    return one.recall >= other.recall and one.bytes <= other.bytes
