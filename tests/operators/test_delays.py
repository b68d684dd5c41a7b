"""What kinds tell of their delays, held against running operators: their output comes by then, and not much earlier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from inertia_cases import event_at
from operator_streams import EPOCH_NS, batches
from voltage_cases import NODES, config, rows

from edgeflex_flow.messages import (
    Crossing,
    EventWindow,
    FrequencyEvent,
    Samples,
    Setpoints,
    message_time_ns,
    samples_from_rows,
)
from edgeflex_flow.node import Delays, NodeConfig, OperatorNode
from edgeflex_operators import (
    event_window,
    forecast,
    frequency_droop,
    frequency_event,
    inertia_online,
    pmu_align,
    rocof,
    setpoint_watchdog,
    threshold,
    voltage_control,
)
from edgeflex_operators._units import GeneratingUnit
from edgeflex_operators._voltage_state import take_available
from edgeflex_operators.forecast import ForecastAsset

NS = 1_000_000_000
FRAME_S = 0.02
CHANGE_S = 5.0


def declared(node: OperatorNode[Any, Any], config: NodeConfig) -> Delays:
    assert node.delays is not None
    return node.delays(config)


def frames(until_s: float, slope_hz_per_s: float, *, more_w: float = 0.0) -> Iterator[tuple[float, Samples]]:
    """Frames of one device whose frequency begins to fall at `CHANGE_S`, and whose power rises there."""
    for frame in range(round(until_s / FRAME_S)):
        time_s = frame * FRAME_S
        after_s = max(time_s - CHANGE_S, 0.0)
        values = {
            "frequency_hz": 50.0 - slope_hz_per_s * after_s,
            "active_power_w": 60e6 + more_w * (after_s > 0.0),
        }
        yield time_s, samples_from_rows([(EPOCH_NS + round(time_s * NS), "G1", values)])


@pytest.mark.parametrize("window_s", [0.2, 0.5, 2.0])
def test_rocof_shows_a_ramp_in_full_when_its_window_is_over(window_s: float) -> None:
    settings = rocof.RocofConfig(window=window_s)
    state = rocof.start(settings)
    shown_s = [
        time_s - CHANGE_S
        for time_s, samples in frames(CHANGE_S + 3.0, 0.1)
        for out in batches(rocof.step(settings, state, samples))
        if out.columns["rocof_hz_per_s"][0] <= -0.0999
    ]
    told = declared(rocof.NODE, settings)
    assert 0.9 * told.window_s <= shown_s[0] <= told.window_s + FRAME_S


@pytest.mark.parametrize(
    ("displacement", "confirm", "window_s"), [(0.01, 0.3, 0.5), (0.05, 0.3, 0.5), (0.01, 2.0, 1.0)]
)
def test_an_event_is_told_when_its_windows_are_over(displacement: float, confirm: float, window_s: float) -> None:
    before = rocof.RocofConfig(window=window_s)
    settings = frequency_event.FrequencyEventConfig(displacement=displacement, confirm=confirm)
    slopes, state = rocof.start(before), frequency_event.start(settings)
    events = [
        (time_s - CHANGE_S, event)
        for time_s, samples in frames(CHANGE_S + 5.0, 1.005 * settings.onset)
        for out in batches(rocof.step(before, slopes, samples))
        for event in frequency_event.step(settings, state, out)
        if isinstance(event, FrequencyEvent)
    ]
    (found_s, event), *_ = events
    told = declared(frequency_event.NODE, settings)
    most_s = max(declared(rocof.NODE, before).window_s + told.window_s, told.onset_window_s)
    assert 0.9 * most_s <= found_s <= most_s + 2 * FRAME_S
    assert told.tells_onset
    assert message_time_ns(event) == pytest.approx(EPOCH_NS + CHANGE_S * NS, abs=0.1 * NS)


@pytest.mark.parametrize("lag", [0.1, 0.2, 0.205])
def test_rows_wait_in_align_until_the_others_are_past_its_lag(lag: float) -> None:
    settings = pmu_align.PmuAlignConfig(min="2 of 3", lag=lag, rate=50, devices=("A", "B", "C"))
    state = pmu_align.start(settings)
    waited_s: list[float] = []
    for frame in range(200):
        now_ns = EPOCH_NS + frame * NS // 50
        present = ("A", "B", "C") if frame < 100 else ("A", "B")
        samples = samples_from_rows([(now_ns, name, {"frequency_hz": 50.0}) for name in present])
        aligned = batches(pmu_align.step(settings, state, samples))
        waited_s += [(now_ns - int(out.time_ns.max())) / NS for out in aligned]
    told = declared(pmu_align.NODE, settings)
    assert lag <= max(waited_s) + 1e-6
    assert max(waited_s) == pytest.approx(told.lag_s, abs=1e-6)


@pytest.mark.parametrize(
    "settings", [event_window.EventWindowConfig(), event_window.EventWindowConfig(after=1, wait=0.5)]
)
def test_a_window_waits_for_a_device_that_fell_silent_no_longer_than_told(
    settings: event_window.EventWindowConfig,
) -> None:
    state = event_window.start(settings)
    onset_ns = EPOCH_NS + round(CHANGE_S * NS)
    given: list[tuple[float, EventWindow]] = []
    told_event = False
    for frame in range(round((CHANGE_S + 20.0) / FRAME_S)):
        now_ns = EPOCH_NS + round(frame * FRAME_S * NS)
        names = ("A", "B", "C") if now_ns < onset_ns + NS // 2 else ("A", "B")
        samples = samples_from_rows([(now_ns, name, {"frequency_hz": 50.0}) for name in names])
        messages = event_window.take_samples(settings, state, samples)
        if now_ns > onset_ns + 4 * NS // 5 and not told_event:
            told_event = True
            messages += event_window.take_event(settings, state, event_at(onset_ns, "A"))
        given += [((now_ns - onset_ns) / NS, each) for each in messages if isinstance(each, EventWindow)]
    [(after_s, window)] = given
    most_s = declared(event_window.NODE, settings).onset_lag_s
    assert most_s - FRAME_S <= after_s <= most_s + FRAME_S
    assert message_time_ns(window) == onset_ns
    assert window.missing == ("C",)


def test_an_estimate_after_a_step_of_power_comes_when_its_window_is_over() -> None:
    settings = inertia_online.InertiaOnlineConfig(units={"G1": GeneratingUnit(rated_power=100.0)})
    state = inertia_online.start(settings)
    found = [
        (time_s - CHANGE_S, estimate)
        for time_s, samples in frames(CHANGE_S + 2.0, 0.625, more_w=10e6)
        for estimate in inertia_online.step(settings, state, samples)
    ]
    [(after_s, estimate)] = found
    told = declared(inertia_online.NODE, settings)
    assert told.onset_window_s <= after_s <= told.onset_window_s + 2 * FRAME_S
    assert not isinstance(estimate, Samples)
    assert message_time_ns(estimate) == pytest.approx(EPOCH_NS + CHANGE_S * NS, abs=2 * FRAME_S * NS)


def test_a_crossing_is_told_when_its_hold_is_over_and_carries_that_time() -> None:
    settings = threshold.ThresholdConfig(column="frequency_hz", below=49.9, hold=0.4)
    state = threshold.start(settings)
    crossings = [
        (time_s, crossing)
        for time_s, samples in frames(CHANGE_S + 2.0, 100.0)
        for crossing in threshold.step(settings, state, samples)
        if isinstance(crossing, Crossing)
    ]
    (told_s, crossing), *_ = crossings
    assert told_s - CHANGE_S == pytest.approx(declared(threshold.NODE, settings).window_s, abs=1.5 * FRAME_S)
    assert message_time_ns(crossing) == EPOCH_NS + round(told_s * NS)


def test_what_comes_just_after_a_tick_of_a_controller_waits_for_the_next_one() -> None:
    settings = frequency_droop.FrequencyDroopConfig(
        name="fcr", asset="bess", devices=("PMU",), fcr_power=1e6, minimum=-1e6, maximum=1e6
    )
    period_ns = round(declared(frequency_droop.NODE, settings).period_s * NS)
    assert period_ns == round(settings.period * NS)
    state = frequency_droop.start(settings)

    def take(time_ns: int, frequency_hz: float) -> None:
        frequency_droop.step(settings, state, samples_from_rows([(time_ns, "PMU", {"frequency_hz": frequency_hz})]))

    def power_at(tick: int) -> float:
        [told] = frequency_droop.tick(settings, state, tick * period_ns)
        assert isinstance(told, Setpoints)
        assert message_time_ns(told) == tick * period_ns
        return told.values["bess"]

    take(period_ns - 1, 50.0)
    assert power_at(1) == 0.0
    take(period_ns + 1, 49.8)
    assert power_at(2) == pytest.approx(1e6)


def test_a_voltage_that_comes_between_two_steps_waits_for_two_periods_at_most() -> None:
    settings = config(period=1.0, settle=0.0)
    state = voltage_control.start(settings)

    def voltages(time_ns: int, nodes: tuple[str, ...] = NODES) -> Samples:
        return rows(time_ns, {name: {"voltage_pu": 1.0} for name in nodes})

    def told_at(time_ns: int) -> bool:
        available = {name: {"available_power_pu": 0.1} for name in settings.inverters}
        take_available(settings, state, rows(time_ns, available))
        return bool(voltage_control.tick(settings, state, time_ns))

    voltage_control.take_voltage(settings, state, voltages(NS - 1))
    assert told_at(NS)
    stepped_ns = NS + NS // 50
    assert voltage_control.take_voltage(settings, state, voltages(stepped_ns))
    came_ns = stepped_ns + 1
    assert not voltage_control.take_voltage(settings, state, voltages(came_ns, NODES[:1]))
    ticks_ns = [tick_ns for tick_ns in (2 * NS, 3 * NS) if told_at(tick_ns)]
    waited_s = (ticks_ns[0] - came_ns) / NS
    most_s = declared(voltage_control.NODE, settings).period_s
    assert 0.9 * most_s <= waited_s <= most_s


def test_silence_is_answered_when_it_has_lasted_for_the_timeout_and_a_tick_comes() -> None:
    settings = setpoint_watchdog.SetpointWatchdogConfig(
        name="dog", controller="vpp", quantity="active_power_w", safe={"bess": 0.0}, timeout=1.5, period=0.25
    )
    state = setpoint_watchdog.start(settings)
    last_ns = NS
    setpoint_watchdog.tick(settings, state, 0)
    heard = Setpoints(
        controller="vpp", time_ns=last_ns, quantity="active_power_w", values={}, valid_for_s=2.0, status="ok"
    )
    setpoint_watchdog.step(settings, state, heard)
    told = declared(setpoint_watchdog.NODE, settings)
    ticks = range(last_ns, last_ns + 10 * NS, round(settings.period * NS))
    told_ns = next(now_ns for now_ns in ticks if setpoint_watchdog.tick(settings, state, now_ns))
    assert told.window_s < (told_ns - last_ns) / NS <= told.window_s + told.period_s


def test_a_row_waits_for_the_end_of_its_step_and_the_forecast_carries_that_time() -> None:
    assets = {"W": ForecastAsset(kind="wind")}
    settings = forecast.ForecastConfig(column="active_power_w", assets=assets, method="persistence", step=60.0, steps=2)
    state = forecast.start(settings)
    begin_ns = 600 * NS
    forecast.tick(settings, state, begin_ns + 10 * NS)
    forecast.step(settings, state, samples_from_rows([(begin_ns, "W", {"active_power_w": 1e6})]))
    ticks = np.arange(begin_ns + 11 * NS, begin_ns + 200 * NS, NS).tolist()
    made_ns, made = next((now_ns, each) for now_ns in ticks for each in forecast.tick(settings, state, now_ns))
    told = declared(forecast.NODE, settings)
    most_s = told.lag_s + told.period_s
    assert most_s - 1.0 <= (made_ns - begin_ns) / NS <= most_s
    assert not isinstance(made, Samples)
    tagged_ns = message_time_ns(made)
    assert tagged_ns is not None
    assert told.age_s is not None
    assert 0.0 < (made_ns - tagged_ns) / NS <= told.age_s
