"""Data-parallel training with Ray Train: the two-tower and the ranker over several processes.

Every worker runs the library's own training as one of several (`corerec.engines.workers`), over
Gloo on CPUs and NCCL on GPUs. The checkpoint is the library's own too: who runs the training again
afterwards, in one process, finds it finished there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from corerec.config import build_config
from corerec.data.dataset import load_dataset
from corerec.distributed.session import ray_session
from corerec.engines.protocols import Report
from corerec.engines.workers import Worker
from corerec.errors import CoreRecError, InvalidArgument, Unavailable
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import prepare
from corerec.pipelines.tower import train_tower
from corerec.ranking.train import train_ranker

_POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """How many processes train together, and what they survive."""

    workers: int = 2
    """Processes, each with its share of the cores, or a GPU where there are enough, >= 1."""
    max_failures: int = 3
    """So often a worker may die; all of them then go on from the last epoch, >= 0."""
    threads: int = 0
    """Cores of all workers together; 0 is all that this process may use."""
    address: str | None = None
    """A running Ray cluster whose machines see the same files; None starts one here."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        for name, least in (("workers", 1), ("max_failures", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} must be at least {least}, got {getattr(self, name)}")


def fit_tower(
    data: Path,
    config: TrainConfig,
    checkpoint: Path,
    workers: WorkersConfig,
    report: Report | None = None,
) -> None:
    """Train the two-tower of a data set folder until `checkpoint` holds the whole training.

    The batch is the config's, shared by the workers, so learning rates stay as they are.

    Raises:
        CoreRecError: what a worker raised, such as a loss that is not finite.
        Unavailable: when workers died more often than `max_failures`.
    """
    task = {"data": str(data.resolve()), "config": asdict(config)}
    _run(_tower_worker, task, checkpoint, workers, report)


def fit_ranker(
    arguments: Mapping[str, Any],
    checkpoint: Path,
    workers: WorkersConfig,
    report: Report | None = None,
) -> None:
    """Train the ranker until `checkpoint` holds the whole training.

    `arguments` are those of `corerec.ranking.train.train_ranker`, by name; they travel to the
    workers through Ray's object store.

    Raises:
        CoreRecError: what a worker raised, such as a loss that is not finite.
        Unavailable: when workers died more often than `max_failures`.
    """
    _run(_ranker_worker, {"arguments": dict(arguments)}, checkpoint, workers, report)


def _tower_worker(task: dict[str, Any]) -> None:
    with _as_worker(task) as (worker, report):
        config = build_config(TrainConfig, task["config"], source="workers")
        if not task["gpus"]:
            config = replace(config, device="cpu")
        dataset = load_dataset(Path(task["data"]), unknown_items=config.unknown_items)
        train_tower(
            prepare(dataset, config),
            config,
            checkpoint=Path(task["checkpoint"]),
            report=report,
            worker=worker,
        )


def _ranker_worker(task: dict[str, Any]) -> None:
    import ray

    with _as_worker(task) as (worker, report):
        arguments = ray.get(task["arguments"])
        train_ranker(**arguments, checkpoint=Path(task["checkpoint"]), report=report, worker=worker)


@contextmanager
def _as_worker(task: Mapping[str, Any]) -> Iterator[tuple[Worker, Report | None]]:
    """Give who this process is among the workers, and where the first one tells how far it is."""
    from ray import train

    context = train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(task["threads"])
    notes = Path(task["notes"])
    failed = notes / "failed.json"
    if failed.exists():
        # Started again after an error of its own, which would come again.
        raise InvalidArgument(json.loads(failed.read_text())["message"])
    _write(notes / f"worker-{worker.rank}.json", {"pid": os.getpid()})
    try:
        yield worker, _teller(notes / "progress.json") if worker.is_first else None
    except CoreRecError as error:
        _write(failed, {"message": str(error)})
        raise


def _run(
    function: Callable[[dict[str, Any]], None],
    task: dict[str, Any],
    checkpoint: Path,
    workers: WorkersConfig,
    report: Report | None,
) -> None:
    checkpoint = checkpoint.resolve()
    notes = checkpoint.with_suffix(".workers")
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    cores = workers.threads or len(os.sched_getaffinity(0))
    threads = max(1, cores // workers.workers)
    task |= {"checkpoint": str(checkpoint), "notes": str(notes), "threads": threads}
    with ray_session(workers.workers * threads, address=workers.address, uses=("train",)) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        task["gpus"] = ray.cluster_resources().get("GPU", 0) >= workers.workers
        if "arguments" in task:
            task["arguments"] = ray.put(task["arguments"])
        trainer = TorchTrainer(
            function,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=workers.workers,
                use_gpu=task["gpus"],
                resources_per_worker={"CPU": threads, **({"GPU": 1} if task["gpus"] else {})},
            ),
            torch_config=TorchConfig(backend="nccl" if task["gpus"] else "gloo"),
            run_config=RunConfig(
                name="run",
                storage_path=str(notes),
                failure_config=FailureConfig(max_failures=workers.max_failures),
            ),
        )
        with _listening(notes / "progress.json", report):
            _fit(trainer, notes)
    shutil.rmtree(notes)


def _fit(trainer: Any, notes: Path) -> None:
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        failed = notes / "failed.json"
        if failed.exists():
            raise InvalidArgument(json.loads(failed.read_text())["message"]) from None
        lines = str(error).strip().splitlines()
        raise Unavailable(f"the workers must finish the training, got: {lines[-1]}") from error


def _teller(path: Path) -> Report:
    """Return a report that leaves its last call in a file, a few times a second."""
    last = 0.0

    def tell(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > _POLL_SECONDS:
            last = now
            _write(path, {"done": done, "total": total, "note": note})

    return tell


@contextmanager
def _listening(path: Path, report: Report | None) -> Iterator[None]:
    """Pass on what the first worker tells, while the block runs."""
    if report is None:
        yield
        return
    over = threading.Event()

    def pass_on() -> None:
        if path.exists():
            found = json.loads(path.read_text())
            report(found["done"], found["total"], found["note"])

    def listen() -> None:
        while not over.wait(_POLL_SECONDS):
            pass_on()

    listener = threading.Thread(target=listen, name="training-progress", daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()
        pass_on()  # what was told since the last look


def _write(path: Path, values: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(dict(values)))
    fresh.replace(path)
