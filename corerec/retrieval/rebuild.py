"""Rebuild: a main store built afresh by a thread, while the old one goes on answering."""

# n items of the delta, D width

from __future__ import annotations

import logging
import threading
from typing import Any

import faiss
import numpy as np

from corerec.affinity import run_anywhere
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.create import like
from corerec.stages import Float32s, Int64s

log = logging.getLogger(__name__)


class Rebuild:
    """A main store that a thread builds from what is alive; the old one is only read meanwhile."""

    def __init__(self, main: VectorStore, delta: tuple[Int64s, Float32s], dead: set[int]) -> None:
        self.main: VectorStore | None = None
        self.done = threading.Event()
        self.touched: set[int] = set()
        """Numbers that were upserted or removed since."""
        arguments: tuple[Any, ...] = (main, delta, np.fromiter(dead, np.int64, len(dead)))
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, main: VectorStore, delta: tuple[Int64s, Float32s], dead: Int64s) -> None:
        try:
            run_anywhere()
            faiss.omp_set_num_threads(1)  # of this thread alone
            kept = np.setdiff1d(main.numbers(), dead, assume_unique=True)
            numbers = np.concatenate([kept, delta[0]])
            vectors = np.concatenate([main.vectors(kept), delta[1]])
            # A store that only lacks room keeps what it learned: learning takes far longer.
            fresh = like(main, trained=main.crowded)
            fresh.add(numbers, vectors)
            # What is built at the first search is built here.
            fresh.search(vectors[:1], 1)
            self.main = fresh
        except Exception:
            log.exception("a fresh main store could not be built; the old one goes on")
        finally:
            self.done.set()
