"""`edgeflex nodes`: the list of kinds and the manual pages."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result
from flow_kinds import NODES

from edgeflex_flow.cli.nodes import nodes

Invoke = Callable[..., Result]


def test_the_list_holds_every_kind_by_role(invoke: Invoke) -> None:
    result = invoke(nodes)
    assert result.exit_code == 0
    words = result.output.split()
    assert [node.kind for node in NODES if node.kind not in words] == []
    roles = [words.index(role) for role in ("sources", "operators", "sinks", "connections")]
    assert roles == sorted(roles)
    assert words.index("sources") < words.index("meter") < words.index("operators") < words.index("slope")


def test_the_list_tells_the_first_sentence_and_the_package(invoke: Invoke) -> None:
    [line] = [line for line in invoke(nodes).output.splitlines() if line.startswith("meter ")]
    assert line.split() == ["meter", "Measures.", "flow_kinds"]


def test_a_page_tells_all_of_a_kind(invoke: Invoke) -> None:
    result = invoke(nodes, "meter")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for part in (
        "meter source, from flow_kinds",
        "Measures. More than one sentence tells about it.",
        "Output Samples with frequency and angle; more columns under channels. Errors",
        "port an integer, from 1 to 65535 required UDP port.",
        "period a time with its unit, above 0s, at most 10s 20ms Time between two frames.",
        ">>> MeterConfig(port=4713).port 4713",
    ):
        assert part in text


def test_a_page_tells_what_ports_need(invoke: Invoke) -> None:
    text = " ".join(invoke(nodes, "pair").output.split())
    assert "measured samples frequency_hz events frequency_event alarms (optional) alarm" in text
    assert "in samples by its settings" in " ".join(invoke(nodes, "limit").output.split())


def test_a_page_of_a_connection_tells_its_family(invoke: Invoke) -> None:
    assert "broker connection of the family bus, from flow_kinds" in " ".join(invoke(nodes, "broker").output.split())


def test_a_page_tells_the_settings_of_each_form(invoke: Invoke) -> None:
    text = " ".join(invoke(nodes, "shed").output.split())
    for part in (
        "course one of swift, ramp, by name or with its settings swift How it goes down.",
        "course: swift All at once. setting",
        "course: ramp Bit by bit. setting",
        "rate an active power with its unit, above 0 kW required Power of each bit.",
        "stops[*].delay a time with its unit, at least 0s 0s How long to wait.",
    ):
        assert part in text


def test_an_unknown_kind_names_the_nearest(invoke: Invoke) -> None:
    result = invoke(nodes, "slop")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unknown kind 'slop'; known: broker, detect,")
    assert result.stderr.endswith("did you mean 'slope'?\n")
    assert result.stdout == ""


def test_json_lists_every_page(invoke: Invoke) -> None:
    pages = json.loads(invoke(nodes, "--json").output)
    assert sorted(page["kind"] for page in pages) == sorted(node.kind for node in NODES)


def test_json_of_a_kind_holds_its_settings(invoke: Invoke) -> None:
    page = json.loads(invoke(nodes, "slope", "--json").output)
    assert page["settings"] == [
        {
            "key": "window",
            "type": "a time with its unit",
            "bounds": "above 0s, at most 60s",
            "required": False,
            "default": "500ms",
            "description": "Length of the window.",
        }
    ]
    assert page["ports"] == [
        {"name": "in", "accepts": ["samples"], "needs": ["frequency_hz"], "needs_by_settings": False, "optional": False}
    ]
