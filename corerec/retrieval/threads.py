"""Threads of a model or index call."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import torch

_used = threading.local()


def use_threads(count: int) -> None:
    """Let calls of this thread into FAISS and torch use `count` threads."""
    # OpenMP keeps its number of threads per calling thread, and an executor brings its own. Asking
    # for it at every request would touch two libraries that most requests do not need.
    if getattr(_used, "count", None) == count:
        return
    _used.count = count
    omp: Any = faiss
    if omp.omp_get_max_threads() != count:
        omp.omp_set_num_threads(count)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
