"""The example sites that are configured by environment and file, by policy, and by both."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker import Listener, Mosquitto, wait_until
from flow_files import FLOWS, running_files
from http_service import HttpService, json_reply
from policy_server import PolicyServer

from edgeflex_flow.runtime.run import FlowRun

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def platform() -> Iterator[HttpService]:
    with HttpService() as service:
        for feeder, power_w in (("feeder_1", 1.0), ("feeder_2", 2.0)):
            row = {"time_ns": 1, "device": feeder, "active_power_w": power_w, "voltage_v": 230.0}
            service.answers(f"/measurements/{feeder}", json_reply([row]))
        yield service


@contextmanager
def external_data(site: str, tmp_path: Path, environment: dict[str, str], **params: object) -> Iterator[FlowRun]:
    flow = FLOWS / "external_data.yaml"
    with running_files(flow, FLOWS / "sites" / site, environment, data_folder=tmp_path, **params) as run:
        yield run


def of_feeder(listener: Listener, feeder: str) -> list[str]:
    return [topic for topic, _ in list(listener.received) if topic.endswith(f"/external/{feeder}")]


def test_by_file(tmp_path: Path, platform: HttpService) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker, "edgeflex/#") as listener:
        environment = {"BUS_URL": broker.url, "PLATFORM_URL": platform.url}
        with external_data("by_file.yaml", tmp_path, environment):
            wait_until(lambda: of_feeder(listener, "feeder_1"))
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        assert store.execute("SELECT count(*) FROM samples").fetchone()[0] > 0


def test_by_policy(tmp_path: Path, platform: HttpService) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "edgeflex/#") as listener,
        HttpService() as other,
        PolicyServer(tmp_path) as policies,
    ):
        row = {"time_ns": 1, "device": "elsewhere", "active_power_w": 3.0, "voltage_v": 230.0}
        other.answers("/measurements/feeder_2", json_reply([row]))
        params = {
            "mqtt_port": broker.port,
            "rest_port": platform.port,
            "other_port": other.port,
            "policy_port": policies.port,
            "policy_key": policies.key_file,
        }
        policies.save("external_data", topic="/measurements/feeder_2", period="200 ms", source="", topics=[])
        with external_data("by_policy.yaml", tmp_path, {}, **params) as run:
            wait_until(lambda: of_feeder(listener, "feeder_2"))
            assert of_feeder(listener, "feeder_1") == []
            fields = {"topic": "/measurements/feeder_2", "period": "200 ms", "source": other.url}
            policies.save("external_data", fields=fields)
            wait_until(lambda: of_feeder(listener, "elsewhere"))
            fields["source"] = "http://platform.example.evil.example/api"
            policies.save("external_data", fields=fields)
            wait_until(lambda: run.counters["meters"].get("policy_refused"))
            wait_until(lambda: any(each["refused"] for each in policies.effects))
        assert (tmp_path / "policies" / "by_policy.external_data.json").exists()
    assert {each["node"] for each in policies.effects} == {"meters", "connection partner"}


def test_by_file_and_policy(tmp_path: Path, platform: HttpService) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "edgeflex/#") as listener,
        PolicyServer(tmp_path) as policies,
    ):
        environment = {"BUS_URL": broker.url, "PLATFORM_URL": platform.url}
        params = {"policy_port": policies.port, "policy_key": policies.key_file}
        with external_data("by_file_and_policy.yaml", tmp_path, environment, **params):
            wait_until(lambda: of_feeder(listener, "feeder_1"))
            policies.save("external_data", topic="/measurements/feeder_2")
            wait_until(lambda: of_feeder(listener, "feeder_2"))


def test_policy_to_bus_gives_policies_to_services_that_speak_only_mqtt(tmp_path: Path) -> None:
    def on_bus(broker: Mosquitto, name: str) -> dict[str, object]:
        """What a service that starts now finds."""
        with Listener(broker, f"edgeflex/by_policy/policy/{name}") as late:
            (_, payload) = late.wait_for(1)[0]
        found: dict[str, object] = json.loads(payload)
        return found

    with Mosquitto(tmp_path) as broker, PolicyServer(tmp_path) as policies:
        params = {
            "mqtt_port": broker.port,
            "policy_port": policies.port,
            "policy_key": policies.key_file,
            "data_folder": tmp_path,
        }
        policies.save("rocof_trigger", onset="0.1 Hz/s")
        policies.save("limits/feeder 7", export="3 MW")

        def follow(last: str) -> None:
            with (
                Listener(broker, "edgeflex/#") as listener,
                running_files(FLOWS / "policy_to_bus.yaml", FLOWS / "sites" / "by_policy.yaml", {}, **params),
            ):
                wait_until(lambda: any(last in payload.decode() for _, payload in listener.received))

        follow("3 MW")
        found = on_bus(broker, "rocof_trigger")
        assert (found["version"], found["fields"]) == (1, {"onset": "0.1 Hz/s"})
        assert found.get("last_contact_ns") is None
        assert on_bus(broker, "limits_feeder 7")["policy_id"] == "limits/feeder 7"
        policies.withdraw("rocof_trigger")
        policies.save("limits/feeder 7", export="4 MW")
        follow("4 MW")
        gone = on_bus(broker, "rocof_trigger")
        assert (gone["version"], gone["fields"]) == (1, {})
        assert isinstance(gone["valid_until_ns"], int)
