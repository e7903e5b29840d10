"""A data set folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from corerec.data import load_dataset
from corerec.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, load_spec
from corerec.data.write import staged_folder, write_dataset, write_spec
from corerec.errors import InvalidArgument

SPEC = DatasetSpec(
    format=1,
    name='a "name" with \\ and é',
    interactions=InteractionsSpec(file="interactions.parquet", time="t", time_unit="us"),
    items=ItemsSpec(file="items.parquet", multi=("a", "b")),
    vectors={"image": "image.npy"},
)


def test_a_spec_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_spec(tmp_path, SPEC)
    assert load_spec(tmp_path) == SPEC


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_by_an_error_or_an_interrupt(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def write(out: Path) -> None:
        with staged_folder(out) as stage:
            (stage / "half.parquet").write_text("half")
            assert not out.exists()
            raise error

    with pytest.raises(error):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_data_set_as_it_was(small: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "items.csv").write_text("other")
        raise RuntimeError("no space")

    before = load_dataset(small)
    with pytest.raises(RuntimeError), staged_folder(small, overwrite=True) as stage:
        fail(stage)
    assert load_dataset(small).interactions.equals(before.interactions)
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def test_a_data_set_is_replaced_only_when_asked(small: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds a data set already"), staged_folder(small):
        pass
    items = pl.DataFrame({"item_id": ["x"], "a": [["1"]], "b": [["2"]]})
    events = pl.DataFrame({"user_id": ["u"], "item_id": ["x"], "t": [1]})
    spec = DatasetSpec(format=1, name="new", interactions=SPEC.interactions, items=SPEC.items)
    write_dataset(small, spec, items=items, interactions=events, overwrite=True)
    assert load_dataset(small).name == "new"
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(InvalidArgument, match="holds no data set"),
        staged_folder(tmp_path, overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis.txt").exists()
