"""The TOML file that describes a whole deployment: one table a service, and the release."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corerec.config import build_config, read_toml
from corerec.errors import ConfigError

SERVICES = ("gateway", "retrieval", "shard", "ranking", "rerank")
"""Tables of the file, each read by the service of that name; a shard is retrieval's."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DeploymentFile:
    """A deployment file, or the defaults where there is none."""

    path: Path | None
    release: str
    """Path of the release; empty when the file does not name one."""
    tables: Mapping[str, Mapping[str, Any]]
    """The services' tables, unparsed."""

    @classmethod
    def read(cls, path: Path | None) -> DeploymentFile:
        """Return the file's content. Raises ConfigError for unknown tables and bad syntax."""
        values = read_toml(path) if path else {}
        for key in values:
            if key not in (*SERVICES, "release"):
                near = difflib.get_close_matches(key, (*SERVICES, "release"), n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"tables: {', '.join(SERVICES)}"
                raise ConfigError(f"{path}: unknown key {key!r}; {hint}")
        release = values.get("release", "")
        if not isinstance(release, str):
            raise ConfigError(f"{path}: release must be a path in quotes, got {release!r}")
        for name in SERVICES:
            if not isinstance(values.get(name, {}), dict):
                raise ConfigError(f"{path}: [{name}] must be a table, got {values[name]!r}")
        return cls(path=path, release=release, tables={n: values.get(n, {}) for n in SERVICES})

    def config(self, cls: type[T], name: str) -> T:
        """Return a service's parsed table. Raises ConfigError naming key, rule and value."""
        return build_config(cls, self.tables[name], source=f"{self.path or 'defaults'} [{name}]")
