"""RecommendationPipeline: the funnel in one process, with the stages that the services run."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from corerec.cf_engine import BprFitConfig
from corerec.data.dataset import Dataset, load_dataset
from corerec.engines.protocols import Ranker, Reranker, Retriever
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.measure import load_funnel, measure, thread_count
from corerec.pipelines.progress import Steps
from corerec.pipelines.serving import Recommendation, Serving
from corerec.pipelines.train import finish_release, read_metrics, train_funnel
from corerec.pipelines.write import Own, Trained, write_release
from corerec.ranking.model import RankingModelConfig
from corerec.release import Release
from corerec.rerank import RerankRules
from corerec.retrieval.options import KINDS, LISTS
from corerec.stages import UserContext

_RANKERS = ("dcn", "dlrm")


@dataclass(frozen=True)
class _Place:
    """A retriever and the share of the places that it asks for."""

    name: str
    model: Any
    share: float | None

    @property
    def ours(self) -> bool:
        """Whether it is a model of the library, which a release can hold."""
        return self.name in KINDS


class RecommendationPipeline:
    """Retrieval, ranking and rerank of models of the library or your own, in any mixture.

        pipeline = RecommendationPipeline(seed=0)
        pipeline.add_retriever(TwoTower(embedding_dim=64), share=0.6)
        pipeline.add_retriever(MatrixFactorization(k=50))
        pipeline.set_ranker(DCN())
        pipeline.fit("data/demo")
        pipeline.recommend("user-1", k=10)

    Training is that of `corerec train`, so a pipeline of the library's models alone can be saved
    as a release and served. Given models say what to train: fresh ones with their settings and the
    pipeline's seed are, on slices that follow each other in time.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        config: TrainConfig | None = None,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        threads: int | None = None,
    ) -> None:
        """Start without a retriever; `config` has everything that the models do not say."""
        config = replace(config or TrainConfig(), seed=seed)
        config = config if device is None else replace(config, device=device)
        self._config = config if threads is None else replace(config, threads=threads)
        self._places: list[_Place] = []
        self._ranker: Any = None
        self._reranker: Path | RerankRules | Reranker = RerankRules()
        self._trained: Trained | None = None
        self._serving: Serving | None = None
        self._metrics: Mapping[str, Any] | None = None

    def add_retriever(self, retriever: Retriever, *, share: float | None = None) -> Self:
        """Add a source of candidates and return the pipeline.

        Retrievers without a `share` of the places divide what the others leave, equally.

        Raises:
            InvalidArgument: without the methods of a Retriever, of a kind that is there already,
                or for a share outside (0, 1].
        """
        _need(retriever, Retriever, "fit and retrieve")
        kind = getattr(retriever, "kind", None)
        name = kind if kind in KINDS else type(retriever).__name__
        if name in [place.name for place in self._places]:
            raise InvalidArgument(f"a pipeline must have one retriever of a kind, got {name} twice")
        if share is not None and not 0 < share <= 1:
            raise InvalidArgument(f"share must be in (0, 1], got {share}")
        self._places.append(_Place(str(name), retriever, share))
        return self._changed()

    def set_ranker(self, ranker: Any) -> Self:
        """Rank with a DCN, a DLRM or a Ranker of your own, and return the pipeline.

        Of a DCN or DLRM count its config, where it has one of its own, its tasks when it has
        several, and their objective; one task is any interaction. How it learns is
        `TrainConfig.ranker_fit`, because a ranker learns from lists, not from rows of a table.

        Raises:
            InvalidArgument: without the methods of a Ranker.
        """
        if getattr(ranker, "kind", None) not in _RANKERS:
            _need(ranker, Ranker, "fit and score")
        self._ranker = ranker
        return self._changed()

    def add_reranker(self, reranker: Path | str | RerankRules | Reranker) -> Self:
        """Rerank by rules (a TOML file or a RerankRules) or by a Reranker, and return the pipeline.

        Raises:
            InvalidArgument: without the methods of a Reranker.
        """
        if isinstance(reranker, str):
            reranker = Path(reranker)
        if not isinstance(reranker, Path | RerankRules):
            _need(reranker, Reranker, "fit and rerank")
        self._reranker = reranker
        return self._changed()

    def fit(
        self, data: Dataset | Path | str, *, work: Path | None = None, steps: Steps | None = None
    ) -> Self:
        """Learn from a data set, loaded or a folder, and return the pipeline.

        With `work` a run that was stopped goes on from the checkpoints there.

        Raises:
            ConfigError, DataError: as `corerec train`; without a retriever, or shares above 1.
        """
        config, own = self._plan()
        folder = Path(tempfile.mkdtemp(prefix="corerec-"))
        # The files live as long as the pipeline that was loaded from them.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        steps = steps or Steps()
        if not isinstance(data, Dataset):
            with steps.step("Read data"):
                data = load_dataset(Path(data), unknown_items=config.unknown_items)
        trained = train_funnel(data, config, own, work=work or folder / "work", steps=steps)
        self._metrics = None
        self._serve(trained, folder)
        return self

    @classmethod
    def load(cls, release: Path | str, *, threads: int = 0) -> Self:
        """Return the pipeline of a release, ready to recommend.

        Raises:
            ReleaseError: when it does not verify.
        """
        opened = Release.open(release)
        pipeline = cls(threads=threads)
        funnel = load_funnel(opened, threads=thread_count(pipeline._config))
        pipeline._serving = Serving(opened, funnel)
        pipeline._metrics = read_metrics(opened.path)
        return pipeline

    def recommend(self, user: str | UserContext, k: int = 10) -> list[Recommendation]:
        """Return the k best items of a user, best first, none that the user has had.

        An id brings the history of the training data; an unknown one is a cold user. A
        UserContext brings its own.

        Raises:
            FailedPrecondition: before fit.
            InvalidArgument: for k outside [1, 500].
        """
        return self.recommend_many([user], k)[0]

    def recommend_many(
        self, users: Sequence[str | UserContext], k: int = 10
    ) -> list[list[Recommendation]]:
        """Return what `recommend` does for each of many users."""
        return self._ready().recommend(users, k)

    def evaluate(self) -> Mapping[str, Any]:
        """Return the metrics of the funnel on the test slice, as in a release's metrics.json.

        Raises:
            FailedPrecondition: before fit.
        """
        self._ready()
        if self._metrics is None:
            with tempfile.TemporaryDirectory(prefix="corerec-") as folder:
                trained = self._fitted("evaluate")
                self._metrics, _ = measure(trained, Path(folder), lambda done, total, note: None)
        return self._metrics

    def save_release(self, out: Path | str, *, release_id: str | None = None) -> Path:
        """Write the release that `corerec train` would have written, verify it; return its path.

        Raises:
            FailedPrecondition: before fit, or when a place is taken by a model of your own or, for
                the ranker, by none: a release holds the library's models alone.
        """
        self._ready()
        trained = self._fitted("save_release")
        own = [*trained.own.retrievers, trained.own.ranker, trained.own.reranker]
        if names := [type(model).__name__ for model in own if model is not None]:
            raise FailedPrecondition(
                f"a release holds models of the library alone, not {', '.join(names)}; "
                "serve these in your own process with recommend"
            )
        if trained.ranker is None:
            raise FailedPrecondition("a release must have a ranker: set_ranker(DCN()) or DLRM()")
        with tempfile.TemporaryDirectory(prefix="corerec-") as work:
            return finish_release(
                trained, Path(out), work=Path(work), steps=Steps(), release_id=release_id
            )

    def _plan(self) -> tuple[TrainConfig, Own]:
        """Return what to train as a TrainConfig, and the models that it cannot name."""
        if not self._places:
            raise ConfigError("a pipeline must have a retriever: add_retriever(TwoTower())")
        config, ours = self._config, {p.name: p.model for p in self._places if p.ours}
        changes: dict[str, Any] = {"sources": tuple(kind for kind in KINDS if kind in ours)}
        for kind, model in ours.items():
            bpr = isinstance(model.training, BprFitConfig)
            fit = "matrix_factorization_bpr" if bpr else f"{kind}_fit"
            changes |= {kind: model.config, fit: model.training}
        lists = {kind: own for kind, own in config.retrieval.quotas.items() if kind in LISTS}
        quotas = lists | _quotas(self._places)
        changes["retrieval"] = replace(config.retrieval, quotas=quotas)
        if self._ranker is not None and getattr(self._ranker, "kind", None) in _RANKERS:
            changes["ranking"] = _ranking(self._ranker, config.ranking)
            ranker = None
        else:
            ranker = self._ranker
        rules = isinstance(self._reranker, Path | RerankRules)
        own = Own(
            retrievers=tuple(p.model for p in self._places if not p.ours),
            ranker=ranker,
            reranker=None if rules else self._reranker,  # type: ignore[arg-type]
            rules=self._reranker if rules else RerankRules(),  # type: ignore[arg-type]
            unranked=self._ranker is None,
        )
        return replace(config, **changes), own

    def _serve(self, trained: Trained, folder: Path) -> None:
        """Load the cores from files that are those of a release, as the services do."""
        known = trained.parts.events.users >= 0
        path = write_release(folder / "serving", trained, known=known, metrics={})
        release = Release.open(path, verify=False)
        self._trained = trained
        funnel = load_funnel(
            release,
            threads=thread_count(trained.config),
            options=trained.config.retrieval,
            own=trained.own,
        )
        self._serving = Serving(release, funnel)

    def _ready(self) -> Serving:
        if self._serving is None:
            raise FailedPrecondition("a pipeline must be fitted or loaded first; call fit")
        return self._serving

    def _fitted(self, wanted: str) -> Trained:
        if self._trained is None:
            raise FailedPrecondition(f"{wanted} needs a pipeline that was fitted, not loaded")
        return self._trained

    def _changed(self) -> Self:
        """Forget what was fitted: it is of other models."""
        self._trained = self._serving = self._metrics = None
        return self


def _need(model: object, protocol: Any, methods: str) -> None:
    if not isinstance(model, protocol):
        raise InvalidArgument(
            f"a {protocol.__name__} must have the methods {methods}, got {type(model).__name__}"
        )


def _quotas(places: Sequence[_Place]) -> dict[str, float]:
    """Return weights of the retrievers; those without a share divide what is left."""
    given = sum(place.share for place in places if place.share is not None)
    open_places = sum(place.share is None for place in places)
    if given > 1 + 1e-9 or (open_places and given > 1 - 1e-9):
        raise ConfigError(
            f"shares must add to at most 1 and leave some to retrievers without one, got {given}"
        )
    left = (1 - given) / open_places if open_places else 0.0
    return {place.name: place.share or left for place in places}


def _ranking(model: Any, base: RankingModelConfig) -> RankingModelConfig:
    own = model.kind
    changes: dict[str, Any] = {"network": own}
    if model.config != type(model).default_config():
        changes[own] = model.config
    if len(model.tasks) > 1:
        changes |= {"tasks": model.tasks, "objective": model.objective.formula}
    return replace(base, **changes)
