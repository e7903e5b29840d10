"""Fusion of modalities: five strategies, one contract, and an oracle of plain loops for each."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from corerec.engines.adam import RowAdam
from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal import STRATEGIES, MultiModalFusion
from corerec.multimodal.strategies import PACE

WIDTHS = {"text": 5, "image": 3, "audio": 4}
DIM = 6

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def fusion(strategy: str, seed: int = 0) -> MultiModalFusion:
    """A fusion whose every parameter is off its start, so that nothing is zero by chance."""
    found = MultiModalFusion(strategy, WIDTHS, DIM, generator=Generator().manual_seed(seed), rank=7)
    noise = Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return found


def rows(count: int, seed: int = 1) -> dict[str, Tensor]:
    noise = Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=noise) for name, width in WIDTHS.items()}


def masks(pattern: list[tuple[bool, bool, bool]]) -> dict[str, Tensor]:
    table = torch.tensor(pattern, dtype=torch.bool).reshape(-1, len(WIDTHS))
    return {name: table[:, place] for place, name in enumerate(WIDTHS)}


@every_strategy
@settings(max_examples=25, deadline=None)
@given(
    pattern=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6
    ),
    garbage=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, 0.0]),
)
def test_what_is_missing_has_no_influence_at_all(
    strategy: str, pattern: list[tuple[bool, bool, bool]], garbage: float
) -> None:
    model, inputs, present = fusion(strategy), rows(len(pattern)), masks(pattern)
    expected = model(inputs, present)
    spoilt = {
        name: torch.where(present[name][:, None], x, torch.tensor(garbage))
        for name, x in inputs.items()
    }
    got = model(spoilt, present)
    assert torch.equal(got.vector, expected.vector)
    assert torch.equal(got.weights, expected.weights)
    there = torch.stack(list(present.values()), dim=1)
    assert torch.isfinite(got.vector).all()
    assert (got.weights[~there] == 0).all()
    assert (got.weights >= 0).all()
    assert torch.allclose(got.weights.sum(1), there.any(1).float())
    assert (got.vector[~there.any(1)] == 0).all()


@every_strategy
def test_gradients_stay_finite_and_do_not_reach_what_is_missing(strategy: str) -> None:
    model, inputs = fusion(strategy), rows(3)
    present = masks([(True, False, True), (False, False, False), (True, True, True)])
    inputs["image"][0] = math.nan
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    model(inputs, present).vector.square().sum().backward()
    for name, x in inputs.items():
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert (x.grad[~present[name]] == 0).all()
        assert (x.grad[present[name]] != 0).any(dim=1).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()


@every_strategy
def test_a_row_does_not_depend_on_its_batch(strategy: str) -> None:
    model, inputs = fusion(strategy), rows(5)
    whole = model(inputs)
    for row in range(5):
        alone = model({name: x[row : row + 1] for name, x in inputs.items()})
        assert torch.allclose(alone.vector, whole.vector[row : row + 1], atol=1e-6)
        assert torch.allclose(alone.weights, whole.weights[row : row + 1], atol=1e-6)
    none = model({name: x[:0] for name, x in inputs.items()})
    assert none.vector.shape == (0, DIM)
    assert none.weights.shape == (0, len(WIDTHS))


@every_strategy
def test_a_modality_left_out_is_missing_in_all_rows(strategy: str) -> None:
    model, inputs = fusion(strategy), rows(4)
    expected = model(inputs, {"image": torch.zeros(4, dtype=torch.bool)})
    del inputs["image"]
    got = model(inputs)
    assert torch.equal(got.vector, expected.vector)
    assert (got.weights[:, 1] == 0).all()


@every_strategy
def test_one_modality_alone_works(strategy: str) -> None:
    model = MultiModalFusion(strategy, {"id": 4}, 3, generator=Generator().manual_seed(0))
    got = model({"id": torch.ones(2, 4)})
    assert got.vector.shape == (2, 3)
    assert torch.equal(got.weights, torch.ones(2, 1))


@every_strategy
def test_the_same_generator_gives_the_same_fusion(strategy: str) -> None:
    first, again, other = fusion(strategy, 3), fusion(strategy, 3), fusion(strategy, 4)
    inputs = rows(2)
    assert torch.equal(first(inputs).vector, again(inputs).vector)
    assert not torch.equal(first(inputs).vector, other(inputs).vector)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(inputs).vector, other(inputs).vector)


def _softmax(scores: list[float]) -> list[float]:
    parts = [math.exp(score) for score in scores]
    return [part / sum(parts) for part in parts]


@every_strategy
def test_each_strategy_is_its_formula_over_the_modalities_that_are_there(strategy: str) -> None:
    """An oracle that knows no masks: it loops over the modalities that the row has."""
    model, inputs = fusion(strategy), rows(1)
    present = masks([(True, False, True)])
    parts, names = model.parts, list(WIDTHS)
    there = [0, 2]
    x = [inputs[name][0] if place in there else torch.zeros(WIDTHS[name])
         for place, name in enumerate(names)]  # fmt: skip
    h = [parts.project[m](x[m]) for m in range(3)]
    if strategy == "concat":
        joint = torch.cat([parts.project[m].map.weight for m in there], dim=1)
        bias = sum(parts.project[m].map.bias for m in there)
        expected = PACE * (joint @ torch.cat([x[m] for m in there]) + bias)
    elif strategy == "weighted":
        share = _softmax([float(parts.logits.detach()[m]) for m in there])
        expected = parts.scale * sum(s * h[m] for s, m in zip(share, there, strict=True))
    elif strategy == "attention":
        score = [
            float((torch.tanh(parts.inner(h[m])) @ parts.query + parts.place[m]).detach())
            for m in there
        ]
        expected = sum(s * h[m] for s, m in zip(_softmax(score), there, strict=True))
    elif strategy == "gated":
        gates = torch.sigmoid(parts.gate(torch.cat(x))).split(DIM)
        expected = sum(gates[m] * torch.tanh(h[m]) for m in there)
    else:
        a = {m: torch.tanh(parts.factors[m](x[m])) for m in there}
        expected = h[0] + h[2] + parts.pairs.weight @ (a[0] * a[2])
    assert torch.allclose(model(inputs, present).vector[0], expected, atol=1e-6)


def test_bilinear_sums_the_products_of_every_pair() -> None:
    model, inputs = fusion("bilinear"), rows(1)
    parts, x = model.parts, list(inputs.values())
    a = [torch.tanh(parts.factors[m](x[m][0])) for m in range(3)]
    pairs = a[0] * a[1] + a[0] * a[2] + a[1] * a[2]
    lines = sum(parts.project[m](x[m][0]) for m in range(3))
    assert torch.allclose(model(inputs).vector[0], lines + parts.pairs.weight @ pairs, atol=1e-6)


@pytest.mark.parametrize("strategy", ["concat", "gated", "bilinear"])
def test_shares_follow_the_size_of_the_contributions(strategy: str) -> None:
    model, inputs = fusion(strategy), rows(8)
    with torch.no_grad():
        for parameter in model.parts.project[1].parameters():
            parameter.zero_()
        if strategy == "bilinear":
            model.parts.factors[1].weight.zero_()
            model.parts.factors[1].bias.zero_()
    weights = model(inputs).weights
    assert (weights[:, 1] == 0).all()
    assert (weights[:, [0, 2]] > 0).all()


@every_strategy
def test_fusion_learns_to_listen_to_the_modality_that_tells(strategy: str) -> None:
    noise = Generator().manual_seed(5)
    model = MultiModalFusion(
        strategy, {"signal": 4, "noise": 4}, 4, generator=Generator().manual_seed(0), rank=4
    )
    x = {name: torch.randn(64, 4, generator=noise) for name in ("signal", "noise")}
    optimizer = RowAdam(model.parameters())
    losses = []
    for _ in range(120):
        optimizer.clear()
        loss = (model(x).vector - 0.5 * x["signal"]).square().mean()
        loss.backward()
        optimizer.step(0.05, max_norm=5.0)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0]
    weights = model(x).weights.mean(0)
    assert weights[0] > weights[1]


@every_strategy
def test_the_base_enters_as_it_is(strategy: str) -> None:
    make = Generator().manual_seed(0)
    model = MultiModalFusion(strategy, {"id": 4, "text": 4}, 4, generator=make, base="id")
    assert isinstance(model.parts.project[0], torch.nn.Identity)
    own = 0.1 * torch.randn(3, 4, generator=make)
    got = model({"id": own}).vector
    if strategy == "gated":
        assert torch.equal(got.sign(), own.sign())
    else:
        assert torch.equal(got, own)
    with pytest.raises(ConfigError, match="base must be a modality of width 4, got 'id' of 3"):
        MultiModalFusion(strategy, {"id": 3}, 4, generator=make, base="id")
    with pytest.raises(ConfigError, match="base must be a modality of width 4, got 'it' of None"):
        MultiModalFusion(strategy, {"id": 4}, 4, generator=make, base="it")


def test_bad_arguments_are_refused_with_rule_and_value() -> None:
    make = Generator().manual_seed(0)
    with pytest.raises(ConfigError, match=r"strategy must be one of concat, .* got 'sum'"):
        MultiModalFusion("sum", WIDTHS, DIM, generator=make)
    with pytest.raises(ConfigError, match="at least one modality"):
        MultiModalFusion("concat", {}, DIM, generator=make)
    with pytest.raises(ConfigError, match="image must be at least 1 wide, got 0"):
        MultiModalFusion("concat", {"image": 0}, DIM, generator=make)
    with pytest.raises(ConfigError, match="rank must be at least 1 wide, got -1"):
        MultiModalFusion("bilinear", WIDTHS, DIM, generator=make, rank=-1)
    model, inputs = fusion("concat"), rows(2)
    with pytest.raises(InvalidArgument, match=r"among .* got \['smell'\]"):
        model({**inputs, "smell": torch.zeros(2, 1)})
    with pytest.raises(InvalidArgument, match="at least one of"):
        model({})
    with pytest.raises(InvalidArgument, match=r"inputs\['image'\] must have shape \(2, 3\)"):
        model({**inputs, "image": torch.zeros(2, 4)})
    with pytest.raises(InvalidArgument, match=r"present\['text'\] must be bool of shape \(2,\)"):
        model(inputs, {"text": torch.ones(2)})
