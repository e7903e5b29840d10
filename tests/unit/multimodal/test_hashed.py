"""The built-in text encoder, against plain loops over n-grams and against what vectors are for."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import ConfigError, InvalidArgument, ReleaseError
from corerec.multimodal import HashedNgramEncoder
from corerec.multimodal.hashed import HashedNgramConfig
from corerec.multimodal.ngrams import Page, clean

TITLES = [
    "Norda Alpine Canvas Backpack 12",
    "Norda Alpine Canvas Rucksack 40",
    "Belfi Nordic Oak Chair 7",
    "Belfi Nordic Oak Armchair 9",
    "Café crème",
    "",
    "!?",
]


def test_like_texts_are_near_and_unlike_ones_are_not() -> None:
    vectors = HashedNgramEncoder().encode(TITLES)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.5
    assert near[2, 3] > 0.5
    assert abs(near[0, 2]) < 0.2
    assert vectors.shape == (7, 256)
    assert vectors.dtype == np.float32


def test_empty_text_is_the_zero_vector_and_the_rest_has_length_one() -> None:
    vectors = HashedNgramEncoder().encode(TITLES)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths[:5], 1, atol=1e-6)
    assert (vectors[5:] == 0).all()


def test_case_accents_form_and_punctuation_do_not_matter_but_accents_do() -> None:
    encoder = HashedNgramEncoder()
    same = encoder.encode(["Café crème!", "CAFÉ   Crème", "Cafe\u0301, cre\u0300me"])
    assert np.array_equal(same[0], same[1])
    assert np.array_equal(same[0], same[2])
    assert not np.array_equal(same[0], encoder.encode(["cafe creme"])[0])


def test_a_vector_does_not_depend_on_its_batch() -> None:
    encoder = HashedNgramEncoder().fit(TITLES)
    whole = encoder.encode(TITLES * 700)  # more than one chunk
    alone = np.concatenate([encoder.encode([title]) for title in TITLES])
    assert np.array_equal(whole[: len(TITLES)], alone)
    assert np.array_equal(whole[-len(TITLES) :], alone)
    assert encoder.encode([]).shape == (0, 256)


def test_the_same_text_gives_the_same_vector_on_every_machine() -> None:
    vector = HashedNgramEncoder(8).encode(["Alpine backpack"])[0]
    pinned = [0.41574734, -0.4921215, -0.0949141, -0.22271001,
              0.43041885, -0.5106614, -0.26705423, 0.0949141]  # fmt: skip
    assert np.allclose(vector, pinned, atol=1e-6)


@pytest.mark.parametrize("shortest", [2, 3])
def test_ngrams_are_those_of_plain_loops(shortest: int) -> None:
    page = Page(TITLES)
    found = [*page.words(2), *page.characters(shortest, 5)]
    counts: Counter[tuple[int, int]] = Counter()
    for kind, family in enumerate(found):
        assert len(family.rows) == len(family.hashes)
        counts.update((row, kind) for row in family.rows.tolist())
    for row, title in enumerate(TITLES):
        words = clean(title).split()
        expected = [words, list(itertools.pairwise(words))]
        for length in range(shortest, 6):
            bounded = [f" {word} " for word in words]
            expected.append(
                [w[at : at + length] for w in bounded for at in range(len(w) - length + 1)]
            )
        for kind, grams in enumerate(expected):
            assert counts[row, kind] == len(grams), (title, kind)
            own = found[kind].hashes[found[kind].rows == row]
            assert len(set(own.tolist())) == len(set(grams)), (title, kind)


def test_words_that_two_texts_share_have_one_hash_wherever_they_stand() -> None:
    page = Page(["red chair", "a big red chair now"])
    pairs = page.words(2)[1]
    assert set(pairs.hashes[pairs.rows == 0].tolist()) <= set(
        pairs.hashes[pairs.rows == 1].tolist()
    )
    assert len(page.words(4)[3].rows) == 2  # runs of four words: only the second text has them


def test_projection_keeps_cosines() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{n}x{n * 7919 % 1000}" for n in range(400)]
    texts = [" ".join(rng.choice(words, 12, replace=False)) for _ in range(120)]
    wide = HashedNgramEncoder(4_096, config=HashedNgramConfig(longest=0, words=1)).encode(texts)
    narrow = HashedNgramEncoder(256, config=HashedNgramConfig(longest=0, words=1)).encode(texts)
    difference = (wide @ wide.T - narrow @ narrow.T)[np.triu_indices(120, 1)]
    assert np.sqrt((difference**2).mean()) < 1.5 / np.sqrt(256)
    assert abs(difference.mean()) < 0.01


def test_fitting_makes_rare_words_count_more() -> None:
    corpus = [f"edition {word}" for word in ("kettle", "guitar", "carpet", "ladder", "pillow")] * 20
    plain, fitted = HashedNgramEncoder(), HashedNgramEncoder().fit(corpus)
    question = ["edition kettle", "edition guitar"]
    assert fitted.fitted_on == 100
    before, after = plain.encode(question), fitted.encode(question)
    assert after[0] @ after[1] < before[0] @ before[1] - 0.1
    assert plain.fingerprint != fitted.fingerprint


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    encoder = HashedNgramEncoder(64).fit(TITLES)
    encoder.save(tmp_path)
    loaded = HashedNgramEncoder.load(tmp_path)
    assert np.array_equal(loaded.encode(TITLES), encoder.encode(TITLES))
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.fitted_on == 5
    with pytest.raises(ReleaseError, match="not readable as JSON"):
        HashedNgramEncoder.load(tmp_path / "nowhere")


def test_the_fingerprint_is_that_of_the_settings() -> None:
    prints = {
        HashedNgramEncoder(config=config).fingerprint
        for config in (
            HashedNgramConfig(),
            HashedNgramConfig(dim=64),
            HashedNgramConfig(words=1),
            HashedNgramConfig(seed=1),
        )
    }
    assert len(prints) == 4
    assert HashedNgramEncoder().fingerprint == HashedNgramEncoder().fingerprint
    first, second = HashedNgramEncoder(), HashedNgramEncoder(config=HashedNgramConfig(seed=1))
    assert not np.array_equal(first.encode(TITLES[:1]), second.encode(TITLES[:1]))


def test_ten_thousand_titles_take_a_moment() -> None:
    titles = [f"{TITLES[n % 5]} number {n}" for n in range(10_000)]
    encoder = HashedNgramEncoder()
    start = time.perf_counter()
    encoder.encode(titles)
    assert time.perf_counter() - start < 10  # about half a second on an idle core


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="got NoneType at place 1"):
        HashedNgramEncoder().encode(["a", None])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="dim must be at least 8, got 4"):
        HashedNgramEncoder(4)
    with pytest.raises(ConfigError, match=r"bucket_bits must be in \[8, 24\], got 30"):
        HashedNgramConfig(bucket_bits=30)
    with pytest.raises(ConfigError, match=r"signs must be in \[1, dim\], got 9 and dim 8"):
        HashedNgramConfig(dim=8, signs=9)
