"""`edgeflex check --connect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broker import free_port
from c37118_cases import plain_config
from click.testing import CliRunner, Result
from flow_kinds import FLOW, SITE
from http_service import Reply
from policy_server import AUDIENCE, PolicyServer

from edgeflex_connectors.pmu_server import PmuServer, ServedStream
from edgeflex_flow.cli.check import check
from edgeflex_flow.cli.kinds import shipped_registry

Invoke = Callable[..., Result]

BUS_ONLY = """\
flow: bus_only
nodes:
  inbox: {kind: inbox, bus: databus, message: alarm}
  tell: {kind: tell, from: inbox, topic: x}
"""


@pytest.fixture
def bus_only() -> None:
    Path("flow.yaml").write_text(BUS_ONLY, encoding="utf-8")


def test_each_connection_is_tried_once_and_tells_its_latency_and_certificate(invoke: Invoke, bus_only: None) -> None:
    Path("sites/yard.yaml").write_text(SITE.replace("timeout: 2s", "timeout: 60s"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert result.exit_code == 0
    assert result.output.count("databus (broker): 2.1 ms, toy 1.0, certificate until ") == 1
    assert ", 60 days" in result.output


def test_a_certificate_that_ends_soon_is_warned_of(invoke: Invoke, bus_only: None) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert result.exit_code == 0
    assert "! databus" in result.output
    assert "2 days - renew it soon" in result.output


def test_a_connection_that_cannot_be_made_fails_the_check(invoke: Invoke, bus_only: None) -> None:
    Path("sites/yard.yaml").write_text(SITE.replace("bus.example", "away.example"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert result.exit_code == 1
    assert "✗ databus (broker): databus: no answer" in result.output


def test_a_kind_that_cannot_be_tried_says_so(invoke: Invoke) -> None:
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert FLOW.count("history")
    assert result.exit_code == 1
    assert "history (table): a connection of kind 'table' cannot be tried" in result.output


def test_programs_read_what_was_found(invoke: Invoke, bus_only: None) -> None:
    found = json.loads(invoke(check, "flow.yaml", "--site", "yard", "--connect", "--json").output)
    [databus] = found["connections"]
    assert found["ok"] is True
    assert (databus["name"], databus["ok"], databus["latency_ms"], databus["peer"]) == ("databus", True, 2.1, "toy 1.0")


def test_nothing_is_tried_while_a_file_is_wrong(invoke: Invoke, bus_only: None) -> None:
    Path("flow.yaml").write_text(BUS_ONLY.replace("alarm", "alarn"), encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert result.exit_code == 1
    assert "databus (broker)" not in result.output


def test_a_secret_that_is_missing_is_an_error_then(invoke: Invoke, bus_only: None) -> None:
    secret = SITE.replace("timeout: 2s", 'username: me, password: "${NO_SUCH_PASSWORD}"')
    Path("sites/yard.yaml").write_text(secret, encoding="utf-8")
    result = invoke(check, "flow.yaml", "--site", "yard", "--connect")
    assert result.exit_code == 1
    assert "NO_SUCH_PASSWORD" in result.output
    assert "databus (broker)" not in result.output


def test_a_site_file_stands_for_its_flows(invoke: Invoke, bus_only: None) -> None:
    Path("sites/yard.yaml").write_text("flows: [bus_only]\n" + SITE, encoding="utf-8")
    result = invoke(check, "sites/yard.yaml", "--connect")
    assert result.exit_code == 0
    assert "databus (broker): 2.1 ms" in result.output


DEVICES = """\
flow: devices
nodes:
  bay: {kind: pmu_client, host: 127.0.0.1, port: 4712, idcode: 7, transport: tcp_udp, data_port: 4713}
  unasked: {kind: pmu_udp, port: 4714, host: 127.0.0.1}
  log: {kind: file_write, from: [bay, unasked], path: log.jsonl}
  centre: {kind: pmu_send, from: bay, host: 10.0.0.9, port: 4715, idcode: 9, devices: {G7: 7}}
"""


def told_of_devices(folder: Path, port: int, *options: str) -> Result:
    (folder / "devices.yaml").write_text(DEVICES.replace("4712", str(port)), encoding="utf-8")
    return CliRunner().invoke(
        check, [str(folder / "devices.yaml"), "--connect", *options], obj=shipped_registry(), terminal_width=200
    )


def test_devices_are_asked_for_their_configuration_and_what_only_listens_or_sends_is_told(tmp_path: Path) -> None:
    server = PmuServer("127.0.0.1", 0, [ServedStream(plain_config())], transport="tcp_udp")
    server.start()
    try:
        result = told_of_devices(tmp_path, server.port, "--json")
    finally:
        server.close()
    assert result.exit_code == 0, result.output
    bay, unasked, centre = json.loads(result.output)["connections"]
    assert (bay["name"], bay["kind"], bay["peer"]) == ("devices/bay", "pmu_client", "CFG3: 'G7', 50 frames/s")
    assert bay["latency_ms"] > 0.0
    assert bay["not_tried"] == "listens on UDP 0.0.0.0:4713"
    assert (unasked["ok"], unasked["latency_ms"], unasked["not_tried"]) == (True, None, "listens on UDP 127.0.0.1:4714")
    assert centre["not_tried"] == "sends to UDP 10.0.0.9:4715"


def test_a_device_that_is_not_there_fails_the_check(tmp_path: Path) -> None:
    port = free_port()
    result = told_of_devices(tmp_path, port)
    assert result.exit_code == 1
    output = " ".join(result.output.split())
    assert f"✗ devices/bay (pmu_client): 127.0.0.1:{port} (tcp_udp): connection refused" in output
    assert "- devices/unasked (pmu_udp): listens on UDP 127.0.0.1:4714; not tried" in output


BOUND = """\
flow: watched
nodes:
  meters: {kind: samples_udp, host: 127.0.0.1, port: 0, format: json.edgeflex, columns: [rocof_hz_per_s, frequency_hz]}
  event:
    kind: frequency_event
    from: meters
    onset: {policy: rocof_trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}
    confirm: {policy: rocof_trigger, field: confirm, default: 300 ms, min: 100 ms, max: 1 s}
    hold_off: {policy: timing, field: hold_off, default: 5 s, min: 1 s, max: 60 s}
  log: {kind: file_write, from: event, path: log.jsonl}
