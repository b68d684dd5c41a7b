"""Estimates the inertia of one recorded event by the operators that a flow would run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.kernel import warm_up
from edgeflex_flow.messages import EventWindow, FrequencyEvent, InertiaEstimate, Samples, SystemInertia
from edgeflex_operators import event_window, frequency_event, inertia_event, rocof, system_inertia
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


def estimate_record(
    batches: Iterable[Samples], units: UnitTable, *, on_progress: Callable[[int], None]
) -> RecordResult:
    """Estimate inertia from batches in order of time, as `flows/inertia_estimation.yaml` does.

    The detector finds the event. Of several events the one counts for which there is a sum over the units, else the one
    with most accepted estimates, else the first. `on_progress` is told the rows of each batch.
    """
    warm_up(each.__name__ for each in (rocof, frequency_event, inertia_event))
    chain = _Chain(units)
    results: list[RecordResult] = []
    for batch in batches:
        results += [chain.result(window) for window in chain.windows(batch)]
        on_progress(batch.rows)
    results += [chain.result(window) for window in chain.last_windows()]
    if results:
        return max(results, key=_worth)  # the first of equals
    return RecordResult(units={device: UnitResult(_without_event(device, unit)) for device, unit in units.items()})


class _Chain:
    """ROCOF, events, windows and estimates, wired as in the flow."""

    def __init__(self, units: UnitTable) -> None:
        self._units = units
        self._rocof = RocofConfig()
        self._event = FrequencyEventConfig()
        self._window = EventWindowConfig()
        self._inertia = InertiaEventConfig(units=units)
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
        return event_window.remaining(self._window, self._window_state)

    def result(self, window: EventWindow) -> RecordResult:
        found = inertia_event.estimates(self._inertia, window)
        estimates = [estimate for estimate, _ in found]
        return RecordResult(
            units={
                estimate.device: UnitResult(estimate, fit.time_s, fit.measured_hz, fit.fitted_hz)
                for estimate, fit in found
            },
            system=system_inertia.system_inertia(estimates, self._units) if estimates else None,
            event_time_s=window.onset_time_ns * 1e-9,
            event=window.event,
        )


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
