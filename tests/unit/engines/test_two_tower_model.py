"""TwoTower as an estimator: features of a data set, losses, bags, hard negatives, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corerec.data import Dataset, dataset_from_frames
from corerec.engines import TwoTower
from corerec.engines.adam import RowAdam
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_layers import hidden
from corerec.engines.two_tower_mining import hard_items
from corerec.engines.two_tower_shape import ItemContent, UserInputs
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument, ReleaseError
from corerec.stages import UserContext

GROUPS, EACH, USERS = 4, 8, 48
ITEMS = GROUPS * EACH
BAG = TwoTowerConfig(dim=16, history="mean", temperature=0.2, bag_dropout=0.3)
FIT = TwoTowerFitConfig(epochs=15, learning_rate=2e-2, batch_users=8, batch_windows=8)


def _groups() -> Sequences:
    """Users of a group take six of its eight items, in no order."""
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(USERS), 6)
    items = [rng.permutation(EACH)[:6] + EACH * (user % GROUPS) for user in range(USERS)]
    return Sequences.of(users, np.concatenate(items), user_count=USERS, item_count=ITEMS)


def _dataset() -> Dataset:
    """The same as tables, with words, attributes, numbers and vectors that tell the group."""
    events, group = _groups(), np.arange(ITEMS) // EACH
    rng = np.random.default_rng(3)
    vectors = np.eye(GROUPS, dtype=np.float32)[group] + rng.normal(0, 0.1, (ITEMS, GROUPS))
    vectors[5] = 0  # without a picture
    return dataset_from_frames(
        pl.DataFrame(
            {
                "user_id": [f"u{user}" for user in events.users],
                "item_id": [f"i{item}" for item in events.items],
                "at": 1_700_000_000 + 3600 * np.arange(len(events)),
            }
        ),
        pl.DataFrame(
            {
                "item_id": [f"i{i}" for i in range(ITEMS)],
                "name": [f"thing of group{g}" for g in group],
                "kind": [f"k{g}" for g in group],
                "tags": [["all", f"t{g}"] for g in group],
                "price": group + rng.random(ITEMS),
            }
        ),
        pl.DataFrame(
            {
                "user_id": [f"u{i}" for i in range(USERS)],
                "side": [f"s{i % GROUPS}" for i in range(USERS)],
                "age": np.arange(USERS) % GROUPS,
            }
        ),
        vectors={"picture": vectors.astype(np.float32)},
        time="at",
        title="name",
        category="kind",
        item_multi=["tags"],
        item_numeric=["price"],
        user_categorical=["side"],
        user_numeric=["age"],
    )


def _own_group(model: TwoTower, users: list[UserContext]) -> float:
    found = model.recommend(users, EACH, exclude_seen=False).numbers
    return float(np.mean(found // EACH == (np.arange(len(users)) % GROUPS)[:, None]))


@pytest.mark.parametrize(
    ("loss", "history"),
    [("info_nce", "none"), ("info_nce", "attention"), ("bpr", "attention"),
     ("info_nce", "mean"), ("bpr", "mean"), ("bce", "mean")],
)  # fmt: skip
def test_every_loss_and_every_history_learn_the_groups(loss: str, history: str) -> None:
    config = replace(BAG, history=history, heads=2, hidden=16)
    events = _groups()
    # A user's own vector moves once an epoch, so without history it takes more of them.
    fit = replace(FIT, loss=loss, epochs=60 if history == "none" else 15, learning_rate=2e-2)
    model = TwoTower(config=config, training=fit).fit(events)
    ids = [str(row) for row in range(USERS)]
    assert _own_group(model, events.contexts(range(USERS), ids)) > 0.9


def test_sampled_and_hard_negatives_learn_too() -> None:
    fit = replace(FIT, full_softmax_below=0, batch_negatives=16, uniform_negatives=8)
    events = _groups()
    for training in (
        replace(fit, hard_negatives=2, hard_pool=6),
        replace(FIT, loss="bpr", hard_negatives=2, hard_pool=6),
    ):
        model = TwoTower(config=BAG, training=training).fit(events)
        assert _own_group(model, events.contexts(range(USERS))) > 0.9, training


def test_bf16_products_leave_weights_in_fp32_and_lower_the_loss() -> None:
    training = replace(FIT, precision="bf16", epochs=4)  # without AVX512-BF16 each step is slow
    model = TwoTower(config=replace(BAG, fusion="gated"), training=training).fit(_dataset())
    assert model.history is not None
    losses = [entry["loss"] for entry in model.history.epochs]
    assert losses[-1] < losses[0] - 0.3
    assert all(weight.dtype == torch.float32 for weight in model.net.parameters())


def test_a_user_without_history_is_served_from_id_attributes_or_nothing() -> None:
    config, training = replace(BAG, history="none"), replace(FIT, epochs=40, learning_rate=2e-2)
    model = TwoTower(config=config, training=training).fit(_dataset())
    by_id = [UserContext(user_id=f"u{i}") for i in range(USERS)]
    assert _own_group(model, by_id) > 0.9
    strangers = [UserContext(attributes={"side": f"s{i}", "age": str(i)}) for i in range(GROUPS)]
    assert _own_group(model, strangers) > 0.9
    assert np.isfinite(model.encode_users([UserContext()])).all()


def test_a_bag_is_the_mean_of_what_its_items_add() -> None:
    model = TwoTower(config=BAG, training=replace(FIT, epochs=2)).fit(_groups())
    base = model.net.item_base(ItemContent.of(model.inputs.items))
    with torch.inference_mode():
        members = model.net.user.history.members(base)  # type: ignore[union-attr]
        for items in ([3, 9, 9, 30], [], [-4, 7, 99]):
            known = [i for i in items if 0 <= i < ITEMS] or [ITEMS]
            mean = members[torch.tensor(known)].mean(0)
            expected = torch.nn.functional.normalize(mean, dim=0).numpy()
            user = UserContext(items=np.array(items, np.int64))
            assert np.allclose(model.encode_users([user])[0], expected, atol=1e-6)


def test_only_the_newest_of_a_long_bag_count() -> None:
    model = TwoTower(config=replace(BAG, history_length=3), training=replace(FIT, epochs=1))
    model.fit(_groups())
    long, short = (UserContext(items=np.array(i)) for i in ([9, 20, 1, 2, 3], [1, 2, 3]))
    found = model.encode_users([long, short])
    assert np.array_equal(found[0], found[1])


def test_with_bias_the_last_column_adds_the_items_popularity() -> None:
    users = np.repeat(np.arange(40), 3)
    items = np.stack([np.zeros(40), 1 + np.arange(40) % 9, 10 + np.arange(40) % 6], 1)
    events = Sequences.of(users, items.reshape(-1).astype(np.int64), item_count=16)
    model = TwoTower(config=replace(BAG, bias=True), training=FIT).fit(events)
    vectors, queries = model.encode_items(), model.encode_users([UserContext()])
    assert np.allclose(np.linalg.norm(vectors[:, :-1], axis=1), 1, atol=1e-5)
    assert np.allclose(queries[:, -1], 1)
    assert vectors[:, -1].argmax() == 0
    assert model.recommend([UserContext()], 1).numbers[0, 0] == 0


def test_hard_negatives_are_wrong_items_that_score_high() -> None:
    events = _groups()
    model = TwoTower(config=BAG, training=FIT).fit(events)
    inputs = model.inputs
    found = hard_items(
        model.net,
        ItemContent.of(inputs.items),
        events,
        UserInputs.of(inputs.user_table),
        replace(FIT, hard_pool=2),
        np.random.default_rng(0),
    )
    assert found.shape == (USERS, 2)
    for user in range(USERS):
        own = events.items[events.offsets[user] : events.offsets[user + 1]]
        assert not np.isin(found[user], own).any()
        # Each user has six of its group's eight: the two others are what it likes best.
        assert (found[user] // EACH == user % GROUPS).all()


def test_users_who_have_everything_have_no_hard_negatives() -> None:
    users, items = np.repeat([0, 1], [5, 2]), np.array([0, 1, 2, 3, 4, 0, 1])
    events = Sequences.of(users, items, user_count=3)
    training = replace(FIT, epochs=3, hard_negatives=2, hard_pool=4)
    for own in (training, replace(training, full_softmax_below=0), replace(training, loss="bpr")):
        model = TwoTower(config=BAG, training=own).fit(events)
        assert np.isfinite(model.encode_items()).all()


@pytest.mark.parametrize("fusion", ["sum", "concat", "weighted", "attention", "gated", "bilinear"])
def test_every_fusion_learns_and_a_missing_vector_has_no_say(fusion: str) -> None:
    data = _dataset()
    config = replace(BAG, fusion=fusion, id_dropout=0.5)
    model = TwoTower(config=config, training=replace(FIT, epochs=10)).fit(data)
    assert _own_group(model, Sequences.of_dataset(data).contexts(range(USERS))) > 0.8
    assert np.isfinite(model.encode_items()).all()


def test_content_is_left_out_in_training_alone_and_by_the_share_that_was_asked_for() -> None:
    data = _dataset()
    config = replace(BAG, id_dropout=0.5, content_dropout=0.4)
    model = TwoTower(config=config, training=FIT, device="cpu").fit(data)
    tower, content = model.net.item, ItemContent.of(model.inputs.items)
    rows = torch.arange(ITEMS)
    with torch.no_grad():
        assert torch.equal(tower(rows, content, None), tower(rows, content, None))
        noise = torch.Generator().manual_seed(0)
        assert not torch.equal(tower(rows, content, noise), tower(rows, content, noise))
        codes = torch.arange(1, 100_001)
        kept = hidden(codes, 0.4, noise)
    assert (kept[kept > 0] == codes[kept > 0]).all()
    assert float((kept > 0).float().mean()) == pytest.approx(0.6, abs=0.01)
    assert torch.equal(hidden(codes, 0.4, None), codes)
    ids = [f"u{row}" for row in range(USERS)]
    assert _own_group(model, _groups().contexts(range(USERS), ids)) > 0.9


def test_item_vectors_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    model = TwoTower(config=BAG, training=replace(FIT, epochs=1)).fit(_groups())
    mapped = model.encode_items(tmp_path / "new" / "items.npy")
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, model.encode_items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["items.npy"]


def test_parts_of_a_catalogue_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoTower(config=BAG, training=replace(FIT, epochs=1)).fit(_dataset())
    whole = model.encode_items()
    for chunk in (1, 7, ITEMS, ITEMS + 1):
        monkeypatch.setattr("corerec.engines.two_tower.CHUNK", chunk)
        assert np.allclose(model.encode_items(), whole, atol=1e-6)


def test_a_model_of_all_features_loads_to_the_same_bits(tmp_path: Path) -> None:
    data = _dataset()
    model = TwoTower(config=replace(BAG, fusion="gated"), training=replace(FIT, epochs=2)).fit(data)
    model.save(tmp_path)
    again = TwoTower.load(tmp_path)
    users = [
        UserContext(user_id="u3", items=np.array([1, 2]), now=1_700_000_000_000_000),
        UserContext(user_id="who", attributes={"side": "s1", "age": "2"}),
        UserContext(),
    ]
    assert np.array_equal(model.encode_users(users), again.encode_users(users))
    assert np.array_equal(model.encode_items(), again.encode_items())
    assert again.model_id == model.model_id
    (tmp_path / "users.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"users\.parquet: no such file"):
        TwoTower.load(tmp_path)


def test_a_schema_of_other_data_does_not_load(tmp_path: Path) -> None:
    TwoTower(config=BAG, training=replace(FIT, epochs=1)).fit(_dataset()).save(tmp_path)
    other = TwoTower(config=BAG, training=replace(FIT, epochs=1)).fit(_groups())
    other.inputs.save(tmp_path)
    with pytest.raises(ReleaseError, match="must be the schema"):
        TwoTower.load(tmp_path)


def test_a_known_user_without_attributes_has_those_of_the_training() -> None:
    model = TwoTower(config=BAG, training=replace(FIT, epochs=2)).fit(_dataset())
    silent = UserContext(user_id="u1")
    told = UserContext(user_id="u1", attributes={"side": "s1", "age": "1"})
    found = model.encode_users([silent, told])
    assert np.allclose(found[0], found[1], atol=1e-6)


def test_a_resumed_bag_training_with_hard_negatives_equals_an_unbroken_one(tmp_path: Path) -> None:
    training = replace(FIT, epochs=4, hard_negatives=2, hard_pool=6, full_softmax_below=0)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, _: str) -> None:
        if done > total * 0.6:
            raise Stopped

    path = tmp_path / "run.safetensors"
    with pytest.raises(Stopped):
        TwoTower(config=BAG, training=training).fit(_groups(), checkpoint=path, report=stop)
    resumed = TwoTower(config=BAG, training=training).fit(_groups(), checkpoint=path)
    whole = TwoTower(config=BAG, training=training).fit(_groups())
    assert resumed.model_id == whole.model_id


def test_dense_gradients_by_row_move_what_sparse_ones_do() -> None:
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    tables = [torch.nn.Embedding(6, 4, sparse=s, _weight=start.clone()) for s in (True, False)]
    for table in tables:
        adam = RowAdam(table.parameters(), weight_decay=0.1, rows=table.parameters())
        for rows in ([1, 4, 4], [0, 4], [1]):
            adam.clear()
            (table(torch.tensor(rows)) ** 2).sum().backward()
            adam.step(0.1, max_norm=1.0)
    assert torch.allclose(tables[0].weight, tables[1].weight, atol=1e-6)
    assert torch.equal(tables[1].weight[2], start[2])


def test_what_is_wrong_is_said() -> None:
    for kwargs, message in (
        ({"history": "median"}, "history must be one of attention, mean, none, got 'median'"),
        ({"fusion": "mix"}, "fusion must be one of sum, concat"),
        ({"bag_dropout": 1.0}, r"bag_dropout must be in \[0, 1\), got 1.0"),
        ({"dim": 1, "heads": 1, "bias": True}, "dim must be at least 2, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            TwoTowerConfig(**kwargs)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="loss must be one of info_nce, bpr, bce, got 'hinge'"):
        TwoTowerFitConfig(loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hard_negatives must be at least 0, got -1"):
        TwoTowerFitConfig(hard_negatives=-1)
    with pytest.raises(FailedPrecondition, match="call fit"):
        TwoTower().encode_items()
    events = Sequences.of(np.zeros(1, np.int64), np.zeros(1, np.int64), item_count=3)
    with pytest.raises(InvalidArgument, match="events must be of 48 users and 32 items, got 1 and"):
        TwoTower(config=BAG, training=FIT).fit(_groups(), events=events)
    with pytest.raises(InvalidArgument, match="validation score must be finite, got nan"):
        TwoTower(config=BAG, training=FIT).fit(_groups(), validate=lambda _: float("nan"))
    assert TwoTower().config.dim == 128
    assert TwoTower(64, config=BAG).config == replace(BAG, dim=64)
