"""What deploy/ promises, read from the manifests as kustomize renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from corerec.config import build_config
from corerec.serving.config import ServerConfig
from corerec.serving.deployment_file import DeploymentFile
from gateway.config import GatewayConfig
from ranking_svc.config import RankingConfig
from rerank_svc.config import RerankConfig
from retrieval_svc.config import RetrievalConfig, ShardConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
STAGES = ("gateway", "retrieval", "ranking", "rerank")
CONFIGS: dict[str, type[ServerConfig]] = {
    "gateway": GatewayConfig,
    "retrieval": RetrievalConfig,
    "shard": ShardConfig,
    "ranking": RankingConfig,
    "rerank": RerankConfig,
}
Manifest = dict[str, Any]

pytestmark = pytest.mark.timeout(600)  # the first run builds kustomize


@pytest.fixture(scope="module")
def manifests(rendered: Callable[[str], list[Manifest]]) -> list[Manifest]:
    """Everything of deploy/k8s."""
    return rendered("k8s")


@pytest.fixture(scope="module")
def service(manifests: list[Manifest]) -> Manifest:
    """The spec of the one RayService."""
    (found,) = [m["spec"] for m in manifests if m["kind"] == "RayService"]
    spec: Manifest = found
    return spec


def groups(service: Manifest) -> dict[str, Manifest]:
    """Return the pod spec of the head and of every worker group, by name."""
    cluster = service["rayClusterConfig"]
    workers = {g["groupName"]: g["template"]["spec"] for g in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **workers}


def containers(service: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield every container with its pod spec."""
    for pod in groups(service).values():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield pod, container


def test_the_kinds_that_a_deployment_needs_are_all_there(manifests: list[Manifest]) -> None:
    kinds = {m["kind"] for m in manifests}
    assert kinds == {
        "Namespace", "PersistentVolumeClaim", "RayService", "Service", "PodDisruptionBudget",
        "NetworkPolicy", "StatefulSet",
    }  # fmt: skip
    inside = [m for m in manifests if m["kind"] != "Namespace"]
    assert {m["metadata"]["namespace"] for m in inside} == {"corerec"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own schema module
def test_ray_accepts_the_serve_config_with_one_application_a_stage(service: Manifest) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"]))
    assert sorted(app.name for app in config.applications) == sorted(STAGES)
    assert str(config.proxy_location.value) == "Disabled"
    for app in config.applications:
        file = app.import_path.split(":")[0].replace(".", "/") + ".py"
        assert (ROOT / file).exists(), app.import_path
        assert app.route_prefix is None
        assert [deployment.name for deployment in app.deployments] == [app.name]
        build_config(CONFIGS[app.name], app.args["config"])
        assert app.args["release"] == "/releases"


def test_a_pod_of_a_group_holds_one_replica_of_its_stage(service: Manifest) -> None:
    config = yaml.safe_load(service["serveConfigV2"])
    for app in config["applications"]:
        (group,) = [
            g
            for g in service["rayClusterConfig"]["workerGroupSpecs"]
            if g["groupName"] == app["name"]
        ]
        options = app["deployments"][0]["ray_actor_options"]
        offered = json.loads(group["rayStartParams"]["resources"].strip("'\"").replace("\\", ""))
        assert options["resources"] == offered == {app["name"]: 1}
        (container,) = group["template"]["spec"]["containers"]
        assert options["num_cpus"] <= float(container["resources"]["limits"]["cpu"])
        assert group["minReplicas"] == app["args"]["config"]["replicas"]
        # A rolling update starts the new replica on a pod more.
        assert group["maxReplicas"] > group["minReplicas"]


def test_no_container_is_root_or_writes_to_its_image_or_is_without_limits(
    service: Manifest,
) -> None:
    for pod, container in containers(service):
        assert pod["securityContext"]["runAsNonRoot"] is True
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable <= {"/tmp", "/dev/shm"}


def test_the_store_loses_nothing_that_it_acknowledged_and_every_stage_follows_it(
    manifests: list[Manifest], service: Manifest
) -> None:
    (store,) = [m["spec"] for m in manifests if m["kind"] == "StatefulSet"]
    pod = store["template"]["spec"]
    (container,) = pod["containers"]
    given = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "always"
    assert given["--maxmemory-policy"] == "noeviction"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    for app in yaml.safe_load(service["serveConfigV2"])["applications"]:
        assert app["args"]["config"]["store"] == "redis://redis:6379/0"


def test_every_pod_has_probes_of_its_own_and_none_asks_serves_proxy(service: Manifest) -> None:
    for name, pod in groups(service).items():
        (container,) = pod["containers"]
        assert container["livenessProbe"]["exec"]["command"] == ["raylet-healthy"]
        ready = container["readinessProbe"]
        if name == "gateway":
            assert ready["grpc"] == {"port": 50051, "service": "corerec.v1.RecommenderService"}
        else:
            assert ready["exec"]["command"] == ["raylet-healthy"]


def test_the_public_port_reaches_the_gateway_alone_and_rays_ports_are_closed(
    manifests: list[Manifest],
) -> None:
    door, store = [m for m in manifests if m["kind"] == "Service"]
    assert store["spec"]["selector"]["app.kubernetes.io/component"] == "store"
    assert door["spec"]["selector"]["app.kubernetes.io/component"] == "gateway"
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    opened = {
        (rule["ports"][0]["port"], policy["podSelector"]["matchLabels"].get(
            "app.kubernetes.io/component", "every"))
        for policy in policies for rule in policy["ingress"] if "ports" in rule
    }  # fmt: skip
    assert opened == {(50051, "gateway"), (8265, "head"), (9464, "every")}
    unrestricted = [r for p in policies for r in p["ingress"] if "ports" not in r]
    assert unrestricted == [
        {"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "corerec"}}}]}
    ]


def test_ports_stay_out_of_the_ranges_that_ray_and_node_ports_use() -> None:
    texts = [path.read_text() for path in DEPLOY.rglob("*.yaml")]
    ports = {int(p) for text in texts for p in re.findall(r"[pP]ort: (\d+)", text)}
    assert ports
    assert not [p for p in ports if 30_000 <= p <= 31_000 or 40_000 <= p <= 41_000]


def test_every_stage_has_a_disruption_budget(manifests: list[Manifest]) -> None:
    budgets = [m["spec"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    guarded = {b["selector"]["matchLabels"]["app.kubernetes.io/component"] for b in budgets}
    assert guarded == set(STAGES)


def test_the_example_deployment_file_shows_every_key_with_its_default() -> None:
    file = DeploymentFile.read(DEPLOY / "serve.toml")
    for name, config in CONFIGS.items():
        assert file.config(config, name) == config()
        known = {field.name for field in fields(config)}
        hidden = known - file.tables[name].keys() - {"share_port"}  # of one machine's gateways only
        assert hidden == set(), f"[{name}] does not show {hidden}"
