"""Which columns the channels of a PMU become: names, factors, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from edgeflex_connectors.c37118_config import Phasor, PmuConfig
from edgeflex_flow.units import SUFFIXES, column_unit

FREQUENCY = "frequency_hz"
DFREQ = "dfreq_hz_per_s"
FIXED_COLUMNS = (FREQUENCY, DFREQ)
COMPUTED_COLUMNS = {"rocof_hz_per_s": "rocof"}
"""Columns that are always computed, by which kind of node: a channel that went by such a name would pass for them."""


class ChannelColumns(NamedTuple):
    """Where one channel's values go. `value` · `factor` + `offset`; a phasor's angle less `offset`."""

    column: str
    angle_column: str | None
    factor: float
    offset: float


class ColumnPlan(NamedTuple):
    """The columns of one PMU: phasors, analogs, digital words, in the order of its data."""

    channels: tuple[ChannelColumns, ...]
    problems: tuple[str, ...]
    """What an engineer should know, one text each."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(
            name for channel in self.channels for name in (channel.column, channel.angle_column) if name is not None
        )


def without_unit(column: str) -> str:
    """The column's name without the ending that states its unit.

    >>> without_unit("voltage_v"), without_unit("rocof_hz_per_s"), without_unit("breaker_bits")
    ('voltage', 'rocof', 'breaker')
    """
    words = column.split("_")
    for take in (3, 2, 1):
        if len(words) > take and "_".join(words[-take:]) in SUFFIXES:
            return "_".join(words[:-take])
    return "_".join(words[:-1])


def slug(name: str, fallback: str) -> str:
    """A name as part of a column's name.

    >>> slug("VA-1 (kV)", "phasor1"), slug("---", "phasor1")
    ('va_1_kv', 'phasor1')
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or fallback


def plan_columns(pmu: PmuConfig, declared: Mapping[str, str]) -> ColumnPlan:
    """The columns of a PMU's channels. `declared`: channel name to column name, as the flow file says."""
    planner = _Planner(pmu, declared)
    return ColumnPlan(tuple(planner.plan()), tuple(planner.problems))


class _Planner:
    def __init__(self, pmu: PmuConfig, declared: Mapping[str, str]) -> None:
        self.pmu = pmu
        self.declared = declared
        self.problems: list[str] = []
        self._taken: set[str] = set(FIXED_COLUMNS)

    def plan(self) -> list[ChannelColumns]:
        pmu = self.pmu
        sent = [phasor.name for phasor in pmu.phasors] + [analog.name for analog in pmu.analogs]
        # Declared columns first, so that no other channel of the device takes their names.
        owners: dict[str, int] = {}
        for number, name in enumerate(sent):
            column = self.declared.get(name)
            if column is not None and self._fits(number, column) and column not in owners:
                owners[column] = number
        self._taken.update(owners)
        declared = {number: column for column, number in owners.items()}
        for name in self.declared:
            if name not in sent:
                self.problems.append(f"sends no channel '{name}'; known: {', '.join(sent) or 'none'}")
        phasors = [self._phasor(number, phasor, declared.get(number)) for number, phasor in enumerate(pmu.phasors)]
        analogs = [self._analog(number, declared.get(number + len(phasors))) for number in range(len(pmu.analogs))]
        words = [
            ChannelColumns(self._free(f"digital{number + 1}", "bits"), None, 1.0, 0.0)
            for number in range(len(pmu.digitals))
        ]
        return phasors + analogs + words

    def _fits(self, number: int, column: str) -> bool:
        """Whether channel `number` may go by this column's name: volts are no amperes."""
        if number >= len(self.pmu.phasors):
            return True
        phasor = self.pmu.phasors[number]
        unit = column_unit(column)
        measured = "current" if phasor.is_current else "voltage"
        if unit is None or unit.dimension in ("per_unit", measured):
            return True
        self.problems.append(
            f"phasor '{phasor.name}' is a {measured}; column '{column}' states a {unit.dimension}, so it is not used"
        )
        return False

    def _phasor(self, number: int, phasor: Phasor, column: str | None) -> ChannelColumns:
        stem = slug(phasor.name, f"phasor{number + 1}")
        if column is None:
            column = self._free(stem, "a" if phasor.is_current else "v")
        unit = column_unit(column)
        factor = 1.0 if unit is None else 1.0 / unit.factor
        integer = not self.pmu.float_phasors
        return ChannelColumns(
            column=column,
            angle_column=self._free(without_unit(column), "angle_rad"),
            factor=phasor.scale * factor if integer else factor,
            offset=phasor.angle_offset_rad if integer else 0.0,
        )

    def _analog(self, number: int, column: str | None) -> ChannelColumns:
        analog = self.pmu.analogs[number]
        if column is None:
            column = self._free(slug(analog.name, f"analog{number + 1}"), "raw")
        return ChannelColumns(column, None, analog.gain, analog.offset)

    def _free(self, stem: str, ending: str) -> str:
        """`stem_ending`, numbered if another channel of the device has that name already."""
        column = f"{stem}_{ending}"
        number = 2
        while column in self._taken:
            column = f"{stem}_{number}_{ending}"
            number += 1
        self._taken.add(column)
        return column
