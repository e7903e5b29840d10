"""CtrExamples: rows of a table to learn click-through rates from, as arrays."""

# P rows, F categorical fields, M numbers, T tasks

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corerec.errors import InvalidArgument
from corerec.stages import Float32s, Int64s


@dataclass(frozen=True, kw_only=True, eq=False)
class CtrExamples:
    """P rows: codes of categorical fields, numbers, and what came of each row.

    The arrays are held as they are, memory-mapped ones too; `of` makes them of anything.
    """

    codes: NDArray[np.integer[Any]]
    """(P, F), F >= 1; 0 is missing. Codes that a model has not been made for count as 0."""
    numbers: Float32s | None = None
    """(P, M), finite; any scale, the model standardises them."""
    labels: Float32s | None = None
    """(P, T) in [0, 1]; None where they are not known, as when asking."""
    observed: NDArray[np.bool_] | None = None
    """(P, T) where a label counts; None where all do."""
    cardinalities: tuple[int, ...] = ()
    """Codes of each field, the missing one included; () is as many as the rows to learn from have.
    Read by `fit` alone."""

    def __post_init__(self) -> None:
        """Check shapes, types and values. Raises InvalidArgument."""
        if self.codes.ndim != 2 or not self.codes.shape[1]:
            raise InvalidArgument(f"codes must be (P, F), F >= 1, got {self.codes.shape}")
        if not np.issubdtype(self.codes.dtype, np.integer):
            raise InvalidArgument(f"codes must be integers, got {self.codes.dtype}")
        rows, fields = self.codes.shape
        for name in ("numbers", "labels", "observed"):
            array = getattr(self, name)
            if array is None:
                continue
            kind = np.bool_ if name == "observed" else np.float32
            if array.dtype != kind:
                raise InvalidArgument(f"{name} must be {np.dtype(kind)}, got {array.dtype}")
            if array.ndim != 2 or len(array) != rows:
                raise InvalidArgument(f"{name} must have {rows} rows, got {array.shape}")
        for name, low, high in (("numbers", -np.inf, np.inf), ("labels", 0.0, 1.0)):
            if getattr(self, name) is not None:
                _check_range(name, getattr(self, name), low, high)
        if self.observed is not None:
            shape = None if self.labels is None else self.labels.shape
            if self.observed.shape != shape:
                raise InvalidArgument(
                    f"observed must have the shape of labels, {shape}, got {self.observed.shape}"
                )
        if self.cardinalities and (
            len(self.cardinalities) != fields or min(self.cardinalities) < 1
        ):
            raise InvalidArgument(
                f"cardinalities must be {fields}, each at least 1, got {self.cardinalities}"
            )

    @classmethod
    def of(
        cls,
        codes: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        numbers: ArrayLike | None = None,
        observed: ArrayLike | None = None,
        cardinalities: tuple[int, ...] = (),
    ) -> CtrExamples:
        """Return the rows of anything that NumPy takes; labels and numbers may be (P,)."""
        return cls(
            codes=np.asarray(codes),
            labels=_column(labels, np.float32),
            numbers=_column(numbers, np.float32),
            observed=_column(observed, np.bool_),
            cardinalities=tuple(cardinalities),
        )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def number_count(self) -> int:
        """M."""
        return 0 if self.numbers is None else self.numbers.shape[1]

    def take(self, rows: Int64s | slice) -> CtrExamples:
        """Return these rows, in this order."""
        labels, observed = self.labels, self.observed
        return CtrExamples(
            codes=self.codes[rows],
            numbers=None if self.numbers is None else self.numbers[rows],
            labels=None if labels is None else labels[rows],
            observed=None if observed is None else observed[rows],
            cardinalities=self.cardinalities,
        )


def check_columns(data: CtrExamples, fields: int, numbers: int) -> None:
    """Raise InvalidArgument for rows of other fields or numbers than a model has learned from."""
    if (data.codes.shape[1], data.number_count) != (fields, numbers):
        raise InvalidArgument(
            f"rows must have {fields} codes and {numbers} numbers, as those of fit had, "
            f"got {data.codes.shape[1]} and {data.number_count}"
        )


def check_labels(data: CtrExamples, tasks: Sequence[str]) -> None:
    """Raise InvalidArgument unless there are rows with a label for each task."""
    if not len(data):
        raise InvalidArgument("there must be at least one row to learn from, got 0")
    if data.labels is None or data.labels.shape[1] != len(tasks):
        shape = None if data.labels is None else data.labels.shape
        raise InvalidArgument(
            f"labels must be (P, {len(tasks)}), a column for each of {list(tasks)}, got {shape}"
        )


def _column(values: ArrayLike | None, kind: type[Any]) -> NDArray[Any] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.dtype != kind:
        array = array.astype(kind)
    return array[:, None] if array.ndim == 1 else array


def _check_range(name: str, values: Float32s, low: float, high: float) -> None:
    """Raise InvalidArgument naming the first row and column that is out of range, or no number."""
    if not values.size:
        return
    # Two passes without a temporary; a NaN makes both comparisons false.
    least, most = values.min(), values.max()
    if low <= least and most <= high and np.isfinite(least) and np.isfinite(most):
        return
    row, column = np.argwhere(~((values >= low) & (values <= high) & np.isfinite(values)))[0]
    rule = "finite" if np.isinf(high) else f"in [{low:g}, {high:g}]"
    value = values[row, column]
    shown = "NaN" if np.isnan(value) else f"{value:g}"
    raise InvalidArgument(f"{name} must be {rule}, row {row}, column {column} is {shown}")
