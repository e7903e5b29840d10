"""BERT4Rec: what is masked, what sees what, and that it learns, resumes and serves alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from corerec.engines.bert4rec import BERT4Rec
from corerec.engines.bert4rec_batch import (
    CLOCK,
    Events,
    Windows,
    cloze,
    cut,
    gap_of,
    hour_of,
    last,
    shuffled,
)
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.bert4rec_net import BERT4RecNet, drop
from corerec.engines.bert4rec_query import query
from corerec.engines.linear_softmax import linear_softmax
from corerec.engines.losses import sampled_info_nce
from corerec.engines.sequences import Sequences
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.stages import Source, UserContext

ITEMS, HOUR = 20, 3_600_000_000
SMALL = BERT4RecConfig(dim=16, hidden=32, max_len=8, dropout=0.0)
FAST = BERT4RecFitConfig(epochs=40, batch_sequences=32, learning_rate=1e-2, last_events=4)


def walk(users: int = 60, steps: int = 12, clock: bool = False) -> Sequences:
    """Each user goes from a random item to the next number, round and round."""
    start = np.random.default_rng(0).integers(0, ITEMS, users)
    rows, place = np.repeat(np.arange(users), steps), np.tile(np.arange(steps), users)
    times = CLOCK + place * HOUR if clock else None
    return Sequences.of((rows), (start[rows] + place) % ITEMS, times, item_count=ITEMS)


@pytest.fixture(scope="module")
def fitted() -> BERT4Rec:
    return BERT4Rec(config=SMALL, training=FAST).fit(walk())


def context(*items: int, now: int = 0, times: tuple[int, ...] = ()) -> UserContext:
    return UserContext(items=np.array(items, np.int64), times=np.array(times, np.int64), now=now)


def test_windows_own_every_event_once_and_end_with_the_newest() -> None:
    sequences = Sequences.of(np.repeat([0, 2, 3], [1, 7, 23]), np.arange(31) % ITEMS)
    for seed in range(5):
        windows = cut(sequences, 4, 6, np.random.default_rng(seed))
        own = [np.arange(a, b) for a, b in zip(windows.first, windows.end, strict=True)]
        assert sorted(np.concatenate(own).tolist()) == list(range(31))
        assert (windows.end - windows.start <= 6).all()
        assert (sequences.users[windows.start] == sequences.users[windows.end - 1]).all()


def test_shuffled_windows_are_all_there_once() -> None:
    windows = cut(walk(), 4, 6, np.random.default_rng(0))
    groups = list(shuffled(windows, 7, np.random.default_rng(0)))
    assert sorted(np.concatenate([g.first for g in groups])) == sorted(windows.first)
    assert max(map(len, groups)) == 7


def test_a_cloze_batch_keeps_the_order_and_asks_for_what_it_masks() -> None:
    events = Events.of(walk(), has_times=False)
    windows = Windows(np.array([0, 12, 26]), np.array([0, 12, 26]), np.array([8, 15, 27]))
    batch = cloze(events, windows, 0.4, 8, np.random.default_rng(0))
    valid = np.zeros(batch.asked.shape, bool)
    valid.flat[batch.kept] = True
    targets = np.zeros_like(batch.asked)
    targets.flat[batch.kept] = batch.targets
    assert valid.sum(1).tolist() == [3, 1, 1]
    for row, (start, end) in enumerate(zip(windows.start, windows.end, strict=True)):
        own = events.sequences.items[start:end].copy()
        asked = batch.asked[row][valid[row]]
        assert targets[row][valid[row]].tolist() == own[asked].tolist()
        own[asked] = ITEMS
        assert batch.items[row, : end - start].tolist() == own.tolist()
        assert batch.places[row, : end - start].tolist() == list(range(8 - end + start, 8))
        assert batch.allowed[row, 0, 0].tolist() == [i < end - start for i in range(8)]


def test_a_last_position_batch_shows_each_mask_only_what_came_before() -> None:
    events = Events.of(walk(), has_times=False)
    windows = Windows(np.array([0, 12]), np.array([4, 12]), np.array([8, 15]))
    batch = last(events, windows, 8, np.random.default_rng(0))
    assert batch.kept.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert batch.targets.tolist() == events.sequences.items[[4, 5, 6, 7, 12, 13, 14]].tolist()
    for row in range(2):
        start, end, first = windows.start[row], windows.end[row], windows.first[row]
        count = batch.items.shape[1] - batch.asked.shape[1]
        for column, position in enumerate(batch.asked[row]):
            event = first + column
            if event >= end:
                continue
            assert batch.items[row, position] == ITEMS
            seen = np.flatnonzero(batch.allowed[row, 0, position])
            assert [*range(event - start), position] == seen.tolist()
            assert batch.places[row, position] == 8 - (end - event)
        for position in range(end - 1 - start):
            seen = np.flatnonzero(batch.allowed[row, 0, position])
            assert seen.tolist() == list(range(max(position + 1, first - start)))
            assert position < count


def test_a_query_keeps_the_newest_events_and_the_mask_within_max_len() -> None:
    batch = query([context(*range(12)), context(3, -1, 99, 4), context()], ITEMS, 8, None)
    assert batch.items[0].tolist() == [5, 6, 7, 8, 9, 10, 11, ITEMS]
    assert batch.places[0].tolist() == list(range(8))
    assert batch.items[1, :2].tolist() == [3, 4]
    assert batch.places[1, :2].tolist() == [5, 6]
    assert (batch.items[:, -1] == ITEMS).all()
    assert (batch.places[:, -1] == 7).all()
    assert np.flatnonzero(batch.allowed[1, 0, -1]).tolist() == [0, 1, 7]
    assert np.flatnonzero(batch.allowed[2, 0, -1]).tolist() == [7]


def test_it_learns_what_comes_next(fitted: BERT4Rec) -> None:
    users = [context(*((start + np.arange(n)) % ITEMS)) for start in range(20) for n in (3, 5, 9)]
    found = fitted.recommend(users, 1)
    right = [(int(user.items[-1]) + 1) % ITEMS for user in users]
    assert (found.numbers[:, 0] == right).mean() > 0.9
    assert fitted.retrieve(users[:1], 3)[0].sources.tolist() == [Source.BERT4REC] * 3


@pytest.mark.parametrize(
    "training",
    [
        {"last_share": 0.0},
        {"last_share": 1.0},
        {"full_softmax_below": 1, "negatives": 12},
        {"full_softmax_below": 1, "negatives": 50},
    ],
    ids=["cloze", "last", "sampled", "sampled more than there is"],
)
def test_each_way_of_training_lowers_its_loss(training: dict[str, float]) -> None:
    given = BERT4RecFitConfig(epochs=16, batch_sequences=32, learning_rate=1e-2, **training)  # type: ignore[arg-type]
    model = BERT4Rec(config=SMALL, training=given).fit(walk())
    assert model.history is not None
    assert model.history.epochs[-1]["loss"] < 0.9 * model.history.epochs[0]["loss"]


def test_a_history_that_looks_back_only_learns_too() -> None:
    config = BERT4RecConfig(dim=16, hidden=32, max_len=8, dropout=0.0, history="past")
    model = BERT4Rec(config=config, training=FAST).fit(walk())
    users = [context(*((start + np.arange(6)) % ITEMS)) for start in range(20)]
    assert (model.recommend(users, 1).numbers[:, 0] == (np.arange(20) + 6) % ITEMS).mean() > 0.9


def test_a_query_knows_neither_padding_nor_its_neighbours(fitted: BERT4Rec) -> None:
    users = [context(*range(n)) for n in (0, 1, 3, 7, 15)]
    together = fitted.encode_users(users)
    for row, user in enumerate(users):
        assert np.allclose(fitted.encode_users([user])[0], together[row], atol=1e-5)


def test_only_the_newest_events_count(fitted: BERT4Rec) -> None:
    long, short = context(*range(15)), context(*range(8, 15))
    assert np.allclose(*fitted.encode_users([long, short]), atol=1e-6)


def test_the_last_layer_asks_for_some_positions_and_finds_what_all_would_give() -> None:
    net = BERT4RecNet(SMALL, ITEMS, False, Generator().manual_seed(0)).eval()
    events = Events.of(walk(), has_times=False)
    windows = cut(events.sequences, 4, 8, np.random.default_rng(0)).take(np.arange(6))
    batch = last(events, windows, 8, np.random.default_rng(0)).to(torch.device("cpu"))
    count, length = batch.items.shape
    every = torch.arange(length).expand(count, length)
    with torch.inference_mode():
        some = net(batch.tokens, batch.allowed, batch.asked)
        whole = net(batch.tokens, batch.allowed, every)
    assert torch.allclose(whole[:, batch.asked[0]], some, atol=1e-5)


def test_what_comes_later_changes_no_earlier_answer() -> None:
    net = BERT4RecNet(SMALL, ITEMS, False, Generator().manual_seed(0)).eval()
    events = Events.of(walk(), has_times=False)
    windows = Windows(np.array([0]), np.array([3]), np.array([8]))
    batch = last(events, windows, 8, np.random.default_rng(0)).to(torch.device("cpu"))
    with torch.inference_mode():
        before = net(batch.tokens, batch.allowed, batch.asked)
        batch.items[0, 5] = (batch.items[0, 5] + 1) % ITEMS
        after = net(batch.tokens, batch.allowed, batch.asked)
    changed = (before - after).abs().amax(2)[0] > 1e-6
    assert changed.tolist() == [False, False, False, True, True]  # of events 3..7


def test_the_chunked_softmax_has_the_loss_and_gradients_of_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("corerec.engines.linear_softmax._SCORES_CPU", 40 * 50)
    torch.manual_seed(0)
    inputs = [torch.randn(130, 8), torch.randn(50, 8), torch.randn(50)]
    targets = torch.randint(50, (130,))
    grads = []
    for loss_of in (linear_softmax, lambda r, i, b, t: F.cross_entropy(r @ i.T + b, t)):
        own = [x.clone().requires_grad_() for x in inputs]
        loss = loss_of(*own, targets)
        (3 * loss).backward()
        grads.append([loss.detach(), *(x.grad for x in own)])
    for ours, plain in zip(*grads, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_sampled_softmax_over_the_whole_catalogue_is_the_full_one() -> None:
    torch.manual_seed(0)
    rows, items, bias = torch.randn(9, 8), torch.randn(30, 8), torch.randn(30)
    targets = torch.randint(30, (9,))
    user = torch.cat([rows, torch.ones(9, 1)], 1)
    vectors = torch.cat([items, bias[:, None]], 1)
    log_q = torch.full((30,), -2.0)
    hits = targets[:, None] == torch.arange(30)
    sampled = sampled_info_nce(user, vectors[targets], vectors, log_q[targets], log_q, 1.0, hits)
    assert torch.allclose(sampled, linear_softmax(rows, items, bias, targets), atol=1e-5)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, _: str) -> None:
        if done > total * 0.6:
            raise Stopped

    config = BERT4RecConfig(dim=16, hidden=32, max_len=8, dropout=0.3)
    training = BERT4RecFitConfig(epochs=3, batch_sequences=32)
    path = tmp_path / "run.safetensors"
    scores = []
    with pytest.raises(Stopped):
        BERT4Rec(config=config, training=training).fit(walk(), checkpoint=path, report=stop)
    assert path.exists()
    for checkpoint in (path, None):
        model = BERT4Rec(config=config, training=training).fit(walk(), checkpoint=checkpoint)
        scores.append(model.encode_users([context(1, 2, 3)]) @ model.encode_items().T)
    assert np.array_equal(*scores)


def test_saved_and_loaded_scores_are_bit_equal(fitted: BERT4Rec, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = BERT4Rec.load(tmp_path)
    users = [context(), context(4, 5), context(*range(12))]
    assert np.array_equal(loaded.encode_users(users), fitted.encode_users(users))
    assert np.array_equal(loaded.encode_items(), fitted.encode_items())
    assert loaded.model_id == fitted.model_id
    assert loaded.config == fitted.config


def test_unknown_items_are_skipped_and_a_cold_user_gets_an_answer(fitted: BERT4Rec) -> None:
    plain, mixed, cold = fitted.encode_users([context(3, 4), context(-1, 3, 77, 4), context(99)])
    assert np.allclose(plain, mixed, atol=1e-6)
    assert np.isfinite(cold).all()
    assert fitted.encode_users([]).shape == (0, 17)
    assert fitted.encode_items().shape == (ITEMS, 17)


def test_hours_and_gaps_are_read_where_there_are_times() -> None:
    brief = BERT4RecFitConfig(epochs=4, batch_sequences=32, learning_rate=1e-2)
    model = BERT4Rec(config=SMALL, training=brief).fit(walk(clock=True))
    assert model.net.has_times
    times = (CLOCK, CLOCK + HOUR)
    soon = context(3, 4, times=times, now=CLOCK + 2 * HOUR)
    late = context(3, 4, times=times, now=CLOCK + 900 * HOUR)
    found = model.encode_users([soon, late, context(3, 4), context()])
    assert np.isfinite(found).all()
    assert not np.allclose(found[0], found[1], atol=1e-4)
    assert not np.allclose(found[0], found[2], atol=1e-4)
    off = BERT4Rec(config=BERT4RecConfig(dim=16, max_len=8, times="off"), training=brief)
    assert not off.fit(walk(clock=True)).net.has_times


def test_times_become_hours_of_the_day_and_doublings_of_the_gap() -> None:
    assert hour_of(np.array([0, 23 * HOUR, 25 * HOUR])).tolist() == [1, 24, 2]
    gaps = np.array([-5, 0, 1_000_000, 3_000_000, HOUR, 10**18])
    assert gap_of(gaps).tolist() == [1, 1, 2, 3, 12, 31]


def test_training_and_serving_see_the_same_times() -> None:
    data = walk(users=3, clock=True)
    windows = Windows(np.array([4]), np.array([10]), np.array([12]))
    trained = last(Events.of(data, True), windows, 8, np.random.default_rng(0))
    (user,) = data.contexts([0])
    asked = UserContext(items=user.items[:10], times=user.times[:10], now=int(user.times[10]))
    served = query([asked], ITEMS, 8, int(data.times.max()))
    assert served.hours[0, -1] == trained.hours[0, trained.asked[0, 0]]
    assert served.gaps[0, -1] == trained.gaps[0, trained.asked[0, 0]]
    assert served.hours[0, 1:-1].tolist() == trained.hours[0, :6].tolist()
    assert served.gaps[0, 1:-1].tolist() == trained.gaps[0, :6].tolist()


def test_dropout_keeps_the_mean_and_repeats_with_its_generator() -> None:
    x = torch.ones(1000, 33)
    first, again = (drop(x, 0.25, Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(float((first == 0).float().mean()) - 0.25) < 0.01
    assert abs(float(first.mean()) - 1) < 0.01
    assert drop(x, 0.25, None) is x


def test_the_best_validated_epoch_is_kept_and_training_stops_early() -> None:
    scores = iter([0.1, 0.5, 0.3, 0.2, 0.1, 0.9])
    training = BERT4RecFitConfig(epochs=6, batch_sequences=16, patience=2)
    seen: list[np.ndarray] = []

    def validate(model: BERT4Rec) -> float:
        seen.append(model.encode_users([context(1, 2)]))
        return next(scores)

    model = BERT4Rec(config=SMALL, training=training).fit(walk(), validate=validate)
    assert model.history is not None
    assert (model.history.best_epoch, len(model.history.epochs)) == (1, 4)
    assert np.array_equal(model.encode_users([context(1, 2)]), seen[1])


def test_bad_values_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="multiple of heads, got 10 and 4"):
        BERT4Rec(10, config=BERT4RecConfig(heads=4, dim=8))
    for wrong in ({"max_len": 1}, {"dropout": 1.0}, {"hidden": 0}, {"times": "on"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            BERT4RecConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"mask_share": 0.0}, {"last_share": 2.0}, {"precision": "fp8"}, {"patience": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            BERT4RecFitConfig(**wrong)  # type: ignore[arg-type]
    nothing = Sequences.of(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(InvalidArgument, match="at least one event, got 0"):
        BERT4Rec().fit(nothing)
    with pytest.raises(FailedPrecondition, match="fitted or loaded"):
        BERT4Rec().encode_items()


def test_a_loss_that_is_not_finite_is_refused() -> None:
    training = BERT4RecFitConfig(epochs=3, learning_rate=1e30)
    with pytest.raises(InvalidArgument, match="loss must be finite"):
        BERT4Rec(config=SMALL, training=training).fit(walk())
