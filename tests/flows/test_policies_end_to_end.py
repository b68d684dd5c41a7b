"""A running flow and the policy system that ships, from saving a policy to its effect and back to what it changed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from broker import Listener, Mosquitto, wait_until
from flow_files import FLOWS, RunningFlow, running_files
from http_service import HttpService, Reply, json_reply
from policy_server import PolicyServer
from served_policies import AUDIENCE, GROUP, ServedPolicies, b64

FLOW = """\
flow: watched
nodes:
  meters:
    kind: samples_udp
    host: 127.0.0.1
    port: 0
    format: json.edgeflex
    columns: [rocof_hz_per_s, frequency_hz]
  event:
    kind: frequency_event
    from: meters
    onset: {policy: rocof_trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}
  history: {kind: store_write, from: event, store: history}
"""
SITE = """\
site: yard
connections:
  policies:
    kind: policy_system
    url: "${url}"
    auth: {kind: jwt, key: site.pem, key_id: one, issuer: yard, audience: AUDIENCE}
    group: GROUP
    refresh: 300ms
    keep: policies
  history: {kind: sqlite, path: history.db}
params: {url: "http://127.0.0.1:1"}
"""


def trigger(onset: str) -> dict[str, object]:
    return {"kind": "trigger", "about": "a test", "fields": {"onset": onset}}


def test_what_a_person_saves_changes_a_running_flow_and_shows_what_it_changed(tmp_path: Path) -> None:
    with ServedPolicies(tmp_path / "policies_served") as served:
        served.make_group()
        key = served.make_service("yard")
        (tmp_path / "site.pem").write_bytes(key.pem)
        (tmp_path / "flow.yaml").write_text(FLOW)
        (tmp_path / "site.yaml").write_text(SITE.replace("AUDIENCE", AUDIENCE).replace("GROUP", GROUP))
        served.save("rocof_trigger", trigger("0.1 Hz/s"))
        late_s = []
        with RunningFlow(tmp_path / "flow.yaml", tmp_path / "site.yaml", {}, url=served.url) as flow:

            def onset() -> float:
                return float(flow.run.in_force["event"].config.onset)  # type: ignore[attr-defined]

            assert flow.error is None
            assert onset() == 0.1
            for version in range(2, 8):
                time.sleep(0.05 * version)
                served.save("rocof_trigger", trigger(f"{version / 10:g} Hz/s"), based_on=version - 1)
                saved_s = time.monotonic()
                wait_until(lambda version=version: onset() == version / 10)  # type: ignore[misc]
                late_s.append(time.monotonic() - saved_s)
            wait_until(lambda: flow.count("policy system", "effects_sent") == 7)
            assert flow.count("policy system", "failures") == 0
        assert flow.error is None
        assert sorted(late_s)[3] < 0.3 + 0.05
        told = served.admin.get(f"/api/v1/policies/{b64(GROUP)}/{b64('rocof_trigger')}/effects").json()
        assert {each["user"] for each in told} == {"yard"}
        newest = told[0]["effect"]
        assert (newest["version"], newest["setting"], newest["before"], newest["after"]) == (
            7,
            "onset",
            "0.6 Hz/s",
            "0.7 Hz/s",
        )


@pytest.mark.needs("mosquitto")
def test_what_a_policy_of_data_management_leaves_open_stays_as_the_files_say(tmp_path: Path) -> None:
    with (
        ServedPolicies(tmp_path / "policies_served") as served,
        Mosquitto(tmp_path) as broker,
        Listener(broker, "edgeflex/#") as listener,
        HttpService() as platform,
    ):
        served.make_group()
        (tmp_path / "site.pem").write_bytes(served.make_service(GROUP).pem)
        row = {"time_ns": 1, "device": "feeder_2", "active_power_w": 1.0, "voltage_v": 230.0}
        platform.answers("/measurements/feeder_2", json_reply([row]))
        fields = {"topic": "/measurements/feeder_2", "period": "500 ms"}
        served.save("external_data", {"kind": "data_management", "fields": fields})
        # Of a user with one key it is clear which one signs.
        params = {
            "mqtt_port": broker.port,
            "rest_port": platform.port,
            "policy_port": served.url.rpartition(":")[2],
            "policy_key": tmp_path / "site.pem",
            "data_folder": tmp_path,
        }
        place = FLOWS / "external_data.yaml", FLOWS / "sites" / "by_policy.yaml"
        with running_files(*place, {}, **params) as run:
            wait_until(lambda: any(topic.endswith("/feeder_2") for topic, _ in listener.received))
            assert run.counters["meters"].get("policy_refused") == 0
            assert run.counters["policy system"].get("failures") == 0


FOLLOWING = """\
site: yard
connections:
  databus: {kind: mqtt, url: "mqtt://127.0.0.1:${mqtt_port}"}
  history: {kind: sqlite, path: history.db}
  policies:
    kind: policy_system
    url: "${url}"
    auth: {kind: jwt, key: site.pem, issuer: substation_12, audience: edgeflex-policy}
    group: substation_12
    refresh: 200ms
    max_age: 1s
params: {url: "http://127.0.0.1:1", mqtt_port: 1883, pmu_port: 0}
"""


@pytest.mark.needs("mosquitto")
def test_alarms_about_policies_reach_the_databus_from_a_flow_whose_nodes_give_none(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(FOLLOWING)
    with (
        PolicyServer(tmp_path) as server,
        Mosquitto(tmp_path) as broker,
        Listener(broker, "edgeflex/yard/alarm/#") as listener,
    ):
        server.save("rocof_trigger", onset="50 Hz/s")

        def told() -> list[str]:
            topics = {topic for topic, _ in listener.received}
            assert topics <= {"edgeflex/yard/alarm/frequency_events"}
            return [json.loads(payload)["text"] for _, payload in listener.received]

        params = {"url": server.url, "mqtt_port": broker.port}
        with running_files(FLOWS / "frequency_events.yaml", tmp_path / "site.yaml", {}, **params):
            wait_until(lambda: any("50 is outside 0.005 to 1 Hz/s" in text for text in told()))
            server.fault = lambda _request: Reply(401)
            wait_until(lambda: any("the token says issuer 'substation_12'" in text for text in told()))
            wait_until(lambda: any("longer than 1 s: defaults hold" in text for text in told()))
