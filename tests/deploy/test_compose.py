"""Compose files hold what they need, and nothing in them may do more than it must."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import PASSWORD, Postgres
from deployed import DEPLOY, makes_a_cluster
from ruamel.yaml import YAML

from edgeflex_flow.flowfile.cluster import load_cluster, process_number

SITES = ["centralised", "hybrid-edge"]
COMPOSED = [*SITES, "cluster"]


def read(name: str) -> Any:
    return YAML(typ="safe").load((DEPLOY / name / "compose.yaml").read_text())


@pytest.mark.needs("docker-compose")
@pytest.mark.parametrize("name", COMPOSED)
def test_docker_compose_reads_it(name: str, tmp_path: Path, program: Callable[[str], str]) -> None:
    shutil.copy(DEPLOY / name / "compose.yaml", tmp_path)
    command = [program("docker-compose"), "-f", "compose.yaml", "config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("name", COMPOSED)
def test_services_may_do_no_more_than_they_must(name: str) -> None:
    for service, settings in read(name)["services"].items():
        assert settings["read_only"] is True, service
        assert settings["cap_drop"] == ["ALL"], service
        assert settings["security_opt"] == ["no-new-privileges:true"], service
        assert settings["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, service
        assert "privileged" not in settings
        assert settings.get("network_mode") is None
        if "build" in settings:
            continue  # its Dockerfile has a user and a health check
        user, _, group = settings["user"].partition(":")
        assert int(user) > 0, service
        assert int(group) > 0, service
        assert settings["healthcheck"]["test"], service
        assert ":" in settings["image"], service
        assert not settings["image"].endswith(":latest"), service


@pytest.mark.parametrize("name", COMPOSED)
def test_secrets_are_files_that_no_environment_holds(name: str) -> None:
    composed = read(name)
    used = {secret for settings in composed["services"].values() for secret in settings.get("secrets", ())}
    assert used == composed["secrets"].keys()
    for settings in composed["secrets"].values():
        assert settings["file"].startswith("./secrets/")
    for settings in composed["services"].values():
        for variable, value in settings.get("environment", {}).items():
            assert "PASSWORD" not in variable or value.startswith("/run/secrets/"), variable
    assert "/*/secrets/" in (DEPLOY / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", COMPOSED)
def test_all_that_it_mounts_is_there(name: str) -> None:
    composed = read(name)
    for settings in composed["services"].values():
        for mounted in settings.get("volumes", ()):
            source = mounted.split(":")[0]
            if source.startswith("./secrets"):
                continue
            if source.startswith("."):
                assert (DEPLOY / name / source).exists(), mounted
            else:
                assert source in composed["volumes"], mounted
        assert set(settings["networks"]) <= composed["networks"].keys()
        assert settings.get("depends_on", {}).keys() <= composed["services"].keys()


@pytest.mark.parametrize("name", SITES)
def test_the_flows_start_with_a_command_that_is_known_and_a_site_file_that_is_mounted(name: str) -> None:
    flows = read(name)["services"]["flows"]
    command = flows["command"]
    assert "up" in command
    mounted = [volume.split(":")[1] for volume in flows["volumes"]]
    assert f"/etc/edgeflex/{command[-1]}" in mounted
    assert command[command.index("--state") + 1].startswith("/var/lib/edgeflex/")
    assert json.dumps(flows["tmpfs"]) == '["/tmp:uid=10001,gid=10001,mode=0700"]'
    assert flows["stop_grace_period"] == "40s"


def cluster_file(name: str, secrets: Path) -> str:
    return (DEPLOY / "cluster" / "sites" / name).read_text().replace("/run/secrets", str(secrets))


def test_each_process_of_the_cluster_is_a_container(tmp_path: Path) -> None:
    (tmp_path / "cluster").write_text("of the cluster")
    (tmp_path / "cluster.yaml").write_text(cluster_file("cluster.yaml", tmp_path))
    cluster = load_cluster(tmp_path / "cluster.yaml")
    composed = read("cluster")
    assert len(composed["services"]) == len(cluster.processes)
    for number, (name, settings) in enumerate(composed["services"].items()):
        assert settings["hostname"] == name
        assert settings["networks"]["cluster"]["aliases"] == [cluster.address(number).host]
        assert process_number(cluster, None, {}, name) == number
        assert ("bus" in settings["networks"]) == (number == 0), "what passes messages stays among the processes"
        for file in ("cluster", "region"):
            assert f"./sites/{file}.yaml:/etc/edgeflex/flows/sites/{file}.yaml:ro" in settings["volumes"]
    assert composed["networks"]["cluster"]["internal"] is True


@pytest.mark.long
@pytest.mark.needs("mosquitto")
def test_the_command_of_the_containers_makes_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "cluster").write_text("of the cluster")
    (tmp_path / "bus_password").write_text("of the bus")
    files = {name: cluster_file(name, tmp_path) for name in ("cluster.yaml", "region.yaml")}
    command = read("cluster")["services"]["flow-0"]["command"]
    probes = ["/health/live", "/health/ready"]
    makes_a_cluster(command, files["cluster.yaml"], files["region.yaml"], probes, tmp_path)


def test_prometheus_and_grafana_are_told_where_to_look() -> None:
    services = read("centralised")["services"]
    [scraped] = YAML(typ="safe").load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    [target] = scraped["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert services["flows"]["networks"]["watch"]["aliases"] == [host]
    assert f"0.0.0.0:{port}" in services["flows"]["command"]
    sources = (DEPLOY / "grafana" / "provisioning" / "datasources" / "edgeflex.yaml").read_text()
    wanted = {name for name in re.findall(r"\$\{(\w+)\}", sources) if "INFLUXDB" not in name}
    grafana = services["grafana"]
    given = {*grafana["environment"], *re.findall(r"EDGEFLEX_\w+", " ".join(grafana["entrypoint"]))}
    assert wanted <= given
    dashboards = YAML(typ="safe").load((DEPLOY / "grafana/provisioning/dashboards/edgeflex.yaml").read_text())
    assert f"../grafana/dashboards:{dashboards['providers'][0]['options']['path']}:ro" in grafana["volumes"]


def test_who_looks_at_dashboards_may_read_the_history_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "watch_password").write_text("look")
    script = (DEPLOY / "centralised" / "watcher.sh").read_text().replace("/run/secrets", str(tmp_path))
    with Postgres() as server:
        where = f"host=127.0.0.1 port={server.port} dbname=postgres"
        as_image = {"POSTGRES_USER": "flow", "POSTGRES_DB": "postgres", "PGPASSWORD": PASSWORD}
        as_image |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port)}
        subprocess.run(["sh", "-c", script], check=True, capture_output=True, env={**os.environ, **as_image})
        with psycopg.connect(f"{where} user=flow password={PASSWORD}", autocommit=True) as owner:
            owner.execute("create schema edgeflex")
            owner.execute("create table edgeflex.samples as select 50.0 as value")
        with psycopg.connect(f"{where} user=watcher password=look", autocommit=True) as watcher:
            assert watcher.execute("select value from edgeflex.samples").fetchall() == [(50,)]
            for change in ("insert into edgeflex.samples values (1)", "drop table edgeflex.samples", "create role a"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    watcher.execute(change)
