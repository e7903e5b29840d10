"""What crosses between the stages of the funnel, as arrays: entries, results and the core Protocol.

A core (RetrievalCore, RankingCore, RerankCore) takes a batch of entries and returns a result or an
error for each. It knows no proto, gRPC, Ray, event loop or deadline: serving adds those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from corerec.errors import CoreRecError

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]
Bytes8 = NDArray[np.uint8]

MAX_HISTORY = 1000
"""Most events of a user that cross a wire; the newest are kept."""
MAX_K = 2000
"""Most candidates that a stage may be asked for."""
MAX_CANDIDATES = 10_000
"""Most candidates that a stage accepts in one entry."""


class Source(IntEnum):
    """What brought a candidate into the funnel; the values are those of proto CandidateSource."""

    UNSPECIFIED = 0
    TWO_TOWER = 1
    POPULAR = 2
    PINNED = 3
    BERT4REC = 4
    MATRIX_FACTORIZATION = 5
    TRENDING = 6
    FRESH = 7
    ITEM_TO_ITEM = 8


def _no_items() -> Int64s:
    return np.empty(0, np.int64)


def _no_scores() -> Float32s:
    return np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class UserContext:
    """The user whom a request is for, and the moment it is for."""

    user_id: str = ""
    """The caller's id; empty is an anonymous user."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Attributes by column name of the training data."""
    items: Int64s = field(default_factory=_no_items)
    """(H,) item numbers of past events, oldest first."""
    times: Int64s = field(default_factory=_no_items)
    """(H,) times of the same events, microseconds since 1970-01-01 UTC."""
    now: int = 0
    """The moment to answer for, microseconds since 1970; 0 is where the release's data ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Candidates as columns, best first."""

    numbers: Int64s
    """(N,) item numbers, each once."""
    scores: Float32s
    """(N,) finite scores of the stage that made them, descending."""
    sources: Bytes8
    """(N,) values of Source."""

    def __len__(self) -> int:
        return len(self.numbers)

    def top(self, k: int) -> Candidates:
        """Return the first k."""
        return Candidates(
            numbers=self.numbers[:k], scores=self.scores[:k], sources=self.sources[:k]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicate:
    """One condition on an attribute of an item; every part that is given must hold.

    An item without the attribute meets `none_of` alone.
    """

    attribute: str
    """Column name of the training data, or title, category, creator, born_micros."""
    any_of: tuple[str, ...] = ()
    """The item must have one of these values; of a list column, any of its values."""
    none_of: tuple[str, ...] = ()
    """The item must have none of these values."""
    at_least: float | None = None
    """Least number, included."""
    at_most: float | None = None
    """Greatest number, included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveEntry:
    """One user's retrieval."""

    request_id: str = ""
    user: UserContext
    k: int
    exclude_seen: bool = True
    where: tuple[Predicate, ...] = ()
    """Conditions that every candidate meets, applied inside the search."""
    explain: bool = False
    """Also say which sources found each candidate, and with what score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveResult:
    """One user's candidates; timings in microseconds by step name."""

    candidates: Candidates
    coverage: float = 1.0
    timings: Mapping[str, int] = field(default_factory=dict)
    found_by: Mapping[int, Float32s] = field(default_factory=dict)
    """Value of Source -> (n,) that source's own score of each candidate, NaN where it did not find
    it; only when explaining."""
    position: int = 0
    """Position of the catalogue that the answer has seen; the least of all shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchEntry:
    """What a shard needs of one user's retrieval: queries and conditions, no user."""

    request_id: str = ""
    queries: Mapping[str, Float32s]
    """Kind of a vector source -> query (D,), finite; a source that is not there is not asked."""
    k: int
    """Items wanted of each source."""
    excluded: Int64s = field(default_factory=_no_items)
    """(E,) item numbers that no source may find, in any order."""
    history: Int64s = field(default_factory=_no_items)
    """(H,) newest item numbers of the user, oldest first, for item-to-item."""
    where: tuple[Predicate, ...] = ()
    now: int = 0
    """The moment to answer for, microseconds since 1970; 0 is where the release's data ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceList:
    """What one source found in one shard, best first."""

    kind: str
    numbers: Int64s
    """(n,) item numbers, each once."""
    scores: Float32s
    """(n,) the source's own scores, descending."""
    totals: Float32s = field(default_factory=_no_scores)
    """(n,) candidate scores: the weighted sum of all vector sources' dot products; empty where who
    asked scores what it takes itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """Every source's list over one shard's items; timings in microseconds by step name."""

    lists: tuple[SourceList, ...]
    """In the order of the sources' turns, the popular list last. A source that was late or could
    not be asked is not there."""
    timings: Mapping[str, int] = field(default_factory=dict)
    position: int = 0
    """Position of the catalogue that the shard has applied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEntry:
    """One user's candidates to rank."""

    request_id: str = ""
    user: UserContext
    candidates: Candidates
    k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankResult:
    """The best k by probability of interaction; timings in microseconds by step name."""

    candidates: Candidates
    timings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankEntry:
    """One ranked list."""

    request_id: str = ""
    candidates: Candidates
    k: int
    now: int = 0
    """The moment that freshness is measured from; 0 is where the release's data ends."""
    explain: bool = False
    """Also say what removed each candidate that is not in the answer."""


# Tuples: a request makes ten of these and a few moves each, and a tuple is made in half the time.
class Move(NamedTuple):
    """One rule's effect on an item."""

    rule: str
    score_change: float
    note: str


class RankedItem(NamedTuple):
    """One item of the final list."""

    number: int
    item_id: str
    title: str
    category: str
    creator: str
    score: float
    rank_score: float
    source: int
    rank_position: int
    """Place in the ranked list, from 1; 0 for a pinned item that was not in it."""
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovedItem:
    """One candidate that is not in the final list."""

    number: int
    rule: str
    """block, deleted, cap, diversity or cut."""
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankResult:
    """The final list; timings in microseconds by step name."""

    items: Sequence[RankedItem]
    removed: Sequence[RemovedItem] = ()
    timings: Mapping[str, int] = field(default_factory=dict)


E_contra = TypeVar("E_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class StageCore(Protocol[E_contra, R_co]):
    """One stage's computation over one release."""

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        ...

    def check(self, entry: E_contra) -> None:
        """Raise InvalidArgument when the entry breaks a rule; cheap, called before queueing."""
        ...

    def run(self, entries: Sequence[E_contra]) -> Sequence[R_co | CoreRecError]:
        """Compute a batch. A bad entry gives an error in its place, its neighbours a result."""
        ...

    def warm(self) -> None:
        """Run typical batches so that the first real one is as fast as any."""
        ...
