"""The tiktok-mm data set: looks at short videos, with image and audio vectors of each video."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
from ml1m_data import shared_data

from corerec.data import Dataset, dataset_from_frames
from corerec.engines.sequences import Sequences


@dataclass(frozen=True)
class TikTok:
    """The split of the MMSSL paper; the parts share no pair of user and item."""

    data: Dataset
    """The training events, with the vector sets `image` and `audio`."""
    train: Sequences
    validation: Sequences
    test: Sequences


def tiktok() -> TikTok:
    """Return 9,308 users and 6,710 videos; item ids and user ids are their numbers."""
    folder = shared_data() / "tiktok-mm"
    with np.load(folder / "interactions.npz") as file:
        users, items = file["shape"].tolist()
        train, validation, test = (
            Sequences.of(
                file[f"{part}_row"], file[f"{part}_col"], user_count=users, item_count=items
            )
            for part in ("trnMat", "valMat", "tstMat")
        )
    vectors = {name: _vectors(folder / f"{name}_feat.npz") for name in ("image", "audio")}
    data = dataset_from_frames(
        pl.DataFrame({"user_id": train.users, "item_id": train.items}),
        pl.DataFrame({"item_id": np.arange(items)}),
        pl.DataFrame({"user_id": np.arange(users)}),
        vectors=vectors,
        name="tiktok-mm",
    )
    return TikTok(data, train, validation, test)


def _vectors(path: Path) -> np.ndarray:
    """Return the vectors about their mean: image vectors as they are all point the same way."""
    with np.load(path) as file:
        vectors = file["x"].astype(np.float32)
    return vectors - vectors.mean(0)
