"""The folded network, step by step and compiled, against the plain one, in any company."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corerec.engines.dcn import Dcn, DcnConfig
from corerec.ranking.codes import BLOCK, decode, encode, width_of
from corerec.ranking.fold import evaluate, fold, folds
from corerec.ranking.fold_device import FoldedDcn
from corerec.ranking.kernel import CpuKernel, precision_here
from corerec.ranking.machine import LANES
from corerec.ranking.precision import PRECISIONS

ITEMS = 50
BF16_ERROR = 0.02
"""Of the spread of logits, for weights and inputs of random signs."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    users: int
    items: int
    pairs: int
    config: DcnConfig
    tasks: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    config = DcnConfig(
        cross_layers=draw(st.integers(1, 4)),
        # From 33 on, two tiles, sums over the layers are kept in bf16.
        cross_rank=draw(st.sampled_from([1, 5, 16, 17, 33, 64, 70])),
        deep=tuple(draw(st.lists(st.sampled_from([1, 7, 16, 33, 48]), min_size=1, max_size=3))),
        structure=draw(st.sampled_from(["parallel", "parallel", "stacked"])),
        batch_norm=draw(st.booleans()),
    )
    return Shape(
        users=draw(st.sampled_from([0, 1, 6, 31, 64])),
        items=draw(st.sampled_from([1, 3, 16, 45])),
        pairs=draw(st.sampled_from([0, 1, 9, 20])),
        config=config,
        tasks=draw(st.sampled_from([1, 2, 5, 17])),
    )


def make_network(shape: Shape, seed: int) -> Dcn:
    """A network whose every weight matters."""
    torch.manual_seed(seed)
    dcn = Dcn(shape.users + shape.items + shape.pairs, shape.config, shape.tasks).eval()
    with torch.no_grad():
        for weight in dcn.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        for norm in dcn.norm:
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return dcn


@dataclass
class Inputs:
    user: Tensor
    table: Tensor
    candidates: Tensor
    pairs: Tensor


def make_inputs(shape: Shape, cases: int, count: int, seed: int) -> Inputs:
    torch.manual_seed(seed + 1)
    return Inputs(
        user=torch.randn(cases, shape.users),
        table=torch.randn(ITEMS, shape.items),
        candidates=torch.randint(0, ITEMS, (cases, count)),
        pairs=torch.randn(shape.pairs, cases, count),
    )


@torch.no_grad()
def plain(dcn: Dcn, given: Inputs) -> Tensor:
    cases, count = given.candidates.shape
    user = given.user[:, None].expand(-1, count, -1)
    rows = torch.cat([user, given.table[given.candidates], given.pairs.permute(1, 2, 0)], -1)
    found: Tensor = dcn(rows.reshape(cases * count, dcn.width))
    return found.view(cases, count, found.shape[1]).permute(2, 0, 1)


def run(kernel: CpuKernel | FoldedDcn, given: Inputs) -> Tensor:
    table, kept = kernel.table(ITEMS), kernel.items(given.table)
    table[:, : kept.shape[1]] = kept
    return kernel(given.user, table, given.candidates, given.pairs)


def scale_of(logits: Tensor) -> float:
    """What an error is compared with: sums of products grow with the width."""
    return max(1.0, float(logits.abs().max())) if logits.numel() else 1.0


def check_fp32(shape: Shape, cases: int, count: int, seed: int) -> None:
    dcn, given = make_network(shape, seed), make_inputs(shape, cases, count, seed)
    expected = plain(dcn, given)
    folded = fold(dcn, shape.users)
    x = torch.cat([given.table[given.candidates], given.pairs.permute(1, 2, 0)], -1)
    allowed = 1e-5 * scale_of(expected)
    stepwise = evaluate(folded, given.user, x).permute(2, 0, 1)
    torch.testing.assert_close(stepwise, expected, rtol=0, atol=allowed)
    found = run(CpuKernel(folded, shape.items, "fp32"), given)
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)
    found = run(FoldedDcn(folded, shape.items, half=False), given)
    torch.testing.assert_close(found, expected, rtol=0, atol=allowed)


