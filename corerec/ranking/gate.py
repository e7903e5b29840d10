"""PrecisionReport: which precisions a release's ranker may be served in, and what was measured.

Writing it is part of training; a release without one is served in fp32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from corerec.config import build_config
from corerec.errors import ConfigError, FailedPrecondition
from corerec.ranking.precision import Precision
from corerec.release import OpenRelease

FILE = "ranker_precision.json"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One precision against fp32, on the cases of the validation period."""

    allowed: bool
    """Whether what was measured is within the limits of the gate."""
    max_score_deviation: float
    """Largest difference of a score, a probability."""
    ndcg_change: float
    """Change of NDCG@10 relative to fp32: -0.001 is a tenth of a percent less."""
    rank_overlap: float
    """Mean share of the first 100 of fp32 that are among the first 100 here."""
    pairs_per_second: float
    """Candidates that one core scored a second."""

    def __str__(self) -> str:
        return (
            f"max score deviation {self.max_score_deviation:.2g}, NDCG@10 {self.ndcg_change:+.3%}, "
            f"{self.rank_overlap:.2%} of the first 100 the same"
        )


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What the gate found for each precision that it measured."""

    recommended: Precision = "fp32"
    """The fastest that is allowed."""
    measured: Mapping[Precision, Measured]

    def __post_init__(self) -> None:
        """Raise ConfigError when what is recommended is not allowed."""
        if not self.allows(self.recommended):
            raise ConfigError(
                f"recommended must be a precision that is allowed, got {self.recommended!r}"
            )

    def allows(self, precision: Precision) -> bool:
        """Return whether a ranker may be served so; fp32 always."""
        own = self.measured.get(precision)
        return precision == "fp32" or (own is not None and own.allowed)

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> PrecisionReport:
        """Return the report in a JSON file. Raises ConfigError when it is not one."""
        return build_config(cls, json.loads(path.read_text()), source=path.name)


def choose_precision(release: OpenRelease, wanted: Precision | Literal["auto"]) -> Precision:
    """Return the precision to serve a release's ranker in; "auto" is what its gate recommends.

    Raises FailedPrecondition when the gate refused the one that is wanted, or did not measure it.
    """
    report = PrecisionReport(measured={})
    if release.has(FILE):
        report = PrecisionReport.load(release.file(FILE))
    if wanted == "auto":
        return report.recommended
    if report.allows(wanted):
        return wanted
    own = report.measured.get(wanted)
    found = f"it is over: {own}" if own else "it was not measured for this release"
    raise FailedPrecondition(
        f"precision must be one that the release's gate allowed, got {wanted!r}: {found}"
    )
