"""What a new policy of each kind begins with: its shape; nothing that shares or starts anything, or holds unnoticed."""

from __future__ import annotations

from typing import Any


def document_to_begin_with(kind: str) -> dict[str, Any]:
    """A document of a kind."""
    return {"kind": kind, **_BEGINNINGS[kind]}


_BEGINNINGS: dict[str, dict[str, Any]] = {
    "operational_bounds": {"fields": {"voltage_min": "0.95 pu", "voltage_max": "1.05 pu"}},
    "trigger": {"fields": {"onset": "0.02 Hz/s"}},
    "data_management": {"fields": {"topic": "edgeflex/+/samples"}},
    "flexibility": {"fields": {}},
    "sharing": {
        "fields": {"variables": ["frequency_hz", "rocof_hz_per_s"]},
        "rules": [{"name": "nobody_yet", "effect": "deny"}],
    },
}
