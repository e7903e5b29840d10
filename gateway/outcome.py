"""One request and its way through the funnel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from corerec.errors import (
    CoreRecError,
    DeadlineExceeded,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
)
from corerec.stages import (
    Candidates,
    Float32s,
    Int64s,
    Predicate,
    RemovedItem,
    UserContext,
)
from corerec.v1 import recommender_pb2, rerank_pb2

NO_ITEMS: Int64s = np.empty(0, np.int64)
NO_ITEMS.flags.writeable = False
_NOBODY = UserContext(items=NO_ITEMS, times=NO_ITEMS)


class Reason(IntEnum):
    """Why something is missing; the values are those of proto DegradationReason."""

    TIMEOUT = 1
    UNAVAILABLE = 2
    OVERLOADED = 3
    ERROR = 4
    RELEASE_MISMATCH = 5
    PARTIAL = 6

    @classmethod
    def of(cls, error: BaseException) -> Reason:
        """Return the reason that an error of a stage stands for."""
        match error:
            case DeadlineExceeded() | asyncio.TimeoutError():
                return cls.TIMEOUT
            case Unavailable():
                return cls.UNAVAILABLE
            case ResourceExhausted():
                return cls.OVERLOADED
            case FailedPrecondition():
                return cls.RELEASE_MISMATCH
            case _:
                return cls.ERROR


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A checked request."""

    request_id: str
    user_id: str
    page_size: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    recent: Int64s = field(default_factory=lambda: NO_ITEMS)
    """Item numbers of this session, oldest first."""
    unknown_recent: int = 0
    """Recent ids that the catalogue does not have."""
    exclude_seen: bool = True
    where: tuple[Predicate, ...] = ()
    """Conditions that every item of the answer meets."""
    now: int = 0
    """The moment to answer for, microseconds since 1970; 0 is where the release's data ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """One thing that was missing."""

    stage: str
    reason: Reason
    note: str


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Everything that one request met; filled in as the stages answer."""

    started: float = field(default_factory=time.monotonic)
    user: UserContext = _NOBODY
    retrieved: Candidates | None = None
    found_by: Mapping[int, Float32s] = field(default_factory=dict)
    """Value of Source -> that source's own score of each retrieved candidate; when explaining."""
    scored: Candidates | None = None
    """All that ranking scored; longer than `ranked` only when explaining."""
    ranked: Candidates | None = None
    items: Sequence[rerank_pb2.RankedItem] = ()
    """The final list, as the messages that reranking sent: they are what the caller gets."""
    removed: Sequence[RemovedItem] = ()
    coverage: float = 1.0
    answer: recommender_pb2.RecommendResponse = field(
        default_factory=recommender_pb2.RecommendResponse
    )
    """The answer, which has what each stage did so far; the servicer adds the rest."""
    degraded: list[Degradation] = field(default_factory=list)

    def note(self, stage: str, error: CoreRecError | Reason, instead: str) -> None:
        """Record that a stage is missing and what was done instead."""
        reason = error if isinstance(error, Reason) else Reason.of(error)
        why = "" if isinstance(error, Reason) else f"{error}; "
        self.degraded.append(Degradation(stage=stage, reason=reason, note=why + instead))
