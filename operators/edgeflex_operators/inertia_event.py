"""`inertia_event`: inertia of each generating unit from what was measured around a frequency event."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from edgeflex_flow import __version__
from edgeflex_flow.messages import EventWindow, InertiaEstimate
from edgeflex_flow.node import (
    Input,
    NodeConfig,
    OperatorNode,
    Wire,
    WireMessage,
    at_once,
    message_wire,
    quantity,
    table,
)
from edgeflex_operators._devices import NEAR_NOMINAL_HZ, NOMINALS_HZ
from edgeflex_operators._power_steps import CLOCKS_AGREE_NS
from edgeflex_operators._unit_fit import METHOD_VERSION, Limits, UnitFit, fit_unit
from edgeflex_operators._units import GeneratingUnit, UnitTable, digest


class InertiaEventConfig(NodeConfig, frozen=True, kw_only=True):
    """Inertia constant H of each generating unit from what was measured around a frequency event, with its interval.

    For each unit of `units`, the swing equation with a lead-lag governor is fitted to the angle of its rotor, which
    follows from the phasors at its terminals and the reactances of the unit, and to its power; see
    docs/estimating-inertia.md for the method and what it is worth. The interval holds the truth in about 95 % of cases;
    the model's own error, found on simulated systems, is part of it.

    Without phasors, frequency and power at the terminals must do: the interval is then wider, and the estimate is
    marked `bus_frequency`. Where X'd is not given a typical one is taken, marked `typical_reactance`.

    Input:
        in: EventWindow. Columns `voltage_v` (line to ground, rms), `voltage_angle_rad`, `current_a` (out of the unit),
        `current_angle_rad`; or `frequency_hz` and `active_power_w`.
    Output:
        InertiaEstimate, one for each unit of `units` at each event, and one with status `no_unit_data` for each other
        device of the window. Its status tells why there is none: `no_data`, `bad_data`, `no_unit_data`, `tripped`,
        `not_excited`, `phase_jump`, `ill_conditioned`, `model_mismatch`, `implausible`. Remarks on an accepted one:
        `late_rows`; `clock_offset` where power steps at another time than everywhere else; `overloaded` where power
        before the event exceeds 1.2 pu; `unusual_reactance` for X'd outside 0.05 to 1 pu; `unusual_inertia` for H
        outside 1 to 12 s. `settings` holds those that it was made with, as a policy may have changed them.
    Errors:
        None: bad data make a status.
    Source:
        P. Kundur, Power System Stability and Control, 1994, chapters 3 to 5; L. Ljung, System Identification, 1999,
        chapter 7.

    >>> InertiaEventConfig(units={}).min_deviation
    0.01
    """

    units: Annotated[UnitTable, table("Data of the units by the name of the device at their terminals.")]
    min_deviation: Annotated[
        float, quantity("Hz", "How far frequency must move for a unit to be estimated.", ge=0.001, le=1)
    ] = 0.01
    stand_out: Annotated[
        float, Meta(ge=1, le=100, description="How many times the range before the onset the one after it must be.")
    ] = 3.0
    min_power_step: Annotated[
        float,
        Meta(
            ge=1, description="How many times (squared) what is usual the power of all devices must step at the onset."
        ),
    ] = 25.0
    min_units: Annotated[
        float, Meta(ge=0, le=1, description="Share of the units with data that the event must excite.")
    ] = 0.34
    max_deviation: Annotated[
        float, Meta(gt=0, le=1, description="Largest relative standard deviation of an estimate that is accepted.")
    ] = 0.15
    max_residual: Annotated[
        float,
        Meta(ge=1, le=100, description="Largest ratio of the prediction errors' mean square to what noise makes."),
    ] = 2.5


SETTINGS = tuple(name for name in InertiaEventConfig.__struct_fields__ if name != "units")


def start(_config: InertiaEventConfig) -> None:
    """No state: each window stands for itself."""


def step(config: InertiaEventConfig, _state: None, window: EventWindow) -> list[WireMessage]:
    return [estimate for estimate, _ in estimates(config, window)]


def estimates(config: InertiaEventConfig, window: EventWindow) -> list[tuple[InertiaEstimate, UnitFit]]:
    """The estimate of each unit beside the fit that it came from, for those who want to see it."""
    limits = Limits(config.min_deviation, config.stand_out, config.max_deviation, config.max_residual)
    middle_hz = _middle_hz(window)
    nominal_hz = min(NOMINALS_HZ, key=lambda nominal: abs(nominal - middle_hz))
    no_grid = ""
    if abs(middle_hz - nominal_hz) > NEAR_NOMINAL_HZ:
        no_grid = f"frequency is {middle_hz:.4g} Hz in the middle of all devices; nominal is 50 or 60 Hz"
    fits = {
        device: UnitFit("implausible", no_grid)
        if no_grid
        else fit_unit(
            window.samples,
            device,
            unit,
            onset_ns=window.onset_time_ns,
            begin_ns=window.begin_ns,
            end_ns=window.end_ns,
            limits=limits,
            nominal_hz=nominal_hz,
        )
        for device, unit in _units_of(config, window)
    }
    no_event = _no_event(config, window, fits)
    if no_event is not None:
        fits = {device: _refused(fit, no_event) for device, fit in fits.items()}
    config_digest = digest(replace(config, units={}))
    return [
        (_estimate(config, window, device, fit, nominal_hz=nominal_hz, config_digest=config_digest), fit)
        for device, fit in fits.items()
    ]


def _units_of(config: InertiaEventConfig, window: EventWindow) -> Iterator[tuple[str, GeneratingUnit | None]]:
    """All units of the table, then the devices that sent in the window but are none."""
    yield from config.units.items()
    sent = {window.samples.devices[code] for code in np.unique(window.samples.device).tolist()}
    for device in sorted(sent - config.units.keys()):
        yield device, None


def _no_event(config: InertiaEventConfig, window: EventWindow, fits: Mapping[str, UnitFit]) -> str | None:
    """Why there was no event of the grid, though a device told one; None if there was."""
    if window.power_step is not None and window.power_step < config.min_power_step:
        return (
            f"power of all devices together stepped by {window.power_step:.0f} times its usual square only; "
            f"{config.min_power_step:g} are needed"
        )
    with_data = [fit for fit in fits.values() if fit.time_s is not None or fit.guess_h_s is not None]
    excited = [fit for fit in with_data if fit.status != "not_excited"]
    if len(excited) < config.min_units * len(with_data):
        return f"only {len(excited)} of {len(with_data)} units show the event"
    return None


def _refused(fit: UnitFit, reason: str) -> UnitFit:
    if fit.status != "ok":
        return fit
    return dataclasses.replace(fit, status="not_excited", reason=reason, h_s=None)


def _estimate(
    config: InertiaEventConfig,
    window: EventWindow,
    device: str,
    fit: UnitFit,
    *,
    nominal_hz: float,
    config_digest: str,
) -> InertiaEstimate:
    unit = config.units.get(device)
    interval = fit.interval_s
    remarks = (*fit.remarks, *_doubts(window, device)) if fit.status == "ok" else fit.remarks
    return InertiaEstimate(
        event_id=window.event.id,
        policies=window.policies,
        device=device,
        time_ns=window.onset_time_ns,
        method="event",
        status=fit.status,
        reason=fit.reason,
        remarks=remarks,
        h_s=fit.h_s,
        h_ci95_low_s=interval[0] if interval else None,
        h_ci95_high_s=interval[1] if interval else None,
        kinetic_energy_mws=None if fit.h_s is None or unit is None else fit.h_s * unit.rated_power,
        rated_power_mva=None if unit is None else unit.rated_power,
        guess_h_s=fit.guess_h_s,
        deviation=fit.deviation,
        power_before_mw=None if fit.power_before_pu is None or unit is None else fit.power_before_pu * unit.rated_power,
        rocof_hz_per_s=fit.rocof_hz_per_s,
        nominal_hz=nominal_hz,
        begin_ns=window.begin_ns,
        end_ns=window.end_ns,
        rows=fit.rows,
        quality=fit.quality,
        settings={name: getattr(config, name) for name in SETTINGS},
        config_digest=config_digest,
        unit_digest="" if unit is None else digest(unit),
        version=f"{__version__}/{METHOD_VERSION}",
    )


def _doubts(window: EventWindow, device: str) -> Iterator[str]:
    """What the window shows of a device that makes an accepted estimate doubtful."""
    if device in window.missing:
        yield "late_rows"
    own_ns = window.own_steps_ns.get(device)
    if own_ns is not None and abs(own_ns - window.onset_time_ns) > CLOCKS_AGREE_NS:
        yield "clock_offset"


def _middle_hz(window: EventWindow) -> float:
    """Median of all measured frequencies, of the event's own where no device tells any."""
    frequency_hz = window.samples.columns.get("frequency_hz")
    known = np.array([window.event.frequency_before_hz]) if frequency_hz is None else frequency_hz
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else window.event.frequency_before_hz


def _output(_config: InertiaEventConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(InertiaEstimate)


NODE = OperatorNode(
    kind="inertia_event",
    config=InertiaEventConfig,
    inputs={"in": Input(accepts=(EventWindow,), step=step)},
    output=_output,
    start=start,
    scope="site",
    delays=at_once,
)
