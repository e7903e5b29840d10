"""RecommendationPipeline: the library's models, models of your own, and the release they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.cf_engine import IalsFitConfig, MatrixFactorization, MatrixFactorizationConfig
from corerec.data import dataset_from_frames
from corerec.data.dataset import Dataset, load_dataset
from corerec.engines import DCN, DLRM, BERT4Rec, TwoTower
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.dcn import DcnConfig
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.pipelines import RecommendationPipeline
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.train import read_metrics, train_release
from corerec.release import Release
from corerec.rerank import Block, RerankRules
from corerec.retrieval import RetrievalCore
from corerec.stages import Candidates, RetrieveEntry, RetrieveResult, Source, UserContext

TINY = TrainConfig.tiny()
BASE = replace(
    TINY,
    two_tower_fit=replace(TINY.two_tower_fit, epochs=2),
    mining=replace(TINY.mining, max_cases=200, validation_cases=60),
    evaluation=replace(TINY.evaluation, cases=50, tower_cases=50),
)
BERT = BERT4RecConfig(dim=16, heads=2, hidden=32, max_len=20)
BERT_FIT = BERT4RecFitConfig(epochs=2, learning_rate=1e-2)
FACTORS = MatrixFactorizationConfig(k=8)
FACTORS_FIT = IalsFitConfig(epochs=4)
FIRST = "u0000001"


def _tower() -> TwoTower:
    return TwoTower(config=BASE.two_tower, training=BASE.two_tower_fit)


def _three(seed: int = 0) -> RecommendationPipeline:
    pipeline = RecommendationPipeline(seed=seed, config=BASE)
    pipeline.add_retriever(MatrixFactorization(config=FACTORS, training=FACTORS_FIT))
    pipeline.add_retriever(_tower(), share=0.6)
    pipeline.add_retriever(BERT4Rec(config=BERT, training=BERT_FIT))
    return pipeline.set_ranker(DCN())


@pytest.fixture(scope="module")
def fitted(tiny_data: Path) -> RecommendationPipeline:
    return _three().fit(tiny_data)


@pytest.fixture(scope="module")
def release(fitted: RecommendationPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save_release(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def user_ids(tiny_data: Path) -> list[str]:
    return load_dataset(tiny_data).users["user_id"].to_list()


class Newest:
    """A retriever of one's own: the newest items of the data, whoever asks."""

    def __init__(self) -> None:
        self.events = 0
        self.items = np.empty(0, np.int64)

    def fit(self, data: Dataset) -> Newest:
        self.events = len(data.interactions)
        self.items = data.interactions["item_number"].unique().to_numpy().astype(np.int64)
        return self

    def retrieve(self, users: Sequence[UserContext], k: int) -> list[Candidates]:
        found = self.items[::-1][: k + 10]
        scores = np.linspace(1, 0, len(found), dtype=np.float32)
        sources = np.zeros(len(found), np.uint8)
        return [Candidates(numbers=found, scores=scores, sources=sources) for _ in users]


class ByNumber:
    """A ranker of one's own: the lowest item number first."""

    def fit(self, data: Dataset) -> ByNumber:
        self.events = len(data.interactions)
        return self

    def score(self, users: Sequence[UserContext], candidates: Sequence[np.ndarray]) -> list:
        return [-numbers.astype(np.float32) for numbers in candidates]


class Backwards:
    """A reranker of one's own."""

    def fit(self, data: Dataset) -> Backwards:
        return self

    def rerank(self, candidates: Sequence[Candidates], k: int) -> list[Candidates]:
        return [
            Candidates(numbers=c.numbers[::-1], scores=c.scores[::-1], sources=c.sources[::-1])
            for c in candidates
        ]


