"""Measures what was trained, and verifies a release by letting it answer."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import DataError, ReleaseError
from corerec.evaluation import metrics
from corerec.evaluation.cases import Cases
from corerec.evaluation.funnel import Funnel, evaluate
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.own import OwnRanking, OwnRerank
from corerec.pipelines.precision import measure_precisions
from corerec.pipelines.progress import Report
from corerec.pipelines.slices import Slice
from corerec.pipelines.write import Own, Trained, write_release
from corerec.ranking.core import RankingCore
from corerec.ranking.gate import PrecisionReport
from corerec.release import Release
from corerec.rerank import RerankCore
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.options import RetrievalOptions
from corerec.retrieval.sources import ListSource
from corerec.stages import (
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    StageCore,
    UserContext,
)

_BATCH = 32


def measure(
    trained: Trained, work: Path, report: Report
) -> tuple[dict[str, Any], PrecisionReport | None]:
    """Return the metrics of the serving cores over a release that ends where the test begins.

    And what the precision gate found for the ranker, None where it is not the library's.
    """
    parts, config = trained.parts, trained.config
    events = parts.events
    before = events.before(Slice.TEST)
    folder = work / "measured"
    shutil.rmtree(folder, ignore_errors=True)
    release = Release.open(write_release(folder, trained, known=before, metrics={}))
    cases = events.cases(Slice.TEST).sample(
        config.evaluation.cases, np.random.default_rng([config.seed, 103])
    )
    if not len(cases):
        raise DataError(
            "the test slice must have a user's first interaction with an item, all are repeats",
            file=parts.dataset.root,
        )
    threads = thread_count(config)
    core = load_retrieval(release, threads, config.retrieval, trained.own)
    funnel = _funnel(core, release, threads, trained.own)
    found = evaluate(
        funnel,
        cases,
        user_ids=parts.user_ids,
        attributes=parts.attributes,
        counts=np.bincount(events.items[before], minlength=events.item_count),
        report=lambda done, total: report(done, total, "test cases"),
    )
    found["sources"] = _sources(trained, core, cases, report)
    if trained.ranker is not None:
        found["ranker"] |= {"logloss": trained.ranker.logloss, "auc_sampled": trained.ranker.auc}
        found["ranker"]["tasks"] = trained.ranker.tasks
        found["ranker"]["logloss_constant"] = _constant_logloss(config)
        found["ranker_fit"] = {
            "epochs": trained.ranker.epochs,
            "best_epoch": trained.ranker.best_epoch,
        }
    return found, _precisions(trained, funnel, core, report)


def _precisions(
    trained: Trained, funnel: Funnel, retrieval: RetrievalCore, report: Report
) -> PrecisionReport | None:
    """Measure the ranker's precisions on validation cases."""
    parts, config = trained.parts, trained.config
    rng = np.random.default_rng([config.seed, 107])
    cases = parts.events.cases(Slice.VALIDATION).sample(config.precision.cases, rng)
    if not (len(cases) and isinstance(funnel.ranking, RankingCore)):
        return None
    report(0, 1, "precisions")
    users = parts.contexts(cases, np.arange(len(cases)))
    return measure_precisions(funnel.ranking, retrieval, users, cases.right, config.precision)


def _sources(
    trained: Trained, core: RetrievalCore, cases: Cases, report: Report
) -> dict[str, dict[str, Any]]:
    """Return each source's recall without the others and the popular list, and its training."""
    trainings = {own.source.kind: own for own in trained.sources}
    found: dict[str, dict[str, Any]] = {}
    for source in core.sources:
        lists = []
        for start in range(0, len(cases), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(cases)))
            users = trained.parts.contexts(cases, rows)
            seen = [user.items for user in users]
            lists.append(source.search(users, source.encode(users), 500, seen))
            report(int(rows[-1]) + 1, len(cases), source.kind)
        ranks = metrics.ranks_of(np.concatenate(lists), cases.right)
        found[source.kind] = {f"recall@{k}": metrics.recall_at(ranks, k) for k in (100, 500)}
        if (own := trainings.get(source.kind)) is not None:
            found[source.kind] |= {
                "epochs": list(own.epochs),
                "best_epoch": own.best_epoch,
                "seconds": own.seconds,
                "score_weight": own.source.weight,
                "index": asdict(own.source.index.info),
            }
    return found


def load_funnel(
    release: Release,
    *,
    threads: int,
    options: RetrievalOptions | None = None,
    own: Own | None = None,
) -> Funnel:
    """Return the three cores over a release, with its own options unless others are given.

    Where a place is taken by a model of your own, it is asked in that place.
    """
    own = own or Own()
    return _funnel(load_retrieval(release, threads, options, own), release, threads, own)


def load_retrieval(
    release: Release, threads: int, options: RetrievalOptions | None, own: Own
) -> RetrievalCore:
    """Return retrieval over a release and retrievers of your own."""
    lists = [ListSource(retriever, len(release.catalogue)) for retriever in own.retrievers]
    return RetrievalCore.load(release, config=options, threads=threads, own=lists)


def _funnel(retrieval: RetrievalCore, release: Release, threads: int, own: Own) -> Funnel:
    ranking: StageCore[RankEntry, RankResult] = OwnRanking(release.id, own.ranker)
    if own.ranker is None and not own.unranked:
        ranking = RankingCore.load(release, device="cpu", threads=threads, precision="fp32")
    rerank: StageCore[RerankEntry, RerankResult]
    if own.reranker is not None:
        rerank = OwnRerank(release.id, release.catalogue, own.reranker)
    else:
        rerank = RerankCore.load(release)
    return Funnel(retrieval=retrieval, ranking=ranking, rerank=rerank)


def verify_release(path: Path, config: TrainConfig) -> None:
    """Load a release back, check every hash, and let each stage answer for a few users.

    Raises:
        ReleaseError: when a file does not verify or a stage gives no finite answer.
    """
    release = Release.open(path, verify=True)
    funnel = load_funnel(release, threads=thread_count(config))
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
