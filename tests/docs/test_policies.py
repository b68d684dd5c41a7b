"""What docs/policies.md shows is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from edgeflex_flow.messages import ServiceRequest, decode_message
from edgeflex_services.policy_system.api_events import Reports
from edgeflex_services.policy_system.bus import ask_in, reports_in
from edgeflex_services.policy_system.documents import KINDS, read_document
from edgeflex_services.policy_system.enforce import decoded_id
from edgeflex_services.policy_system.events import Answer, Ask

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
EXAMPLES = [each.encode() for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_example_of_rules_is_a_policy() -> None:
    assert len(read_document(EXAMPLES[0]).rules) == 2


def test_bodies_of_the_event_service_are_as_it_takes_them() -> None:
    reports, ask = EXAMPLES[1:3]
    assert [each.action for each in msgspec.json.decode(reports, type=Reports).reports] == ["excited"]
    assert msgspec.json.decode(ask, type=Ask).group == "south"


def test_what_goes_over_the_databus_is_as_the_event_service_has_it() -> None:
    report, ask, answer, request = EXAMPLES[3:]
    [reported] = reports_in(report, "south")
    assert (reported.asset, reported.values) == ("G1", {"rocof_hz_per_s": -0.031})
    asked = ask_in(ask, "south")
    assert asked is not None
    answered = msgspec.json.decode(answer, type=Answer, strict=True)
    assert set(json.loads(answer)) == set(Answer.__struct_fields__)
    assert answered.id == asked.id == "7"
    wanted = decode_message(request, (ServiceRequest,))
    assert set(json.loads(request)) == {"type", *ServiceRequest.__struct_fields__}
    assert isinstance(wanted, ServiceRequest)
    assert wanted.values == {name: each.value for name, each in answered.values.items()}


def test_all_kinds_are_told() -> None:
    assert [kind for kind in KINDS if f"| `{kind}` |" not in PAGE] == []


def test_the_ids_of_the_example_are_names() -> None:
    ids = re.findall(r"policy_(?:id|group)=(\w+)", PAGE)
    assert [decoded_id(each, "id") for each in ids] == ["rocof_trigger", "south"]