def test_recommendations_are_unseen_known_items_best_first(
    fitted: RecommendationPipeline, tiny_data: Path, user_ids: list[str]
) -> None:
    dataset = load_dataset(tiny_data)
    titles = dict(dataset.items.select("item_id", "title").iter_rows())
    events = dataset.interactions
    for user in user_ids[:20]:
        found = fitted.recommend(user, k=7)
        assert len({item.item_id for item in found}) == len(found) == 7
        row = user_ids.index(user)
        seen = events.filter(events["user_row"] == row)["item_number"].to_list()
        had = set(dataset.items["item_id"].gather(seen).to_list())
        assert not had.intersection(item.item_id for item in found)
        assert all(titles[item.item_id] == item.title for item in found)
        assert all(a.score >= b.score for a, b in pairwise(found))


def test_many_users_get_what_each_gets_alone(
    fitted: RecommendationPipeline, user_ids: list[str]
) -> None:
    several = fitted.recommend_many(user_ids[:8], k=5)
    for user, items in zip(user_ids[:8], several, strict=True):
        assert [i.item_id for i in fitted.recommend(user, k=5)] == [i.item_id for i in items]
    assert fitted.recommend_many([]) == []


def test_an_unknown_user_is_a_cold_user_and_a_context_brings_its_own_history(
    fitted: RecommendationPipeline,
) -> None:
    found = fitted.recommend("nobody-knows-me", k=5)
    assert len(found) == 5
    assert found == fitted.recommend(UserContext(), k=5)
    items = np.array([3, 4, 5], np.int64)
    own = fitted.recommend(UserContext(items=items, times=np.zeros(3, np.int64)), k=5)
    assert own != found


def test_the_funnel_is_measured_with_each_source(fitted: RecommendationPipeline) -> None:
    metrics = fitted.evaluate()
    assert list(metrics["sources"]) == ["two_tower", "bert4rec", "matrix_factorization"]
    for own in metrics["sources"].values():
        assert 0 < own["recall@100"] <= own["recall@500"]
        assert own["score_weight"] >= 0
        assert own["epochs"]
    assert metrics["sources"]["two_tower"]["score_weight"] == 1
    assert metrics["funnel"]["recall@10"] > 0
    assert fitted.evaluate() is metrics


