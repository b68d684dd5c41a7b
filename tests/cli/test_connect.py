"""`edgeflex check --connect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flow_kinds import FLOW, SITE

from edgeflex_flow.cli.check import check

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
