"""Rules in TOML: every field read, every mistake named with its line, unknown names warned of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import ConfigError
from corerec.release import Catalogue
from corerec.rerank import (
    DEFAULT_RULES,
    Block,
    Boosts,
    Caps,
    Diversity,
    Freshness,
    RerankRules,
    blocked_numbers,
    compile_rules,
    load_rules,
)
from corerec.rerank.compiled import DAY_MICROS, freshness_of, scale

FULL = """\
[block]
items = ["i1"]
categories = ["c2"]
creators = ["r3"]

[pins]
"a b.c" = 2
i4 = 1

[freshness]
half_life_days = 7
weight = 0.5

[boosts.categories]
"c1" = 1.5

[boosts.creators]
"r1" = 0.5

[diversity]
mmr_lambda = 0.7
method = "dpp"
dpp_theta = 0.6

[caps]
per_category = 2
per_creator = 1
relax_caps = true
"""


def test_every_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(FULL)
    assert load_rules(tmp_path / "rules.toml") == RerankRules(
        block=Block(items=("i1",), categories=("c2",), creators=("r3",)),
        pins={"a b.c": 2, "i4": 1},
        freshness=Freshness(half_life_days=7.0, weight=0.5),
        boosts=Boosts(categories={"c1": 1.5}, creators={"r1": 0.5}),
        diversity=Diversity(method="dpp", mmr_lambda=0.7, dpp_theta=0.6),
        caps=Caps(per_category=2, per_creator=1, relax_caps=True),
    )


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("")
    assert load_rules(tmp_path / "rules.toml") == RerankRules()


def test_the_default_rules_load_and_show_every_field() -> None:
    load_rules(DEFAULT_RULES)
    text = DEFAULT_RULES.read_text()
    for table in fields(RerankRules):
        assert f"[{table.name}" in text
        kind = type(getattr(RerankRules(), table.name))
        for entry in fields(kind) if is_dataclass(kind) else ():
            assert f"{entry.name} = " in text or f"[{table.name}.{entry.name}]" in text


@pytest.mark.parametrize(
    ("old", "new", "place", "rule"),
    [
        ("half_life_days = 7", "half_life_days = 0", 11, "greater than 0"),
        ("half_life_days = 7", "half_life_days = nan", 11, "half_life_days"),
        ("weight = 0.5", "weight = -1", 12, "greater than or equal to 0"),
        ("weight = 0.5", "weight = inf", 12, "weight"),
        ("mmr_lambda = 0.7", "mmr_lambda = 1.01", 21, "less than or equal to 1"),
        ("mmr_lambda = 0.7", 'mmr_lambda = "x"', 21, "number"),
        ('method = "dpp"', 'method = "dp"', 22, "'mmr' or 'dpp'"),
        ("dpp_theta = 0.6", "dpp_theta = -0.1", 23, "greater than or equal to 0"),
        ("per_category = 2", "per_category = 501", 26, "less than or equal to 500"),
        ("per_creator = 1", "per_creator = 1.5", 27, "integer"),
        ("relax_caps = true", "relax_cap = true", 28, "did you mean 'relax_caps'"),
        ('"c1" = 1.5', '"c1" = 0', 15, r"in \(0, 100\], got 0"),
        ('"r1" = 0.5', '"r1" = nan', 18, r"in \(0, 100\], got nan"),
        ('"r1" = 0.5', '"r1" = 101', 18, "got 101"),
        ('"a b.c" = 2', '"a b.c" = 0', 7, r"in \[1, 500\], got 0"),
        ("i4 = 1", "i4 = 501", 8, r"in \[1, 500\], got 501"),
        ("i4 = 1", "i4 = 2", 8, "got 2 also for 'a b.c'"),
        ("[caps]", "[cap]", 25, "did you mean 'caps'"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(
    tmp_path: Path, old: str, new: str, place: int, rule: str
) -> None:
    path = tmp_path / "rules.toml"
    assert old in FULL
    path.write_text(FULL.replace(old, new))
    with pytest.raises(ConfigError, match=rf"rules\.toml:{place}: .*{rule}"):
        load_rules(path)


def test_rules_made_in_code_obey_the_same_limits(catalogue: Catalogue) -> None:
    for rules in (
        RerankRules(diversity=Diversity(mmr_lambda=2.0)),
        RerankRules(pins={"i1": 0}),
        RerankRules(boosts=Boosts(creators={"r1": -1.0})),
        RerankRules(freshness=Freshness(weight=float("nan"))),
    ):
        with pytest.raises(ConfigError, match="rules: "):
            compile_rules(rules, catalogue)


def test_names_that_the_catalogue_does_not_have_are_warnings(catalogue: Catalogue) -> None:
    rules = RerankRules(
        block=Block(items=("nope", "i1"), categories=("c44",), creators=("r1",)),
        pins={"gone": 1},
        boosts=Boosts(categories={"zzz": 2.0}),
    )
    compiled = compile_rules(rules, catalogue)
    assert sorted(compiled.warnings) == [
        "block.categories: the catalogue has no 'c44'; did you mean 'c4'?",
        "block.items: the catalogue has no item 'nope'",
        "boosts.categories: the catalogue has no 'zzz'",
        "pins: the catalogue has no item 'gone'",
    ]
    assert compiled.pins == ()


def test_blocked_numbers_are_those_of_items_categories_and_creators(catalogue: Catalogue) -> None:
    rules = RerankRules(block=Block(items=("i9",), categories=("c2",), creators=("r3", "nobody")))
    wanted = [
        number
        for number in range(len(catalogue))
        if catalogue.ids[number] == "i9"
        or catalogue.categories[number] == "c2"
        or catalogue.creators[number] == "r3"
    ]
    found = blocked_numbers(rules, catalogue)
    assert found.dtype == np.int64
    assert found.tolist() == wanted
    assert blocked_numbers(RerankRules(), catalogue).tolist() == []


def test_freshness_halves_in_exactly_one_half_life() -> None:
    now = 10_000 * DAY_MICROS
    ages = np.array([0, 30, 60, 300, 301, -5]) * DAY_MICROS
    fresh, known = freshness_of(now - ages, now, 30.0)
    assert fresh.tolist() == [1.0, 0.5, 0.25, 2.0**-10, 0.0, 1.0]
    assert known.all()
    fresh, known = freshness_of(np.array([-1, 5]), now, 30.0)
    assert (fresh[0], known.tolist()) == (0.0, [False, True])
    assert not freshness_of(np.array([5]), 0, 30.0)[1].any()


def test_a_factor_above_one_raises_also_a_negative_score() -> None:
    moved = scale(np.array([2.0, 0.0, -2.0]), np.array([2.0, 2.0, 2.0]))
    assert moved.tolist() == [4.0, 0.0, -1.0]
    assert scale(np.array([-2.0]), np.array([0.5])).tolist() == [-4.0]
    assert scale(np.empty(0), np.empty(0)).tolist() == []


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    text = Path(__file__).parents[3].joinpath("docs", "rules.md").read_text()
    (tmp_path / "rules.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    rules = load_rules(tmp_path / "rules.toml")
    assert rules.caps == Caps(per_category=4, per_creator=2)
    assert rules.pins == {"summer-sale": 1}
