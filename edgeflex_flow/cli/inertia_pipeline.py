"""Estimates the inertia of one recorded event by the operators that a flow would run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile.fields import config_fields
from edgeflex_flow.kernel import warm_up
from edgeflex_flow.messages import EventWindow, FrequencyEvent, InertiaEstimate, Samples, SystemInertia
from edgeflex_flow.node import NodeConfig
from edgeflex_operators import event_window, frequency_event, inertia_event, rocof, system_inertia
from edgeflex_operators._unit_fit import UnitFit
from edgeflex_operators._units import GeneratingUnit, UnitTable
from edgeflex_operators.event_window import EventWindowConfig
from edgeflex_operators.frequency_event import FrequencyEventConfig
from edgeflex_operators.inertia_event import InertiaEventConfig
from edgeflex_operators.rocof import RocofConfig


@dataclass(frozen=True, slots=True)
class UnitResult:
    """One generating unit: its estimate, and the course of its frequency that the estimate explains."""

    estimate: InertiaEstimate
    time_s: NDArray[np.float64] | None = None
    """Time since the onset, shape (n,)."""
    measured_hz: NDArray[np.float64] | None = None
    """Measured frequency, shape (n,)."""
    fitted_hz: NDArray[np.float64] | None = None
    """Frequency of the fitted model, shape (n,)."""


@dataclass(frozen=True, slots=True)
class RecordResult:
    """One recorded event."""

    units: dict[str, UnitResult] = field(default_factory=dict)
    """By device."""
    system: SystemInertia | None = None
    event_time_s: float | None = None
    """Onset of the event, in seconds of the record's own time axis."""
    event: FrequencyEvent | None = None
    other_events_s: tuple[float, ...] = ()
    """Onsets of the record's other events, which were not chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user may choose about an estimate."""

    event_s: float | None = None
    """The event with the nearest onset, on the record's own time axis."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Settings of `frequency_event` and `inertia_event` that differ from their defaults."""


DEFAULT_CHOICE: Final = Choice()
NEAR_EVENT_S: Final = 5.0
MOST_EVENTS: Final = 12


def settings_known() -> dict[str, type[NodeConfig]]:
    """Names of the settings that may be chosen, and whose they are."""
    return {
        field.name: config
        for config in (FrequencyEventConfig, InertiaEventConfig)
        for field in config_fields(config)
        if field.name != "units"
    }


def estimate_record(
    batches: Iterable[Samples],
    units: UnitTable,
    *,
    choice: Choice = DEFAULT_CHOICE,
    on_progress: Callable[[int], None],
) -> RecordResult:
    """Estimate inertia from batches in order of time, as `flows/inertia_estimation.yaml` does.

    The detector finds the event. Of several events the one of `choice` counts, else the one for which there is a sum
    over the units, else the one with most accepted estimates, else the first; the others are named. `on_progress` is
    told the rows of each batch.
    """
    warm_up(each.__name__ for each in (rocof, frequency_event, inertia_event))
    chain = _Chain(units, choice.settings)
    results: list[RecordResult] = []
    for batch in batches:
        results += [chain.result(window) for window in chain.windows(batch)]
        on_progress(batch.rows)
    results += [chain.result(window) for window in chain.last_windows()]
    if results:
        return _chosen(results, choice.event_s)
    return RecordResult(units={device: UnitResult(_without_event(device, unit)) for device, unit in units.items()})


class _Chain:
    """ROCOF, events, windows and estimates, wired as in the flow."""

    def __init__(self, units: UnitTable, settings: Mapping[str, float]) -> None:
        self._units = units
        self._rocof = RocofConfig()
        self._event = replace(FrequencyEventConfig(), **_those_of(FrequencyEventConfig, settings))
        self._window = EventWindowConfig()
        self._inertia = replace(InertiaEventConfig(units=units), **_those_of(InertiaEventConfig, settings))
        self._rocof_state = rocof.start(self._rocof)
        self._event_state = frequency_event.start(self._event)
        self._window_state = event_window.start(self._window)

    def windows(self, batch: Samples) -> list[EventWindow]:
        events = [
            event
            for slopes in rocof.step(self._rocof, self._rocof_state, batch)
            if isinstance(slopes, Samples)
            for event in frequency_event.step(self._event, self._event_state, slopes)
            if isinstance(event, FrequencyEvent)
        ]
        given = event_window.take_samples(self._window, self._window_state, batch)
        for event in events:
            given += event_window.take_event(self._window, self._window_state, event)
        return [window for window in given if isinstance(window, EventWindow)]

    def last_windows(self) -> list[EventWindow]:
        given = event_window.end(self._window, self._window_state)
        return [window for window in given if isinstance(window, EventWindow)]

    def result(self, window: EventWindow) -> RecordResult:
        found = inertia_event.estimates(self._inertia, window)
        estimates = [estimate for estimate, _ in found if estimate.device in self._units]
        return RecordResult(
            units={estimate.device: _unit_result(estimate, fit, window) for estimate, fit in found},
            system=system_inertia.system_inertia(estimates, self._units) if estimates else None,
            event_time_s=window.onset_time_ns * 1e-9,
            event=window.event,
        )


def _unit_result(estimate: InertiaEstimate, fit: UnitFit, window: EventWindow) -> UnitResult:
    """The estimate with the courses of its fit; where there was no fit, with the frequency that was measured."""
    if fit.time_s is not None:
        return UnitResult(estimate, fit.time_s, fit.measured_hz, fit.fitted_hz)
    samples = window.samples
    if estimate.device not in samples.devices or "frequency_hz" not in samples.columns:
        return UnitResult(estimate)
    mine = samples.device == samples.devices.index(estimate.device)
    time_s = np.asarray((samples.time_ns[mine] - window.onset_time_ns) * 1e-9, dtype=np.float64)
    return UnitResult(estimate, time_s, samples.columns["frequency_hz"][mine])


def _those_of(config: type[NodeConfig], settings: Mapping[str, float]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in config.__struct_fields__}


def _chosen(results: list[RecordResult], event_s: float | None) -> RecordResult:
    if event_s is None:
        best = max(results, key=_worth)  # the first of equals
    else:
        best = min(results, key=lambda result: abs((result.event_time_s or 0.0) - event_s))
        if abs((best.event_time_s or 0.0) - event_s) > NEAR_EVENT_S:
            there = ", ".join(f"{each.event_time_s:.3f} s" for each in results[:MOST_EVENTS])
            raise EdgeflexError(f"no event within {NEAR_EVENT_S:g} s of {event_s:.3f} s; events at: {there}")
    others = tuple(each.event_time_s for each in results if each is not best and each.event_time_s is not None)
    return dataclasses.replace(best, other_events_s=others)


def _worth(result: RecordResult) -> tuple[bool, int]:
    has_sum = result.system is not None and result.system.kinetic_energy_mws is not None
    return has_sum, sum(unit.estimate.status == "ok" for unit in result.units.values())


def _without_event(device: str, unit: GeneratingUnit) -> InertiaEstimate:
    return InertiaEstimate(
        event_id="",
        device=device,
        time_ns=0,
        method="event",
        status="not_excited",
        reason="no frequency event was detected in the record",
        rated_power_mva=unit.rated_power,
        begin_ns=0,
        end_ns=0,
        rows=0,
    )
