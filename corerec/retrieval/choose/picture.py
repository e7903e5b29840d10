"""What was measured as a picture and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corerec.retrieval.choose.chooser import Choice
from corerec.retrieval.choose.trial import Trial


def draw_frontier(choice: Choice, path: Path) -> None:
    """Draw recall against latency, alone and in batches; a point's area goes by its bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    target = choice.target
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    largest = max((trial.bytes for trial in choice.trials), default=1)
    for axis, label, is_batch in (
        (axes[0], "one query alone, one thread: median ms", False),
        (axes[1], f"in batches of {target.batch}, {target.threads} threads: ms a query", True),
    ):
        for kind in dict.fromkeys(trial.spec.kind for trial in choice.trials):
            own = [trial for trial in choice.trials if trial.spec.kind == kind]
            axis.scatter(
                [_milliseconds(t, is_batch) for t in own],
                [t.recall for t in own],
                s=[20 + 180 * t.bytes / largest for t in own],
                alpha=0.6,
                label=kind,
            )
        if choice.chosen is not None:
            axis.scatter(
                _milliseconds(choice.chosen, is_batch),
                choice.chosen.recall,
                s=320,
                facecolors="none",
                edgecolors="black",
                label="chosen",
            )
        axis.axhline(target.recall, color="gray", linestyle="--", linewidth=1)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"recall@{target.at}")
    axes[1].legend(loc="lower right", markerscale=0.6, fontsize=9)
    count = choice.trials[0].count if choice.trials else 0
    figure.suptitle(f"{count:,} items; a point's area is its memory")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def choice_as_json(choice: Choice, **more: Any) -> str:
    """Return everything that was measured as JSON text; `more` are values of your own."""
    best = set(map(id, choice.frontier))
    values = {
        **more,
        "target": asdict(choice.target),
        "metric": choice.metric,
        "chosen": asdict(choice.chosen) if choice.chosen is not None else None,
        "trials": [asdict(t) | {"on_frontier": id(t) in best} for t in choice.trials],
        "pilot": _plain(choice.pilot),
        "left_out": choice.left_out,
    }
    return json.dumps(values, indent=1) + "\n"


def _plain(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in trials]


def _milliseconds(trial: Trial, is_batch: bool) -> float:
    return 1000 / trial.batch_per_second if is_batch else trial.single_ms
