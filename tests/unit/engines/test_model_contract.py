"""The contract of every model: what holds for one of them holds for all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_cases import ITEMS, TABLE_MODELS, VECTOR_MODELS, ModelCase, vector_scores
from safetensors.torch import load_file, save_file

from corerec.engines.files import digest
from corerec.errors import CoreRecError, InvalidArgument, ReleaseError
from corerec.stages import UserContext

EPOCHS = 4

every_model = pytest.mark.parametrize("case", [*VECTOR_MODELS, *TABLE_MODELS], ids=lambda c: c.name)
vector_model = pytest.mark.parametrize("case", VECTOR_MODELS, ids=lambda c: c.name)


class Stopped(Exception):
    """Stands for a kill in the middle of an epoch."""


def _fitted(case: ModelCase, seed: int = 0, epochs: int = EPOCHS) -> object:
    return case.fit(case.make(seed, epochs), None, None)


@every_model
def test_learns_tiny_data_by_heart(case: ModelCase) -> None:
    assert case.overfit(_fitted(case, epochs=case.overfit_epochs)) >= 0.9


@every_model
def test_same_seed_gives_same_scores_and_another_seed_others(case: ModelCase) -> None:
    first, again, other = (case.scores(_fitted(case, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@every_model
def test_saved_and_loaded_scores_are_bit_equal(case: ModelCase, tmp_path: Path) -> None:
    model = _fitted(case)
    model.save(tmp_path / "m")  # type: ignore[attr-defined]
    assert np.array_equal(case.scores(case.load(tmp_path / "m")), case.scores(model))


@every_model
def test_a_resumed_run_equals_an_uninterrupted_one(case: ModelCase, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"

    def stop_late(done: int, total: int, _: str) -> None:
        if done > total * 0.6:
            raise Stopped

    with pytest.raises(Stopped):
        case.fit(case.make(0, EPOCHS), checkpoint, stop_late)
    assert checkpoint.exists()
    begun: list[int] = []
    resumed = case.fit(case.make(0, EPOCHS), checkpoint, lambda done, *_: begun.append(done))
    fresh: list[int] = []
    unbroken = case.fit(case.make(0, EPOCHS), None, lambda done, *_: fresh.append(done))
    assert len(begun) < len(fresh), "the resumed run began again"
    assert np.array_equal(case.scores(resumed), case.scores(unbroken))


@every_model
def test_a_checkpoint_of_another_run_is_left_aside(case: ModelCase, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    case.fit(case.make(7, EPOCHS), checkpoint, None)
    model = case.fit(case.make(0, EPOCHS), checkpoint, None)
    assert np.array_equal(case.scores(model), case.scores(_fitted(case)))


@every_model
def test_asked_before_fit_it_says_so(case: ModelCase) -> None:
    with pytest.raises(CoreRecError, match="fit"):
        case.scores(case.make(0, EPOCHS))


@every_model
def test_a_nan_in_the_data_is_refused(case: ModelCase) -> None:
    if case.refuses is None:
        pytest.skip("its data has integers only")
    with pytest.raises(InvalidArgument, match=r"(?i)nan|finite"):
        case.refuses(case.make(0, EPOCHS))


@every_model
def test_weights_that_are_not_finite_do_not_load(case: ModelCase, tmp_path: Path) -> None:
    _fitted(case).save(tmp_path)  # type: ignore[attr-defined]
    for weights in tmp_path.glob("*.safetensors"):
        header = weights.with_suffix(".json")
        if not header.exists():
            continue
        tensors = load_file(weights)
        name = max(tensors, key=lambda n: tensors[n].numel() * tensors[n].is_floating_point())
        tensors[name].view(-1)[0] = torch.nan
        save_file(tensors, weights)
        values = json.loads(header.read_text()) | {"model_id": digest(tensors)}
        header.write_text(json.dumps(values))
        with pytest.raises(ReleaseError, match=r"finite.*NaN"):
            case.load(tmp_path)
        return
    raise AssertionError("the model saved no weights")


@every_model
def test_weights_of_another_model_do_not_load(case: ModelCase, tmp_path: Path) -> None:
    for seed in (0, 1):
        _fitted(case, seed).save(tmp_path / str(seed))  # type: ignore[attr-defined]
    weights = [p for p in (tmp_path / "1").glob("*.safetensors") if p.with_suffix(".json").exists()]
    (tmp_path / "0" / weights[0].name).write_bytes(weights[0].read_bytes())
    with pytest.raises(ReleaseError, match=r"must be the weights"):
        case.load(tmp_path / "0")


@every_model
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_cuda_agree(case: ModelCase, tmp_path: Path) -> None:
    if case.on is None:
        pytest.skip("runs on CPUs only")
    model = case.fit(case.on(0, EPOCHS, "cuda"), None, None)
    model.save(tmp_path)
    assert np.allclose(case.scores(case.load(tmp_path)), case.scores(model), rtol=1e-3, atol=1e-4)


@vector_model
def test_unknown_items_of_a_history_are_skipped(case: ModelCase) -> None:
    model = _fitted(case)
    plain = UserContext(items=np.array([3, 4, 5]), times=np.arange(3))
    mixed = UserContext(items=np.array([-1, 3, 999, 4, 5]), times=np.array([0, 0, 1, 1, 2]))
    found = model.encode_users([plain, mixed])  # type: ignore[attr-defined]
    assert np.allclose(found[0], found[1], atol=1e-5)


@vector_model
def test_a_user_without_history_gets_finite_scores(case: ModelCase) -> None:
    model = _fitted(case)
    nobody = [
        UserContext(),
        UserContext(user_id="never seen"),
        UserContext(items=np.array([-5]), times=np.zeros(1, np.int64)),
    ]
    found = model.recommend(nobody, 5)  # type: ignore[attr-defined]
    assert np.isfinite(found.scores).all()
    assert ((found.numbers >= 0) & (found.numbers < ITEMS)).all()


@vector_model
def test_batches_of_none_and_one(case: ModelCase) -> None:
    model = _fitted(case)
    width = model.encode_items().shape[1]  # type: ignore[attr-defined]
    assert model.encode_users([]).shape == (0, width)  # type: ignore[attr-defined]
    assert model.recommend([], 3).numbers.shape == (0, 3)  # type: ignore[attr-defined]
    assert list(model.retrieve([], 3)) == []  # type: ignore[attr-defined]
    users = [UserContext(items=np.array([i, i + 1]), times=np.arange(2)) for i in range(5)]
    together = model.encode_users(users)  # type: ignore[attr-defined]
    for row, user in enumerate(users):
        alone = model.encode_users([user])  # type: ignore[attr-defined]
        assert np.allclose(alone[0], together[row], atol=1e-5)


@vector_model
def test_what_was_seen_is_not_recommended_and_k_may_be_more_than_there_is(case: ModelCase) -> None:
    model = _fitted(case)
    user = UserContext(items=np.arange(ITEMS - 2), times=np.arange(ITEMS - 2))
    found = model.recommend([user], 50)  # type: ignore[attr-defined]
    assert sorted(found.numbers[0, :2].tolist()) == [ITEMS - 2, ITEMS - 1]
    assert (found.numbers[0, 2:] == -1).all()
    (candidates,) = model.retrieve([user], 50)  # type: ignore[attr-defined]
    assert len(candidates) == 2
    with pytest.raises(InvalidArgument, match="k must be at least 1, got 0"):
        model.recommend([user], 0)  # type: ignore[attr-defined]


@vector_model
def test_the_dot_product_is_the_score(case: ModelCase) -> None:
    model = _fitted(case)
    scores = vector_scores(model)
    from model_cases import ring

    found = model.recommend(ring().contexts(range(8)), 3, exclude_seen=False)  # type: ignore[attr-defined]
    assert np.allclose(found.scores, -np.sort(-scores, axis=1)[:, :3], atol=1e-5)
    assert (found.numbers[:, 0] == scores.argmax(1)).mean() > 0.9  # ties may differ


@vector_model
def test_validation_keeps_the_best_epoch(case: ModelCase) -> None:
    seen: list[np.ndarray] = []

    def validate(model: object) -> float:
        seen.append(vector_scores(model))
        return -float(len(seen))  # the first epoch is the best

    from model_cases import ring

    model = case.make(0, 3).fit(ring(), validate=validate)
    assert len(seen) >= 2
    assert np.allclose(vector_scores(model), seen[0], atol=1e-5)
