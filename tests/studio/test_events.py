"""What the time line says of links."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgeflex_flow.messages import LinkQosRequest, LinkStatus, Message, encode_message
from edgeflex_flow.runtime.showing import Happened
from edgeflex_flow.studio.events import entry_of

STATUS: dict[str, Any] = {"device": "pmu7", "gpsi": "msisdn-4917012345", "time_ns": 1_000_000_000}
REQUEST: dict[str, Any] = {"device": "pmu7", "reason": "late", "time_ns": 1_000_000_000, "valid_for_s": 30.0}


@pytest.mark.parametrize(
    ("message", "text", "level"),
    [
        (LinkStatus(**STATUS, reachable=False), "not reachable", "warning"),
        (
            LinkStatus(**STATUS, reachable=True, latency_s=0.042, loss=0.01, profile="QOS_L", qos_state="available"),
            "reachable, latency 42 ms, loss 1 %, QOS_L available",
            "info",
        ),
        (
            LinkStatus(**STATUS, profile="QOS_L", qos_state="not_guaranteed", reason="cell full"),
            "QOS_L not_guaranteed (cell full)",
            "warning",
        ),
        (LinkQosRequest(**REQUEST, action="raise", profile="QOS_L"), "QOS_L asked for: late", "info"),
        (LinkQosRequest(**REQUEST, action="release"), "given back: late", "info"),
    ],
)
def test_links_are_told_in_words(message: Message, text: str, level: str) -> None:
    event = Happened(node="guard", time_ns=1_000_000_000, message=msgspec.Raw(encode_message(message)))
    entry = entry_of(1, "link_quality", event)
    assert (entry.text, entry.level, entry.device) == (text, level, "pmu7")
