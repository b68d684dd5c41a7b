"""Settings that stand at the top of site and flow files: `state`, `limits`, `monitor`, `studio`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from edgeflex_flow.flowfile.decode import ConfigDecoder
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.flowfile.interpolate import Interpolator
from edgeflex_flow.flowfile.plan import Limits, MonitorConfig, StateConfig, StudioConfig
from edgeflex_flow.flowfile.report import FileReport, got
from edgeflex_flow.flowfile.shape import Shape
from edgeflex_flow.node import NodeConfig

Settings = TypeVar("Settings", bound=NodeConfig)

SITE_SETTINGS: Mapping[str, type[NodeConfig]] = {
    "state": StateConfig,
    "monitor": MonitorConfig,
    "limits": Limits,
    "studio": StudioConfig,
}
"""Those of site files, by their keys."""


def read_settings(
    key: str, kind: type[Settings], shape: Shape, interpolator: Interpolator, report: FileReport
) -> Settings | None:
    """What stands under a key; None if nothing does, or if it is wrong, which goes to the report."""
    value = shape.get(key)
    if value is None:
        return None
    if value.mapping() is None:
        known = tuple(field.key for field in config_fields(kind))
        report.problem(value.place, f"'{key}' is a mapping of settings", got=got(value), known=known)
        return None
    settings = interpolator.entries(value, node=None, other_than=())
    decoded = ConfigDecoder(report, node=None).decode(kind, settings, value.place)
    for name, missing in decoded.missing:
        report.missing(missing, f"'{key}.{name}'")
    return decoded.config if isinstance(decoded.config, kind) else None


def read_limits(shape: Shape, around: Limits, interpolator: Interpolator, report: FileReport) -> Limits:
    """The limits that a file gives; what it leaves out is as `around` has it."""
    own = read_settings("limits", Limits, shape, interpolator, report)
    value = shape.get("limits")
    if own is None or value is None:
        return around
    given = {key: getattr(own, key) for key in value.mapping() or {} if hasattr(own, key)}
    return msgspec.structs.replace(around, **given)
