"""Structured logs: one JSON object a line on standard error, each with the request's id."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from corerec.serving.interceptor import REQUEST_ID


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def configure_logs(service: str, level: str = "INFO") -> None:
    """Send CoreRec's log lines to standard error as JSON, naming the service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestId())
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"service": service},
        )
    )
    for name in ("corerec", "gateway", "retrieval_svc", "ranking_svc", "rerank_svc"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
