"""Threads of a model or index call."""

from __future__ import annotations

from typing import Any

import faiss
import torch


def use_threads(count: int) -> None:
    """Let calls of this thread into FAISS and torch use `count` threads."""
    # OpenMP keeps its number of threads per calling thread, and an executor brings its own.
    omp: Any = faiss
    if omp.omp_get_max_threads() != count:
        omp.omp_set_num_threads(count)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
