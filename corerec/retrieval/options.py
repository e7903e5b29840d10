"""RetrievalOptions: how candidates of several sources share the places."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How candidates of several sources share the places."""

    popular_share: float = 0.1
    """Share of k that popular items fill which the two-tower did not bring, [0, 1]."""
    cold_popular_share: float = 1.0
    """The same for a user who is unknown and has no known history, [0, 1]."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("popular_share", "cold_popular_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")
