"""The two-tower model: training contract, and serving's path against training's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corerec.engines.adam import RowAdam
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_fit import TwoTowerFit, fit_two_tower
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_query import QueryEncoder
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape, UserInputs
from corerec.engines.windows import batches, cut
from corerec.errors import InvalidArgument
from corerec.features import UserFeatures, VectorSet

ITEMS, USERS = 30, 40
CONFIG = TwoTowerConfig(dim=16, heads=2, history_length=6, hidden=16, dropout=0.1)
FIT = TwoTowerFitConfig(epochs=3, batch_windows=8, learning_rate=1e-2, full_softmax_below=0)
SHAPE = TwoTowerShape(
    items=ITEMS,
    users=USERS,
    item_categorical=(4, 3),
    item_multi=(5,),
    title_buckets=50,
    item_numeric=1,
    item_vectors=(VectorSet(name="text", width=2),),
    user_categorical=(3,),
    user_dense=1,
    has_times=True,
)
RNG = np.random.default_rng(0)
CONTENT = ItemContent(
    torch.from_numpy(RNG.integers(0, 3, (ITEMS, 2)).astype(np.int32)),
    torch.from_numpy(RNG.integers(0, 5, (ITEMS, 1, 8)).astype(np.int32)),
    torch.from_numpy(RNG.integers(0, 50, (ITEMS, 4)).astype(np.int32)),
    torch.from_numpy(RNG.normal(size=(ITEMS, 1)).astype(np.float32)),
    torch.from_numpy(RNG.normal(size=(ITEMS, 2)).astype(np.float32)),
)
TABLE = UserFeatures(
    row=np.arange(USERS + 1),
    categorical=RNG.integers(0, 3, (USERS + 1, 1)).astype(np.int32),
    numeric=RNG.normal(size=(USERS + 1, 1)).astype(np.float32),
)


def _sequences() -> Sequences:
    """Walks around a ring of items: what comes next is the item plus one."""
    users = np.repeat(np.arange(USERS), 14)
    steps = np.tile(np.arange(14), USERS)
    start = np.random.default_rng(1).integers(0, ITEMS, USERS)
    return Sequences.of(
        users,
        (start[users] + steps) % ITEMS,
        steps * 3_600_000_000,
        user_count=USERS,
        item_count=ITEMS,
    )


def _users() -> UserInputs:
    return UserInputs(*map(torch.from_numpy, (TABLE.row, TABLE.categorical, TABLE.numeric)))


def _fit(fit: TwoTowerFitConfig = FIT, **kwargs: object) -> TwoTowerFit:
    return fit_two_tower(
        _sequences(),
        CONTENT,
        _users(),
        SHAPE,
        CONFIG,
        fit,
        **kwargs,  # type: ignore[arg-type]
    )


def _same(a: TwoTowerNet, b: TwoTowerNet) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_windows_cover_every_event_once() -> None:
    rng = np.random.default_rng(3)
    users = np.sort(rng.integers(0, 20, 300))
    sequences = Sequences.of(
        users, rng.integers(0, ITEMS, 300), np.arange(300), user_count=21, item_count=ITEMS
    )
    windows = cut(sequences, 7, 10**9, rng)
    covered = np.concatenate(
        [np.arange(f, f + n) for f, n in zip(windows.first, windows.length, strict=True)]
    )
    assert sorted(covered.tolist()) == list(range(300))
    assert windows.length.max() <= 7


def test_a_batch_gives_each_target_the_item_before_it() -> None:
    sequences = _sequences()
    rng = np.random.default_rng(0)
    count = 0
    for batch in batches(sequences, cut(sequences, 6, 10**9, rng), 8, ITEMS, rng):
        tokens, targets = batch.tokens[batch.valid], batch.targets[batch.valid]
        known = tokens != ITEMS
        assert ((tokens[known] + 1) % ITEMS == targets[known]).all()
        count += len(targets)
    assert count == len(sequences.items)


def test_the_limit_on_examples_holds() -> None:
    windows = cut(_sequences(), 6, 100, np.random.default_rng(0))
    assert 0 < windows.length.sum() <= 100


def test_no_interactions_are_refused() -> None:
    empty = np.empty(0, np.int64)
    with pytest.raises(InvalidArgument, match="at least one interaction, got 0"):
        cut(Sequences.of(empty, empty, empty, user_count=3), 6, 100, np.random.default_rng(0))


@pytest.mark.parametrize("full_below", [0, 1000])
def test_it_learns_what_comes_next(full_below: int) -> None:
    fit = _fit(replace(FIT, epochs=15, full_softmax_below=full_below))
    base = fit.model.item_base(CONTENT)
    encoder, vectors = QueryEncoder(fit.model, base), fit.model.item_vectors(base[:-1]).numpy()
    histories = [np.array([(i - 1) % ITEMS, i]) for i in range(ITEMS)]
    queries = encoder.encode(
        histories, TABLE.take(np.zeros(ITEMS, np.int64)), np.zeros(ITEMS, np.int64)
    )
    best = (queries @ vectors.T).argmax(1)
    assert (best == (np.arange(ITEMS) + 1) % ITEMS).mean() > 0.9


def test_one_seed_gives_one_model_and_another_seed_another() -> None:
    assert _same(_fit(seed=3).model, _fit(seed=3).model)
    assert not _same(_fit(seed=3).model, _fit(seed=4).model)


def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = _fit(seed=1, validate=lambda model: float(len(str(model))))

    class Killed(Exception):
        pass

    def die(done: int, total: int, note: str) -> None:
        if done > total * 2 // 3 + 1:
            raise Killed

    path = tmp_path / "work" / "two_tower.safetensors"
    with pytest.raises(Killed):
        _fit(seed=1, checkpoint=path, report=die, validate=lambda model: float(len(str(model))))
    seen: list[int] = []
    resumed = _fit(
        seed=1,
        checkpoint=path,
        report=lambda done, total, note: seen.append(done),
        validate=lambda model: float(len(str(model))),
    )
    assert _same(whole.model, resumed.model)
    assert whole.epochs == resumed.epochs
    assert min(seen) > 1  # the first epochs were not run again


def test_a_checkpoint_of_another_config_or_a_torn_one_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "two_tower.safetensors"
    _fit(replace(FIT, epochs=1), checkpoint=path)
    assert _same(_fit(checkpoint=path).model, _fit().model)
    path.write_bytes(path.read_bytes()[:100])
    assert _same(_fit(checkpoint=path).model, _fit().model)


def test_training_stops_when_validation_no_longer_improves() -> None:
    scores = iter([0.5, 0.4, 0.3, 0.9, 0.9])
    fit = _fit(replace(FIT, epochs=5, patience=2), validate=lambda model: next(scores))
    assert len(fit.epochs) == 3
    assert fit.best_epoch == 0


def test_serving_reads_tables_to_the_same_vectors_as_training() -> None:
    model = _fit().model
    base = model.item_base(CONTENT)
    encoder = QueryEncoder(model, base)
    sequences, moments = _sequences(), np.arange(USERS) * 7_200_000_000
    histories = [sequences.items[14 * u : 14 * u + u % 15] for u in range(USERS)]
    served = encoder.encode(histories, TABLE.take(np.arange(USERS) + 1), moments)
    for user, history in enumerate(histories):
        tokens = np.concatenate([[ITEMS], history])[-CONFIG.history_length :]
        with torch.no_grad():
            seen = model.user.history.windows(base[torch.from_numpy(tokens)][None], None)[:, -1]
            row = torch.tensor([user + 1])
            inputs = UserInputs(
                row, *(torch.from_numpy(a)[row] for a in (TABLE.categorical, TABLE.numeric))
            )
            from corerec.features import context_features

            context = torch.from_numpy(context_features(moments[user : user + 1]))
            profile = model.user.profile(inputs, None)
            expected = model.user.join(seen, profile, context)[0].numpy()
        assert np.allclose(served[user], expected, atol=1e-5)


def test_unknown_items_empty_histories_and_batches_of_none_and_one() -> None:
    model = _fit().model
    encoder = QueryEncoder(model, model.item_base(CONTENT))
    nobody = TABLE.take(np.zeros(3, np.int64))
    moments = np.zeros(3, np.int64)
    known = np.array([3, 4, 5])
    mixed = np.array([-1, 3, 10**12, 4, ITEMS, 5, -7])
    a = encoder.encode([known, mixed, np.empty(0, np.int64)], nobody, moments)
    assert np.isfinite(a).all()
    assert np.array_equal(a[0], a[1])
    assert np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    one = encoder.encode([known], TABLE.take(np.zeros(1, np.int64)), moments[:1])
    assert np.allclose(one[0], a[0], atol=1e-6)
    none = encoder.encode([], TABLE.take(np.zeros(0, np.int64)), moments[:0])
    assert none.shape == (0, CONFIG.dim)


def test_row_adam_equals_torch_on_dense_gradients() -> None:
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    mine, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    adam = RowAdam([mine], weight_decay=0.1)
    oracle = torch.optim.AdamW([other], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(5):
        for parameter in (mine, other):
            parameter.grad = None
            ((parameter - step) ** 2).sum().backward()
        adam.step(0.01, max_norm=1e9)
        oracle.step()
    assert torch.allclose(mine, other, atol=1e-6)


def test_row_adam_leaves_unused_rows_alone() -> None:
    table = torch.nn.Embedding(6, 4, sparse=True)
    before = table.weight.detach().clone()
    adam = RowAdam(table.parameters())
    table(torch.tensor([1, 4, 4])).sum().backward()
    adam.step(0.1, max_norm=1.0)
    changed = (table.weight.detach() != before).any(1)
    assert changed.tolist() == [False, True, False, False, True, False]


def test_a_loss_that_is_not_finite_is_refused() -> None:
    broken = replace(CONTENT, numeric=torch.full((ITEMS, 1), float("nan")))
    with pytest.raises(InvalidArgument, match="loss must be finite, got nan"):
        fit_two_tower(_sequences(), broken, _users(), SHAPE, CONFIG, FIT)
