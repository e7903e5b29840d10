"""Content: encoders of text and images, their cache, and the fusion of what an item has.

Each part is loaded when it is asked for, so that fusion runs where only torch is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corerec.multimodal.fusion import STRATEGIES, FusionOutput, MultiModalFusion

_HOMES = {
    "STRATEGIES": "fusion",
    "FusionOutput": "fusion",
    "MultiModalFusion": "fusion",
}

__all__ = [
    "STRATEGIES",
    "FusionOutput",
    "MultiModalFusion",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
