from __future__ import annotations

import re
from pathlib import Path

from edgeflex_connectors.topics import OWN, PLATFORM

PAGE = (Path(__file__).parents[2] / "docs" / "voltage-control.md").read_text()


def test_the_closed_loop_of_the_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {"print": lambda _: None}
    exec(code, names)
    assert names["plant"].report.applied == 1440  # type: ignore[attr-defined]


def test_topics_of_the_page_are_known() -> None:
    known = {topic.name for topic in PLATFORM} | {name for name, _ in OWN}
    told = set(re.findall(r"`(/voltage_control/[^`]+)`", PAGE))
    assert len(told) == 6
    assert told <= known
