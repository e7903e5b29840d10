"""Measures what one hop from a gateway to a stage costs, when the stage computes nothing.

    python benchmarks/serving/hop.py [--before COMMIT] [--rounds 5] [--calls 400]

Client and server are two processes. `socket`: the bytes of one request and of its answer over a
bare connection with uvloop. `grpc`: the same bytes by grpc.aio, a call each, nothing around it;
`grpc stream`: as messages on one stream. `stage`: the
stage client and server that serve, with a core that returns the first 100 of 500 candidates;
`stage before`: those of another commit, in the same rounds. Each is asked by 1, 8 and 32 callers,
whose entries a stage client lets travel together. Writes benchmarks/results/serving/hop.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks/results/serving/hop.json"
CALLERS = (1, 8, 32)
WARM = 60
RELEASE = "benchmark"

Ask = Callable[[], Awaitable[Any]]


def entry() -> Any:
    """Return what ranking is asked: 500 candidates and a user with 50 events."""
    import numpy as np

    from corerec.stages import Candidates, RankEntry, UserContext

    numbers = np.random.default_rng(0).permutation(1_000_000)[:500].astype(np.int64)
    return RankEntry(
        request_id="0123456789abcdef",
        user=UserContext(
            user_id="u1",
            attributes={"age": "25", "country": "de"},
            items=np.arange(50),
            times=np.arange(50) * 1_000_000,
            now=10**15,
        ),
        candidates=Candidates(
            numbers=numbers,
            scores=np.linspace(1, 0, 500, dtype=np.float32),
            sources=np.ones(500, np.uint8),
        ),
        k=100,
    )


class Core:
    """Returns the first k as they are."""

    release = RELEASE

    def check(self, entry: Any) -> None:
        """Take every entry."""

    def warm(self) -> None:
        """Do nothing."""

    def run(self, entries: Any) -> Any:
        """Return one result an entry."""
        from corerec.stages import RankResult

        timings = {"features": 1, "score": 1}
        return [RankResult(candidates=e.candidates.top(e.k), timings=timings) for e in entries]


def messages() -> tuple[bytes, bytes]:
    """Return the bytes of a request with one entry, and of its answer."""
    from corerec.serving.contracts import RANK

    (result,) = Core().run([entry()])
    request = RANK.request(release=RELEASE, entries=[RANK.entry_to_proto(entry(), 10**6)])
    answer = RANK.response(results=[RANK.result_to_proto(result, {"queue": 1, **result.timings})])
    return request.SerializeToString(), answer.SerializeToString()


class Peer(asyncio.Protocol):
    """One end of the bare connection: answers whole requests, or waits for whole answers."""

    def __init__(self, wanted: int, reply: bytes) -> None:
        self._wanted, self._reply, self._got = wanted, reply, 0
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count bytes until a message is whole."""
        self._got += len(data)
        if self._got >= self._wanted:
            self._got -= self._wanted
            if self.done is None:
                self.transport.write(self._reply)
            else:
                self.done.set_result(None)


async def serve(kind: str) -> None:
    """Listen, say where on standard output, and serve until killed."""
    request, answer = messages()
    if kind == "socket":
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Peer(len(request), answer), "127.0.0.1", 0)
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    elif kind.startswith("grpc"):
        import grpc

        async def handle(given: bytes, context: Any) -> bytes:
            return answer

        server = grpc.aio.server()

        async def stream(given: Any, context: Any) -> None:
            while await context.read() is not grpc.aio.EOF:
                await context.write(answer)

        handler = {
            "Rank": grpc.unary_unary_rpc_method_handler(handle),
            "RankStream": grpc.stream_stream_rpc_method_handler(stream),
        }
        generic = grpc.method_handlers_generic_handler("corerec.v1.RankingService", handler)
        server.add_generic_rpc_handlers((generic,))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
    else:
        from corerec.serving.config import StageConfig
        from corerec.serving.contracts import RANK
        from corerec.serving.process import stage_process
        from ranking_svc.servicer import add

        config = StageConfig(log_level="ERROR")
        process = stage_process(config, RANK, name="ranking", load=Core, add=add)
        await process.start()
        address = process.address
    print(address, flush=True)
    await asyncio.Event().wait()


async def asker(kind: str, address: str) -> Ask:
    """Return what asks once."""
    request, answer = messages()
    if kind == "socket":
        loop, (host, port) = asyncio.get_running_loop(), address.split(":")
        _, peer = await loop.create_connection(lambda: Peer(len(answer), b""), host, int(port))

        async def ask_socket() -> None:
            peer.done = loop.create_future()
            peer.transport.write(request)
            await peer.done

        return ask_socket
    if kind.startswith("grpc"):
        import grpc

        channel, path = grpc.aio.insecure_channel(address), "/corerec.v1.RankingService/Rank"
        call = channel.unary_unary(path)
        if kind == "grpc":
            return lambda: call(request, timeout=5)
        stream = channel.stream_stream(f"{path}Stream")()

        async def ask_stream() -> None:
            await stream.write(request)
            await stream.read()

        return ask_stream
    from corerec.serving.budget import Budget
    from corerec.serving.contracts import RANK
    from corerec.serving.endpoints import StaticEndpoints
    from corerec.serving.metrics import Metrics
    from corerec.serving.stage_client import RemoteStage

    given = entry()
    stage: Any = RemoteStage(RANK, StaticEndpoints([address]), Metrics())
    return lambda: stage.call(RELEASE, given, Budget(5.0))


