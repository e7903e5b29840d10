"""Measures what a release in parts costs to build, and what a replica of a shard of it holds.

    python benchmarks/scale/release_parts.py [--parts 4] [--release .bench/releases-1m]

Build: the index of a million vectors of benchmarks/retrieval/vectors.py, by one process, and in
parts by one and by two workers of Ray Data, each in a process of its own: seconds, seconds of CPU
of all processes, and the most memory of the process that trains and of a worker. Replica:
`ShardCore.load` of a trained release of a million items, whole and in parts, each in a process of
its own: memory, and the bytes that were read from files. Writes
benchmarks/results/scale/release_parts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))
sys.path.insert(0, str(ROOT / "benchmarks" / "retrieval"))
RESULT = ROOT / "benchmarks/results/scale/release_parts.json"
ROWS, MODEL = 65_536, "benchmark"
_TICK = os.sysconf("SC_CLK_TCK")


class Watch:
    """Follows this process and those that it started: most memory of each, CPU of all.

    Memory is what a process has for itself: pages of files that it maps are not counted.
    """

    def __init__(self) -> None:
        self.most: dict[int, int] = {}
        self.cpu: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and no more."""
        self._stop.set()
        self._thread.join()

    def most_of(self, name: str) -> int:
        """Return the most memory (bytes) of a process whose name begins so."""
        return max((self.most[p] for p, n in self._names.items() if n.startswith(name)), default=0)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._look()
        self._look()

    def _look(self) -> None:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    name = (entry / "cmdline").read_text().replace("\0", " ")
                    status = (entry / "status").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                pid = int(entry.name)
                parents[pid] = int(fields[1])
                own = pid == os.getpid()
                if (own or _is_below(pid, os.getpid(), parents)) and "RssAnon" in status:
                    self._names[pid] = "own" if own else name
                    self.most[pid] = max(self.most.get(pid, 0), _memory(status)["RssAnon"])
                    if not own:
                        self.cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICK


def build(parts: int, workers: int, folder: Path) -> dict[str, Any]:
    """Return what building the index costs, in this process or with workers (0: none)."""
    import numpy as np
    from vectors import load

    from corerec.distributed.shards import Shards, ShardsInfo
    from corerec.retrieval.build import build_index
    from corerec.retrieval.index import IndexConfig

    items, queries = load()
    shards = Shards.begin(
        folder / "shards",
        ShardsInfo(model_id=MODEL, count=len(items), dim=items.shape[1], rows=ROWS),
    )
    for start in shards.missing():
        shards.write(start, np.array(items[start : shards.stop(start)]))
    queries, config = np.array(queries[:512]), IndexConfig(shards=parts)
    if not workers:
        watch = Watch()
        start, used = time.perf_counter(), time.process_time()
        index = build_index(shards.whole(), model_id=MODEL, config=config, queries=queries)
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        watch.stop()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": watch.most_of("own"),
            "recall": index.info.recall,
            "nprobe": index.info.nprobe,
        }
    return _with_workers(shards, folder, config, queries, workers)


def _with_workers(
    shards: Any, folder: Path, config: Any, queries: Any, workers: int
) -> dict[str, Any]:
    from corerec.distributed.index import build_sharded_index
    from corerec.distributed.session import ray_session

    begun = time.perf_counter()
    with ray_session(2, uses=("data",)):
        session = time.perf_counter() - begun
        watch, told = Watch(), []
        time.sleep(0.5)  # a look at what was there before
        before = dict(watch.cpu)
        start, used = time.perf_counter(), time.process_time()
        index, folders = build_sharded_index(
            shards,
            folder / "lists",
            config=config,
            queries=queries,
            workers=workers,
            report=lambda *_: told.append(time.perf_counter() - start),
        )
        seconds, own = time.perf_counter() - start, time.process_time() - used
        watch.stop()
    others = sum(cpu - before.get(pid, 0) for pid, cpu in watch.cpu.items())
    written = sum(file.stat().st_size for own in folders for file in own.iterdir())
    return {
        "seconds": seconds,
        "seconds_until_parts_are_written": told[-1],
        "seconds_of_ray_to_start": session,
        "cpu_seconds": own + others,
        "cpu_seconds_of_workers_and_ray": others,
        "peak_bytes": watch.most_of("own"),
        "peak_bytes_of_a_worker": watch.most_of("ray::"),
        "bytes_written": written,
        "recall": index.info.recall,
        "nprobe": index.info.nprobe,
    }


