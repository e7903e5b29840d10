"""The item index against brute force, with its limits."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.retrieval.build import build_index, load_index, save_index
from corerec.retrieval.index import IndexConfig, ItemIndex
from corerec.retrieval.stores import IndexSpec

LISTS = IndexConfig(flat_below=1, recall_at=50, target_recall=0.95)
KINDS = {
    "flat": IndexSpec(),
    "ivf-flat": IndexSpec(kind="ivf-flat"),
    "ivf-sq8-refine": IndexSpec(kind="ivf-sq8-refine", refine_factor=2.0),
}


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
    index = build_index(vectors, model_id="m1", config=LISTS, spec=KINDS[kind], **kwargs)  # type: ignore[arg-type]
    assert index.info.kind == kind
    return index


def test_the_size_of_the_catalogue_chooses_the_kind() -> None:
    vectors = _units(600)
    for below, kind in ((601, "flat"), (600, "ivf-int4-refine")):
        config = IndexConfig(flat_below=below, recall_at=50, target_recall=0.95)
        index = build_index(vectors, model_id="m1", config=config)
        assert index.info.kind == kind
        assert index.info.recall >= 0.95


def test_coarse_codes_get_more_candidates_where_that_reads_less() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(6000, 64)).astype(np.float32)  # all lists are as good as any other
    queries = rng.normal(size=(128, 64)).astype(np.float32)
    config = IndexConfig(recall_at=200, target_recall=0.97)
    found = {}
    for factor in (1.0, 16.0):
        spec = IndexSpec(kind="ivf-int4-refine", nlist=32, refine_factor=factor)
        index = build_index(vectors, model_id="m1", config=config, queries=queries, spec=spec)
        assert index.info.recall >= 0.97  # without further candidates no number of lists reaches it
        assert index.store.spec.refine_factor == index.info.refine_factor
        found[factor] = index.info.refine_factor
    assert 1.0 < found[1.0] < 4.0
    assert found[16.0] == 16.0  # what was asked for is the least


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


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_all_shards_together_find_what_the_whole_finds(kind: str, shards: int) -> None:
    vectors, queries = _units(8000), _units(40, 1)
    whole = _build(kind, vectors, queries=_units(64, 3))
    parts = [whole.shard(shard, shards) for shard in range(shards)]
    assert sum(part.count for part in parts) == whole.count == 8000
    excluded = [np.arange(i, 8000, 41) for i in range(40)]
    numbers, scores = whole.search(queries, 20, excluded)
    found = [part.search(queries, 20, excluded) for part in parts]
    for shard, (own, _) in enumerate(found):
        assert (own % shards == shard).all()
    every = np.hstack([own for own, _ in found])
    values = np.hstack([own for _, own in found])
    better = 0
    for row in range(40):
        order = np.lexsort((every[row], -values[row]))[:20]
        if kind == "flat":
            assert np.array_equal(every[row][order], numbers[row])
            assert np.array_equal(values[row][order], scores[row])
        # Codes of each part bring candidates of their own: never less is found.
        assert (values[row][order] >= scores[row] - 1e-6).all()
        better += int((every[row][order] != numbers[row]).any())
    assert kind == "ivf-sq8-refine" or better == 0
    with pytest.raises(InvalidArgument, match=rf"shard must be in \[0, {shards}\), got {shards}"):
        whole.shard(shards, shards)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shard_goes_on_living_and_is_saved(kind: str, tmp_path: Path) -> None:
    vectors = _units(3000)
    part = _build(kind, vectors).shard(1, 4)
    fresh = _units(5, 8)
    part.upsert(np.array([1, 5, 4001, 4005, 4009]), fresh)
    part.remove(np.array([9, 13]))
    save_index(part, tmp_path / "index.faiss", tmp_path / "index.json")
    again = load_index(tmp_path / "index.faiss", tmp_path / "index.json", model_id="m1")
    expected = np.setdiff1d(np.arange(1, 3000, 4), [9, 13])
    assert np.array_equal(again.numbers(), np.concatenate([expected, [4001, 4005, 4009]]))
    found, scores = again.search(fresh, 2000)
    for row, number in enumerate([1, 5, 4001, 4005, 4009]):
        assert np.allclose(scores[row][found[row] == number], 1, atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_items_come_change_and_go_while_others_stay(kind: str) -> None:
    vectors = _units(4000)
    index = _build(kind, vectors, queries=_units(64, 3))
    items = dict(enumerate(vectors))
    fresh = _units(300, 5)
    numbers = np.concatenate([np.arange(0, 4000, 20), np.arange(5000, 5100)])
    index.upsert(numbers, fresh)
    items.update(zip(numbers.tolist(), fresh, strict=True))
    assert index.remove(np.arange(100, 200)) == 100
    for number in range(100, 200):
        items.pop(number)
    queries = _units(20, 6)
    for turn in range(4):
        assert index.count == len(items)
        assert index.pending == max(0, 300 - 5 - 128 * turn)
        found, scores = index.search(queries, 30)
        hits = 0
        for row in range(20):
            own = np.array([items[n] for n in found[row].tolist()])
            assert np.allclose(scores[row], own @ queries[row], atol=1e-4)
            known = np.array(list(items))
            every = np.array(list(items.values())) @ queries[row]
            hits += len(np.intersect1d(found[row], known[np.argsort(-every)[:30]]))
        assert hits >= (600 if kind == "flat" else 540)
        index.maintain(128)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_mask_of_allowed_items_holds_inside_the_search(kind: str) -> None:
    vectors = _units(6000)
    index = _build(kind, vectors, queries=_units(64, 3))
    queries = _units(20, 6)
    for share in (0.5, 0.05, 0.005):
        allowed = np.random.default_rng(1).random(6000) < share
        found, _ = index.search(queries, 20, allowed=allowed)
        scores = np.where(allowed, queries @ vectors.T, -np.inf)
        truth = np.argsort(-scores, axis=1)[:, :20]
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))
        assert allowed[found].all()
        assert hits >= (400 if kind == "flat" else 0.95 * 400)


def test_vectors_may_be_left_out_of_the_files_and_given_again(tmp_path: Path) -> None:
    vectors = _units(3000)
    index = _build("ivf-sq8-refine", vectors)
    index.upsert(np.array([7, 3001]), _units(2, 5))
    path, header = tmp_path / "index.faiss", tmp_path / "index.json"
    save_index(index, path, header, with_vectors=False)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < vectors.nbytes
    with pytest.raises(ReleaseError, match="give at least 3000 by item number, got 0"):
        load_index(path, header)
    np.save(tmp_path / "given.npy", vectors)
    mapped = np.load(tmp_path / "given.npy", mmap_mode="r")
    again = load_index(path, header, vectors=mapped)
    assert again.store.held().vectors < 100 * 16 * 4
    for mine, other in zip(
        index.search(_units(9, 2), 40), again.search(_units(9, 2), 40), strict=True
    ):
        assert np.array_equal(mine, other)


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_files_of_before_there_were_stores_are_read(
    kind: str, identity: bool, tmp_path: Path
) -> None:
    vectors = _units(900)
    numbers = np.arange(900) if identity else np.arange(900) * 2 + 5
    flat = faiss.IndexFlatIP(16)
    inner = flat
    if kind != "flat":
        codes = "Flat" if kind == "ivf-flat" else "SQ8"
        inner = faiss.index_factory(16, f"IVF8,{codes}", faiss.METRIC_INNER_PRODUCT)
        inner.train(vectors)
    inner.add(vectors)
    if kind == "ivf-sq8-refine":
        inner = faiss.IndexRefineFlat(inner, faiss.swig_ptr(vectors))
    faiss.write_index(inner, str(tmp_path / "index.faiss"))
    if not identity:
        np.save(tmp_path / "index.numbers.npy", numbers)
    lists = {"nlist": 8, "nprobe": 8, "refine_factor": 2.0 if "refine" in kind else 1.0}
    header = {"kind": kind, "dim": 16, "count": 900, "model_id": "m1", "recall": 1.0}
    header |= {"recall_at": 500, "queries": 5, "identity": identity}
    header |= lists if kind != "flat" else {}
    (tmp_path / "index.json").write_text(json.dumps(header))
    index = load_index(tmp_path / "index.faiss", tmp_path / "index.json", model_id="m1")
    queries = _units(20, 6)
    found, scores = index.search(queries, 10, [numbers[:7]] * 20)
    for row in range(20):
        order, expected = _brute(vectors, queries[row], 10, np.arange(7))
        assert np.array_equal(found[row], numbers[order])
        assert np.allclose(scores[row], expected, atol=1e-5)
    index.upsert(numbers[:3], _units(3, 9))
    index.remove(numbers[10:20])
    index.settle()
    assert index.count == 890


@pytest.mark.parametrize(
    "kind", ["hnsw", "ivf-int8-refine", "ivf-int4-refine", "ivf-pq-refine", "ivf-rabitq-refine"]
)
def test_any_kind_is_tuned_saved_and_cut_into_shards(kind: str, tmp_path: Path) -> None:
    vectors, queries = _units(6000), _units(64, 1)
    spec = IndexSpec(kind=kind, refine_factor=4.0)  # type: ignore[arg-type]
    config = IndexConfig(recall_at=50, target_recall=0.95)
    built = build_index(vectors, model_id="m1", config=config, queries=_units(64, 3), spec=spec)
    assert built.info.kind == kind
    assert built.info.recall >= 0.95
    save_index(built, tmp_path / "index.faiss", tmp_path / "index.json")
    index = load_index(tmp_path / "index.faiss", tmp_path / "index.json", vectors=vectors)
    assert index.info == built.info
    parts = [index.shard(shard, 3) for shard in range(3)]
    found = [part.search(queries, 50) for part in parts]
    hits = 0
    for row in range(64):
        every = np.concatenate([own[row] for own, _ in found])
        values = np.concatenate([own[row] for _, own in found])
        best = every[np.argsort(-values)[:50]]
        hits += len(np.intersect1d(best, _brute(vectors, queries[row], 50, np.empty(0, int))[0]))
    assert hits >= 0.94 * 64 * 50