@settings(max_examples=60, deadline=None)
@given(shape=shapes(), cases=st.integers(0, 3), count=st.integers(0, 25), seed=st.integers(0, 99))
def test_the_fold_and_the_compiled_form_equal_the_plain_network(
    shape: Shape, cases: int, count: int, seed: int
) -> None:
    check_fp32(shape, cases, count, seed)


LARGE = Shape(
    users=200,
    items=77,
    pairs=23,
    config=DcnConfig(cross_layers=3, cross_rank=64, deep=(256, 128)),
    tasks=1,
)


@pytest.mark.parametrize("count", [1, 11, 95, 96, 97, 500])
def test_a_large_network_equals_the_plain_one_at_any_number_of_candidates(count: int) -> None:
    check_fp32(LARGE, 2, count, 0)


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), cases=st.integers(0, 3), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_half_precision_is_near_the_plain_network(
    shape: Shape, cases: int, count: int, seed: int
) -> None:
    dcn, given = make_network(shape, seed), make_inputs(shape, cases, count, seed)
    expected = plain(dcn, given)
    found = run(CpuKernel(fold(dcn, shape.users), shape.items, "bf16"), given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=BF16_ERROR * scale_of(expected))
    found = run(FoldedDcn(fold(dcn, shape.users), shape.items, half=True), given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=BF16_ERROR * scale_of(expected))


def check_int8(shape: Shape, cases: int, count: int, seed: int) -> None:
    """Of codes the kernel makes what it makes of the inputs that they stand for, to the bit."""
    dcn, given = make_network(shape, seed), make_inputs(shape, cases, count, seed)
    folded = fold(dcn, shape.users)
    found = run(CpuKernel(folded, shape.items, "int8"), given)
    given.table = decode(encode(given.table))[:, : shape.items]
    assert torch.equal(found, run(CpuKernel(folded, shape.items, "bf16"), given))


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), cases=st.integers(0, 3), count=st.integers(0, 40), seed=st.integers(0, 99))
def test_int8_computes_with_what_its_codes_stand_for(
    shape: Shape, cases: int, count: int, seed: int
) -> None:
    check_int8(shape, cases, count, seed)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 5), wide=st.integers(0, 40), seed=st.integers(0, 99))
