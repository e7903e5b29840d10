"""The parted DLRM against the plain one, over shapes of rows and networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.engines.dlrm import DlrmConfig
from corerec.ranking.fold_dlrm import FoldedDlrm
from corerec.ranking.rows import RowDlrm

ITEMS = 30
Layout = list[tuple[int, bool]]
vectors = st.lists(st.tuples(st.integers(1, 9), st.just(True)), min_size=1, max_size=4)
numbers = st.lists(st.tuples(st.integers(0, 5), st.just(False)), max_size=2)
sides = st.tuples(vectors, numbers).map(lambda parts: [*parts[0][:1], *parts[1], *parts[0][1:]])
widths = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def make_network(layout: Layout, config: DlrmConfig, tasks: int) -> RowDlrm:
    torch.manual_seed(0)
    network = RowDlrm(layout, 6, config, tasks).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        for norm in network.net.top.norm:
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return network


def compare(
    user: Layout, item: Layout, pairs: int, network: RowDlrm, cases: int, count: int, half: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    users, items = (sum(width for width, _ in side) for side in (user, item))
    folded = FoldedDlrm(network, users, items, half=half)
    torch.manual_seed(1)
    people, inputs = torch.randn(cases, users), torch.randn(ITEMS, items)
    candidates, compared = torch.randint(0, ITEMS, (cases, count)), torch.randn(pairs, cases, count)
    rows = torch.cat(
        [people[:, None].expand(-1, count, -1), inputs[candidates], compared.permute(1, 2, 0)], -1
    )
    with torch.no_grad():
        plain = network(rows.reshape(cases * count, users + items + pairs))
    table = folded.table(ITEMS)
    table[:] = folded.items(inputs)
    expected = plain.view(cases, count, plain.shape[1]).permute(2, 0, 1)
    return folded(people, table, candidates, compared), expected


@settings(max_examples=60, deadline=None)
@given(
    user=sides,
    item=sides,
    pairs=st.integers(1, 9),
    bottom=st.lists(st.integers(1, 9), max_size=2).map(tuple),
    top=widths,
    batch_norm=st.booleans(),
    pass_vectors=st.booleans(),
    tasks=st.integers(1, 3),
    cases=st.integers(0, 3),
    count=st.integers(0, 9),
)
def test_the_parted_network_equals_the_plain_one(
    user: Layout,
    item: Layout,
    pairs: int,
    bottom: tuple[int, ...],
    top: tuple[int, ...],
    batch_norm: bool,
    pass_vectors: bool,
    tasks: int,
    cases: int,
    count: int,
) -> None:
    config = DlrmConfig(bottom=bottom, top=top, batch_norm=batch_norm, pass_vectors=pass_vectors)
    network = make_network([*user, *item, (pairs, False)], config, tasks)
    found, expected = compare(user, item, pairs, network, cases, count, half=False)
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def test_half_precision_is_near_and_a_product_of_each_kind_matters() -> None:
    user, item = [(4, True), (3, False), (5, True)], [(6, True), (2, False), (3, True)]
    network = make_network([*user, *item, (7, False)], DlrmConfig(top=(16, 8)), 2)
    found, expected = compare(user, item, 7, network, 3, 9, half=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * float(expected.abs().max()))
    # Ten products of five vectors: without any one of their weights the logits are others.
    first = network.net.top.linear[0]
    for place in range(10):
        with torch.no_grad():
            kept = first.weight[:, 6 + place].clone()
            first.weight[:, 6 + place] = 0
        _, other = compare(user, item, 7, network, 3, 9, half=False)
        assert (other - expected).abs().max() > 1e-4
        with torch.no_grad():
            first.weight[:, 6 + place] = kept


def test_scores_do_not_depend_on_the_company_beyond_a_millionth() -> None:
    user, item = [(8, True), (8, True)], [(32, True), (8, True)]
    network = make_network([*user, *item, (20, False)], DlrmConfig(), 1)
    folded = FoldedDlrm(network, 16, 40)
    torch.manual_seed(2)
    table = folded.table(ITEMS)
    table[:] = folded.items(torch.randn(ITEMS, 40))
    people, candidates = torch.randn(6, 16), torch.randint(0, ITEMS, (6, 50))
    compared = torch.randn(20, 6, 50)
    together = folded(people, table, candidates, compared)
    for case in range(6):
        own = slice(case, case + 1)
        alone = folded(people[own], table, candidates[own], compared[:, own])
        assert alone[:, 0].numpy() == pytest.approx(together[:, case].numpy(), abs=1e-6)
