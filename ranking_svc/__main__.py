"""Runs one ranking replica alone, without Ray: `python -m ranking_svc --config serve.toml`."""

from __future__ import annotations

from corerec.serving.alone import run_alone
from ranking_svc.config import RankingConfig
from ranking_svc.process import process

run_alone("ranking", RankingConfig, process)
