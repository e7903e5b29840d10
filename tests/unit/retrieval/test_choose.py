"""Choosing an index: recall holds on other queries, memory is kept to, a stopped choice resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.retrieval.choose import (
    Target,
    Trial,
    cheapest,
    choose_index,
    format_size,
    frontier,
    nearest,
    parse_size,
    plans_for,
    predicted_bytes,
)
from corerec.retrieval.choose.measure import lower_end
from corerec.retrieval.choose.truth import exact_best, recalls
from corerec.retrieval.stores import IndexSpec, Metric, create_index

ITEMS, DIM, K = 6000, 16, 20
FAST = Target(recall=0.9, at=K, batch=32, pilot=100_000, threads=1)
LISTS = ["ivf-flat", "ivf-int8-refine"]


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit vectors around eighty centres; items and queries come from the same world."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(80, DIM))
    x = centres[rng.integers(80, size=rows)] + rng.normal(size=(rows, DIM)) * 0.7
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    return clustered(ITEMS, 1)


def trial(recall: float, ms: float, size: int, **more: object) -> Trial:
    values = {
        "plan": "any",
        "spec": IndexSpec(),
        "count": 10,
        "recall": recall,
        "recall_low": recall,
        "single_ms": ms,
        "single_p99_ms": ms,
        "batch_per_second": 1000 / ms,
        "index_bytes": size,
        "vector_bytes": 0,
        "build_seconds": 1.0,
    }
    return Trial(**(values | more))  # type: ignore[arg-type]


def test_a_chosen_index_meets_the_recall_on_other_queries(
    items: np.ndarray, tmp_path: Path
) -> None:
    choice = choose_index(items, clustered(600, 2), FAST, work=tmp_path, plans=LISTS)
    assert choice.chosen is not None
    assert choice.store is not None
    others = clustered(600, 3)
    found, _ = choice.store.search(others, K)
    assert recalls(found, exact_best(items, others, K, "ip")).mean() >= 0.9
    # What is chosen is what was measured, and not simply everything.
    assert choice.store.spec.nprobe == choice.chosen.spec.nprobe < choice.chosen.spec.nlist


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_other_metrics_are_chosen_for_by_their_own_truth(
    items: np.ndarray, tmp_path: Path, metric: str
) -> None:
    longer = items * np.random.default_rng(0).lognormal(0, 0.3, (ITEMS, 1)).astype(np.float32)
    choice = choose_index(
        longer,
        clustered(200, 2),
        FAST,
        work=tmp_path,
        plans=["ivf-flat"],
        metric=metric,  # type: ignore[arg-type]
    )
    assert choice.store is not None
    others = clustered(300, 3)
    scores = others @ longer.T / np.linalg.norm(longer, axis=1)
    if metric == "l2":
        scores = -((others[:, None] - longer[None]) ** 2).sum(2)
    truth = np.argsort(-scores, axis=1)[:, :K]
    assert recalls(choice.store.search(others, K)[0], truth).mean() >= 0.88


def test_the_memory_limit_leaves_out_by_arithmetic_what_cannot_fit(
    items: np.ndarray, tmp_path: Path
) -> None:
    limit = 500_000  # the vectors alone are 384,000 bytes
    target = Target(recall=0.5, at=K, memory=limit, batch=32, threads=1)
    kinds = ["flat", "hnsw", "ivf-flat", "ivf-sq8"]
    choice = choose_index(items, clustered(100, 2), target, work=tmp_path, plans=kinds)
    assert "needs about" in choice.left_out["hnsw-m32"]
    assert choice.chosen is not None
    assert choice.chosen.bytes <= limit
    assert choice.store is not None
    assert choice.store.nbytes <= limit


def test_arithmetic_is_near_to_what_a_store_holds(items: np.ndarray) -> None:
    for plan in plans_for(ITEMS, DIM):
        store = create_index("faiss", "ip", dim=DIM, spec=plan.spec)
        store.add(np.arange(ITEMS), items)
        predicted = predicted_bytes(plan.spec, ITEMS, DIM)
        # Blocks of lists that are not full weigh more in a small catalogue.
        assert 0.5 < predicted / store.nbytes < 1.5, (plan.name, predicted, store.nbytes)


def test_nothing_that_fits_is_an_error_with_the_sizes(items: np.ndarray, tmp_path: Path) -> None:
    target = Target(recall=0.5, at=K, memory=1000)
    with pytest.raises(InvalidArgument, match=r"no kind fits: flat needs about .* KiB of 1000 B"):
        choose_index(items, clustered(10, 2), target, work=tmp_path)


def test_a_stopped_choice_does_not_build_again_what_was_finished(
    items: np.ndarray, tmp_path: Path
) -> None:
    queries = clustered(300, 2)

    class Stopped(Exception):
        pass

    def stop(step: str, done: int, total: int) -> None:
        if step.startswith("build ivf-int8"):
            raise Stopped

    with pytest.raises(Stopped):
        choose_index(items, queries, FAST, work=tmp_path, plans=LISTS, report=stop)
    built: list[str] = []

    def listen(step: str, done: int, total: int) -> None:
        if done < total:
            built.append(step)

    first = choose_index(items, queries, FAST, work=tmp_path, plans=LISTS, report=listen)
    assert not any("ivf-flat-256" in step or "exact" in step for step in built)
    assert any("build ivf-int8" in step for step in built)
    built.clear()
    again = choose_index(items, queries, FAST, work=tmp_path, plans=LISTS, report=listen)
    assert built == []
    assert again.chosen == first.chosen
    assert again.trials == first.trials
    others = clustered(50, 5)
    assert first.store is not None
    assert again.store is not None
    found = [choice.store.search(others, K)[0] for choice in (first, again)]  # type: ignore[union-attr]
    assert (found[0] == found[1]).all()


def test_trials_of_other_queries_are_refused(items: np.ndarray, tmp_path: Path) -> None:
    choose_index(items, clustered(20, 2), FAST, work=tmp_path, plans=["flat"])
    with pytest.raises(FailedPrecondition, match="trials of other vectors, queries"):
        choose_index(items, clustered(20, 9), FAST, work=tmp_path, plans=["flat"])


def test_a_pilot_builds_only_what_is_fast_on_a_part(items: np.ndarray, tmp_path: Path) -> None:
    target = Target(recall=0.9, at=K, pilot=2000, slower=1.0, batch=32, threads=1)
    choice = choose_index(items, clustered(100, 2), target, work=tmp_path, plans=[*LISTS, "flat"])
    assert {t.count for t in choice.pilot} == {2000}
    assert {t.count for t in choice.trials} == {ITEMS}
    assert len({t.spec.kind for t in choice.trials}) == 1
    assert all("part of the catalogue" in why for why in choice.left_out.values())


def test_a_target_that_nothing_reaches_names_what_came_nearest(
    items: np.ndarray, tmp_path: Path
) -> None:
    target = Target(recall=1.0, at=K, batch=32, threads=1)
    choice = choose_index(items, clustered(100, 2), target, work=tmp_path, plans=["ivf-sq8"])
    assert choice.chosen is None
    assert choice.store is None
    assert choice.nearest is not None
    assert choice.nearest.recall == max(t.recall for t in choice.trials)


def test_a_frontier_holds_what_no_other_trial_beats() -> None:
    rng = np.random.default_rng(0)
    trials = [
        trial(float(r), float(ms), int(size))
        for r, ms, size in zip(
            rng.random(60), rng.random(60) + 0.1, rng.integers(1, 100, 60), strict=True
        )
    ]
    target = Target()
    kept = frontier(trials, target)

    def beats(a: Trial, b: Trial) -> bool:
        ours = (a.recall, -a.cost(target), -a.bytes)
        theirs = (b.recall, -b.cost(target), -b.bytes)
        return all(x >= y for x, y in zip(ours, theirs, strict=True)) and ours != theirs

    assert [t for t in trials if not any(beats(o, t) for o in trials)] == sorted(
        kept, key=trials.index
    )
    assert [t.cost(target) for t in kept] == sorted(t.cost(target) for t in kept)


def test_the_cheapest_is_the_fastest_that_reaches_recall_and_memory() -> None:
    slow, fast = trial(0.99, 2, 10), trial(0.96, 1, 10)
    large, poor = trial(0.99, 0.1, 1000), trial(0.5, 0.1, 10)
    target = Target(recall=0.95, memory=100)
    assert cheapest([slow, fast, large, poor], target) is fast
    assert cheapest([large, poor], target) is None
    assert nearest([large, poor], target) is poor
    assert nearest([large], target) is large
    noisy = trial(0.96, 1, 10, recall_low=0.94)
    assert cheapest([noisy], target) is None


def test_what_is_preferred_decides_between_single_and_batch() -> None:
    single = trial(1, 1, 1, batch_per_second=100.0)
    batch = trial(1, 5, 1, batch_per_second=10_000.0)
    assert cheapest([single, batch], Target(prefer="single")) is single
    assert cheapest([single, batch], Target(prefer="batch")) is batch
    assert cheapest([single, batch], Target(prefer="both")) is batch


def test_the_lower_end_of_a_mean_covers_what_more_queries_show() -> None:
    rng = np.random.default_rng(0)
    many = rng.beta(18, 1, (500, 200)).astype(np.float32)  # mean 18 / 19
    below = [lower_end(row) <= 18 / 19 for row in many]
    assert 0.91 <= np.mean(below) <= 0.985
    assert lower_end(np.ones(3, np.float32)) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("2 g", 2**31), ("1.5KiB", 1536), ("400MB", 400_000_000), ("7", 7)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 parsecs", "0"])
def test_what_is_no_size_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"got {text!r}"):
        parse_size(text)


def test_sizes_are_written_in_a_unit_that_fits() -> None:
    assert [format_size(n) for n in (10, 1536, 2**31)] == ["10 B", "1.5 KiB", "2.0 GiB"]


def test_an_empty_catalogue_and_nan_are_refused(items: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="vectors must be float32"):
        choose_index(items[:0], items[:5], work=tmp_path)
    broken = items[:100].copy()
    broken[7, 3] = np.nan
    with pytest.raises(InvalidArgument, match="vectors must be finite, row 7 is not"):
        choose_index(broken, items[:5], work=tmp_path)
    with pytest.raises(InvalidArgument, match="recall must be in"):
        Target(recall=95)


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
def test_the_exact_best_is_that_of_a_sort_of_all_scores(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    for count, asked, k in ((0, 5, 3), (7, 5, 50), (40_000, 0, 3), (70_001, 300, 77)):
        vectors = rng.normal(size=(count, 8)).astype(np.float32)
        queries = rng.normal(size=(asked, 8)).astype(np.float32)
        found = exact_best(vectors, queries, k, metric)
        assert found.shape == (asked, min(k, count))
        for own, query in zip(found[::60], queries[::60], strict=True):
            exact = vectors.astype(np.float64) @ query
            if metric == "l2":
                exact = -np.square(vectors.astype(np.float64) - query).sum(1)
            if metric == "cosine":
                exact /= np.linalg.norm(vectors.astype(np.float64), axis=1)
            assert np.allclose(exact[own], np.sort(exact)[::-1][:k], atol=1e-5)
