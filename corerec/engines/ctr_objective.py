"""Objective: the configured formula that makes one score of the probabilities of several tasks.

It is read as arithmetic and nothing else: names of tasks, numbers, + - * / ** and parentheses.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from corerec.errors import ConfigError

LONGEST = 500
"""Characters of a formula; longer ones could exhaust the stack of the parser."""

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Objective:
    """A formula over task probabilities, such as `click + 5 * like` or `click ** 0.7 * like`.

    Source: Zhao et al., RecSys 2019, section 4.2 (a combination function of the task
    probabilities, weighted products there); here any arithmetic.
    """

    def __init__(self, formula: str, tasks: Sequence[str]) -> None:
        """Read a formula; "" is the sum of all tasks.

        Raises:
            ConfigError: for a task that there is none of, anything but arithmetic, or a formula
                that is not finite where every probability is one half.
        """
        self.tasks = tuple(tasks)
        self.formula = formula or " + ".join(self.tasks)
        if len(self.formula) > LONGEST:
            raise ConfigError(
                f"objective must be at most {LONGEST} characters, got {len(self.formula)}"
            )
        try:
            self._tree = ast.parse(self.formula.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
            raise ConfigError(
                f"objective must be arithmetic, got {self.formula!r}: {why}"
            ) from None
        names = self._check(self._tree)
        if not names:
            raise ConfigError(
                f"objective must name a task of {list(self.tasks)}, got {self.formula!r}"
            )
        trial = self([np.full(1, 0.5) for _ in self.tasks])
        if not np.isfinite(trial).all():
            raise ConfigError(
                f"objective must be finite where every probability is 0.5, "
                f"got {float(trial[0])} for {self.formula!r}"
            )

    def __call__(self, probabilities: Sequence[Any]) -> Any:
        """Return the score. `probabilities` are arrays or tensors of one shape, one a task."""
        columns = dict(zip(self.tasks, probabilities, strict=True))
        with np.errstate(all="ignore"):
            return self._value(self._tree, columns)

    def _value(self, node: ast.AST, columns: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return columns[node.id]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return _OPERATORS[type(node.op)](self._value(node.operand, columns))
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, columns), self._value(node.right, columns)
            if isinstance(left, int | float) and isinstance(right, int | float):
                # NumPy's floats overflow to inf; Python's raise, become complex, or take forever.
                return float(_OPERATORS[type(node.op)](np.float64(left), np.float64(right)))
            return _OPERATORS[type(node.op)](left, right)
        raise ConfigError(f"objective has no meaning for {type(node).__name__}")

    def _check(self, node: ast.AST) -> set[str]:
        """Return the tasks that are named. Raises ConfigError for what is not arithmetic."""
        if isinstance(node, ast.Name):
            if node.id in self.tasks:
                return {node.id}
            near = difflib.get_close_matches(node.id, self.tasks, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"objective {self.formula!r} names the unknown task {node.id!r}, "
                f"the tasks are {list(self.tasks)}{hint}"
            )
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return set()
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return self._check(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._check(node.left) | self._check(node.right)
        part = ast.get_source_segment(self.formula.strip(), node) or type(node).__name__
        raise ConfigError(
            f"objective may hold tasks, numbers, + - * / ** and parentheses, got {part!r} "
            f"in {self.formula!r}"
        )


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise ConfigError unless tasks are distinct names that a formula can hold."""
    if isinstance(tasks, str) or not tasks:
        raise ConfigError(f"tasks must be a tuple of at least one name, got {tasks!r}")
    for name in tasks:
        if not name.isidentifier():
            raise ConfigError(f"a task must be a name of letters, digits and _, got {name!r}")
    if len(set(tasks)) < len(tasks):
        raise ConfigError(f"tasks must be distinct, got {list(tasks)}")
