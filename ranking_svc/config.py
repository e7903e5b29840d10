"""Configuration of the ranking service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from corerec.serving.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class RankingConfig(StageConfig):
    """The ranking model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes CUDA where there is one."""
