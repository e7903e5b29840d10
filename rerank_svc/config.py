"""Configuration of the rerank service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from corerec.serving.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class RerankConfig(StageConfig):
    """Rules over the ranked list."""

    nice: Annotated[int, Field(ge=0, le=19)] = 5
    """See StageConfig. Less than retrieval: what it orders is nearer to its answer."""
    rules: str = ""
    """Path of a rules TOML to use instead of the release's own; empty means the release's."""
