"""Content: encoders of text and images, their cache, and the fusion of what an item has.

Each part is loaded when it is asked for, so that fusion runs where only torch is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corerec.multimodal.cache import VectorCache, encode_cached
    from corerec.multimodal.dataset import EncodeJob, encode_dataset
    from corerec.multimodal.encoder import ContentEncoder
    from corerec.multimodal.fusion import STRATEGIES, FusionOutput, MultiModalFusion
    from corerec.multimodal.hashed import HashedNgramEncoder
    from corerec.multimodal.image import ImageEncoder
    from corerec.multimodal.text import SentenceEncoder

_HOMES = {
    "STRATEGIES": "fusion",
    "ContentEncoder": "encoder",
    "EncodeJob": "dataset",
    "FusionOutput": "fusion",
    "HashedNgramEncoder": "hashed",
    "ImageEncoder": "image",
    "MultiModalFusion": "fusion",
    "SentenceEncoder": "text",
    "VectorCache": "cache",
    "encode_cached": "cache",
    "encode_dataset": "dataset",
}

__all__ = [
    "STRATEGIES",
    "ContentEncoder",
    "EncodeJob",
    "FusionOutput",
    "HashedNgramEncoder",
    "ImageEncoder",
    "MultiModalFusion",
    "SentenceEncoder",
    "VectorCache",
    "encode_cached",
    "encode_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
