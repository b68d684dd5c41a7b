"""The JSON Schema agrees with the check on everything that one file alone can tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flow_kinds
import jsonschema  # type: ignore[import-untyped]
import pytest
from flow_kinds import FLOW, SITE

from edgeflex_flow.flowfile import json_schema
from edgeflex_flow.flowfile.document import parse_document

SCHEMA = json_schema(flow_kinds.registry())


def errors_in(text: str) -> list[str]:
    root = parse_document(text, "x.yaml").root
    assert root is not None
    plain = root.plain()
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(plain)]


def replaced(old: str, new: str, text: str = FLOW) -> str:
    assert old in text
    return text.replace(old, new)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for each in part.values():
                yield from references(each)
        elif isinstance(part, list):
            for each in part:
                yield from references(each)

    assert {name for name in references(SCHEMA) if name.removeprefix("#/$defs/") not in SCHEMA["$defs"]} == set()


def test_every_kind_is_in_it() -> None:
    registry = flow_kinds.registry()
    names = {f"node_{kind}" for kind in registry.nodes} | {f"connection_{kind}" for kind in registry.connections}
    assert names <= SCHEMA["$defs"].keys()


def test_every_setting_is_described() -> None:
    kinds = [each for each in SCHEMA["$defs"].values() if "const" in each.get("properties", {}).get("kind", {})]
    assert kinds
    assert [key for kind in kinds for key, each in kind["properties"].items() if "description" not in each] == []


@pytest.mark.parametrize(
    "text",
    [
        FLOW,
        SITE,
        "site: a\n",
        "site: a\nflows:\nconnections:\nparams:\n",
        replaced("window: 500ms", "window: 0.5 s"),
        replaced("about: Find events.", "labels: {a: b}"),
        replaced("meter_port: 4713", "meter_port: "),
        replaced("store: history", "store: history, steps: [{level: 1, delay: 1s}], levels: {a: 1}, mode: slow"),
        replaced("store: history", "store: history, course: swift"),
        replaced("store: history", "store: history, course: {type: swift, notice: soon}"),
        replaced("store: history", "store: history, course: {type: ramp, rate: 1 MW, stops: [{level: 1}]}"),
        replaced("store: history", "store: history, limit: null, buffer: 1 MiB, delays: [1s]"),
        replaced('"${meter_port}"', "1, speed: max, pause: asked"),
        replaced('"${meter_port}"', "1, speed: 2, pause: 5ms"),
        replaced("from: pmu, window", "from: {in: pmu}, window"),
        replaced("from: pmu, window", "from: {in: [pmu]}, window"),
        f"{FLOW}budgets:\n",
        f"{FLOW}budgets: [{{from: pmu, to: tell, within: 100ms, of: took}}]\n",
        f"{FLOW}budgets: [{{from: pmu, to: tell, within: 1s, of: response}}]\n",
        "site: a\nmonitor: {port: 9464}\n",
    ],
)
def test_right_files_pass(text: str) -> None:
    assert errors_in(text) == []


LEAVES = [
    ("500ms", '"${x}"'),
    ('"${meter_port}"', '"${PORT:-1}"'),
    ('"${meter_port}"', '4713, host: "${X}", channels: ["${A}"], period: "${P}", test: "${file:t}"'),
    ("store: history", 'store: "${S}", mode: "${M}", limit: "${L}", buffer: "${B}", delays: ["${D}"]'),
    ("store: history", 'store: history, steps: [{level: "${L}", delay: "${D}"}], levels: {a: "${A}"}'),
    ("store: history", 'store: history, course: "${C}"'),
    ("store: history", 'store: history, course: {type: ramp, rate: "${R}", low: "${L}"}'),
    ("{policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}", '"${ONSET}"'),
    (
        "policy: trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s",
        'policy: "${P}", field: "${F}", default: "${D}", min: "${A}", max: "${B}"',
    ),
    ("column: rocof_hz_per_s", 'column: "${C}"\n    low: "${L}"\n    hold: "${H}"'),
]


@pytest.mark.parametrize(("old", "new"), LEAVES)
def test_every_leaf_may_be_interpolated(old: str, new: str) -> None:
    assert errors_in(replaced(old, new)) == []


@pytest.mark.parametrize(
    ("text", "part_of_error"),
    [
        (replaced("window: 500ms", "window: 500"), "500 is not valid under any of the given schemas"),
        (replaced("window: 500ms", "window: 5 kg"), "'5 kg'"),
        (replaced('"${meter_port}"', "1, speed: 0"), "0 is not valid"),
        (replaced('"${meter_port}"', "1, pause: ask"), "'ask' is not valid"),
        (replaced("window:", "windw:"), "'windw' was unexpected"),
        (replaced('"${meter_port}"', "70000"), "70000"),
        (replaced('"${meter_port}"', "'4713'"), "'4713'"),
        (replaced(', port: "${meter_port}"', ""), "'port' is a required property"),
        (replaced("from: pmu, ", ""), "'from' is a required property"),
        (replaced("kind: meter,", "kind: meter, from: slope,"), "'from' was unexpected"),
        (replaced("events: detect", "event: detect"), "'event' was unexpected"),
        (replaced("from: pmu, window", "from: [pmu, pmu], window"), "['pmu', 'pmu']"),
        (replaced("from: pmu, window", "from: [], window"), "[]"),
        (replaced("kind: slope", "kind: slopee"), "'slopee' is not one of"),
        (replaced("kind: tell", "kind: broker"), "'broker' is not one of"),
        (replaced("store: history", "store: history, mode: fasst"), "'fasst'"),
        (replaced("store: history", "store: history, course: ramp"), "'ramp' is not valid"),
        (replaced("store: history", "store: history, course: swft"), "'swft' is not valid"),
        (replaced("store: history", "store: history, course: {rate: 1 kW}"), "{'rate': '1 kW'} is not valid"),
        (replaced("store: history", "store: history, course: {type: ramp}"), "{'type': 'ramp'} is not valid"),
        (replaced("store: history", "store: history, course: {type: swift, rate: 1 kW}"), "is not valid"),
        (replaced("min: 0.005 Hz/s, ", ""), "{'policy'"),
        (
            replaced("store: history", "store: history, limit: {policy: a, field: b, default: 1, min: 1, max: 2}"),
            "{'policy'",
        ),
        (replaced("column: rocof_hz_per_s", "column: {policy: a, field: b, default: c, min: 1, max: 2}"), "{'policy'"),
        (replaced("flow: events", "flow: My Flow"), "'My Flow'"),
        (replaced("flow: events", "flow: events\non: 1"), "'on' was unexpected"),
        (replaced("  tell: ", "  Tell: "), "'Tell'"),
        (replaced("{meter_port: 4713}", "{meter_port: [1]}"), "[1]"),
        (replaced("{meter_port: 4713}", "{site: x}"), "'site'"),
        (replaced("timeout: 2s", "timeout: 2", SITE), "2"),
        (replaced("kind: table", "kind: shed", SITE), "'shed' is not one of"),
        (replaced("kind: table, ", "", SITE), "'kind' is a required property"),
        (f"{FLOW}budgets: [{{from: pmu, to: tell}}]\n", "'within' is a required property"),
        (f"{FLOW}budgets: [{{from: pmu, to: tell, within: 1s, of: tok}}]\n", "'tok' is not valid"),
        (f"{FLOW}budgets: {{from: pmu}}\n", "{'from': 'pmu'} is not of type 'array', 'null'"),
        ("flow: a\n", "'nodes' is a required property"),
        ("flow: a\nnodes: {}\n", "{}"),
        ("[]", "[] is not of type 'object'"),
    ],
)
def test_wrong_files_fail_for_their_reason(text: str, part_of_error: str) -> None:
    errors = errors_in(text)
    assert [error for error in errors if part_of_error in error] != []
