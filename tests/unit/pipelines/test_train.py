"""The whole training on a tiny world: what it writes, measures and refuses."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from corerec.data.dataset import load_dataset
from corerec.errors import ConfigError, DataError
from corerec.evaluation.cases import Cases
from corerec.pipelines.config import TrainConfig, read_config
from corerec.pipelines.mining import MiningConfig, mine
from corerec.pipelines.progress import Steps
from corerec.pipelines.report import print_metrics
from corerec.pipelines.slices import Events, Slice, SliceConfig
from corerec.pipelines.train import prepare, read_metrics, read_precision, train_release
from corerec.release import Release
from corerec.retrieval import PopularList, RetrievalCore, build_index
from corerec.retrieval.sources import VectorSource
from corerec.stages import Source

FILES = {
    "attributes.parquet",
    "catalogue.parquet",
    "histories.parquet",
    "item_features.safetensors",
    "item_vectors.safetensors",
    "metrics.json",
    "popular.parquet",
    "popularity.safetensors",
    "ranker.json",
    "ranker.safetensors",
    "ranker_precision.json",
    "retrieval.json",
    "rules.toml",
    "schema.json",
    "transitions.safetensors",
    "two_tower.json",
    "two_tower.safetensors",
    "two_tower_index.faiss",
    "two_tower_index.json",
    "two_tower_vectors.safetensors",
    "users.parquet",
}


def _order_only(folder: Path, users: int = 40, length: int = 12) -> Path:
    """A data set without times: walks around a ring of 30 items."""
    folder.mkdir()
    rows = [
        (f"u{u}", f"i{(u * 7 + step) % 30}", step) for u in range(users) for step in range(length)
    ]
    pl.DataFrame(rows, schema=["user", "item", "pos"], orient="row").write_csv(
        folder / "events.csv"
    )
    pl.DataFrame({"item": [f"i{i}" for i in range(30)]}).write_csv(folder / "items.csv")
    (folder / "dataset.toml").write_text(
        'format = 1\nname = "ring"\n'
        '[interactions]\nfile = "events.csv"\nuser = "user"\nitem = "item"\norder = "pos"\n'
        '[items]\nfile = "items.csv"\nid = "item"\n'
    )
    return folder


def test_a_release_holds_every_promised_file(tiny_release: Path, tiny_data: Path) -> None:
    release = Release.open(tiny_release)
    assert set(release.manifest.files) == FILES
    assert not list(tiny_release.parent.glob(".work-*"))
    assert release.info["counts"]["items"] == 500
    assert pl.read_parquet(tiny_release / "attributes.parquet").equals(
        load_dataset(tiny_data).items.drop("item_number")
    )
    assert release.info["has_times"] is True
    vectors = load_file(tiny_release / "item_vectors.safetensors")["vectors"]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (
        faiss.read_index(str(tiny_release / "two_tower_index.faiss")).ntotal == len(vectors) == 500
    )


def test_the_metrics_are_kept_and_add_up(tiny_release: Path) -> None:
    metrics = read_metrics(tiny_release)
    for name in ("funnel", "ranked_list", "retrieval_alone", "popularity"):
        assert {"recall@10", "ndcg@10", "coverage", "novelty_bits"} <= set(metrics[name])
    assert {"recall@100", "recall@500"} == set(metrics["retrieval"])
    assert {"auc", "auc_popularity", "logloss", "logloss_constant"} <= set(metrics["ranker"])
    lost = metrics["lost"]
    exits = ("not_retrieved", "ranked_out", "reranked_out", "in_the_list")
    assert sum(lost[name] for name in exits) == pytest.approx(1)
    assert lost["in_the_list"] == pytest.approx(metrics["funnel"]["recall@10"])
    assert metrics["funnel"]["recall@10"] > metrics["popularity"]["recall@10"]
    assert {"name", "seconds", "peak_mib"} == set(metrics["steps"][0])


def test_histories_and_users_are_those_of_the_data(tiny_release: Path, tiny_data: Path) -> None:
    dataset = load_dataset(tiny_data)
    users = pl.read_parquet(tiny_release / "users.parquet")
    assert users["user_id"].to_list() == dataset.users["user_id"].to_list()
    histories = pl.read_parquet(tiny_release / "histories.parquet")
    assert len(histories) == len(dataset.interactions)
    user_id = dataset.users["user_id"][0]
    own = histories.filter(pl.col("user_id") == user_id)
    expected = dataset.interactions.filter(pl.col("user_row") == 0)
    assert own["item_number"].to_list() == expected["item_number"].to_list()
    assert own["event_time_micros"].is_sorted()
    ids = dataset.items["item_id"].to_list()
    assert own["item_id"].to_list() == [ids[n] for n in own["item_number"]]


def test_what_is_counted_for_serving_counts_everything(tiny_release: Path, tiny_data: Path) -> None:
    interactions = load_dataset(tiny_data).interactions
    counts = np.bincount(interactions["item_number"].to_numpy(), minlength=500)
    assert np.array_equal(load_file(tiny_release / "popularity.safetensors")["total"], counts)
    info = Release.open(tiny_release).info
    assert info["data_end_micros"] == interactions["time_micros"].max()


def test_data_without_times_trains_with_one_case_a_user(tmp_path: Path) -> None:
    data = _order_only(tmp_path / "ring")
    path = train_release(data, tmp_path / "releases", TrainConfig.tiny())
    metrics = read_metrics(path)
    assert metrics["cases"] == 40
    assert Release.open(path).info["has_times"] is False
    assert metrics["funnel"]["recall@10"] > 0.5


def test_one_seed_gives_one_release(tmp_path: Path) -> None:
    data = _order_only(tmp_path / "ring")
    first, second = (
        train_release(data, tmp_path / name, TrainConfig.tiny()) for name in ("a", "b")
    )
    # What was timed differs.
    for name in FILES - {"metrics.json", "ranker_precision.json"}:
        same = Release.open(first).manifest.files[name].sha256
        assert same == Release.open(second).manifest.files[name].sha256, name


def test_a_killed_run_goes_on_and_gives_what_an_unbroken_one_does(tmp_path: Path) -> None:
    data, out = _order_only(tmp_path / "ring"), tmp_path / "releases"
    whole = train_release(data, tmp_path / "whole", TrainConfig.tiny())

    class Killed(Steps):
        def step(self, name: str):  # type: ignore[no-untyped-def]  # only this test's
            if name == "Train ranker":
                raise KeyboardInterrupt
            return super().step(name)

    with pytest.raises(KeyboardInterrupt):
        train_release(data, out, TrainConfig.tiny(), steps=Killed())
    assert not (out / "latest").exists()
    assert list(out.glob(".work-*/two_tower.safetensors"))
    resumed = train_release(data, out, TrainConfig.tiny())
    for name in ("two_tower.safetensors", "ranker.safetensors", "two_tower_index.faiss"):
        same = Release.open(whole).manifest.files[name].sha256
        assert same == Release.open(resumed).manifest.files[name].sha256, name
    assert not list(out.glob(".work-*"))


def test_data_too_small_to_measure_on_is_refused(tmp_path: Path) -> None:
    data = _order_only(tmp_path / "ring", users=5, length=2)
    with pytest.raises(DataError, match="slice must have at least one interaction"):
        train_release(data, tmp_path / "releases", TrainConfig.tiny())


@pytest.mark.parametrize("with_times", [True, False])
def test_slices_follow_each_other_and_no_case_sees_its_future(
    with_times: bool, tiny_data: Path, tmp_path: Path
) -> None:
    data = tiny_data if with_times else _order_only(tmp_path / "ring")
    events = Events.of(load_dataset(data), SliceConfig())
    for u in range(len(events.offsets) - 1):
        own = slice(events.offsets[u], events.offsets[u + 1])
        assert (np.diff(events.slices[own]) >= 0).all()
        assert (np.diff(events.times[own]) >= 0).all()
    if with_times:
        for a in range(3):
            earlier = events.times[events.slices == a]
            assert earlier.max() < events.times[events.slices == a + 1].min()
    for own in (Slice.RANKER, Slice.VALIDATION, Slice.TEST):
        cases = events.cases(own)
        assert len(cases)
        for row, history in enumerate(cases.histories(np.arange(len(cases)))):
            assert cases.right[row] not in history
            assert (cases.times[cases.first[row] : cases.before[row]] < cases.now[row]).all()


def test_mined_negatives_are_unseen_and_cases_that_retrieval_misses_are_left_out(
    tiny_data: Path,
) -> None:
    angles = np.linspace(0, np.pi, 500)
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    items = np.array([0, 1, 2, 5, 0, 1, 2, 150, 3, 4, 6, 199])
    cases = Cases(
        user_row=np.array([0, 1, 2]),
        right=np.array([5, 150, 199]),
        now=np.array([3, 3, 3]),
        first=np.array([0, 4, 8]),
        before=np.array([3, 7, 11]),
        items=items,
        times=np.tile(np.arange(4), 3),
    )
    always = VectorSource(
        kind="two_tower",
        source=Source.TWO_TOWER,
        encode=lambda users: np.tile(np.array([[1.0, 0.0]], np.float32), (len(users), 1)),
        vectors=vectors,
        index=build_index(vectors, model_id="m"),
        model_id="m",
    )
    parts = prepare(load_dataset(tiny_data), TrainConfig.tiny())
    core = RetrievalCore(
        release="r",
        sources=[always],
        popular=PopularList(np.array([199, 1]), np.array([2, 1], np.float32)),
        schema=parts.schema,
        users=parts.index,
    )
    config = MiningConfig(depth=20, near=10, hard=8, sampled=2)
    mined = mine(
        cases,
        core,
        config,
        contexts=parts.contexts,
        item_count=500,
        history_length=5,
        rng=np.random.default_rng(0),
    )
    assert mined.candidates[:, 0].tolist() == [5, 199]  # 150 is beyond the 20 best
    assert mined.retrieved[:, 0].tolist() == [True, False]  # only the popular list brought 199
    assert mined.history.tolist() == [[-1, -1, 0, 1, 2], [-1, -1, 3, 4, 6]]
    for row, right in enumerate((5, 199)):
        assert right not in mined.candidates[row, 1:]
        assert not np.isin(mined.candidates[row, 1:9], mined.history[row]).any()
        # The first half comes from the best 10; only a draw of the right item is replaced.
        assert (mined.candidates[row, 1:5] < 20).sum() >= 3
    assert np.allclose(mined.retrieval_scores, vectors[mined.candidates] @ [1, 0], atol=1e-6)


def test_config_files_and_arguments_come_together(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("seed = 3\n[two_tower]\ndim = 32\n")
    config = read_config(path, preset="tiny", epochs=2)
    assert (config.seed, config.two_tower.dim, config.two_tower.heads) == (3, 32, 2)
    assert config.two_tower_fit.epochs == 2
    path.write_text("[two_tower]\ndims = 32\n")
    with pytest.raises(ConfigError, match=r"train\.toml:2: unknown key 'two_tower\.dims'"):
        read_config(path)
    with pytest.raises(ConfigError, match="preset must be one of"):
        read_config(preset="huge")
    with pytest.raises(ConfigError, match="multiple of heads"):
        replace(TrainConfig().two_tower, dim=30)


def test_the_report_names_every_table(tiny_release: Path) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    metrics = json.loads((tiny_release / "metrics.json").read_text())
    print_metrics(console, metrics, precision=read_precision(tiny_release))
    text = console.export_text()
    for words in (
        "NDCG@10",
        "popularity",
        "Recall@500",
        "Where the right item was lost",
        "Precisions of the ranker",
        "bf16",
    ):
        assert words in text
