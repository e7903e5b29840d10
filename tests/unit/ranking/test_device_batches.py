"""What a GPU computes, one batch of a set size at a time, against the plain form; on a CPU too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_world import ITEMS, World, make_world
from test_compiled_requests import LATER, NOW, some_entries, with_lists
from test_ranking_core import candidates, make_entry
from torch.fx.experimental.proxy_tensor import make_fx

from corerec.engines.dcn_net import DcnConfig
from corerec.features import ItemFeatures, UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.check import keeps_rules
from corerec.ranking.fold import fold
from corerec.ranking.fold_device import FoldedDcn
from corerec.ranking.folded import FoldedRanker, PlainRanker, serving_form
from corerec.ranking.graphs import CASES, WIDTHS, DeviceBatches
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.precision import Precision, Ranker
from corerec.ranking.requests import TorchRequests, stable_best
from corerec.ranking.staging import Columns
from corerec.ranking.tables import ItemTables
from corerec.stages import RankEntry

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
NETWORKS = {
    "parallel": RankingModelConfig(),
    "rank 64": RankingModelConfig(dcn=DcnConfig(cross_layers=3, cross_rank=64)),
    "stacked": RankingModelConfig(dcn=DcnConfig(structure="stacked")),
    "full crosses": RankingModelConfig(dcn=DcnConfig(cross_rank=None)),
    "DLRM": RankingModelConfig(network="dlrm"),
}


class Both:
    """Both forms, each over tables of its own, which items may be put into."""

    def __init__(
        self,
        world: World,
        device: str,
        *,
        room: int = 3 * LATER,
        config: RankingModelConfig | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Take the world's own model, or one of `config` in its serving form."""
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        self.world, self.live = world, LiveRows(ITEMS)
        counts = world.popularity.snapshot(int(world.events[2].max()))
        popularity = np.pad(np.stack([counts.total, counts.recent]), ((0, 0), (0, 1))).astype("f4")
        parts = self.live, UserIndex(world.user_ids), popularity, NOW
        self.tables = [
            ItemTables.build(world.schema, world.items, world.tower, world.transitions, on, room)
            for on in ("cpu", device)
        ]
        self.requests = TorchRequests(self.tables[0], *parts)
        own, model = (world.model() if config is None else fresh(world, config) for _ in range(2))
        self.plain = PlainRanker(own, self.tables[0])
        self.ranker: Ranker = serving_form(model, self.tables[1], precision)
        if config is None:  # on a CPU in the GPU's form, too
            assert model.dcn is not None
            folded, items = fold(model.dcn, model.user_side_width), model.item_side_width
            form = FoldedDcn(folded, items, half=False)
            self.ranker = FoldedRanker(model, self.tables[1], form=form)
        self.batches = DeviceBatches(self.ranker, *parts)

    def put(self, numbers: list[int], seed: int = 0) -> None:
        """Give items the features and vectors of others."""
        like = np.random.default_rng(seed).integers(0, ITEMS, len(numbers))
        own = {name: array[like] for name, array in vars(self.world.items).items()}
        rows = self.live.put(np.array(numbers))
        for tables in self.tables:
            tables.put(rows, ItemFeatures(**own), self.world.tower[like])
        self.ranker.refresh(torch.from_numpy(rows).to(self.tables[1].device))
        self.batches.refresh(rows)

    def check(self, entries: list[RankEntry], k: int = ITEMS, within: float = 1e-5) -> None:
        """Fail unless the scores of every place are alike, and descend."""
        found = self.batches.best(entries, k)
        laid = self.requests.lay(entries)
        with torch.no_grad():
            scores = self.plain.model.score(self.plain(*laid.tensors()))
        _, best = stable_best(scores, torch.from_numpy(laid.counts), k)
        for row, entry in enumerate(entries):
            assert found.refused[row] == (not keeps_rules(entry.candidates))
            if found.refused[row]:
                continue
            kept = min(k, len(entry.candidates))
            places, own = found.places[row], found.scores[row, :kept]
            assert sorted(set(places[:kept].tolist())) == sorted(places[:kept].tolist())
            assert not (places[kept:] >= 0).any()
            wanted = scores[row, torch.from_numpy(places[:kept].astype(np.int64))]
            np.testing.assert_allclose(own, wanted, rtol=0, atol=within)
            np.testing.assert_allclose(own, best[row, :kept], rtol=0, atol=within)


def fresh(world: World, config: RankingModelConfig) -> RankingModel:
    """Return a model whose every weight matters, the same each time."""
    torch.manual_seed(0)
    model = RankingModel(world.schema, config, world.tower.shape[1])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return model.eval()


WORLDS = [(True, 1), (True, 0), (True, 3), (False, 1)]


