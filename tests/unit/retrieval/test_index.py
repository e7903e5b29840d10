"""The item index against brute force, with its limits."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.retrieval.build import build_index, load_index, save_index
from corerec.retrieval.index import IndexConfig, ItemIndex

FLAT = IndexConfig()
LISTS = IndexConfig(flat_below=1, recall_at=50, target_recall=0.95)
CODES = IndexConfig(flat_below=1, sq8_from=1, recall_at=50, target_recall=0.95, refine_factor=2.0)
KINDS = {"flat": FLAT, "ivf-flat": LISTS, "ivf-sq8-refine": CODES}


def _units(rows: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, dim))
    x = centres[rng.integers(20, size=rows)] + rng.normal(size=(rows, dim)) * 0.7
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _brute(
    vectors: np.ndarray, query: np.ndarray, k: int, out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scores = vectors @ query
    scores[out[(out >= 0) & (out < len(vectors))]] = -np.inf
    order = np.lexsort((np.arange(len(scores)), -scores))[:k]
    return order, scores[order]


def _build(kind: str, vectors: np.ndarray, **kwargs: object) -> ItemIndex:
    index = build_index(vectors, model_id="m1", config=KINDS[kind], **kwargs)  # type: ignore[arg-type]
    assert index.info.kind == kind
    return index


@pytest.mark.parametrize("rows", [30, 3000, 9000])
def test_flat_equals_brute_force_with_exclusions(rows: int) -> None:
    vectors, queries = _units(rows), _units(9, 1)
    rng = np.random.default_rng(2)
    excluded = [rng.integers(-5, rows + 5, n) for n in (0, 1, 3, 20, 20, 5, 0, 29, 2)]
    numbers, scores = _build("flat", vectors).search(queries, 20, excluded)
    for row in range(9):
        order, expected = _brute(vectors, queries[row], 20, excluded[row])
        found = numbers[row][numbers[row] >= 0]
        allowed = expected[expected > -np.inf]
        assert len(found) == len(allowed)
        assert np.allclose(scores[row, : len(found)], allowed, atol=1e-5)
        assert len(set(found.tolist()) ^ set(order[: len(found)].tolist())) <= 2  # equal scores


def test_flat_equals_faiss_with_its_own_selector() -> None:
    vectors, queries = _units(5000), _units(4, 1)
    index = _build("flat", vectors)
    plain = faiss.IndexFlatIP(16)
    plain.add(vectors)
    out = np.arange(0, 5000, 7)
    batch = faiss.IDSelectorBatch(out)
    params = faiss.SearchParameters(sel=faiss.IDSelectorNot(batch))
    scores, numbers = plain.search(queries, 50, params=params)
    mine, mine_scores = index.search(queries, 50, [out] * 4)
    assert (mine == numbers).mean() > 0.99
    assert np.allclose(mine_scores, scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-sq8-refine"])
def test_lists_reach_the_measured_recall_and_leave_out_what_is_excluded(kind: str) -> None:
    vectors, queries = _units(6000), _units(64, 1)
    index = _build(kind, vectors, queries=_units(64, 3))
    assert index.info.recall >= 0.95
    assert index.info.queries == 64
    rng = np.random.default_rng(0)
    excluded = [rng.integers(0, 6000, 40) if i % 2 else np.empty(0, np.int64) for i in range(64)]
    numbers, scores = index.search(queries, 50, excluded)
    hits = 0
    for row in range(64):
        assert not np.isin(numbers[row], excluded[row]).any()
        assert len(np.unique(numbers[row])) == 50
        assert (np.diff(scores[row]) <= 0).all()
        assert np.allclose(scores[row], vectors[numbers[row]] @ queries[row], atol=1e-4)
        hits += len(
            np.intersect1d(numbers[row], _brute(vectors, queries[row], 50, excluded[row])[0])
        )
    assert hits / (64 * 50) >= 0.9


@pytest.mark.parametrize("kind", list(KINDS))
def test_k_results_come_back_whenever_so_many_are_allowed(kind: str) -> None:
    vectors, queries = _units(400), _units(3, 1)
    index = _build(kind, vectors)
    out = np.argsort(-(vectors @ queries[0]))[:380].astype(np.int64)  # all the near ones
    numbers, scores = index.search(queries[:1], 15, [out])
    assert sorted(np.setdiff1d(np.arange(400), out)) != []
    assert (numbers[0] >= 0).all()
    assert not np.isin(numbers[0], out).any()
    numbers, scores = index.search(queries, 500)
    assert numbers.shape == (3, 500)
    assert (np.sort(numbers[:, :400], axis=1) == np.arange(400)).all()
    assert (numbers[:, 400:] == -1).all()
    assert (scores[:, 400:] == -np.inf).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_everything_excluded_gives_only_padding(kind: str) -> None:
    numbers, scores = _build(kind, _units(300)).search(_units(1), 5, [np.arange(300)])
    assert (numbers == -1).all()
    assert (scores == -np.inf).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_saved_and_loaded_answers_the_same_bits(kind: str, tmp_path: Path) -> None:
    index = _build(kind, _units(700))
    save_index(index, tmp_path / "index.faiss", tmp_path / "index.json")
    again = load_index(tmp_path / "index.faiss", tmp_path / "index.json", model_id="m1")
    assert again.info == index.info
    queries, out = _units(5, 2), [np.array([1, 2, 3])] * 5
    for mine, other in zip(
        index.search(queries, 40, out), again.search(queries, 40, out), strict=True
    ):
        assert np.array_equal(mine, other)


@pytest.mark.parametrize("kind", list(KINDS))
def test_numbers_need_not_be_rows(kind: str, tmp_path: Path) -> None:
    vectors, numbers = _units(500), np.arange(500) * 3 + 1000
    built = _build(kind, vectors, numbers=numbers)
    save_index(built, tmp_path / "index.faiss", tmp_path / "index.json")
    index = load_index(tmp_path / "index.faiss", tmp_path / "index.json")
    found, _ = index.search(vectors[7:8], 10, [np.array([1000 + 21, 5, 10**9])])
    assert np.isin(found, numbers).all()
    assert 1021 not in found


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(InvalidArgument, match=f"k must be at least 1, got {k}"):
        _build("flat", _units(5)).search(_units(1), k)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", list(KINDS))
def test_queries_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    queries = _units(3)
    queries[1, 2] = value
    with pytest.raises(InvalidArgument, match="queries must be finite, row 1 is not"):
        _build(kind, _units(300)).search(queries, 5)


def test_a_wrong_dimension_or_type_is_refused() -> None:
    index = _build("flat", _units(5))
    with pytest.raises(InvalidArgument, match=r"shape \(B, 16\), got float32 \(1, 8\)"):
        index.search(_units(1, dim=8), 3)
    with pytest.raises(InvalidArgument, match="got float64"):
        index.search(_units(1).astype(np.float64), 3)
    with pytest.raises(InvalidArgument, match="one array a query, got 1 for 2"):
        index.search(_units(2), 3, [np.empty(0, np.int64)])


def test_batches_of_none_give_none() -> None:
    numbers, scores = _build("flat", _units(5)).search(np.empty((0, 16), np.float32), 3)
    assert numbers.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    vectors = _units(5)
    vectors[3] = value
    with pytest.raises(InvalidArgument, match="vectors must be finite, row 3"):
        build_index(vectors, model_id="m1")


@pytest.mark.parametrize("kind", list(KINDS))
def test_vectors_of_any_length_are_ranked_by_inner_product(kind: str) -> None:
    """As those of matrix factorization are: long where an item is popular, some of length 0."""
    rng = np.random.default_rng(5)
    vectors = _units(3_000) * rng.lognormal(0, 1, (3_000, 1)).astype(np.float32)
    vectors[::50] = 0
    queries = 3 * _units(64, 6)
    excluded = [rng.integers(0, 3_000, 20) for _ in range(64)]
    index = _build(kind, vectors, queries=queries)
    numbers, scores = index.search(queries, 50, excluded)
    hits = 0
    for row in range(64):
        best, _ = _brute(vectors, queries[row], 50, excluded[row])
        hits += len(np.intersect1d(numbers[row], best))
        assert not np.isin(numbers[row], excluded[row]).any()
        assert np.allclose(scores[row], vectors[numbers[row]] @ queries[row], atol=1e-3)
    assert hits / (64 * 50) >= (1.0 if kind == "flat" else 0.9)
    # The longest vectors win where the direction says little, as they must by inner product.
    assert np.linalg.norm(vectors[numbers[:, 0]], axis=1).mean() > 2


def test_an_old_query_vector_never_meets_a_new_index(tmp_path: Path) -> None:
    index = _build("flat", _units(5))
    with pytest.raises(FailedPrecondition, match="query of 'old' for an index of 'm1'"):
        index.search(_units(1), 3, model_id="old")
    save_index(index, tmp_path / "index.faiss", tmp_path / "index.json")
    with pytest.raises(FailedPrecondition, match="'m1' for an encoder of 'old'"):
        load_index(tmp_path / "index.faiss", tmp_path / "index.json", model_id="old")


def test_a_header_of_another_index_is_refused(tmp_path: Path) -> None:
    for name, rows in (("a", 5), ("b", 6)):
        save_index(
            _build("flat", _units(rows)), tmp_path / f"{name}.faiss", tmp_path / f"{name}.json"
        )
    with pytest.raises(ReleaseError, match="holds 5 vectors of 16, its header says 6 of 16"):
        load_index(tmp_path / "a.faiss", tmp_path / "b.json")
    (tmp_path / "a.faiss").write_bytes(b"torn")
    with pytest.raises(ReleaseError, match=r"a\.faiss: not a FAISS index"):
        load_index(tmp_path / "a.faiss", tmp_path / "a.json")
