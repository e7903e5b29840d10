"""Which cores a local cluster gives to its services."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from corerec.serving.cluster import Cluster
from corerec.serving.config import ServerConfig
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.placement import divided

SERVICES: dict[str, ServerConfig] = {
    name: ServerConfig() for name in ("gateway", "retrieval", "ranking", "rerank")
}


def test_two_cores_are_divided_into_halves_of_about_the_same_work() -> None:
    found = divided(SERVICES, [5, 3])
    assert found == {"gateway": (3,), "rerank": (3,), "retrieval": (5,), "ranking": (5,)}


@pytest.mark.parametrize("available", [[0], [0, 1, 2], [0, 1, 2, 3]])
def test_other_machines_are_not_divided(available: list[int]) -> None:
    assert divided(SERVICES, available) == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"rerank": replace(SERVICES["rerank"], cores=(1,))},
        {"gateway": replace(SERVICES["gateway"], cores=())},
        {"ranking": replace(SERVICES["ranking"], replicas=2)},
        {"shard": ServerConfig()},
    ],
)
def test_who_divides_the_machine_otherwise_is_left_alone(changed: dict[str, ServerConfig]) -> None:
    assert divided(SERVICES | changed, [0, 1]) == {}


def test_a_local_cluster_gives_its_services_their_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    file = DeploymentFile.read(None)
    tables = Cluster(file, tmp_path, tmp_path / "a.db", port=0).tables
    assert {name: table.get("cores") for name, table in tables.items()} == {
        "gateway": (0,),
        "rerank": (0,),
        "retrieval": (1,),
        "ranking": (1,),
        "shard": None,
    }