async def ask(kind: str, address: str, pid: int) -> None:
    """Measure for each line of standard input, `callers calls`, and print what was found."""
    once = await asker(kind, address)
    for _ in range(WARM):
        await once()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        callers, calls = map(int, line.split())
        seconds: list[float] = []

        async def caller(count: int, seconds: list[float]) -> None:
            for _ in range(count):
                started = time.perf_counter()
                await once()
                seconds.append(time.perf_counter() - started)

        server, own, started = cpu_seconds(pid), time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller(calls // callers, seconds) for _ in range(callers)))
        spent = time.perf_counter() - started
        own = time.process_time() - own
        seconds.sort()
        found = {
            "p50_micros": 1e6 * seconds[len(seconds) // 2],
            "p90_micros": 1e6 * seconds[int(0.9 * len(seconds))],
            "per_second": len(seconds) / spent,
            "client_cpu_micros": 1e6 * own / len(seconds),
            "server_cpu_micros": 1e6 * (cpu_seconds(pid) - server) / len(seconds),
        }
        print(json.dumps(found), flush=True)


def cpu_seconds(pid: int) -> float:
    """Return core-seconds of a process's threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@dataclass
class Pair:
    """A server and its client, each a process."""

    name: str
    server: subprocess.Popen[str]
    client: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, kind: str, tree: Path) -> Pair:
        """Start both from a tree of the repository."""
        script, env = str(Path(__file__).resolve()), os.environ | {"PYTHONPATH": str(tree)}

        def child(*words: str) -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            command = [sys.executable, script, *words]
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env, cwd=tree)

        server = child("--serve", kind)
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        client = child("--ask", kind, address, str(server.pid))
        assert client.stdout is not None
        if client.stdout.readline().strip() != "ready":
            raise SystemExit(f"{name}: the client did not start")
        return cls(name, server, client)

    def measure(self, callers: int, calls: int) -> dict[str, float]:
        """Return what so many callers find."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(f"{callers} {calls}\n")
        self.client.stdin.flush()
        found: dict[str, float] = json.loads(self.client.stdout.readline())
        return found

    def stop(self) -> None:
        """End both."""
        for process in (self.client, self.server):
            process.kill()
            process.wait()


def main() -> None:
    """Read the command line; be a child, or start the children and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="", help="commit to measure beside this tree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400, help="of a lone caller in one round")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=3, default=(), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve or given.ask:
        import uvloop

        kind, *rest = given.ask or (given.serve,)
        uvloop.run(ask(kind, rest[0], int(rest[1])) if rest else serve(kind))
        return
    with tempfile.TemporaryDirectory() as folder:
        kinds = [(kind, kind, ROOT) for kind in ("socket", "grpc", "grpc stream", "stage")]
        if given.before:
            archive = subprocess.run(
                ["git", "archive", given.before], cwd=ROOT, capture_output=True, check=True
            )
            subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
            kinds.append(("stage before", "stage", Path(folder)))
        pairs = [Pair.start(name, kind, tree) for name, kind, tree in kinds]
        try:
            report(given, run(pairs, given.rounds, given.calls))
        finally:
            for pair in pairs:
                pair.stop()


def run(pairs: list[Pair], rounds: int, calls: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return medians over rounds in which every pair has its turn: by name, then by callers."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for callers in CALLERS:
            for pair in pairs:
                if pair.name in ("socket", "grpc stream") and callers > 1:
                    continue  # one connection carries one request at a time
                many = pair.measure(callers, calls * min(8, callers))
                found.setdefault((pair.name, callers), []).append(many)
    return {
        pair.name: {
            str(callers): {
                key: round(statistics.median(one[key] for one in found[pair.name, callers]), 1)
                for key in found[pair.name, callers][0]
            }
            for callers in CALLERS
            if (pair.name, callers) in found
        }
        for pair in pairs
    }


def report(given: argparse.Namespace, values: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table and write the JSON."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))
    from report import command, machine

    for name, by_callers in values.items():
        for callers, one in by_callers.items():
            print(
                f"{name:14s} {callers:>3s} callers: p50 {one['p50_micros']:7.0f} us, an entry "
                f"{one['client_cpu_micros']:4.0f} us of CPU at the client and "
                f"{one['server_cpu_micros']:4.0f} at the server"
            )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "micros_by_peer_and_callers": values,
        "before": given.before or None,
        "rounds": given.rounds,
        "machine": machine(),
        "command": command(),
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
