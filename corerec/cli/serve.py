"""`corerec serve`, `stop` and `status`: a cluster on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from corerec.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from corerec.serving.deployment_file import DeploymentFile

console = Console()

STATE = Path(".corerec")
_STATE_FILE, _LOG_FILE = "cluster.json", "cluster.log"
_STOP_SECONDS = 60.0
_START_SECONDS = 240.0

StateDir = Annotated[
    Path, typer.Option("--state-dir", help="Folder for the store, the log and the state.")
]


def serve(
    release: Annotated[Path, typer.Argument(help="A release, or the folder that releases are in.")],
    config: Annotated[Path | None, typer.Option(help="Deployment file (TOML).")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="One process, without Ray.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it running; `corerec stop` takes it down.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Public port; 0 takes a free one.")] = None,
    store: Annotated[
        str,
        typer.Option(
            help="Users, events, catalogue: a SQLite file [STATE_DIR/corerec.db] or redis://HOST."
        ),
    ] = "",
    state_dir: StateDir = STATE,
) -> None:
    """Serve a release: four gRPC services on Ray Serve, on this machine, until ctrl-C."""
    from corerec.release import Release
    from corerec.serving.deployment_file import DeploymentFile

    file = DeploymentFile.read(config)
    state_dir.mkdir(parents=True, exist_ok=True)
    if (running := _running(state_dir)) is not None:
        raise Unavailable(
            f"a cluster of {state_dir} is running already at {running['address']} "
            f"(pid {running['pid']}); take it down with: corerec stop --state-dir {state_dir}"
        )
    # Left by a cluster that was killed; a start that waits for the file must not find it.
    (state_dir / _STATE_FILE).unlink(missing_ok=True)
    path = Release.open(release).path
    if detach:
        _detach(path, config, in_process, port, store, state_dir)
        return
    run = _serve_in_process if in_process else _serve_cluster
    import uvloop

    uvloop.run(run(file, path, port, store or _store(file, state_dir), state_dir))


async def _serve_in_process(
    file: DeploymentFile, release: Path, port: int | None, store: str, state_dir: Path
) -> None:
    from dataclasses import asdict, replace

    from corerec.serving.cluster import check_port_free
    from corerec.serving.local import gateway_config, in_process

    config = gateway_config(file, store, port)
    check_port_free(config)
    tables = dict(file.tables) | {"gateway": asdict(config)}
    process = in_process(replace(file, tables=tables), str(release), store)
    await process.start()
    metadata = process.metadata()
    _announce(state_dir, metadata["address"], release, {"gateway": [metadata]})
    console.print(f"[bold green]serving[/] {release.name} at [bold]{metadata['address']}[/]")
    await _signalled()
    await process.drain()
    (state_dir / _STATE_FILE).unlink(missing_ok=True)


async def _serve_cluster(
    file: DeploymentFile, release: Path, port: int | None, store: str, state_dir: Path
) -> None:
    from corerec.serving.cluster import Cluster

    cluster = Cluster(file, release, store, port)
    stop = asyncio.create_task(_signalled())
    try:
        with console.status("starting") as status:
            start = asyncio.create_task(_start(cluster, status.update))
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                start.cancel()
                return
            await start
        _announce(state_dir, cluster.address, release, cluster.replicas())
        console.print(f"[bold green]serving[/] {release.name} at [bold]{cluster.address}[/]")
        cluster.on_change(
            lambda: _announce(state_dir, cluster.address, release, cluster.replicas())
        )
        await stop
    finally:
        stop.cancel()
        (state_dir / _STATE_FILE).unlink(missing_ok=True)
        with console.status("draining"):
            await cluster.stop()


async def _start(cluster: Any, progress: Any) -> None:
    await cluster.start(progress)
    await cluster.wait_for_replicas()


def _store(file: DeploymentFile, state_dir: Path) -> str:
    return str(file.tables["gateway"].get("store") or state_dir / "corerec.db")


def _announce(state_dir: Path, address: str, release: Path, replicas: Any) -> None:
    state = {
        "address": address,
        "pid": os.getpid(),
        "release": release.name,
        "release_path": str(release.resolve()),
        "replicas": replicas,
    }
    temporary = state_dir / f".{_STATE_FILE}"
    temporary.write_text(json.dumps(state, indent=2, default=dict))
    temporary.replace(state_dir / _STATE_FILE)


async def _signalled() -> None:
    """Return at SIGTERM or ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _detach(
    release: Path,
    config: Path | None,
    in_process: bool,
    port: int | None,
    store: str,
    state_dir: Path,
) -> None:
    """Start the same command in the background and wait until it serves."""
    command = [sys.executable, "-m", "corerec.cli", "serve", str(release)]
    command += ["--state-dir", str(state_dir)]
    command += ["--config", str(config)] if config else []
    command += ["--in-process"] if in_process else []
    command += ["--port", str(port)] if port is not None else []
    command += ["--store", store] if store else []
    log = state_dir / _LOG_FILE
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = time.monotonic()
    with console.status("starting the cluster") as status:
        while not (state_dir / _STATE_FILE).exists():
            if child.poll() is not None:
                tail = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise Unavailable(f"the cluster did not start; {log} ends:\n" + "\n".join(tail))
            if time.monotonic() - started > _START_SECONDS:
                child.terminate()
                raise Unavailable(f"the cluster did not start in {_START_SECONDS:.0f} s; see {log}")
            status.update(f"starting the cluster ({time.monotonic() - started:.0f} s)")
            time.sleep(0.1)
    state = json.loads((state_dir / _STATE_FILE).read_text())
    console.print(
        f"[bold green]serving[/] release {state['release']} at [bold]{state['address']}[/], "
        f"pid {state['pid']}; stop it with: corerec stop --state-dir {state_dir}"
    )


