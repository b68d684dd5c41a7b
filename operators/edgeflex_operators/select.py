"""`select`: keeps some of the columns and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Quality, Samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, at_once, samples_wire

QualityName: TypeAlias = Literal[
    "bad_data", "sync_lost", "time_uncertain", "stale", "estimated", "test", "replayed", "clipped", "late"
]

TUPLES_KNOWN = 16


class SelectConfig(NodeConfig, frozen=True, kw_only=True):
    """Keeps the columns, devices and qualities that are wanted; what is not named passes as it is.

    `devices` holds names, or patterns with `*`, `?` and `[...]`, in which upper and lower case differ.

    Input:
        Samples with the columns to keep.
    Output:
        Samples with these columns only, and only the wanted rows; nothing when no row is wanted. A batch of which
        nothing is taken away passes without a copy.
    Errors:
        A column that the wire does not have is an error of the check.
    Source:
        Flags of quality as in `edgeflex_flow.messages.Quality`.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> rows = [(0, name, {"frequency_hz": 50.0, "voltage_v": 230.0}) for name in ("north_1", "south_1")]
    >>> config = SelectConfig(columns=("voltage_v",), devices=("south_*",))
    >>> [out] = step(config, start(config), samples_from_rows(rows))
    >>> list(out.columns), [out.devices[code] for code in out.device]
    (['voltage_v'], ['south_1'])
    """

    columns: Annotated[tuple[str, ...], Meta(description="Columns to keep; all when none is named.")] = ()
    devices: Annotated[
        tuple[str, ...], Meta(description="Devices to keep, by name or pattern; all when none is named.")
    ] = ()
    without_quality: Annotated[
        tuple[QualityName, ...], Meta(description="Flags of quality whose rows are taken away.")
    ] = ()

    def refusals(self) -> Iterator[FieldError]:
        if not self.columns and not self.devices and not self.without_quality:
            text = "none of 'columns', 'devices' and 'without_quality' is given: there is nothing to select"
            yield FieldError(text, "columns", "devices", "without_quality")


@dataclass(slots=True)
class SelectState:
    """Which devices are wanted, by id of a `devices` tuple (kept too, so that the id stays its own)."""

    known: dict[int, tuple[tuple[str, ...], tuple[str, ...], NDArray[np.bool_]]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[SelectState], tuple[()]]:
        # An id means nothing in another process.
        return SelectState, ()

    def wanted(self, devices: tuple[str, ...], patterns: tuple[str, ...]) -> NDArray[np.bool_]:
        """By device code, whether one of the patterns fits the device's name."""
        known = self.known.get(id(devices))
        if known is not None and known[0] is devices and known[1] == patterns:
            return known[2]
        if len(self.known) >= TUPLES_KNOWN:
            self.known.clear()
        wanted = np.array([any(fnmatchcase(name, pattern) for pattern in patterns) for name in devices], dtype=np.bool_)
        self.known[id(devices)] = devices, patterns, wanted
        return wanted


def start(_config: SelectConfig) -> SelectState:
    return SelectState()


def step(config: SelectConfig, state: SelectState, samples: Samples) -> list[WireMessage]:
    if config.columns and len(config.columns) < len(samples.columns):
        samples = samples.with_columns({name: samples.columns[name] for name in config.columns})
    rows = np.ones(samples.rows, dtype=np.bool_)
    if config.devices:
        rows &= state.wanted(samples.devices, config.devices)[samples.device]
    if config.without_quality:
        unwanted = sum(Quality[name.upper()] for name in config.without_quality)
        rows &= (samples.quality & unwanted) == 0
    if rows.all():
        return [samples]
    return [samples.take(rows)] if rows.any() else []


def _needs(config: SelectConfig) -> tuple[str, ...]:
    return config.columns


def _output(config: SelectConfig, inputs: Mapping[str, Wire]) -> Wire:
    if config.columns:
        return samples_wire(*config.columns)
    [wire] = inputs.values()
    return wire


NODE = OperatorNode(
    kind="select",
    config=SelectConfig,
    inputs={"in": Input(accepts=(Samples,), needs=_needs, step=step)},
    output=_output,
    start=start,
    delays=at_once,
)
