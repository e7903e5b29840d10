"""Reranking: declared rules, diversity and caps over the ranked list; NumPy and numba only.

The core is loaded when it is asked for: the gateway reads rules and compiles nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corerec.rerank.compiled import CompiledRules, blocked_numbers, compile_rules
from corerec.rerank.rules import (
    DEFAULT_RULES,
    Block,
    Boosts,
    Caps,
    Diversity,
    Freshness,
    RerankRules,
    load_rules,
)

if TYPE_CHECKING:
    from corerec.rerank.core import RerankCore

__all__ = [
    "DEFAULT_RULES",
    "Block",
    "Boosts",
    "Caps",
    "CompiledRules",
    "Diversity",
    "Freshness",
    "RerankCore",
    "RerankRules",
    "blocked_numbers",
    "compile_rules",
    "load_rules",
]


def __getattr__(name: str) -> Any:
    if name != "RerankCore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.core").RerankCore
