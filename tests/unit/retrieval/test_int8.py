"""The compiled scan of codes of 8 and 4 bits against NumPy: scores, masks, selection, changes."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from corerec.retrieval.stores import IndexSpec, create_index
from corerec.retrieval.stores.arrays import large
from corerec.retrieval.stores.int8_kernel import block_scorer, has_vnni
from corerec.retrieval.stores.int8_lists import append, encode, erase, laid_out
from corerec.retrieval.stores.int8_search import NONE, TOP, bits_of, keep_best, key_of, unpack
from corerec.retrieval.stores.spec import Kind


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("groups", [1, 16, 33])
@pytest.mark.parametrize("half", [True, False])
def test_scores_of_blocks_are_products_of_codes(
    vnni: bool, wide: bool, groups: int, half: bool
) -> None:
    if vnni and not has_vnni():
        pytest.skip("this processor has no AVX-512 VNNI")
    score = block_scorer(vnni)

    @njit
    def ask(codes, scales, offsets, block, query, start, least, out):  # type: ignore[no-untyped-def]
        return score(
            codes,
            scales,
            offsets,
            block,
            wide,
            half,
            query,
            np.int32(start),
            np.float32(0.25),
            np.float32(3),
            np.float32(least),
            out,
        )

    rng = np.random.default_rng(groups)
    codes = rng.integers(0, 256, (6, groups, 16, 4)).astype(np.uint8)
    scales = rng.random((6, 16)).astype(np.float32)
    scales[2, 5] = np.nan
    offsets = rng.random((6, 16)).astype(np.float32)
    query = rng.integers(-127, 128, (8 if half else 4) * groups).astype(np.int8)
    zero = 8 if half else 128
    start = -zero * int(query.astype(int).sum())
    out = np.zeros(64, np.float32)
    mask = int(ask(codes, scales, offsets, 1, query, start, 2.0, out))
    blocks = 4 if wide else 1
    plain = codes[1 : 1 + blocks].transpose(0, 2, 1, 3).astype(int)
    if half:  # two groups in one, the first in the lower halves of the bytes
        plain = np.stack([plain & 15, plain >> 4], axis=3)
    plain = plain.reshape(blocks * 16, -1)
    expected = ((plain - zero) @ query.astype(int)).astype(np.float32)
    expected = expected * (scales[1 : 1 + blocks].reshape(-1) * np.float32(0.25))
    expected += offsets[1 : 1 + blocks].reshape(-1) + np.float32(3)
    np.testing.assert_allclose(out[: blocks * 16], expected, rtol=1e-5, atol=1e-3)
    assert [bool(mask >> i & 1) for i in range(64)] == [
        bool(value > 2.0) for value in out[: blocks * 16]
    ] + [False] * (64 - blocks * 16)


@pytest.mark.parametrize("by_slot", [True, False])
@pytest.mark.parametrize("k", [1, 5, 9, 20])
def test_keys_give_back_items_and_scores_best_first(by_slot: bool, k: int) -> None:
    rng = np.random.default_rng(k)
    scores = np.round(rng.normal(size=(3, 9)), 1).astype(np.float32) + np.float32(0)
    items = rng.permutation(50)
    slots = rng.permuted(np.tile(np.arange(50), (3, 1)), axis=1)[:, :9]
    keys = np.full((3, 9), NONE)
    for row, count in enumerate((9, 4, 0)):
        for i in range(count):
            low = slots[row, i] if by_slot else TOP - items[slots[row, i]]
            keys[row, i] = key_of(scores[row].view(np.int32)[i], low)
    keys.sort(axis=1)
    numbers, found = np.empty((3, k), np.int64), np.empty((3, k), np.float32)
    unpack(keys, items, by_slot, numbers, found)
    for row, count in enumerate((9, 4, 0)):
        own = -scores[row, :count], -slots[row] if by_slot else items[slots[row]]
        best = np.lexsort((own[1][:count], own[0]))[:k]
        size = len(best)
        assert numbers[row].tolist() == items[slots[row, best]].tolist() + [-1] * (k - size)
        assert found[row].tolist() == scores[row, best].tolist() + [-np.inf] * (k - size)


@pytest.mark.parametrize("rows", [1, 1 << 15])
def test_a_large_array_is_like_any_and_begins_at_a_cache_line(rows: int) -> None:
    array = large((rows, 64), np.float32)
    assert (array.shape, array.dtype) == ((rows, 64), np.float32)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if rows > 1:
        assert array.ctypes.data % 64 == 0
    array[...] = 3
    assert array.sum() == 3 * rows * 64


def test_keys_order_as_their_floats_and_give_them_back() -> None:
    values = np.array([-np.inf, -3.5, -1e-30, 0, 1e-30, 2, 7e20, np.inf], np.float32)
    keys = [int(key_of(bits, np.int64(9))) for bits in values.view(np.int32)]
    assert keys == sorted(keys)
    back = np.array([bits_of(np.int64(key)) for key in keys], np.int32).view(np.float32)
    assert (back == values).all()


def test_the_best_keys_are_those_of_a_sort() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 5, 13, 200, 3000):
        for wanted in {1, count // 2 or 1, count - 1 or 1, count}:
            keys = rng.permutation(count * 7)[:count].astype(np.int64)
            right = set(np.sort(keys)[::-1][:wanted].tolist())
            room = np.empty(count, np.int64)
            keep_best(keys, count, wanted, room, room.copy())
            assert set(keys[:wanted].tolist()) == right


def test_codes_are_within_half_a_step_of_their_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    rows[3] = 0
    codes, scales = encode(rows)
    error = np.abs((codes.astype(np.float32) - 128) * scales[:, None] - rows)
    assert (error <= scales[:, None] * 0.5001).all()


@pytest.mark.parametrize("dim", [1, 3, 8, 13])
def test_codes_of_4_bits_are_within_a_step_wherever_they_are_written(dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.normal(size=(70, dim)).astype(np.float32)
    vectors[3] = 0
    centres, home = rng.normal(size=(3, dim)).astype(np.float32), rng.integers(0, 3, 70)
    fill = {"bits": 4, "distance": False}
    lists, slots = laid_out(centres, np.arange(70), vectors, home, **fill)  # type: ignore[arg-type]
    erase(lists, slots[:40])
    changed = vectors[::-1].copy()
    lists, slots[:40] = append(lists, np.arange(40), changed[:40], home[:40], distance=False)
    vectors[:40] = changed[:40]  # in slots that held other codes
    halves = np.stack([lists.codes & 15, lists.codes >> 4], axis=2)  # (blocks, G, 2, 16, 4)
    codes = halves.transpose(0, 3, 1, 2, 4).reshape(len(lists.codes) * 16, -1)[slots, :dim]
    steps = lists.scales.reshape(-1)[slots, None]
    error = np.abs((codes.astype(np.float32) - 8) * steps - (vectors - centres[home]))
    # The one largest value of a row may be a step of 7.5 that 15 - 8 cannot hold.
    assert (error <= steps * 0.5001).all()


@pytest.mark.parametrize("kind", ["ivf-int8-refine", "ivf-int4-refine"])
def test_many_small_changes_leave_what_one_fill_gives(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    spec = IndexSpec(kind=kind, nlist=12, nprobe=12, refine_factor=2)
    vectors = rng.normal(size=(900, 24)).astype(np.float32)
    queries = rng.normal(size=(9, 24)).astype(np.float32)
    changed, alive = create_index("faiss", "ip", dim=24, spec=spec), dict[int, int]()
    changed.train(vectors)
    for _ in range(120):
        new = [n for n in rng.integers(0, 400, 20).tolist() if n not in alive]
        new = list(dict.fromkeys(new))
        rows = rng.integers(0, 900, len(new))
        changed.add(np.array(new, np.int64), vectors[rows])
        alive |= dict(zip(new, rows.tolist(), strict=True))
        gone = rng.choice(list(alive), 8, replace=False)
        assert changed.remove(gone) == 8
        for number in gone.tolist():
            del alive[number]
    numbers = np.array(sorted(alive), np.int64)
    assert (changed.numbers() == numbers).all()
    own = vectors[[alive[n] for n in numbers.tolist()]]
    assert (changed.vectors(numbers) == own).all()
    found, scores = changed.search(queries, 30)
    exact = queries @ own.T
    best = np.argsort(-exact, axis=1, kind="stable")[:, :30]
    assert (found == numbers[best]).mean() > 0.999
    np.testing.assert_allclose(scores, np.take_along_axis(exact, best, 1), rtol=1e-5)
    # Slots are taken again: 120 rounds did not leave 120 rounds of blocks behind.
    assert changed.nbytes < 4 * (400 * (24 * 5 + 32) + 50_000)
