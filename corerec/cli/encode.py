"""Turns the options of `corerec data encode` into encoders and jobs, and says what came of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from corerec.errors import ConfigError


def encode_items(
    data: Path,
    *,
    text: tuple[str, ...],
    encoder: str,
    dim: int,
    image: str,
    backbone: str,
    library: str,
    weights: Path | None,
    skip_broken: bool,
    cache: Path,
    report: Callable[[str, int, int], None],
) -> tuple[str, ...]:
    """Encode and return one line for each vector set.

    Raises:
        ConfigError: when there is nothing to encode, or images without weights.
        CoreRecError: as the encoders and `encode_dataset` do.
    """
    from corerec.multimodal.cache import VectorCache
    from corerec.multimodal.columns import texts
    from corerec.multimodal.dataset import EncodeJob, encode_dataset
    from corerec.multimodal.encoder import ContentEncoder
    from corerec.multimodal.hashed import HashedNgramEncoder
    from corerec.multimodal.image import ImageEncoder
    from corerec.multimodal.text import SentenceEncoder

    if not text and not image:
        raise ConfigError("name what to encode: --text title,description, --image image_path")
    jobs, pictures = [], None
    if text:
        own: ContentEncoder[str] = (
            HashedNgramEncoder(dim).fit(texts(data, text))
            if encoder == "hashed"
            else SentenceEncoder(Path(encoder))
        )
        jobs.append(EncodeJob(name="text", text=text, text_encoder=own))
    if image:
        if weights is None:
            raise ConfigError(f"images need the weights of {backbone}: --weights FILE.safetensors")
        pictures = ImageEncoder(
            backbone,
            weights,
            cast(Literal["timm", "torchvision"], library),
            on_error="skip" if skip_broken else "raise",
        )
        jobs.append(EncodeJob(name="image", image=image, image_encoder=pictures))
    with VectorCache(cache) as vectors:
        made = encode_dataset(data, jobs, cache=vectors, report=report)
    notes = [
        f"{one.name}: {one.items:,} items, {one.dim} wide, {one.missing:,} missing, "
        f"{one.hits:,} from the cache, in {one.file}"
        + (f", encoder in {one.encoder}" if one.encoder else "")
        for one in made
    ]
    if pictures is not None and pictures.broken:
        notes.append(f"{len(pictures.broken):,} broken images skipped, first {pictures.broken[0]}")
    return tuple(notes)
