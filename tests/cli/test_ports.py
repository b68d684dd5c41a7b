"""`edgeflex ports`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.cli.ports import ports

LOCAL = shipped_flows() / "sites" / "local.yaml"


def told(*arguments: str) -> Result:
    return CliRunner().invoke(ports, list(arguments), obj=shipped_registry())


def test_ports_of_the_flows_that_a_site_lists_are_told_in_columns() -> None:
    result = told(str(LOCAL), "-D", "mqtt_port=1999")
    assert result.exit_code == 0
    lines = [line.split(maxsplit=4) for line in result.output.splitlines()]
    assert lines[0][:4] == ["direction", "protocol", "host", "port"]
    assert ["in", "udp", "0.0.0.0", "4713", "frequency_events/pmu"] in lines
    assert [line[:4] for line in lines if line[0] == "out"] == [
        ["out", "tcp", "127.0.0.1", "1999"],
        ["out", "tcp", "127.0.0.1", "4712"],
        ["out", "tcp", "127.0.0.1", "8480"],
        ["out", "tcp", "127.0.0.1", "8620"],
        ["out", "tcp", "127.0.0.1", "8630"],
    ]
    assert ["in", "tcp", "127.0.0.1", "4722", "concentrator/stream"] in lines


def test_json_holds_the_same() -> None:
    result = json.loads(told(str(LOCAL), str(shipped_flows() / "service_limits.yaml"), "--json").output)
    assert result == {
        "site": "local",
        "flows": ["service_limits"],
        "ports": [
            {
                "direction": "out",
                "protocol": "tcp",
                "host": "127.0.0.1",
                "port": 8480,
                "scheme": "http",
                "used_by": ["service_limits/meters (services)", "service_limits/operator (services)"],
            }
        ],
    }


def test_site_may_be_named_as_in_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped_flows())
    assert told("local").exit_code == 0
    monkeypatch.chdir(shipped_flows().parent)
    assert told("local").exit_code == 0


def test_site_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = told("yard")
    assert result.exit_code == 2
    assert "no site file 'yard' or 'sites/yard.yaml' or 'flows/sites/yard.yaml'" in result.output


def test_url_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text('site: yard\nconnections: {api: {kind: rest, url: "${API_URL}"}}\n')
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        "flow: ask\nnodes:\n  ask: {kind: rest_poll, api: api, path: /a, period: 1s, messages: [alarm]}\n"
        "  log: {kind: file_write, from: ask, path: a.jsonl}\n"
    )
    result = told(str(tmp_path / "site.yaml"), str(flow))
    assert result.exit_code == 1
    assert "environment variable API_URL is not set" in result.output
    assert "too much of it is not there" in result.output


def test_the_ports_of_live_page_and_monitor_are_told(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    site = tmp_path / "sites" / "yard.yaml"
    site.write_text("site: yard\nflows: [meters]\nstudio: {port: 8090}\nmonitor: {host: 0.0.0.0, port: 9465}\n")
    flow = (
        "flow: meters\nnodes:\n  in: {kind: pmu_udp, port: 4713}\n  out: {kind: file_write, from: in, path: o.jsonl}\n"
    )
    (tmp_path / "meters.yaml").write_text(flow)
    lines = [line.split(maxsplit=4) for line in told(str(site)).output.splitlines()]
    assert ["in", "tcp", "127.0.0.1", "8090", "yard (studio)"] in lines
    assert ["in", "tcp", "0.0.0.0", "9465", "yard (monitor)"] in lines
