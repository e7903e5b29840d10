"""Runs the textbook composition until SIGTERM; says where it listens in a file.

Serve reads its flags from the environment of the process that starts Ray, so each run is a process
of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
from pathlib import Path

SERVICER = "corerec.v1.recommender_pb2_grpc.add_RecommenderServiceServicer_to_server"


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Start Ray and the application, announce, wait, and take them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--temp-dir", required=True, help="Ray's folder; a short path")
    parser.add_argument("--announce", type=Path, required=True)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    from benchmarks.serving.textbook import Tables, build
    from corerec.serving.deployment_file import DeploymentFile
    from corerec.serving.local import gateway_config
    from ranking_svc.config import RankingConfig
    from rerank_svc.config import RerankConfig
    from retrieval_svc.config import RetrievalConfig

    file = DeploymentFile.read(arguments.config)
    tables = Tables(
        gateway=gateway_config(file, arguments.store),
        retrieval=file.config(RetrievalConfig, "retrieval"),
        ranking=file.config(RankingConfig, "ranking"),
        rerank=file.config(RerankConfig, "rerank"),
    )
    services = (tables.gateway, tables.retrieval, tables.ranking, tables.rerank)
    ray.init(
        address="local",
        # Each replica asks for one CPU, Serve's default: grant it also where there are fewer.
        num_cpus=max(os.cpu_count() or 1, 1 + sum(config.replicas for config in services)),
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        _node_ip_address="127.0.0.1",
        _temp_dir=arguments.temp_dir,
    )
    try:
        port = free_port()
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=free_port()),
            grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[SERVICER]),
        )
        serve.run(build(arguments.release, tables), name="recommender", route_prefix="/")
        temporary = arguments.announce.with_suffix(".tmp")
        temporary.write_text(f"127.0.0.1:{port}\n")
        temporary.replace(arguments.announce)
        stop.wait()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
