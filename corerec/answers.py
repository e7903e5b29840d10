"""What clients give and get: plain records, without gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Item:
    """One recommended item."""

    item_id: str
    title: str
    category: str
    creator: str
    score: float
    """Score after all rules."""
    rank_score: float
    """Probability of interaction that ranking gave."""
    source: str
    """What brought it into the funnel: two_tower, bert4rec, matrix_factorization, item_to_item,
    trending, fresh, popular or pinned."""
    rank_position: int
    """Place in the ranked list, from 1; 0 for a pinned item that was not in it."""
    moves: tuple[str, ...]
    """What moved it, in words, in the order in which the rules ran."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage did; times in milliseconds."""

    name: str
    input_count: int
    output_count: int
    milliseconds: float
    steps: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """One thing that was missing from an answer."""

    stage: str
    reason: str
    """timeout, unavailable, overloaded, error, release_mismatch or partial."""
    note: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A list and how it came about."""

    items: tuple[Item, ...]
    request_id: str
    release: str
    stages: tuple[Stage, ...]
    coverage: float
    """Share of retrieval that answered: of the sources' places and of the catalogue, [0, 1]."""
    degraded: tuple[Degradation, ...]
    """Everything that was missing; empty when nothing was."""
    milliseconds: float
    """Wall time inside the gateway."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One item's way through the funnel. Positions count from 1; 0 means not there."""

    item_id: str
    title: str
    source: str
    retrieve_position: int
    retrieve_score: float
    rank_position: int
    rank_score: float
    final_position: int
    final_score: float
    moves: tuple[str, ...]
    removed_by: str
    """Where it left the funnel; empty when it is in the list."""
    note: str
    found_by: Mapping[str, float] = field(default_factory=dict)
    """Every source that found it, with that source's own score."""


@dataclass(frozen=True, kw_only=True)
class HistoryItem:
    """One past event of the user."""

    item_id: str
    title: str
    time_micros: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The whole funnel of one request."""

    recommendation: Recommendation
    traces: tuple[Trace, ...]
    history: tuple[HistoryItem, ...]
    """The user's newest items, newest first."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One interaction to record."""

    user_id: str
    item_id: str
    time_micros: int = 0
    """Microseconds since 1970-01-01 UTC; 0 means now."""
    event_type: str = ""
    event_id: str = ""
    """Makes a retry safe: an event with an id is stored once."""


@dataclass(frozen=True, kw_only=True)
class CatalogItem:
    """One item as its owner describes it."""

    item_id: str
    title: str = ""
    category: str = ""
    creator: str = ""
    born_micros: int = 0
    """When it came to be, microseconds since 1970-01-01 UTC; 0 means now, -1 unknown."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Single values by column name, numbers as text."""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values of list columns by column name."""
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Content vectors by the name of the vector set."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """An item of the catalogue and its place there."""

    item: CatalogItem
    number: int
    position: int
    """Position of its newest change; 0 when it is as the release has it."""


@dataclass(frozen=True, kw_only=True)
class Upserted:
    """Items that are durable now."""

    numbers: tuple[int, ...]
    """Item number of each, in the order that they were given."""
    position: int
    """Position of the last of them in the order of changes."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The newest change of one item."""

    position: int
    number: int
    item_id: str
    item: CatalogItem | None
    """None when it was deleted."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changes in the order of their positions."""

    changes: tuple[Change, ...]
    position: int
    """Position of the newest change of the catalogue."""
