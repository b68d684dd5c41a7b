"""By what versions of a flow differ, and what a new one calls otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_versions import version_of

from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.revision import Call, digest_of, identity_of, new_calls

FLOW = """\
flow: grid
nodes:
  pmu: {kind: pmu_client, host: 127.0.0.1, port: 4712, idcode: 1}
  rocof: {kind: rocof, from: pmu, window: 500ms}
  event: {kind: frequency_event, from: rocof}
  tell: {kind: mqtt_publish, from: event, bus: databus, topic: event}
"""


def plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    return version_of(FLOW, folder, *changes)


CASES: dict[tuple[str, str], tuple[Call, ...]] = {
    ("window: 500ms", "window: 300ms"): (),
    ("port: 4712", "port: 4713"): (Call("node", "pmu"),),
    ("idcode: 1", "idcode: 2"): (),  # the device may have room for one client
    ("topic: event", "topic: events"): (),
    ("hush", "hush-hush"): (Call("connection", "databus"),),
    ("  tell:", "  say:"): (),
    ("from: event,", "from: [event, rocof],"): (),
    ("  event:", "  log: {kind: file_write, from: rocof, path: out.jsonl}\n  event:"): (),
    ("site: yard\n", "site: yard\nstate: {folder: state}\n"): (),
}


@pytest.mark.parametrize("change", CASES)
def test_a_version_that_differs_is_another_and_what_it_calls_otherwise_is_to_be_tried(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    old, new = plan(tmp_path), plan(tmp_path, change)
    assert identity_of(old) != identity_of(new)
    assert (digest_of(old) == digest_of(new)) == ("hush" in change)  # which anybody may see
    assert new_calls(old, new) == CASES[change]


def test_what_a_policy_leads_elsewhere_is_not_tried(tmp_path: Path) -> None:
    heard = "sub: {kind: mqtt_subscribe, bus: other, topics: [a], format: json.edgeflex, columns: [active_power_w]}"
    kept = "log: {kind: file_write, from: sub, path: out.jsonl}"
    system = '  policies: {kind: policy_system, url: "http://127.0.0.1:8500", group: yard}\n'
    led = '{policy: bus, field: url, default: "mqtt://127.0.0.1:1883", allowed: ["mqtt://127.0.0.1:1883"]}'
    other = f"{system}  other: {{kind: mqtt, url: {led}}}\n"
    new = plan(tmp_path, ("  tell:", f"  {heard}\n  {kept}\n  tell:"), ("  databus:", f"{other}  databus:"))
    assert new_calls(plan(tmp_path), new) == (Call("connection", "policies"),)
