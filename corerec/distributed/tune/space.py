"""The search space: which fields of a TrainConfig vary and how, and the seeded draws of it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corerec.config import build_config, place_of, read_toml
from corerec.errors import ConfigError
from corerec.pipelines.config import TrainConfig, merge

Values = dict[str, Any]
"""A value by dotted field of TrainConfig, such as `two_tower.dim`."""

KINDS = ("choice", "uniform", "log_uniform")
_TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One field that varies."""

    path: str
    """Dotted field of TrainConfig."""
    kind: str
    """`choice` of listed values, or `uniform` or `log_uniform` between two ends."""
    values: tuple[Any, ...]
    """The choices, or the two ends, both possible."""
    whole: bool = False
    """Whether a range gives integers."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a value; a float is rounded to four digits, so that it prints as it is."""
        if self.kind == "choice":
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "log_uniform":
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        value = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(value, low), high)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What varies, around a base of everything that does not."""

    base: TrainConfig
    parameters: tuple[Parameter, ...]

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the base with these values in it. Raises ConfigError for what it forbids."""
        tables: dict[str, Any] = asdict(self.base)
        merge(tables, nested(values))
        return build_config(TrainConfig, tables, source="trial")

    def draws(self, count: int, seed: int) -> list[Values]:
        """Return `count` different trials, or all that a small space has.

        The first is the base itself, so that a search never ends below what it began with. The
        draws of a lower count are the beginning of those of a higher one.
        """
        found = [{p.path: value_at(self.base, p.path) for p in self.parameters}]
        known = {json.dumps(found[0])}
        rng = np.random.default_rng([seed, 501])
        tries = 0
        while len(found) < count and tries < _TRIES:
            values = {p.path: p.draw(rng) for p in self.parameters}
            tries += 1
            key = json.dumps(values)
            if key not in known and self._allows(values):
                known.add(key)
                found.append(values)
                tries = 0
        return found[:count]

    def _allows(self, values: Values) -> bool:
        try:
            self.config(values)
        except ConfigError:
            return False
        return True

    def check(self, source: Path | str) -> None:
        """Raise ConfigError for a choice or an end that no trial may have.

        Fields may depend on one another (heads divides dim), so a value is right when some draw of
        the others goes with it.
        """
        for parameter in self.parameters:
            for value in parameter.values:
                self._check_value(parameter, value, source)

    def _check_value(self, parameter: Parameter, value: Any, source: Path | str) -> None:
        rng = np.random.default_rng(0)
        first: ConfigError | None = None
        for number in range(50):
            values = {p.path: p.draw(rng) for p in self.parameters} if number else {}
            try:
                self.config({**values, parameter.path: value})
            except ConfigError as error:
                first = first or error
            else:
                return
        reason = str(first).split(": ", 1)[-1]
        raise ConfigError(f"{_place(source, parameter.path)}: {parameter.path}: {reason}")


def read_space(
    path: Path | None,
    tables: Sequence[str],
    default: Mapping[str, Mapping[str, Any]],
    base: TrainConfig,
) -> SearchSpace:
    """Return the space of a model from a TOML file, its default space where the file has none.

    `tables` are the tables of TrainConfig that the model reads. A file has `[space.<table>]` with
    `field = {choice = [..]}`, `{uniform = [low, high]}` or `{log_uniform = [low, high]}`, and
    `[train]` with fields of TrainConfig that all trials share. Spaces of other models are checked
    and left alone, so one file may serve several.

    Raises:
        ConfigError: naming file, line, key, rule and value.
    """
    source: Path | str = path or "default space"
    content = read_toml(path) if path is not None else {}
    _known(content, ("space", "train"), source, ())
    whole: dict[str, Any] = asdict(base)
    if content.get("train"):
        shared = _table(content["train"], source, ("train",))
        _known_fields(TrainConfig, shared, source, ("train",))
        merge(whole, shared)
        base = build_config(TrainConfig, whole, source=f"{source}, [train]")
    space = _table(content.get("space", {}), source, ("space",))
    _known(space, [f.name for f in fields(base) if is_dataclass(getattr(base, f.name))], source,
           ("space",))  # fmt: skip
    found = [
        _parameter(base, f"{name}.{field}", given, source)
        for name, own in space.items()
        for field, given in _table(own, source, ("space", name)).items()
    ]
    own = tuple(p for p in found if p.path.split(".")[0] in tables)
    if not own:
        own = tuple(
            _parameter(base, f"{name}.{field}", given, "default space")
            for name, part in default.items()
            for field, given in part.items()
        )
    result = SearchSpace(base=base, parameters=own)
    result.check(source)
    return result


def value_at(config: TrainConfig, path: str) -> Any:
    """Return the value of a dotted field."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted fields as tables in tables."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *above, name = path.split(".")
        table = found
        for part in above:
            table = table.setdefault(part, {})
        table[name] = value
    return found


def _parameter(base: TrainConfig, path: str, given: Any, source: Path | str) -> Parameter:
    table, name = path.split(".")
    _known({name: given}, [f.name for f in fields(getattr(base, table))], source, ("space", table))
    place = _place(source, path)
    now = value_at(base, path)
    if is_dataclass(now):
        raise ConfigError(f"{place}: {path} is a table; name a field of it that varies")
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise ConfigError(
            f"{place}: {path} must be one of {{choice = [..]}}, {{uniform = [low, high]}} and "
            f"{{log_uniform = [low, high]}}, got {given!r}"
        )
    kind, values = next(iter(given.items()))
    if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
        what = "a list that is not empty" if kind == "choice" else "a list of two ends"
        raise ConfigError(f"{place}: {path}: {kind} must be {what}, got {values!r}")
    whole = isinstance(now, int) and not isinstance(now, bool)
    if kind != "choice":
        _check_ends(place, path, kind, values, whole)
    return Parameter(path=path, kind=kind, values=tuple(values), whole=whole)


def _check_ends(place: str, path: str, kind: str, values: Sequence[Any], whole: bool) -> None:
    numbers = (int,) if whole else (int, float)
    if not all(isinstance(v, numbers) and not isinstance(v, bool) for v in values):
        what = "integers" if whole else "numbers"
        raise ConfigError(f"{place}: {path}: the ends must be {what}, got {values!r}")
    if not values[0] < values[1] or (kind == "log_uniform" and values[0] <= 0):
        positive = " and above 0" if kind == "log_uniform" else ""
        raise ConfigError(f"{place}: {path}: the ends must ascend{positive}, got {values!r}")


def _table(value: Any, source: Path | str, key: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place_of(source, key)}: {'.'.join(key)} must be a table")
    return value


def _known_fields(
    cls: Any, values: Mapping[str, Any], source: Path | str, above: tuple[str, ...]
) -> None:
    """Refuse keys of `values`, at any depth, that are no fields of the dataclass."""
    defaults = cls()
    _known(values, [f.name for f in fields(cls)], source, above)
    for key, value in values.items():
        inner = getattr(defaults, key)
        if is_dataclass(inner):
            _known_fields(type(inner), _table(value, source, (*above, key)), source, (*above, key))


def _known(
    values: Mapping[str, Any], known: Sequence[str], source: Path | str, above: tuple[str, ...]
) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {sorted(known)}"
            place = place_of(source, (*above, key))
            raise ConfigError(f"{place}: unknown key {'.'.join((*above, key))!r}; {hint}")


def _place(source: Path | str, path: str) -> str:
    return place_of(source, ("space", *path.split(".")))
