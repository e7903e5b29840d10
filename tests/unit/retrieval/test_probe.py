"""The recall probe against what is known to have been lost, without a place in the answer's way."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from corerec.errors import ConfigError
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.owned import Eligible, OwnItems
from corerec.retrieval.probe import RecallProbe
from corerec.retrieval.vectors import ItemVectors
from corerec.stages import Float32s, Int64s, RetrieveEntry, UserContext


def test_recall_is_the_share_of_the_exact_best_that_was_found() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40_000, 8)).astype(np.float32)
    vectors = ItemVectors(base, base.mean(axis=0))
    items = OwnItems(40_000)
    items.put(np.arange(0, 40_000, 5), alive=False)
    allowed = rng.random(40_000) < 0.3
    out = np.arange(1, 4000, 7)
    eligible = Eligible(items=items, allowed=allowed, excluded=out)
    query = rng.normal(size=8).astype(np.float32)
    scores = np.einsum("nd,d->n", base, query)
    scores[::5], scores[~allowed], scores[out] = -np.inf, -np.inf, -np.inf
    best = np.argsort(-scores)
    probe = RecallProbe(1.0)
    assert probe.recall.count == 0
    assert np.isnan(probe.recall.mean)
    probe.offer(vectors, query, best[:500], eligible)
    probe.settle()
    assert probe.recall.mean == 1.0
    probe.offer(vectors, query, best[100:600], eligible)  # 400 of the 500 best
    probe.settle()
    assert probe.recall.mean == pytest.approx(0.9)
    assert probe.recall.count == 2


def test_equal_scores_are_equally_good_and_fewer_than_500_are_all() -> None:
    base = np.ones((900, 4), np.float32)
    vectors = ItemVectors(base, base[0])
    everyone = Eligible(items=OwnItems(900), excluded=np.empty(0, np.int64))
    probe = RecallProbe(1.0)
    probe.offer(vectors, base[0], np.arange(400, 900), everyone)
    few = Eligible(items=OwnItems(900), allowed=np.arange(900) < 40, excluded=np.empty(0, np.int64))
    probe.offer(vectors, base[0], np.arange(40), few)
    probe.settle()
    assert probe.recall.mean == 1.0
    none = Eligible(items=OwnItems(900), allowed=np.zeros(9, np.bool_), excluded=np.empty(0, int))
    probe.offer(vectors, base[0], np.arange(0), none)
    probe.settle()
    assert probe.recall.count == 2


def test_what_was_measured_is_let_go() -> None:
    base = np.ones((600, 4), np.float32)
    vectors = ItemVectors(base, base[0])
    watched = weakref.ref(vectors)
    probe = RecallProbe(1.0)
    everyone = Eligible(items=OwnItems(600), excluded=np.empty(0, np.int64))
    probe.offer(vectors, base[0], np.arange(500), everyone)
    probe.settle()
    assert probe.recall.count == 1
    del vectors
    gc.collect()
    assert watched() is None


class _Watched(ItemVectors):
    """Vectors that note how many threads those have who ask for products."""

    threads = (0, 0)

    def dots(self, query: Float32s, numbers: Int64s) -> Float32s:
        self.threads = faiss.omp_get_max_threads(), torch.get_num_threads()
        return super().dots(query, numbers)


def test_a_measurement_takes_one_thread() -> None:
    base = np.ones((600, 4), np.float32)
    vectors = _Watched(base, base[0])
    probe = RecallProbe(1.0)
    everyone = Eligible(items=OwnItems(600), excluded=np.empty(0, np.int64))
    probe.offer(vectors, base[0], np.arange(500), everyone)
    probe.settle()
    assert vectors.threads == (1, 1)


def test_a_share_of_the_searches_for_500_is_drawn() -> None:
    probe = RecallProbe(0.1)
    drawn = sum(probe.draw(500) for _ in range(5_000))
    assert 400 < drawn < 600
    assert not any(RecallProbe(1.0).draw(499) for _ in range(10))
    assert not any(RecallProbe(0.0).draw(500) for _ in range(10))
    with pytest.raises(ConfigError, match=r"probe_share must be in \[0, 1\], got 1.5"):
        RecallProbe(1.5)


def test_after_a_measurement_none_is_drawn_for_a_while() -> None:
    base = np.ones((600, 4), np.float32)
    probe = RecallProbe(1.0, rest=1e9)
    assert probe.draw(500)
    everyone = Eligible(items=OwnItems(600), excluded=np.empty(0, np.int64))
    probe.offer(_Watched(base, base[0]), base[0], np.arange(500), everyone)
    probe.settle()
    assert not any(probe.draw(500) for _ in range(100))
    eager = RecallProbe(1.0)
    eager.offer(_Watched(base, base[0]), base[0], np.arange(500), everyone)
    eager.settle()
    assert eager.draw(500)


def test_with_rest_a_measurement_pauses_and_none_is_drawn_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept, begun, go_on = list[float](), threading.Event(), threading.Event()
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr("corerec.retrieval.probe.time", clock)

    class Held(ItemVectors):
        def dots(self, query: Float32s, numbers: Int64s) -> Float32s:
            begun.set()
            assert go_on.wait(10)
            return super().dots(query, numbers)

    base = np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)
    probe = RecallProbe(1.0, rest=1e-9)
    everyone = Eligible(items=OwnItems(40_000), excluded=np.empty(0, np.int64))
    probe.offer(Held(base, base[0]), base[0], np.arange(500), everyone)
    assert begun.wait(10)
    assert not any(probe.draw(500) for _ in range(100))
    go_on.set()
    probe.settle()
    assert probe.draw(500)
    assert len(slept) == 3  # blocks of 16,384
    assert min(slept) > 0


def test_a_core_measures_what_it_serves(tiny_release: Path) -> None:
    core = RetrievalCore.load(Release.open(tiny_release), probe_share=1.0)
    user = UserContext(items=np.array([3, 4]), times=np.zeros(2, np.int64))
    core.run([RetrieveEntry(user=user, k=500), RetrieveEntry(user=user, k=100)])
    core.shard._search.probe.settle()
    assert (core.recall.mean, core.recall.count) == (1.0, 1)
