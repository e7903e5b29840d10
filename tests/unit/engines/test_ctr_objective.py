"""The objective: what it takes, what it gives, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corerec.engines.ctr_objective import Objective, check_tasks
from corerec.errors import ConfigError

TASKS = ("click", "like")
CLICK, LIKE = np.array([0.5, 0.2]), np.array([0.1, 0.9])


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("click + 5 * like", CLICK + 5 * LIKE),
        ("click ** 0.7 * like", CLICK**0.7 * LIKE),
        ("(click - like) / (1 + like)", (CLICK - LIKE) / (1 + LIKE)),
        ("-like + +click", CLICK - LIKE),
        (" 2 ** click ", 2**CLICK),
        ("like * (2 + 3) / 10", LIKE / 2),
        ("like", LIKE),
        ("", CLICK + LIKE),
    ],
)
def test_it_is_the_arithmetic_that_it_reads(formula: str, expected: np.ndarray) -> None:
    objective = Objective(formula, TASKS)
    np.testing.assert_allclose(objective([CLICK, LIKE]), expected)
    tensors = [torch.from_numpy(CLICK), torch.from_numpy(LIKE)]
    np.testing.assert_allclose(objective(tensors).numpy(), expected)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("click + clik", "unknown task 'clik'.*did you mean 'click'"),
        ("buy", r"unknown task 'buy', the tasks are \['click', 'like'\]"),
        ("__import__('os')", "may hold tasks"),
        ("click.real", r"got 'click\.real'"),
        ("click[0]", "may hold tasks"),
        ("click if like else 1", "may hold tasks"),
        ("click and like", "may hold tasks"),
        ("click > 0.5", "may hold tasks"),
        ("lambda: click", "may hold tasks"),
        ("click // 2", "may hold tasks"),
        ("click % 2", "may hold tasks"),
        ("click @ like", "may hold tasks"),
        ("~click", "may hold tasks"),
        ("'a' * click", "may hold tasks"),
        ("click * 1j", "may hold tasks"),
        ("click * True", "may hold tasks"),
        ("[click]", "may hold tasks"),
        ("(x := click)", "may hold tasks"),
        ("click +", "must be arithmetic"),
        ("click; like", "must be arithmetic"),
        ("click\x00", "must be arithmetic"),
        ("3 + 4", "must name a task"),
        ("click / (1 - 1)", "must be finite"),
        ("click * 10 ** 10 ** 10", "must be finite"),
        ("click * (-8) ** 0.5", "must be finite"),
        ("click + " * 100 + "like", "at most 500 characters, got 804"),
        ("(" * 240 + "click" + ")" * 240, "must be arithmetic"),
    ],
)
def test_anything_else_is_refused(formula: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Objective(formula, TASKS)


@pytest.mark.parametrize("tasks", [(), "click", ("a b",), ("click", "click"), ("2x",)])
def test_tasks_are_distinct_names(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="task"):
        check_tasks(tasks)
