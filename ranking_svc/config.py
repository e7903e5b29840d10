"""Configuration of the ranking service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from corerec.serving.config import Nice, StageConfig


@dataclass(frozen=True, kw_only=True)
class RankingConfig(StageConfig):
    """The ranking model."""

    nice: Nice = 5
    """See StageConfig. Less than retrieval, whose core it shares where two are divided: with 10
    the slowest answers are later."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes CUDA where there is one."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """What the model computes in. auto takes the fastest that the release's gate allows and this
    machine has instructions for; fp32 is always allowed. One that was refused does not load."""
