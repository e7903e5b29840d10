"""Data sets on disk and in memory: read, check, generate, import."""

from corerec.data.dataset import Dataset, load_dataset
from corerec.data.frames import dataset_from_frames

__all__ = ["Dataset", "dataset_from_frames", "load_dataset"]
