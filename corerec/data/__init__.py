"""Data sets on disk and in memory: read, check, generate, import."""

from corerec.data.dataset import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]
