"""Runs one rerank replica alone, without Ray: `python -m rerank_svc --config serve.toml`."""

from __future__ import annotations

from corerec.serving.alone import run_alone
from rerank_svc.config import RerankConfig
from rerank_svc.process import process

run_alone("rerank", RerankConfig, process)
