"""The funnel in one process: `from corerec.pipelines import RecommendationPipeline`.

Loaded when it is asked for, so that the steps of a training can be imported one by one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corerec.pipelines.pipeline import RecommendationPipeline
    from corerec.pipelines.serving import Recommendation

__all__ = ["Recommendation", "RecommendationPipeline"]

_HOMES = {"Recommendation": "serving", "RecommendationPipeline": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
