"""Runs one retrieval replica alone, without Ray: `python -m retrieval_svc --config serve.toml`."""

from __future__ import annotations

from corerec.serving.alone import run_alone
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.process import process

run_alone("retrieval", RetrievalConfig, process)
