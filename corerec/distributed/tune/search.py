"""Runs the trials of a search through Ray Tune: many at a time, the worse ones stopped early."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corerec.config import build_config, write_toml
from corerec.distributed.session import ray_session
from corerec.distributed.tune.keeper import Keeper, callback, replay
from corerec.distributed.tune.objectives import OBJECTIVES, Objective, objective_of
from corerec.distributed.tune.space import SearchSpace, nested, value_at
from corerec.distributed.tune.trials import Trial, TrialLog
from corerec.errors import ConfigError, CoreRecError, FailedPrecondition
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import data_digest

TRIALS_FILE, BEST_FILE = "trials.json", "best.toml"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a search runs."""

    trials: int = 20
    """Trials in all, those of earlier runs of this search included, >= 1."""
    concurrent: int = 0
    """Trials at a time, each with its share of the cores; 0 is one a core."""
    grace_epochs: int = 1
    """Epochs before a trial may be stopped, >= 1."""
    reduction: int = 3
    """At epochs grace, grace x reduction, .. a trial goes on only when its score is in the best
    1/reduction of those that came as far, >= 2."""
    seed: int = 0
    """The same seed draws the same trials."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        limits = {"trials": 1, "concurrent": 0, "grace_epochs": 1, "reduction": 2, "seed": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


def search(
    data: Path,
    out: Path,
    space: SearchSpace,
    *,
    model: str = "two_tower",
    config: SearchConfig | None = None,
    resume: bool = True,
    changed: Callable[[TrialLog], None] | None = None,
    address: str | None = None,
) -> TrialLog:
    """Run the trials of a search, write `trials.json` and `best.toml` into `out`, return them all.

    Started again with the same data and space it does what is missing: after a kill, or for a
    higher `trials`; trials that were under way go on from their last epoch. `changed` is called
    with the log whenever a trial moves. Without `address` the trials run on this machine.

    Successive halving decides asynchronously, so with several trials at a time their order, and
    with it who is stopped, may differ between runs; what each trial scores does not.
    Source: Li et al., MLSys 2020, algorithm 2 (one bracket).

    Raises:
        ConfigError: when `trials.json` cannot be read.
        FailedPrecondition: when `out` holds another search, or no trial ended with a score.
    """
    config, objective = config or SearchConfig(), objective_of(model)
    data, out = data.resolve(), out.resolve()
    work = out / ".work"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
        (out / TRIALS_FILE).unlink(missing_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    fresh = TrialLog(
        model=model,
        metric=objective.metric,
        identity=_identity(data, space),
        seed=config.seed,
    )
    log = TrialLog.read(out / TRIALS_FILE) or fresh
    _check_same(log, fresh, out / TRIALS_FILE)
    log.extend(space.draws(config.trials, config.seed), out / TRIALS_FILE)
    keeper = Keeper(log, out / TRIALS_FILE, changed or (lambda _: None))
    keeper.keep()
    waiting = [t for t in log.trials[: config.trials] if not t.is_over]
    if waiting:
        _run(data, work, space, objective, config, keeper, waiting, address)
    best = log.best()
    write_toml(out / BEST_FILE, portable(space.config(best.values)), _heading(log, best))
    if all(t.is_over for t in log.trials):
        shutil.rmtree(work)
    return log


def portable(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration without what belongs to the machine."""
    return {k: v for k, v in asdict(config).items() if k not in ("threads", "device")}


def _run(
    data: Path,
    work: Path,
    space: SearchSpace,
    objective: Objective,
    config: SearchConfig,
    keeper: Keeper,
    waiting: list[Trial],
    address: str | None,
) -> None:
    cores = space.base.threads or len(os.sched_getaffinity(0))
    at_once = min(config.concurrent or cores, len(waiting))
    threads = max(1, cores // at_once)
    shared = None
    if objective.shared is not None:
        shared = objective.shared(data, space.base, work)
    cpus = max(cores, at_once * threads)
    with ray_session(cpus, address=address, uses=("tune",)) as ray:
        tune = ray.tune
        gpus = ray.cluster_resources().get("GPU", 0) if space.base.device != "cpu" else 0
        share = {"gpu": min(1.0, gpus / at_once)} if gpus else {}
        most = value_at(space.base, objective.epochs)
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            max_t=max(most, config.grace_epochs),
            grace_period=config.grace_epochs,
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        scheduler.set_search_properties("score", "max")
        replay(scheduler, keeper.log)
        tasks = [
            {
                "number": trial.number,
                "model": keeper.log.model,
                "data": str(data),
                "work": str(work),
                "config": asdict(space.config({**trial.values, "threads": threads})),
            }
            for trial in waiting
        ]
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trial, shared=shared), {"cpu": threads, **share}
            ),
            param_space={"task": tune.grid_search(tasks)},
            tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name=f"run-{time.time_ns()}",
                storage_path=str(work),
                callbacks=[callback(tune.Callback, keeper)],
                failure_config=tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        ).fit()


def _trial(config: dict[str, Any], shared: Any = None) -> None:
    """Train one trial. Runs in a process of its own, which Ray Tune ends early by an exception."""
    from ray import tune

    task, began = config["task"], time.perf_counter()
    checkpoint = Path(task["work"]) / f"trial-{task['number']}.safetensors"

    def heard(epoch: int, score: float) -> None:
        seconds = time.perf_counter() - began
        tune.report({"epoch": epoch, "score": score, "seconds": seconds})

    own = build_config(TrainConfig, task["config"], source=f"trial {task['number']}")
    try:
        OBJECTIVES[task["model"]].run(Path(task["data"]), own, checkpoint, heard, shared)
        tune.report({"ended": True})  # a trial that is stopped early never comes here
    except CoreRecError as error:
        # A set of values that cannot be trained is an answer, and no reason to try it again.
        tune.report({"failed": str(error)})


def _check_same(log: TrialLog, fresh: TrialLog, path: Path) -> None:
    for name in ("model", "seed", "identity", "format"):
        if getattr(log, name) != getattr(fresh, name):
            what = "data, base configuration and space" if name == "identity" else name
            raise FailedPrecondition(
                f"{path}: holds another search: its {what} must be {getattr(fresh, name)}, "
                f"got {getattr(log, name)}; give another folder, or --no-resume to begin again"
            )


def _identity(data: Path, space: SearchSpace) -> str:
    values = [portable(space.base), [asdict(p) for p in space.parameters]]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(data_digest(data).encode())
    return digest.hexdigest()[:12]


def _heading(log: TrialLog, best: Trial) -> str:
    values = json.dumps(nested(best.values))
    return (
        f"Trial {best.number} of {len(log.trials)} of {log.model}: {log.metric} {best.best:.4f} "
        f"in epoch {best.best_epoch}.\nTuned: {values}"
    )
