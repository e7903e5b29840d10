"""RankingExamples: the cases that a ranker is trained on, as arrays. Mining them is not here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class RankingExamples:
    """B cases: a user at a moment, the item that came next, and n items that did not.

    Nothing in a case may be later than its `now`. For features that count interactions see
    `train_ranker`.
    """

    user_row: NDArray[np.int64]
    """(B,) rows of the user table: 0 is unknown, i + 1 is user row i of the data set."""
    history: NDArray[np.int64]
    """(B, L) item numbers before `now`, oldest first, the newest in the last column; -1 pads the
    left."""
    history_times: NDArray[np.int64]
    """(B, L) microseconds of the same events, -1 where padded; not read without times."""
    now: NDArray[np.int64]
    """(B,) microseconds; not read without times."""
    candidates: NDArray[np.int64]
    """(B, 1 + n) item numbers; column 0 is the one that came next."""
    retrieval_scores: NDArray[np.float32]
    """(B, 1 + n) what retrieval scored, or would have scored, each candidate."""
    retrieved: NDArray[np.bool_]
    """(B, 1 + n) where `retrieval_scores` has a value; the others count as unknown."""
    labels: NDArray[np.float32] | None = None
    """(B, T) in [0, 1]: for which of the ranker's tasks column 0 is a positive; None is for all."""
    positive_counted: bool = False
    """Whether the popularity counts hold column 0's own interaction (data without times)."""

    def __post_init__(self) -> None:
        """Check the shapes. Raises InvalidArgument."""
        cases, candidates = len(self.user_row), self.candidates.shape
        if len(candidates) != 2 or candidates[0] != cases or candidates[1] < 2:
            raise InvalidArgument(f"candidates must be ({cases}, 1 + n), n >= 1, got {candidates}")
        for name in ("retrieval_scores", "retrieved"):
            if getattr(self, name).shape != candidates:
                shape = getattr(self, name).shape
                raise InvalidArgument(f"{name} must have shape {candidates}, got {shape}")
        if self.history.shape != self.history_times.shape or len(self.history) != cases:
            raise InvalidArgument(
                f"history and history_times must be ({cases}, L), "
                f"got {self.history.shape} and {self.history_times.shape}"
            )
        if self.labels is not None:
            _check_labels(self.labels, cases)
        if self.now.shape != (cases,):
            raise InvalidArgument(f"now must have shape {(cases,)}, got {self.now.shape}")
        if not np.isfinite(self.retrieval_scores[self.retrieved]).all():
            raise InvalidArgument("retrieval_scores must be finite where retrieved")

    def __len__(self) -> int:
        return len(self.user_row)

    def take(self, rows: NDArray[np.int64] | slice) -> RankingExamples:
        """Return these cases, in this order."""
        arrays: dict[str, Any] = {
            f.name: None if (own := getattr(self, f.name)) is None else own[rows]
            for f in fields(self)[:-1]
        }
        return RankingExamples(**arrays, positive_counted=self.positive_counted)


def _check_labels(labels: NDArray[np.float32], cases: int) -> None:
    if labels.ndim != 2 or len(labels) != cases or not labels.shape[1]:
        raise InvalidArgument(f"labels must be ({cases}, T), T >= 1, got {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):  # a NaN is neither
        raise InvalidArgument(
            f"labels must be in [0, 1], without NaN, got {labels.min()}..{labels.max()}"
        )
