"""Reads image files into the arrays that a backbone wants."""

# S side of the square that a backbone sees, in pixels

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.encoder import import_extra
from corerec.stages import Float32s

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are unpacked: a small file can hold a huge one."""


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """How an image becomes the square that a backbone was trained on."""

    size: int = 224
    """Side of the square, in pixels, in [8, 2048]."""
    crop: float = 0.875
    """Share of the shorter side that the centred square covers, (0, 1]."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue in [0, 1] that is taken off; these are ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Deviation of red, green and blue that is divided by, > 0."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"size must be in [8, 2048], got {self.size}")
        if not 0 < self.crop <= 1:
            raise ConfigError(f"crop must be in (0, 1], got {self.crop}")
        if min(self.std) <= 0:
            raise ConfigError(f"std must be above 0, got {self.std}")


def read_picture(path: Path, config: PictureConfig) -> Float32s:
    """Return (3, S, S): turned as its EXIF says, on white where it is transparent, the shorter
    side scaled (bicubic), the centre cut out, normalised.

    Raises:
        InvalidArgument: naming the file, when it is missing, broken or too large.
    """
    image_module = import_extra("PIL.Image", "image")
    turn = import_extra("PIL.ImageOps", "image").exif_transpose
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise InvalidArgument(
                        f"{path}: an image must have at most {MAX_PIXELS:,} pixels, "
                        f"got {opened.width} x {opened.height}"
                    )
                image = _on_white(turn(opened), image_module)
    # What Pillow raises for broken files of one format or another.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Warning) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{path}: not readable as an image: {error}") from error
    except image_module.DecompressionBombError as error:
        raise InvalidArgument(f"{path}: {error}") from error
    square = _square(image, config, image_module)
    pixels = np.asarray(square, np.float32) / 255  # (S, S, 3)
    scaled = (pixels - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)


def _on_white(image: Any, module: Any) -> Any:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        own = image.convert("RGBA")
        white = module.new("RGBA", own.size, (255, 255, 255, 255))
        return module.alpha_composite(white, own).convert("RGB")
    return image.convert("RGB")


def _square(image: Any, config: PictureConfig, module: Any) -> Any:
    shorter = max(config.size, round(config.size / config.crop))
    scale = shorter / min(image.size)
    width, height = (max(config.size, round(side * scale)) for side in image.size)
    left, top = (width - config.size) // 2, (height - config.size) // 2
    # One resampling of the part that is kept: a panorama is not blown up before it is cut.
    box = (
        left * image.width / width,
        top * image.height / height,
        (left + config.size) * image.width / width,
        (top + config.size) * image.height / height,
    )
    return image.resize((config.size, config.size), module.Resampling.BICUBIC, box=box)