def test_codes_stand_for_inputs_within_half_a_step_of_their_block(
    count: int, wide: int, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = torch.randn(count, wide) * 10.0 ** torch.randint(-6, 6, (count, wide))
    inputs[torch.rand(count, wide) < 0.2] = 0
    rows = encode(inputs)
    assert (rows.dtype, rows.shape) == (torch.int8, (count, width_of(wide)))
    found = decode(rows)
    for start in range(0, wide, BLOCK):
        block = inputs[:, start : start + BLOCK]
        step = block.abs().amax(1, keepdim=True) / 127
        off = (found[:, start : start + block.shape[1]] - block).abs()
        assert bool((off <= step * 0.5001).all())
    assert not found[:, wide:].any()


def test_codes_of_the_tiniest_inputs_keep_their_signs() -> None:
    inputs = torch.tensor([[190 * 2.0**-149, -(2.0**-149), 1e-40, 0.0]])
    found = decode(encode(inputs))[:, :4]
    assert (found * inputs >= 0).all()
    assert (found - inputs).abs().max() < 1e-42


def test_a_row_that_is_not_finite_stays_in_its_own_pairs_in_8_bits() -> None:
    kernel = CpuKernel(fold(make_network(LARGE, 2), LARGE.users), LARGE.items, "int8")
    given = make_inputs(LARGE, 1, 130, 2)
    before = run(kernel, given)
    given.table[7, 40], given.table[9, 0] = torch.nan, torch.inf
    bad = (given.candidates[0] == 7) | (given.candidates[0] == 9)
    assert bad.any()
    after = run(kernel, given)
    assert torch.equal(~torch.isfinite(after[0, 0]), bad)
    assert torch.equal(after[0, 0][~bad], before[0, 0][~bad])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_logits_are_bit_equal_however_requests_and_candidates_share_a_call(
    precision: str, threads: int
) -> None:
    kernel = CpuKernel(
        fold(make_network(LARGE, 1), LARGE.users),
        LARGE.items,
        precision,
        threads,  # type: ignore[arg-type]
    )
    given = make_inputs(LARGE, 7, 230, 1)
    together = run(kernel, given)
    for case in range(7):
        alone = Inputs(
            user=given.user[case : case + 1],
            table=given.table,
            candidates=given.candidates[case : case + 1],
            pairs=given.pairs[:, case : case + 1],
        )
        assert torch.equal(run(kernel, alone)[:, 0], together[:, case])
    turned = Inputs(
        user=given.user.flip(0),
        table=given.table,
        candidates=given.candidates.flip(0)[:, 100:],
        pairs=given.pairs.flip(1)[:, :, 100:],
    )
    assert torch.equal(run(kernel, turned).flip(1), together[:, :, 100:])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_number_that_is_not_finite_stays_in_its_own_pair(precision: str) -> None:
    kernel = CpuKernel(
        fold(make_network(LARGE, 2), LARGE.users),
        LARGE.items,
        precision,  # type: ignore[arg-type]
    )
    given = make_inputs(LARGE, 2, 130, 2)
    before = run(kernel, given)
    given.pairs[3, 0, 17] = torch.nan
    given.pairs[5, 1, 129] = torch.inf
    after = run(kernel, given)
    bad = torch.zeros(2, 130, dtype=torch.bool)
    bad[0, 17] = bad[1, 129] = True
    assert torch.equal(~torch.isfinite(after[0]), bad)
    given.pairs[3, 0, 17] = given.pairs[5, 1, 129] = 0.0
    again = run(kernel, given)
    assert torch.isfinite(again).all()
    assert torch.equal(again[0][~bad], before[0][~bad])


def test_threads_share_a_kernel_and_find_what_one_finds() -> None:
    kernel = CpuKernel(fold(make_network(LARGE, 3), LARGE.users), LARGE.items, "fp32", 1)
    given = [make_inputs(LARGE, 2, 96, seed) for seed in range(12)]
    alone = [run(kernel, one) for one in given]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(
            pool.map(lambda one: run(kernel, one), given), alone, strict=True
        ):
            assert torch.equal(found, expected)


def test_full_matrices_do_not_fold_and_the_fold_says_what_does() -> None:
    assert not folds(Dcn(10, DcnConfig(cross_rank=None)))
    assert folds(Dcn(10, DcnConfig(cross_rank=4, structure="stacked")))


def test_half_precision_without_matrix_instructions_is_full_precision() -> None:
    """Compiled for a processor with AVX2 alone, in a process of its own."""
    program = (
        "import test_ranking_kernel as t\n"
        "from corerec.ranking.machine import LANES\n"
        "assert LANES == 8, LANES\n"
        "assert t.precision_here('bf16') == 'fp32'\n"
        "t.check_fp32(t.LARGE, 2, 31, 0)\n"
        "dcn, given = t.make_network(t.LARGE, 0), t.make_inputs(t.LARGE, 1, 5, 0)\n"
        "kernels = [t.CpuKernel(t.fold(dcn, 200), 77, p) for p in ('fp32', 'bf16')]\n"
        "assert t.torch.equal(*(t.run(kernel, given) for kernel in kernels))\n"
        "t.check_int8(t.LARGE, 2, 31, 0)\n"
        "print('equal')\n"
    )
    features = "+avx2,+fma,+avx,+f16c,+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+popcnt,+bmi,+bmi2"
    if LANES < 8:
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": features,
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"


def test_bf16_is_what_matrix_tiles_are_for() -> None:
    assert precision_here("fp32") == "fp32"
    assert precision_here("bf16") in ("fp32", "bf16")
    assert precision_here("int8") == "int8"
