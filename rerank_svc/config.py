"""Configuration of the rerank service."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.serving.config import Nice, StageConfig


@dataclass(frozen=True, kw_only=True)
class RerankConfig(StageConfig):
    """Rules over the ranked list."""

    nice: Nice = 5
    """See StageConfig. Less than retrieval: what it orders is nearer to its answer."""
    rules: str = ""
    """Path of a rules TOML to use instead of the release's own; empty means the release's."""
