"""What docs/policies.md shows is so."""

from __future__ import annotations

import re
from pathlib import Path

from edgeflex_services.policy_system.documents import KINDS, read_document
from edgeflex_services.policy_system.enforce import decoded_id

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()


def test_the_example_of_rules_is_a_policy() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(read_document(example.encode()).rules) == 2


def test_all_kinds_are_told() -> None:
    assert [kind for kind in KINDS if f"| `{kind}` |" not in PAGE] == []


def test_the_ids_of_the_example_are_names() -> None:
    ids = re.findall(r"policy_(?:id|group)=(\w+)", PAGE)
    assert [decoded_id(each, "id") for each in ids] == ["rocof_trigger", "south"]