"""
FOLLOWING = """\
site: yard
connections:
  policies:
    kind: policy_system
    url: "${url}"
    auth: {kind: jwt, key: site.pem, issuer: substation_12, audience: AUDIENCE}
    group: substation_12
params: {url: "http://127.0.0.1:1"}
"""


def told_of_policies(folder: Path, url: str, *, audience: str = AUDIENCE) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what is told by name of connection and policy."""
    (folder / "watched.yaml").write_text(BOUND)
    (folder / "site.yaml").write_text(FOLLOWING.replace("AUDIENCE", audience))
    arguments = [str(folder / "watched.yaml"), "--site", str(folder / "site.yaml"), "--connect", "-D", f"url={url}"]
    result = CliRunner().invoke(check, [*arguments, "--json"], obj=shipped_registry())
    found = {each["name"]: each for each in json.loads(result.output)["connections"]}
    text = CliRunner().invoke(check, arguments, obj=shipped_registry(), terminal_width=200).output
    assert all(name in text for name in found)
    return result.exit_code, found


def test_policies_that_are_as_the_flows_want_them_are_told_with_their_version(tmp_path: Path) -> None:
    with PolicyServer(tmp_path) as server:
        server.save("rocof_trigger", onset="0.1 Hz/s", confirm="200 ms")
        server.save("timing", hold_off="10 s")
        code, found = told_of_policies(tmp_path, server.url)
    assert code == 0
    for name in ("policies/rocof_trigger", "policies/timing"):
        assert (found[name]["peer"], found[name]["warning"], found[name]["error"]) == ("version 1", "", "")


def test_policies_and_fields_that_are_missing_are_warned_of_since_defaults_hold(tmp_path: Path) -> None:
    with PolicyServer(tmp_path) as server:
        server.save("rocof_trigger", onset="0.1 Hz/s", konfirm="200 ms", colour="red")
        code, found = told_of_policies(tmp_path, server.url)
    assert code == 0
    assert found["policies/timing"]["warning"] == (
        "group 'substation_12' has no such policy, or it is not for this site; the defaults of the flows hold"
    )
    assert found["policies/rocof_trigger"]["warning"] == (
        "it says nothing in field 'confirm': the default holds; it says 'konfirm': did it mean that? (watched); "
        "no flow reads 'colour', 'konfirm'"
    )


def test_values_that_a_flow_would_refuse_fail_the_check(tmp_path: Path) -> None:
    with PolicyServer(tmp_path) as server:
        server.save("rocof_trigger", onset=0.1, confirm="200 Hz")
        server.save("timing", hold_off="2 min")
        code, found = told_of_policies(tmp_path, server.url)
    assert code == 1
    error = found["policies/rocof_trigger"]["error"]
    assert "watched/event, 'onset': write it with its unit, e.g. 0.1 Hz/s" in error
    assert "watched/event, 'confirm': " in error
    assert "watched/event, 'hold_off': 120 is outside 1 to 60 s" in found["policies/timing"]["error"]


def test_a_policy_that_is_not_valid_now_is_warned_of(tmp_path: Path) -> None:
    with PolicyServer(tmp_path) as server:
        server.save("timing", hold_off="10 s", valid_until_ns=1)
        code, found = told_of_policies(tmp_path, server.url)
    assert code == 0
    assert "it is not valid at this time" in found["policies/timing"]["warning"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(200, b"<html>"), "the answer holds no policies"),
        (Reply(200, b'{"policies": [{"name": "mine"}]}'), "none of the policies in the answer can be read"),
        (Reply(404), "404"),
        (Reply(302, b"", {"Location": "/sign-in"}), "302"),
    ],
    ids=["page", "others", "nothing", "redirect"],
)
def test_an_address_that_is_no_policy_system_is_refused(tmp_path: Path, reply: Reply, said: str) -> None:
    with PolicyServer(tmp_path) as server:
        server.fault = lambda _request: reply
        code, found = told_of_policies(tmp_path, server.url)
    assert code == 1
    assert list(found) == ["policies"]
    assert said in found["policies"]["error"]
    assert "is `url` that of a policy system? Its path ends before '/api/v1/policies'" in found["policies"]["error"]


def test_a_refusal_tells_what_the_token_says(tmp_path: Path) -> None:
    with PolicyServer(tmp_path) as server:
        code, found = told_of_policies(tmp_path, server.url, audience="elsewhere")
    assert code == 1
    assert "issuer 'substation_12', user 'substation_12', audience 'elsewhere'" in found["policies"]["error"]