def replica(release: Path, shard: int, shards: int) -> dict[str, Any]:
    """Return what a loaded and warm shard of a release holds."""
    from corerec.release import Release
    from corerec.retrieval.shard import ShardCore
    from corerec.serving.process import limit_blas

    limit_blas(1)
    watch, empty = Watch(), _memory()
    start = time.perf_counter()
    opened = Release.open(release, when_used=True)
    core = ShardCore.load(opened, shard, shards)
    seconds = time.perf_counter() - start
    core.warm()
    now = _memory()
    watch.stop()
    read = sum(
        entry.size for name, entry in opened.manifest.files.items() if name not in opened._unread
    )
    sources = {
        own.kind: {"vectors": own.vectors._base.nbytes, "index": own._index.nbytes}
        for own in core._search.vectors
    }
    return {
        "shard": shard,
        "shards": shards,
        "items": core._search.items.rows,
        "seconds_to_load": seconds,
        "bytes_of_files_read": read,
        "bytes": now["RssAnon"],
        "bytes_before_loading": empty["RssAnon"],
        "peak_bytes": watch.most_of("own"),
        "of_these": sources,
    }


def _memory(status: str = "") -> dict[str, int]:
    status = status or Path("/proc/self/status").read_text()
    names = ("RssAnon", "RssFile")
    return {n: int(re.findall(rf"{n}:\s+(\d+) kB", status)[0]) << 10 for n in names if n in status}


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid > 1 and pid != root:
        if pid not in parents:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
            except (FileNotFoundError, ProcessLookupError):
                return False
            parents[pid] = int(stat.split()[1])
        pid = parents[pid]
        if pid == root:
            return True
    return False


def _apart(*words: object) -> dict[str, Any]:
    """Run a part of this script in a process of its own and return what it says."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(" ".join(map(str, words)), json.dumps(found), flush=True)
    return found


def main() -> None:
    """Run one part, or all of them and write what they said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--release", type=Path, default=ROOT / ".bench/releases-1m")
    parser.add_argument("--only", choices=("build", "replica"), help="do not measure the other")
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("build")
    one.add_argument("parts_", type=int)
    one.add_argument("workers", type=int)
    one.add_argument("folder", type=Path)
    one = commands.add_parser("replica")
    one.add_argument("path", type=Path)
    one.add_argument("shard", type=int)
    one.add_argument("shards", type=int)
    given = parser.parse_args()
    if given.command == "build":
        print(json.dumps(build(given.parts_, given.workers, given.folder)))
        return
    if given.command == "replica":
        print(json.dumps(replica(given.path, given.shard, given.shards)))
        return
    from report import command, machine

    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result = {name: known[name] for name in ("build", "replica") if name in known}
    here = {"machine": machine(), "command": command(), "load": os.getloadavg()}
    work = Path(tempfile.mkdtemp(dir=ROOT / ".bench", prefix="parts-"))
    try:
        if given.only != "replica":
            result["build"] = here | _builds(given.parts, work)
        if given.only != "build":
            result["replica"] = here | _replicas(given.release, given.parts, work)
    finally:
        shutil.rmtree(work)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def _builds(parts: int, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"parts": parts}
    for workers in (0, 1, 2):
        shutil.rmtree(work / "lists", ignore_errors=True)
        name = f"{workers} workers" if workers else "one process"
        found[name] = _apart("build", parts, workers, work)
    return found


def _replicas(release: Path, parts: int, work: Path) -> dict[str, Any]:
    from corerec.release import Release
    from corerec.retrieval.choose.release import write_with_indexes

    whole = Release.open(release, verify=False)
    cut = write_with_indexes(whole, {}, work / "releases", shards=parts)
    return {
        "items": len(whole.catalogue),
        "whole": _apart("replica", whole.path, 0, 1),
        f"1 of {parts}, cut from a whole release": _apart("replica", whole.path, 1, parts),
        f"1 of {parts}, from a release in {parts} parts": _apart("replica", cut, 1, parts),
        f"1 of {parts // 2}, from a release in {parts} parts": _apart(
            "replica", cut, 1, parts // 2
        ),
        f"all, from a release in {parts} parts": _apart("replica", cut, 0, 1),
    }


if __name__ == "__main__":
    main()