@pytest.fixture(scope="module", params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=WORLDS, ids=str)
def both(request: pytest.FixtureRequest, device: str) -> Both:
    has_times, lists = request.param
    return Both(with_lists(make_world(has_times=has_times), lists), device)


@settings(max_examples=40, deadline=None)
@given(entries=some_entries())
def test_batches_have_the_scores_of_the_plain_form(both: Both, entries: list[RankEntry]) -> None:
    both.check(entries)


def test_a_batch_leaves_nothing_behind_for_the_next(both: Both) -> None:
    first = [make_entry(seed, 30 - seed) for seed in range(8)]
    found = both.batches.best(first, 9)
    for size in (7, 3, 8, 1, 5):
        both.check([make_entry(seed + size, 30 - seed - size) for seed in range(size)])
    again = both.batches.best(first, 9)
    for ours, theirs in zip(found[:3], again[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert {cases for cases, _ in both.batches._sizes} <= set(CASES)


def test_only_the_best_are_returned(both: Both) -> None:
    both.check([make_entry(seed, 20 + seed) for seed in range(3)], k=4)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(-1, 2**62) | st.integers(0, 40), min_size=1, max_size=33),
    bad=st.sampled_from([None, np.nan, np.inf]),
)
def test_requests_that_break_a_rule_are_refused_and_their_neighbours_ranked(
    both: Both, numbers: list[int], bad: float | None
) -> None:
    broken = candidates(np.array(numbers))
    if bad is not None:
        broken.scores[-1] = bad
    entries = [make_entry(1), replace(make_entry(2), candidates=broken), make_entry(3, 34)]
    both.check(entries)


def test_a_score_that_is_not_finite_is_last_and_has_no_place(device: str) -> None:
    world = make_world()
    both = Both(world, device)
    both.tables[1].tower[3] = torch.nan
    both.ranker.refresh(torch.tensor([3], device=both.tables[1].device))
    entry = replace(make_entry(1, history=0), candidates=candidates(np.arange(10)))
    places = both.batches.best([entry], 10).places[0]
    assert sorted(places[:9].tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert places[9] == -1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_ranked_in_both_precisions(
    device: str, network: str, precision: Precision
) -> None:
    both = Both(make_world(), device, config=NETWORKS[network], precision=precision)
    within = 1e-5 if precision == "fp32" else 0.02
    for size in (1, 5, 8):
        both.check([make_entry(seed, 40 - seed) for seed in range(size)], within=within)
    both.put([ITEMS, ITEMS + 2, 5])
    asked = candidates(np.arange(ITEMS - 3, ITEMS + LATER))
    both.check([replace(make_entry(1), candidates=asked)], within=within)


@pytest.mark.parametrize("room", [3 * LATER, 1])
def test_items_that_came_later_are_ranked(device: str, room: int) -> None:
    """With room for them, and without: then tables are made anew, elsewhere."""
    both = Both(make_world(), device, room=room)
    asked = candidates(np.arange(ITEMS - 3, ITEMS + LATER))
    entry = replace(make_entry(1), candidates=asked)
    history = replace(entry.user, items=np.array([1, ITEMS + 2, 2]), times=entry.user.times[:3])
    both.check([entry, replace(entry, user=history)])
    both.put([ITEMS, ITEMS + 2, 5])
    both.check([entry, replace(entry, user=history)])
    both.put([ITEMS + 1, ITEMS + 2], seed=1)
    both.check([entry, replace(entry, user=history)])


def test_what_is_captured_reads_tables_as_they_become() -> None:
    """A graph repeats what was once computed: no step may hang on what Python saw then."""
    both = Both(make_world(), "cpu")
    asked = candidates(np.arange(ITEMS - 3, ITEMS + LATER))
    user = replace(make_entry(1).user, items=np.array([1, ITEMS + 2]), times=np.full(2, NOW))
    entries = [
        replace(make_entry(1), candidates=asked),
        RankEntry(user=user, candidates=asked, k=9),
    ]
    size = both.batches._size(2, 9)
    compute, k = both.batches._compute, size.places.shape[1]
    both.batches._staging.fill(entries, size.columns)
    tensors = Columns(*map(torch.from_numpy, size.columns))
    with torch.inference_mode(False), torch.no_grad():
        captured = make_fx(lambda *given: compute(Columns(*given), k))(*tensors)
        both.put([ITEMS, ITEMS + 2, 5])
        both.batches._staging.fill(entries, size.columns)
        for found, expected in zip(captured(*tensors), compute(tensors, k), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_every_number_of_candidates_and_requests_has_a_size() -> None:
    assert list(WIDTHS) == sorted(set(WIDTHS))
    assert list(CASES) == sorted(set(CASES))
    world = make_world()
    batches = Both(world, "cpu").batches
    for cases, width in ((1, 1), (1, 10_000), (3, 33), (batches.most, 100)):
        assert batches._size(cases, width).columns.numbers.shape >= (cases, width)
