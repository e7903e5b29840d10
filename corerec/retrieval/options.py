"""What retrieval asks and how the sources share the places; kept in retrieval.json of a release."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corerec.config import build_config
from corerec.errors import ConfigError, ReleaseError
from corerec.stages import Source

HEADER = "retrieval.json"
KINDS = {
    "two_tower": Source.TWO_TOWER,
    "bert4rec": Source.BERT4REC,
    "matrix_factorization": Source.MATRIX_FACTORIZATION,
}
"""The models that a release can hold as sources, in the order of their turns."""
LISTS = {
    "item_to_item": Source.ITEM_TO_ITEM,
    "trending": Source.TRENDING,
    "fresh": Source.FRESH,
}
"""The sources without a model, in the order of their turns, after those with one. Each is asked
when `quotas` names it."""


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How candidates of several sources share the places."""

    quotas: dict[str, float] = field(default_factory=dict)
    """Weight of a source's share of the places by its kind, such as `bert4rec`; above 0. A model
    that is not named has 1, a list that is not named is not asked; weights count relative to the
    sources that there are."""
    popular_share: float = 0.1
    """Share of k that popular items fill which no other source brought, [0, 1]."""
    cold_popular_share: float = 0.7
    """The same for a user who is unknown and has no known history, [0, 1]. The other places are for
    what attributes and the moment say."""
    timeouts: dict[str, float] = field(default_factory=dict)
    """Milliseconds after which a source is left out of an answer, by its kind; above 0. One that is
    not named is waited for. A source with a time-out runs in a thread of its own."""
    trending_half_life_hours: float = 72.0
    """Hours after which an event counts half in `trending`; above 0."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("popular_share", "cold_popular_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for kind, weight in self.quotas.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"quotas.{kind} must be above 0 and finite, got {weight}")
        for kind, limit in self.timeouts.items():
            if kind not in KINDS and kind not in LISTS:
                raise ConfigError(f"timeouts must name {[*KINDS, *LISTS]}, got {kind!r}")
            if not (math.isfinite(limit) and limit > 0):
                raise ConfigError(f"timeouts.{kind} must be above 0 and finite, got {limit}")
        hours = self.trending_half_life_hours
        if not (math.isfinite(hours) and hours > 0):
            raise ConfigError(f"trending_half_life_hours must be above 0 and finite, got {hours}")


@dataclass(frozen=True, kw_only=True)
class RetrievalHeader:
    """What retrieval.json of a release holds."""

    sources: tuple[str, ...]
    """Kinds of the vector sources, in the order of their turns."""
    options: RetrievalOptions = field(default_factory=RetrievalOptions)
    score_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a source's dot product in a candidate's score by kind, >= 0; 1 where absent."""
    shards: int = 1
    """Parts that each source's vectors and index are held in, by item number; 1 for whole ones."""

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> RetrievalHeader:
        """Return what a file holds. Raises ReleaseError, ConfigError when it is not this."""
        try:
            values = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ReleaseError(f"{path}: not readable as JSON: {error}") from None
        header = build_config(cls, values, source=path)
        if unknown := [kind for kind in header.sources if kind not in KINDS]:
            raise ReleaseError(f"{path}: sources must be among {list(KINDS)}, got {unknown}")
        if header.shards < 1:
            raise ReleaseError(f"{path}: shards must be at least 1, got {header.shards}")
        for kind, weight in header.score_weights.items():
            if kind not in header.sources or not 0 <= weight < math.inf:
                raise ReleaseError(
                    f"{path}: score_weights.{kind} must be >= 0 of a source: {weight}"
                )
        return header


def asked_kinds(kinds: Sequence[str], quotas: Mapping[str, float]) -> tuple[str, ...]:
    """Return `kinds` and the lists that the quotas name, in the order of their turns."""
    return (*kinds, *(kind for kind in LISTS if kind in quotas and kind not in kinds))


def shares_of(kinds: Sequence[str], quotas: Mapping[str, float]) -> tuple[float, ...]:
    """Return each source's share of the places; they add to 1.

    Raises:
        ConfigError: when a quota names a source that is neither among `kinds` nor a list.
    """
    if unknown := sorted(set(quotas) - set(kinds) - set(LISTS)):
        raise ConfigError(f"quotas must name sources among {[*kinds, *LISTS]}, got {unknown}")
    weights = [quotas.get(kind, 1.0) for kind in kinds]
    return tuple(weight / sum(weights) for weight in weights)
