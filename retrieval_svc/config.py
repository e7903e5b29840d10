"""Configuration of the retrieval service."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.serving.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(StageConfig):
    """Query encoding and vector search."""