def _running(state_dir: Path) -> dict[str, Any] | None:
    """Return the state of the cluster of a folder, or None when none runs."""
    try:
        state: dict[str, Any] = json.loads((state_dir / _STATE_FILE).read_text())
        return state if _alive(state["pid"]) else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def running_state(state_dir: Path) -> dict[str, Any]:
    """Return the state of the running cluster. Raises NotFound when none runs."""
    state = _running(state_dir)
    if state is None:
        raise NotFound(
            f"no cluster of {state_dir} is running; start one with: corerec serve RELEASE, or give "
            "--address"
        )
    return state


def running_address(state_dir: Path) -> str:
    """Return `host:port` of the running cluster. Raises NotFound when none runs."""
    return str(running_state(state_dir)["address"])


def stop(state_dir: StateDir = STATE) -> None:
    """Drain the cluster and take it down."""
    state = _running(state_dir)
    if state is None:
        (state_dir / _STATE_FILE).unlink(missing_ok=True)
        console.print(f"no cluster of {state_dir} is running")
        return
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    with console.status("draining"):
        while _alive(state["pid"]):
            if time.monotonic() > deadline:
                raise Unavailable(f"pid {state['pid']} did not end in {_STOP_SECONDS:.0f} s")
            time.sleep(0.1)
    console.print("stopped")


def status(state_dir: StateDir = STATE) -> None:
    """Show the running cluster: services, replicas, addresses, metrics, catalogue positions."""
    state = running_state(state_dir)
    table = Table(title=f"release {state['release']} at {state['address']}, pid {state['pid']}")
    for name in ("service", "gRPC", "metrics", "pid", "catalogue"):
        table.add_column(name)
    for service, replicas in state["replicas"].items():
        for replica in replicas:
            metrics = f"http://{replica['metrics']}/metrics"
            seen = _catalogue_position(metrics)
            table.add_row(service, replica["address"], metrics, str(replica["pid"]), seen)
    console.print(table)


def _catalogue_position(metrics: str) -> str:
    """Return up to which change a replica has the catalogue, as its metrics say."""
    try:
        with urllib.request.urlopen(metrics, timeout=1.0) as answer:
            text = answer.read().decode()
    except OSError:
        return "no answer"
    found = re.findall(r"^corerec_catalogue_position\{.*\} (\S+)$", text, flags=re.MULTILINE)
    return f"position {min(int(float(position)) for position in found)}" if found else "-"
