"""Configuration of the rerank service."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.serving.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class RerankConfig(StageConfig):
    """Rules over the ranked list."""

    rules: str = ""
    """Path of a rules TOML to use instead of the release's own; empty means the release's."""
