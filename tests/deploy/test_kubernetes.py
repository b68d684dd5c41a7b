"""The manifests fit together, name files that are there, and their command lines make a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deployed import DEPLOY, FLOWS, makes_a_cluster
from ruamel.yaml import YAML

from edgeflex_flow.flowfile.cluster import ClusterConfig, load_cluster, process_number
from edgeflex_flow.runtime.lifecycle import DRAIN_TIMEOUT_S

FOLDER = DEPLOY / "kubernetes"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def manifest(name: str) -> Any:
    return YAML(typ="safe").load((FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """By kind, all that the kustomization names."""
    resources = manifest("kustomization")["resources"]
    read = [manifest(name.removesuffix(".yaml")) for name in resources]
    assert {f"{each.stem}.yaml" for each in FOLDER.glob("*.yaml")} == {
        *resources, *manifest("kustomization")["configMapGenerator"][0]["files"], "kustomization.yaml",
    }  # fmt: skip
    return {each["kind"]: each for each in read}


@pytest.fixture(scope="module")
def pod(made: dict[str, Any]) -> Any:
    return made["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: Any) -> Any:
    [only] = pod["containers"]
    return only


def test_labels_and_names_meet(made: dict[str, Any]) -> None:
    labels = made["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        made["StatefulSet"]["spec"]["selector"]["matchLabels"],
        made["Service"]["spec"]["selector"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        made["NetworkPolicy"]["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert made["StatefulSet"]["spec"]["serviceName"] == made["Service"]["metadata"]["name"]
    assert made["Namespace"]["metadata"]["name"] == manifest("kustomization")["namespace"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for `/run/secrets/edgeflex`."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "cluster").write_text("of the cluster")
    (folder / "bus_password").write_text("of the bus")
    return folder


def with_secrets(name: str, secrets: Path) -> str:
    return (FOLDER / name).read_text().replace("/run/secrets/edgeflex", str(secrets))


@pytest.fixture(scope="module")
def cluster(secrets: Path) -> ClusterConfig:
    (secrets / "cluster.yaml").write_text(with_secrets("cluster.yaml", secrets))
    return load_cluster(secrets / "cluster.yaml")


def test_ports_are_those_of_the_cluster_file(made: dict[str, Any], container: Any, cluster: ClusterConfig) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {cluster.address(number).port for number in range(len(cluster.processes))} == {ports["dataflow"]}
    assert cluster.control.port == ports["control"]
    for port in made["Service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    policy = made["NetworkPolicy"]["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports.keys()
    assert {port["port"] for port in policy["egress"][0]["ports"]} == {ports["dataflow"], ports["control"]}


def test_each_process_is_a_pod_of_the_stateful_set(made: dict[str, Any], cluster: ClusterConfig) -> None:
    name, service = made["StatefulSet"]["metadata"]["name"], made["Service"]["metadata"]["name"]
    namespace = made["Namespace"]["metadata"]["name"]
    assert made["StatefulSet"]["spec"]["replicas"] == len(cluster.processes)
    for number in range(len(cluster.processes)):
        assert cluster.address(number).host == f"{name}-{number}.{service}.{namespace}.svc.cluster.local"
        assert process_number(cluster, None, {}, f"{name}-{number}") == number
    # Else they would wait for each other in vain.
    assert made["StatefulSet"]["spec"]["podManagementPolicy"] == "Parallel"
    assert made["StatefulSet"]["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert made["Service"]["spec"]["publishNotReadyAddresses"] is True
    assert made["Service"]["spec"]["clusterIP"] == "None"


def test_volumes_and_files_are_there(made: dict[str, Any], pod: Any, container: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in made["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys() | claims
    [generator] = manifest("kustomization")["configMapGenerator"]
    assert volumes["files"]["configMap"]["name"] == generator["name"]
    for name in generator["files"]:
        assert f"/etc/edgeflex/{_argument_with(container, name)}" == f"{mounts['files']}/{name}"
        assert f"{mounts['secrets']}/" in (FOLDER / name).read_text()
    assert mounts["state"] == "/var/lib/edgeflex"
    assert (FLOWS.parent / container["args"][3]).exists()


def _argument_with(container: Any, ending: str) -> str:
    [found] = [argument for argument in container["args"] if argument.endswith(f"/{ending}")]
    return str(found)


def test_pods_run_as_nobody_in_particular_on_a_read_only_root(pod: Any, container: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in DOCKERFILE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_probes_ask_the_monitor(container: Any) -> None:
    monitor = container["args"][container["args"].index("--monitor") + 1]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert monitor == f"0.0.0.0:{ports['monitor']}"
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "monitor"}


def test_a_pod_has_time_to_drain_and_to_wait_for_the_others(pod: Any, container: Any, cluster: ClusterConfig) -> None:
    probe = container["startupProbe"]
    assert pod["terminationGracePeriodSeconds"] > 2 * DRAIN_TIMEOUT_S
    assert probe["periodSeconds"] * probe["failureThreshold"] >= cluster.wait


@pytest.mark.long
@pytest.mark.needs("mosquitto")
def test_the_command_of_the_pods_makes_a_cluster(container: Any, secrets: Path, tmp_path: Path) -> None:
    files = {name: with_secrets(f"{name}.yaml", secrets) for name in ("cluster", "region")}
    probes = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")]
    makes_a_cluster(container["args"], files["cluster"], files["region"], probes, tmp_path)