def test_the_release_is_what_train_writes_with_the_same_config(
    release: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = replace(
        BASE,
        sources=("two_tower", "bert4rec", "matrix_factorization"),
        bert4rec=BERT,
        bert4rec_fit=BERT_FIT,
        matrix_factorization=FACTORS,
        matrix_factorization_fit=FACTORS_FIT,
        retrieval=replace(
            BASE.retrieval,
            quotas={"two_tower": 0.6, "bert4rec": 0.2, "matrix_factorization": 0.2},
        ),
    )
    trained = Release.open(train_release(tiny_data, tmp_path, config))
    ours = Release.open(release)
    assert set(trained.manifest.files) == set(ours.manifest.files)
    different = {
        name
        for name, entry in ours.manifest.files.items()
        if trained.manifest.files[name].sha256 != entry.sha256
    }
    # Times and speeds, and no rules were asked for.
    assert different == {"metrics.json", "ranker_precision.json", "rules.toml"}


def test_a_loaded_release_recommends_the_same(
    fitted: RecommendationPipeline, release: Path, user_ids: list[str]
) -> None:
    loaded = RecommendationPipeline.load(release, threads=1)
    for user in (*user_ids[:5], "nobody"):
        assert loaded.recommend(user, 10) == fitted.recommend(user, 10)
    assert loaded.evaluate()["funnel"] == read_metrics(release)["funnel"]
    with pytest.raises(FailedPrecondition, match="save_release needs a pipeline that was fitted"):
        loaded.save_release(release.parent)


def test_a_release_of_three_sources_serves_every_one_of_them(release: Path) -> None:
    core = RetrievalCore.load(Release.open(release))
    items = np.array([3, 40, 17], np.int64)
    entry = RetrieveEntry(user=UserContext(items=items, times=np.zeros(3, np.int64)), k=60)
    (result,) = core.run([entry])
    assert isinstance(result, RetrieveResult)
    found = result.candidates
    assert len(np.unique(found.numbers)) == len(found) == 60
    assert set(found.sources.tolist()) >= {Source.TWO_TOWER, Source.BERT4REC, Source.POPULAR}
    counts = np.bincount(found.sources, minlength=6)
    assert counts[Source.TWO_TOWER] >= 0.6 * 54 - 1
    assert np.allclose(found.scores, core.score([entry.user], found.numbers[None])[0], atol=1e-5)
    kinds = ("two_tower", "bert4rec", "matrix_factorization")
    names = {f"{kind}_{step}" for kind in kinds for step in ("encode", "search")}
    assert set(result.timings) == names | {"fuse"}


def test_a_source_without_a_finite_query_is_left_out_and_coverage_says_so(release: Path) -> None:
    core = RetrievalCore.load(Release.open(release))

    def broken(users: Sequence[UserContext]) -> np.ndarray:
        return np.full((len(users), 17), np.nan, np.float32)

    sources = [replace(s, encode=broken) if s.kind == "bert4rec" else s for s in core.sources]
    half = RetrievalCore(
        release="r",
        sources=sources,
        popular=core._popular,
        schema=core._schema,
        users=core._users,
        options=core._options,
    )
    user = UserContext(items=np.array([3], np.int64), times=np.zeros(1, np.int64))
    (result,) = half.run([RetrieveEntry(user=user, k=50)])
    assert isinstance(result, RetrieveResult)
    assert result.coverage == pytest.approx(0.8)
    assert len(result.candidates) == 50
    assert Source.BERT4REC not in result.candidates.sources
    assert np.isfinite(result.candidates.scores).all()
    assert "bert4rec_search" not in result.timings


def test_models_of_ones_own_take_any_place(tiny_data: Path, user_ids: list[str]) -> None:
    newest, by_number = Newest(), ByNumber()
    pipeline = RecommendationPipeline(config=BASE)
    pipeline.add_retriever(newest, share=0.3).add_retriever(_tower())
    pipeline.set_ranker(by_number).add_reranker(Backwards()).fit(tiny_data)
    found = pipeline.recommend(user_ids[0], k=5)
    numbers = [int(item.item_id[1:]) for item in found]
    assert numbers == sorted(numbers, reverse=True)  # by number, then backwards
    assert {item.source for item in found} <= {"own", "two_tower", "popular"}
    metrics = pipeline.evaluate()
    assert list(metrics["sources"]) == ["two_tower", "Newest"]
    total = len(load_dataset(tiny_data).interactions)
    assert newest.events < by_number.events < total  # neither has seen what it is measured on
    with pytest.raises(
        FailedPrecondition, match="models of the library alone, not Newest, ByNumber, Backwards"
    ):
        pipeline.save_release(tiny_data.parent / "never")


def test_a_retriever_alone_makes_a_pipeline(tiny_data: Path, user_ids: list[str]) -> None:
    pipeline = RecommendationPipeline(config=BASE).add_retriever(Newest()).fit(tiny_data)
    found = pipeline.recommend(user_ids[0], k=5)
    assert len(found) == 5
    assert "own" in {item.source for item in found}
    assert set(pipeline.evaluate()["sources"]) == {"Newest"}
    with pytest.raises(FailedPrecondition, match="not Newest"):
        pipeline.save_release(tiny_data.parent / "never")


def test_without_a_ranker_retrievals_order_stands(tiny_data: Path, tmp_path: Path) -> None:
    pipeline = RecommendationPipeline(config=BASE)
    pipeline.add_retriever(MatrixFactorization(config=FACTORS, training=FACTORS_FIT))
    found = pipeline.fit(load_dataset(tiny_data)).evaluate()
    assert found["ranked_list"] == found["retrieval_alone"]
    with pytest.raises(FailedPrecondition, match="must have a ranker"):
        pipeline.save_release(tmp_path)


def test_our_ranker_works_behind_a_retriever_of_ones_own(
    tiny_data: Path, user_ids: list[str]
) -> None:
    pipeline = RecommendationPipeline(config=BASE).add_retriever(Newest()).set_ranker(DLRM())
    assert len(pipeline.fit(tiny_data).recommend(user_ids[0], k=5)) == 5


def test_rules_change_the_list_and_are_kept(
    tiny_data: Path, tmp_path: Path, user_ids: list[str]
) -> None:
    pipeline = (
        RecommendationPipeline(config=BASE)
        .add_retriever(_tower())
        .set_ranker(DCN(config=DcnConfig(deep=(8,))))
    )
    first = pipeline.fit(tiny_data).recommend(user_ids[0], k=3)
    blocked = RerankRules(block=Block(items=(first[0].item_id,)))
    pipeline.add_reranker(blocked).fit(tiny_data)
    again = pipeline.recommend(user_ids[0], k=3)
    assert [item.item_id for item in again[:2]] == [item.item_id for item in first[1:]]
    kept = RecommendationPipeline.load(pipeline.save_release(tmp_path), threads=1)
    assert kept.recommend(user_ids[0], k=3) == again


def test_a_killed_fit_goes_on_from_its_checkpoints(
    fitted: RecommendationPipeline, tiny_data: Path, tmp_path: Path, user_ids: list[str]
) -> None:
    from corerec.pipelines.progress import Steps

    class Killed(Steps):
        def step(self, name: str):  # type: ignore[no-untyped-def]  # only this test's
            if name == "Train ranker":
                raise KeyboardInterrupt
            return super().step(name)

    with pytest.raises(KeyboardInterrupt):
        _three().fit(tiny_data, work=tmp_path, steps=Killed())
    for kind in ("two_tower", "bert4rec", "matrix_factorization"):
        assert (tmp_path / f"{kind}.safetensors").exists()
    resumed = _three().fit(tiny_data, work=tmp_path)
    assert resumed.recommend_many(user_ids[:10]) == fitted.recommend_many(user_ids[:10])


def test_what_cannot_be_asked_is_refused(fitted: RecommendationPipeline, tiny_data: Path) -> None:
    pipeline = RecommendationPipeline(config=BASE)
    for call in (
        lambda: pipeline.recommend("u1"),
        pipeline.evaluate,
        lambda: pipeline.save_release("never"),
    ):
        with pytest.raises(FailedPrecondition, match="must be fitted or loaded first"):
            call()
    with pytest.raises(ConfigError, match="must have a retriever"):
        pipeline.fit(tiny_data)
    pipeline.add_retriever(_tower())
    with pytest.raises(InvalidArgument, match="one retriever of a kind, got two_tower twice"):
        pipeline.add_retriever(_tower())
    for share in (0, -1, 1.5, float("nan")):
        with pytest.raises(InvalidArgument, match=r"share must be in \(0, 1\]"):
            pipeline.add_retriever(Newest(), share=share)
    pipeline.add_retriever(Newest(), share=1.0)
    with pytest.raises(ConfigError, match="shares must add to at most 1"):
        pipeline.fit(tiny_data)
    with pytest.raises(InvalidArgument, match="must have the methods fit and score, got Newest"):
        pipeline.set_ranker(Newest())
    with pytest.raises(InvalidArgument, match="fit and rerank, got ByNumber"):
        pipeline.add_reranker(ByNumber())  # type: ignore[arg-type]  # that is the point
    for k in (0, 501):
        with pytest.raises(InvalidArgument, match=r"k must be in \[1, 500\]"):
            fitted.recommend(FIRST, k=k)


def test_several_tasks_learn_from_the_types_of_events(tmp_path: Path) -> None:
    rows = [
        (f"u{u}", f"i{(u * 7 + step) % 30}", step, ("like", "click")[step % 2])
        for u in range(40)
        for step in range(12)
    ]
    names = ["user_id", "item_id", "order", "event_type"]
    data = dataset_from_frames(
        pl.DataFrame(rows, schema=names, orient="row"), order="order", event_type="event_type"
    )
    pipeline = RecommendationPipeline(config=BASE).add_retriever(_tower())
    pipeline.set_ranker(DLRM(tasks=("click", "like"), objective="click + 2 * like"))
    assert len(pipeline.fit(data).recommend("u1", k=3)) == 3
    release = Release.open(pipeline.save_release(tmp_path / "out"))
    assert release.info["config"]["ranking"]["tasks"] == ["click", "like"]
