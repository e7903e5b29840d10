"""Reranking: declared rules, diversity and caps over the ranked list; NumPy only."""

from corerec.rerank.compiled import CompiledRules, blocked_numbers, compile_rules
from corerec.rerank.core import RerankCore
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
