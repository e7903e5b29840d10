"""Labels of several tasks: for which types of event a case's item was a positive."""

# C cases, E events, T tasks

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corerec.data.dataset import Dataset
from corerec.errors import DataError
from corerec.evaluation.cases import Cases
from corerec.pipelines.slices import Events, Slice
from corerec.stages import Float32s

ANY = "interaction"
"""The task that every event is a positive of."""


def task_labels(
    dataset: Dataset, events: Events, cases: Cases, own: Slice, tasks: Sequence[str]
) -> Float32s | None:
    """Return (C, T): 1 where the user had such an event with the case's item, until `own` ends.

    A task is a type of event, or "interaction" for any. An item that was seen and not liked is so
    a positive of one task and a negative of the other. None where all is one "interaction".

    Raises:
        DataError: when the data set has no types of event, or none of a task.
    """
    if tuple(tasks) == (ANY,):
        return None
    wanted = [task for task in tasks if task != ANY]
    if "event_type" not in dataset.interactions.columns:
        raise DataError(
            f"the tasks {wanted} are types of event, so interactions must have an event_type",
            file=dataset.root,
        )
    types = dataset.interactions["event_type"].to_numpy()[events.order]  # (E,)
    seen = events.slices <= own
    keys = events.users * events.item_count + events.items
    asked = cases.user_row * events.item_count + cases.right
    labels = np.ones((len(cases), len(tasks)), np.float32)
    for place, task in enumerate(tasks):
        if task == ANY:
            continue
        right = types == task
        if not right.any():
            raise DataError(
                "a task must be a type of event that the interactions have, "
                f"which are {sorted({str(name) for name in types})[:20]}",
                file=dataset.root,
                value=task,
            )
        labels[:, place] = np.isin(asked, keys[right & seen])
    return labels
