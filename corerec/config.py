"""Reads TOML into frozen dataclasses, types and ranges checked, unknown keys refused; writes it."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from corerec.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the parsed file. Raises ConfigError naming the file and, for bad syntax, the line."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8, byte {error.start} is not") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def load_config(cls: type[T], path: Path) -> T:
    """Return `cls`, a frozen keyword-only dataclass, filled from the TOML file at `path`.

    Raises:
        ConfigError: naming the file, the line where it is found, the key, the rule and the value.
    """
    return build_config(cls, read_toml(path), source=path)


def build_config(cls: type[T], values: Mapping[str, Any], source: Path | str = "config") -> T:
    """Return `cls` filled from `values`; `source` is what error messages call them."""
    _refuse_unknown(cls, values, source, ())
    try:
        # JSON mode: strict about types, yet tables become dataclasses and arrays tuples.
        return _adapter(cls).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        place = place_of(source, [str(part) for part in first["loc"]])
        raise ConfigError(f"{place}: {key}: {first['msg']}, got {first['input']!r}") from None


def write_toml(path: Path, values: Mapping[str, Any], heading: str = "") -> None:
    """Write nested tables of plain values as TOML that `read_toml` gives back, None left out.

    `heading` becomes comment lines at the top.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    path.write_text("\n".join([*lines, *_table_lines(values, ())]).lstrip("\n") + "\n")


def _table_lines(values: Mapping[str, Any], above: tuple[str, ...]) -> list[str]:
    # JSON writes strings, numbers, booleans and lists of them exactly as TOML does.
    given = {key: value for key, value in values.items() if value is not None}
    plain = {key: value for key, value in given.items() if not isinstance(value, Mapping)}
    lines = ["", f"[{'.'.join(above)}]"] if above and plain else []
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for key, value in given.items():
        if isinstance(value, Mapping):
            lines += _table_lines(value, (*above, key))
    return lines


def _adapter(cls: type[T]) -> TypeAdapter[T]:
    # strict: a quoted number is a mistake, not a number.
    config = ConfigDict(strict=True)
    if is_dataclass(cls):
        cls.__pydantic_config__ = config  # type: ignore[attr-defined]  # dataclasses take it so
        return TypeAdapter(cls)
    return TypeAdapter(cls, config=config)


def _refuse_unknown(
    cls: Any, values: Mapping[str, Any], source: Path | str, above: tuple[str, ...]
) -> None:
    known = {f.name for f in fields(cls)}
    hints = get_type_hints(cls)
    for key, value in values.items():
        path = (*above, key)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {sorted(known)}"
            raise ConfigError(f"{place_of(source, path)}: unknown key {'.'.join(path)!r}; {hint}")
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(hints[key], value, source, path)


def place_of(source: Path | str, key: tuple[str, ...] | list[str]) -> str:
    """Return `file:line` of a key where a plain search finds it, else the file."""
    if not isinstance(source, Path):
        return str(source)
    names = [part for part in key if not part.isdigit()]
    table = ""
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if head := re.match(r"\s*\[+\s*([\w.\-]+)\s*\]+", line):
            table = head[1]
            if table == ".".join(names):
                return f"{source}:{number}"
        elif item := re.match(r"""\s*(?:"([^"]+)"|([\w\-.]+))\s*=""", line):
            own = item[1] or item[2]
            full = f"{table}.{own}" if table else own
            if full == ".".join(names):
                return f"{source}:{number}"
    return str(source)
