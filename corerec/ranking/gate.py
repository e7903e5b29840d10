"""PrecisionReport: which precisions a release's ranker may be served in, and what was measured.

Training writes it (`pipelines/precision.py`); a release without one is served in fp32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from corerec.config import build_config
from corerec.errors import ConfigError, FailedPrecondition
from corerec.ranking.instructions import suits
from corerec.ranking.precision import Precision
from corerec.release import OpenRelease

FILE = "ranker_precision.json"
GAIN = 1.1
"""Times fp32's speed from which on another precision is worth its differences."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PrecisionLimits:
    """How far from fp32 a precision may be, on the cases of the validation period."""

    ndcg_loss: float = 0.001
    """Most loss of NDCG@10, relative to fp32. Held against the expected loss as it is, and against
    that of the cases' right items when it is more by twice its standard error: of a few hundred
    cases, one that moves by a place is already more than a tenth of a percent."""
    score_deviation: float = 0.05
    """Most difference of a score, a probability."""
    rank_overlap: float = 0.95
    """Least mean share of the first 100 of fp32 that are among the first 100."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("ndcg_loss", "score_deviation", "rank_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One precision against fp32, on the cases of the validation period."""

    allowed: bool
    """Whether what was measured is within the limits of the gate."""
    max_score_deviation: float = 0.0
    """Largest difference of a score, a probability."""
    ndcg_change: float = 0.0
    """Change of NDCG@10 relative to fp32: -0.001 is a tenth of a percent less."""
    ndcg_error: float = 0.0
    """Standard error of that change; it shrinks with the number of cases."""
    expected_ndcg_change: float = 0.0
    """The same change where an item is right with the probability that fp32 gives it. No chance is
    in it, and it is never above 0."""
    rank_overlap: float = 1.0
    """Mean share of the first 100 of fp32 that are among the first 100 here."""
    pairs_per_second: float
    """Candidates that one core scored a second."""

    def __str__(self) -> str:
        return (
            f"max score deviation {self.max_score_deviation:.2g}, NDCG@10 {self.ndcg_change:+.3%} "
            f"± {self.ndcg_error:.3%}, expected {self.expected_ndcg_change:+.3%}, "
            f"{self.rank_overlap:.2%} of the first 100 the same"
        )

    def within(self, limits: PrecisionLimits) -> bool:
        """Return whether what was measured is within limits."""
        return (
            -self.expected_ndcg_change <= limits.ndcg_loss
            and -self.ndcg_change <= limits.ndcg_loss + 2 * self.ndcg_error
            and self.max_score_deviation <= limits.score_deviation
            and self.rank_overlap >= limits.rank_overlap
        )


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What the gate found for each precision that it measured."""

    recommended: Precision = "fp32"
    """The fastest that is allowed on the machine that measured; see `fastest_of`."""
    instructions: tuple[str, ...] = ()
    """What that machine has for precisions, of `instructions.KNOWN`."""
    cases: int = 0
    """Cases of the validation period that were ranked."""
    limits: PrecisionLimits = field(default_factory=PrecisionLimits)
    measured: Mapping[Precision, Measured]
    """By precision; fp32 is there for its speed."""

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

    def fastest(self, instructions: Set[str]) -> Precision:
        """Return the fastest that is allowed on a machine that has these instructions.

        On one like that which measured it is what was the fastest there. On another a precision
        needs instructions of its own, and must have gained where it was measured with such.
        """
        if set(self.instructions) == set(instructions):
            return self.recommended
        usable = {
            precision: own
            for precision, own in self.measured.items()
            if suits(precision, instructions)
        }
        here = fastest_of(usable)
        untried = [name for name in usable if not suits(name, set(self.instructions))]
        allowed = [name for name in untried if usable[name].allowed]
        return here if here != "fp32" or not allowed else allowed[0]

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> PrecisionReport:
        """Return the report in a JSON file. Raises ConfigError when it is not one."""
        return build_config(cls, json.loads(path.read_text()), source=path.name)


def fastest_of(measured: Mapping[Precision, Measured]) -> Precision:
    """Return the fastest precision that is allowed; fp32 unless another gains enough by itself."""
    exact = measured.get("fp32")
    best: Precision = "fp32"
    speed = 0.0 if exact is None else GAIN * exact.pairs_per_second
    for precision, own in measured.items():
        if precision != "fp32" and own.allowed and own.pairs_per_second >= speed:
            best, speed = precision, own.pairs_per_second
    return best


def choose_precision(
    release: OpenRelease, wanted: Precision | Literal["auto"], instructions: Set[str]
) -> Precision:
    """Return the precision to serve a release's ranker in on a machine with these instructions.

    "auto" is the fastest that the release's gate allows there. Raises FailedPrecondition when the
    gate refused the one that is wanted, or did not measure it.
    """
    report = PrecisionReport(measured={})
    if release.has(FILE):
        report = PrecisionReport.load(release.file(FILE))
    if wanted == "auto":
        return report.fastest(instructions)
    if report.allows(wanted):
        if not suits(wanted, instructions):
            log.warning("this machine has no instructions for %s; it may be slow", wanted)
        return wanted
    own = report.measured.get(wanted)
    found = f"it is over: {own}" if own else "it was not measured for this release"
    raise FailedPrecondition(
        f"precision must be one that the release's gate allowed, got {wanted!r}: {found}"
    )
