"""Measures what was trained, and verifies a release by letting it answer."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import DataError, ReleaseError
from corerec.evaluation.funnel import Funnel, evaluate
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Report
from corerec.pipelines.slices import Slice
from corerec.pipelines.tables import user_attributes
from corerec.pipelines.write import Trained, write_release
from corerec.ranking.core import RankingCore
from corerec.release import Release
from corerec.rerank import RerankCore
from corerec.retrieval.core import RetrievalCore
from corerec.stages import RankEntry, RerankEntry, RetrieveEntry, UserContext


def measure(trained: Trained, work: Path, report: Report) -> dict[str, Any]:
    """Return the metrics of the serving cores over a release that ends where the test begins."""
    events, config = trained.events, trained.config
    before = events.before(Slice.TEST)
    folder = work / "measured"
    shutil.rmtree(folder, ignore_errors=True)
    path = write_release(folder, trained, known=before, metrics={})
    release = Release.open(path)
    cases = events.cases(Slice.TEST).sample(
        config.evaluation.cases, np.random.default_rng([config.seed, 103])
    )
    if not len(cases):
        raise DataError(
            "the test slice must have a user's first interaction with an item, all are repeats",
            file=trained.dataset.root,
        )
    funnel = load_funnel(release, config)
    found = evaluate(
        funnel,
        cases,
        user_ids=trained.dataset.users["user_id"].to_list(),
        attributes=user_attributes(trained.dataset),
        counts=np.bincount(events.items[before], minlength=events.item_count),
        report=lambda done, total: report(done, total, "test cases"),
    )
    found["ranker"] |= {"logloss": trained.ranker.logloss, "auc_sampled": trained.ranker.auc}
    found["ranker"]["logloss_constant"] = _constant_logloss(config)
    fit = trained.tower.fit
    found["two_tower"] = {"epochs": fit.epochs, "best_epoch": fit.best_epoch}
    found["ranker_fit"] = {
        "epochs": trained.ranker.epochs,
        "best_epoch": trained.ranker.best_epoch,
    }
    found["index"] = asdict(trained.index.info)
    return found


def load_funnel(release: Release, config: TrainConfig) -> Funnel:
    """Return the three cores of a release, with all the threads of the training."""
    threads = thread_count(config)
    return Funnel(
        retrieval=RetrievalCore.load(release, config=config.retrieval, threads=threads),
        ranking=RankingCore.load(release, device="cpu", threads=threads),
        rerank=RerankCore.load(release),
    )


def verify_release(path: Path, config: TrainConfig) -> None:
    """Load a release back, check every hash, and let each stage answer for a few users.

    Raises:
        ReleaseError: when a file does not verify or a stage gives no finite answer.
    """
    release = Release.open(path, verify=True)
    funnel = load_funnel(release, config)
    items = np.arange(min(3, len(release.catalogue)), dtype=np.int64)
    users = [UserContext(items=items, times=np.zeros(len(items), np.int64)), UserContext()]
    for user in users:
        found = _first(funnel.retrieval.run([RetrieveEntry(user=user, k=100)]), path)
        entry = RankEntry(user=user, candidates=found.candidates, k=50)
        ranked = _first(funnel.ranking.run([entry]), path)
        final = _first(funnel.rerank.run([RerankEntry(candidates=ranked.candidates, k=10)]), path)
        if not len(final.items) or not np.isfinite(ranked.candidates.scores).all():
            raise ReleaseError(f"{path}: the release must answer, got no finite recommendation")


def _first(results: Any, path: Path) -> Any:
    if isinstance(results[0], Exception):
        raise ReleaseError(f"{path}: the release must answer, got {results[0]}")
    return results[0]


def _constant_logloss(config: TrainConfig) -> float:
    """Return the logloss of always saying the share of positives, which knowing nothing gives."""
    share = 1 / (1 + config.mining.hard + config.mining.sampled)
    return float(-share * np.log(share) - (1 - share) * np.log(1 - share))


def thread_count(config: TrainConfig) -> int:
    """Return how many threads a training may use."""
    return config.threads or len(os.sched_getaffinity(0))
