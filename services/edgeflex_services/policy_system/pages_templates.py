"""What a new policy of each kind begins with, so that nobody begins with an empty page."""

from __future__ import annotations

from typing import Any


def document_to_begin_with(kind: str, group: str) -> dict[str, Any]:
    """A document of a kind that says something sensible for a group."""
    return {"kind": kind, **_BEGINNINGS[kind], **({"rules": [_read_rule(group)]} if kind in _ASKED_FOR else {})}


_ASKED_FOR = ("data_management", "sharing")
"""Kinds that say who may have data."""


def _read_rule(group: str) -> dict[str, Any]:
    return {
        "name": "members",
        "effect": "permit",
        "when": {"actions": ["read_data"], "groups": [group]},
        "then": {"do": "return_data", "quantities": ["*"]},
    }


_BEGINNINGS: dict[str, dict[str, Any]] = {
    "operational_bounds": {"fields": {"voltage_min": "0.95 pu", "voltage_max": "1.05 pu"}},
    "trigger": {
        "fields": {"onset": "0.02 Hz/s"},
        "rules": [
            {
                "name": "fast_change",
                "effect": "act",
                "when": {
                    "actions": ["measured"],
                    "state": [{"quantity": "rocof_hz_per_s", "above": "0.5 Hz/s", "magnitude": True, "max_age": "10s"}],
                },
                "then": {"do": "run_service", "service": "inertia_estimation", "hold_off": "60s"},
            }
        ],
    },
    "data_management": {"fields": {"topic": "edgeflex/+/samples", "variables": ["frequency_hz"]}},
    "flexibility": {
        "fields": {
            "min_duration": "15min",
            "max_duration": "4h",
            "window_begin": "6 h",
            "window_end": "22 h",
            "max_power": "100 kW",
        }
    },
    "sharing": {"fields": {"variables": ["frequency_hz", "rocof_hz_per_s"]}},
}
