"""A Ray cluster for the length of a block: a quiet local one, or one that runs already."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from corerec.errors import InvalidArgument, Unavailable

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        # A worker keeps the paths that it was given, relative ones too.
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        # The trial log is ours (trials.json): no CSV, no second JSON, no TensorBoard files.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # A trial that cannot be trained has no score.
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        # Tune's older output is silent when told to be; the newer one still prints a box.
        "RAY_AIR_NEW_OUTPUT": "0",
        # Workers without a GPU do not hide the GPUs of the machine from others.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        # How soon the end, or the death, of a training worker is noticed, seconds.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    }
)

# A machine on its own is not taken away from under its processes: none need watch for it.
_LOCAL: Mapping[str, str] = MappingProxyType({"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"})
# Loggers that Ray gives a level of their own.
_TALKATIVE = ("ray.data", "ray.train", "ray.tune")
_OBJECT_STORE_BYTES = 200 << 20  # only results travel through it: data is read from files


@contextlib.contextmanager
def ray_session(
    cpus: int | None = None, *, address: str | None = None, uses: Sequence[str] = ()
) -> Iterator[Any]:
    """Give the `ray` module, connected, while the block runs.

    Without `address` a cluster of this machine starts with `cpus` cores (all of them when None)
    and ends with the block, whatever ends the block. With `address` (`auto`, or `host:port`) the
    block runs on that cluster, whose machines must see the same files under the same paths. Inside
    a process that is connected already the block runs there and nothing is stopped. `uses` names
    the libraries of Ray that the block needs: `data`, `train` or `tune`.

    Raises:
        InvalidArgument: when cpus is below 1.
        Unavailable: when the cluster does not start or does not answer.
    """
    if cpus is not None and cpus < 1:
        raise InvalidArgument(f"cpus must be at least 1, got {cpus}")
    local = _LOCAL if address is None else {}
    with _environment({**ENVIRONMENT, **local}), contextlib.ExitStack() as stack:
        import ray

        for name in uses:  # they set up their logs when they load
            importlib.import_module(f"ray.{name}")
        stack.enter_context(_quiet())
        if ray.is_initialized():
            yield ray
            return
        try:
            _connect(ray, cpus or len(os.sched_getaffinity(0)), address)
            yield ray
        finally:
            shutdown: Callable[[], None] = ray.shutdown
            shutdown()


def _connect(ray: Any, cpus: int, address: str | None) -> None:
    common = {"log_to_driver": False, "configure_logging": False, "namespace": "corerec-train"}
    try:
        if address is not None:
            ray.init(address=address, runtime_env={"env_vars": dict(ENVIRONMENT)}, **common)
            return
        ray.init(
            address="local",  # never one that the environment names
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **common,
        )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = "a local Ray cluster" if address is None else f"the Ray cluster at {address}"
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise Unavailable(f"{where} must answer, got {reason[0]}") from error


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what Ray's own processes inherit, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's advice out of the output; its errors stay."""
    logs = [logging.getLogger(name) for name in ("ray", *_TALKATIVE)]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
