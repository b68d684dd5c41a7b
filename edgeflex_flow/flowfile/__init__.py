"""Flow files: parse, interpolate, check, JSON Schema, graph."""

from __future__ import annotations

from edgeflex_flow.flowfile.graph import to_mermaid
from edgeflex_flow.flowfile.load import (
    CheckedFlow,
    CheckedSite,
    check_files,
    check_flow,
    check_flows,
    load_flow,
    load_flows,
)
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.report import Secret
from edgeflex_flow.flowfile.schema import json_schema
from edgeflex_flow.flowfile.svg import to_svg
from edgeflex_flow.flowfile.table import load_table

__all__ = [
    "CheckedFlow",
    "CheckedSite",
    "Plan",
    "PlannedNode",
    "Secret",
    "check_files",
    "check_flow",
    "check_flows",
    "json_schema",
    "load_flow",
    "load_flows",
    "load_table",
    "to_mermaid",
    "to_svg",
]
