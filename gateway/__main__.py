"""Runs one gateway alone, without Ray: `python -m gateway --config serve.toml`."""

from __future__ import annotations

from corerec.serving.alone import run_alone
from gateway.config import GatewayConfig
from gateway.process import process

run_alone("gateway", GatewayConfig, process)
