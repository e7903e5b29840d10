"""The rerank rules as dataclasses, read from TOML; `default_rules.toml` shows every field."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from corerec.config import build_config, load_config
from corerec.errors import ConfigError

DEFAULT_RULES = Path(__file__).with_name("default_rules.toml")
"""The rules that training puts into a release when it is given none."""
MAX_RERANK_K = 500
"""Longest list that can be asked for."""
MAX_FACTOR = 100.0
"""Largest boost."""

_Cap = Annotated[int, Field(ge=0, le=MAX_RERANK_K)]


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is never shown."""

    items: tuple[str, ...] = ()
    """Item ids."""
    categories: tuple[str, ...] = ()
    """Categories as the catalogue spells them."""
    creators: tuple[str, ...] = ()
    """Creators as the catalogue spells them."""


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Raises young items."""

    half_life_days: Annotated[float, Field(gt=0, le=36500)] = 30.0
    """Days in which freshness, 1 at an item's birth, halves; (0, 36500]. 0 after ten of them."""
    weight: Annotated[float, Field(ge=0, le=10)] = 0.0
    """The score is multiplied by 1 + weight * freshness; [0, 10], 0 is off."""


@dataclass(frozen=True, kw_only=True)
class Boosts:
    """Factors on the score. A negative score is divided by them, so above 1 always raises."""

    categories: dict[str, float] = field(default_factory=dict)
    """Factor by category, (0, 100]."""
    creators: dict[str, float] = field(default_factory=dict)
    """Factor by creator, (0, 100]; multiplied with the category's."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Each place goes to what is good and unlike what is above it.

    The score counts scaled to [0, 1] over the list's candidates, likeness as the cosine of the
    item vectors.
    """

    method: Literal["mmr", "dpp"] = "mmr"
    """mmr, maximal marginal relevance, looks at the one item above that is most alike; dpp, a
    determinantal point process, at all that is above together. Each reads its own weight."""
    mmr_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of the score against likeness in mmr; [0, 1], 1 is off."""
    dpp_theta: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of the score against the volume that the items span in dpp; [0, 1], 1 is off."""

    @property
    def weight(self) -> float:
        """The weight of the method that is chosen."""
        return self.mmr_lambda if self.method == "mmr" else self.dpp_theta

    @property
    def on(self) -> bool:
        """Whether items are compared."""
        return self.weight < 1


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Most items of a kind in one list. Pinned items count, and alone may exceed a cap."""

    per_category: _Cap = 0
    """Items of one category; [0, 500], 0 is no cap. Items without a category are not capped."""
    per_creator: _Cap = 0
    """Items of one creator; [0, 500], 0 is no cap. Items without a creator are not capped."""
    relax_caps: bool = False
    """Whether a list that the caps leave short is filled with the best items over them."""


@dataclass(frozen=True, kw_only=True)
class RerankRules:
    """All rules, in the order in which they run; the default changes nothing."""

    block: Block = field(default_factory=Block)
    """What is never shown."""
    pins: dict[str, int] = field(default_factory=dict)
    """Position, from 1 to 500, by item id; each position once."""
    freshness: Freshness = field(default_factory=Freshness)
    """How much young items are raised."""
    boosts: Boosts = field(default_factory=Boosts)
    """Factors by category and creator."""
    diversity: Diversity = field(default_factory=Diversity)
    """How unlike one another the items are to be."""
    caps: Caps = field(default_factory=Caps)
    """How many items of a kind a list may have."""


def load_rules(path: Path) -> RerankRules:
    """Return the rules in a TOML file.

    Raises:
        ConfigError: naming the file, the line, the key, the rule and the value.
    """
    rules = load_config(RerankRules, path)
    _check_tables(rules, path)
    return rules


def check_rules(rules: RerankRules) -> None:
    """Raise ConfigError unless rules that were made in code obey the same limits as a file."""
    build_config(RerankRules, asdict(rules), source="rules")
    _check_tables(rules, "rules")


def _check_tables(rules: RerankRules, source: Path | str) -> None:
    """Check the tables whose keys are free: the ranges of their values, and doubled positions."""
    for name, factors in (
        ("boosts.categories", rules.boosts.categories),
        ("boosts.creators", rules.boosts.creators),
    ):
        for key, factor in factors.items():
            if not (math.isfinite(factor) and 0 < factor <= MAX_FACTOR):
                place = _place(source, name, key)
                raise ConfigError(
                    f"{place}: {name}.{key!r}: a factor must be in (0, {MAX_FACTOR:g}], "
                    f"got {factor}"
                )
    taken: dict[int, str] = {}
    for item, position in rules.pins.items():
        place = _place(source, "pins", item)
        if not 1 <= position <= MAX_RERANK_K:
            raise ConfigError(
                f"{place}: pins.{item!r}: a position must be in [1, {MAX_RERANK_K}], got {position}"
            )
        if position in taken:
            raise ConfigError(
                f"{place}: pins.{item!r}: a position must be given once, got {position} also for "
                f"{taken[position]!r}"
            )
        taken[position] = item


def _place(source: Path | str, table: str, key: str) -> str:
    """Return `file:line` of a key of a table, quoted or not; the table's line, else the file."""
    if not isinstance(source, Path):
        return source
    found, inside = "", False
    line_of_key = re.compile(rf"""\s*(["']?){re.escape(key)}\1\s*=""")
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if head := re.match(r"\s*\[\s*([\w.\-]+)\s*\]", line):
            inside = head[1] == table
            found = f":{number}" if inside else found
        elif inside and line_of_key.match(line):
            return f"{source}:{number}"
    return f"{source}{found}"
