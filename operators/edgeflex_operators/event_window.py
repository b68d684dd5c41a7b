"""`event_window`: what all devices measured around a frequency event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.messages import EventWindow, FrequencyEvent, Samples, join_samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity

NS = 1_000_000_000
DETECTORS_AGREE_NS = 3 * NS
"""Onsets this close together are of one event."""
STEP_SEARCH_NS = NS
STEP_STANDS_OUT = 6.0
"""How many times its usual change between frames the joint power must change to tell the onset."""
COMPLETE_SHARE = 0.98


class EventWindowConfig(NodeConfig, frozen=True, kw_only=True):
    """What all devices measured around a frequency event, joined with the event.

    Keeps the samples of the last `before` + `after` + `wait` and a little more. When a device tells of an event, the
    onset is taken as the median over all devices that tell of it within 3 s, and then moved to the frame at which the
    power of all devices together steps, if it does within 1 s: power steps everywhere at once, frequency follows
    later. The window goes out once every device that sends has rows up to its end, or `wait` after the first device has
    (by time tags, so that a replay gives the same), without the late ones, which are named in `missing`.

    Input:
        samples: Samples of any columns.
        event: FrequencyEvent; those that have ended are ignored.
    Output:
        EventWindow. One event at a time: another onset within the window belongs to the same event.
    Errors:
        None. An event whose window begins before the first sample is told with what there is.
    Source:
        Definition.

    >>> EventWindowConfig(after=4.0).before
    2.0
    """

    before: Annotated[float, quantity("s", "Window before the onset.", ge=1.25, le=600)] = 2.0
    after: Annotated[float, quantity("s", "Window after the onset.", ge=0.5, le=600)] = 5.0
    wait: Annotated[float, quantity("s", "How long to wait for devices that are late.", ge=0, le=600)] = 2.0
    max_rows: Annotated[int, Meta(ge=1000, le=100_000_000, description="Most rows kept; the oldest go first.")] = (
        4_000_000
    )


@dataclass(slots=True)
class EventWindowState:
    """Batches of the recent past, and the event that is being waited for."""

    batches: list[Samples] = field(default_factory=list)
    rows: int = 0
    latest_ns: dict[str, int] = field(default_factory=dict)
    """Newest time tag of each device that sends."""
    events: list[FrequencyEvent] = field(default_factory=list)
    """What the devices told of the current event, the first first."""
    done_until_ns: int = -(2**62)
    """Onsets before this belong to an event that is over."""


def start(_config: EventWindowConfig) -> EventWindowState:
    return EventWindowState()


def take_samples(config: EventWindowConfig, state: EventWindowState, samples: Samples) -> list[WireMessage]:
    if not samples.rows:
        return []
    state.batches.append(samples)
    state.rows += samples.rows
    for code in np.unique(samples.device).tolist():
        name = samples.devices[code]
        newest = int(samples.time_ns[samples.device == code].max())
        state.latest_ns[name] = max(state.latest_ns.get(name, newest), newest)
    given = _window_if_complete(config, state)
    _forget(config, state)
    return given


def take_event(config: EventWindowConfig, state: EventWindowState, event: FrequencyEvent) -> list[WireMessage]:
    if event.state == "ended" or event.onset_time_ns < state.done_until_ns:
        return []
    state.events.append(event)
    return _window_if_complete(config, state)


def _window_if_complete(config: EventWindowConfig, state: EventWindowState) -> list[WireMessage]:
    if not state.events:
        return []
    first = state.events[0].onset_time_ns
    end_ns = first + DETECTORS_AGREE_NS + round(config.after * NS)
    latest = max(state.latest_ns.values(), default=0)
    everyone_is_there = all(time_ns >= end_ns for time_ns in state.latest_ns.values())
    if not everyone_is_there and latest < end_ns + round(config.wait * NS):
        return []
    agreeing = [event for event in state.events if abs(event.onset_time_ns - first) <= DETECTORS_AGREE_NS]
    onset_ns = _refined(config, state, int(np.median([event.onset_time_ns for event in agreeing])))
    begin_ns, end_ns = onset_ns - round(config.before * NS), onset_ns + round(config.after * NS)
    samples = _between(state.batches, begin_ns, end_ns)
    state.events.clear()
    state.done_until_ns = end_ns
    return [
        EventWindow(
            event=agreeing[0],
            onset_time_ns=onset_ns,
            begin_ns=begin_ns,
            end_ns=end_ns,
            samples=samples,
            missing=_missing(samples, state.latest_ns, begin_ns, end_ns),
        )
    ]


def _between(batches: list[Samples], begin_ns: int, end_ns: int) -> Samples:
    """All rows of the time, device after device, in order of time; of rows with the same tag the last that came."""
    joined = join_samples(batches)
    inside = joined.take((joined.time_ns >= begin_ns) & (joined.time_ns < end_ns))
    order = np.lexsort((np.arange(inside.rows), inside.time_ns, inside.device))
    ordered = inside.take(order)
    again = (np.diff(ordered.device) == 0) & (np.diff(ordered.time_ns) == 0)
    return ordered.take(np.append(~again, True)) if again.any() else ordered


def _missing(samples: Samples, senders: Mapping[str, int], begin_ns: int, end_ns: int) -> tuple[str, ...]:
    """Devices that send, but of which the window has fewer rows than their frame rate promises."""
    found: list[str] = []
    for name in sorted(senders):
        code = samples.devices.index(name) if name in samples.devices else -1
        time_ns = samples.time_ns[samples.device == code]
        if len(time_ns) < 2:
            found.append(name)
            continue
        step_ns = float(np.median(np.diff(time_ns)))
        if len(time_ns) < COMPLETE_SHARE * ((end_ns - begin_ns) / step_ns - 1.0):
            found.append(name)
    return tuple(found)


def _refined(config: EventWindowConfig, state: EventWindowState, onset_ns: int) -> int:
    """The onset by the joint step of power, where there is one; else as the detectors told it."""
    around = _between(state.batches, onset_ns - round(config.before * NS), onset_ns + STEP_SEARCH_NS)
    steps = [step for name in range(len(around.devices)) if (step := _power_steps(around, name)) is not None]
    if not steps:
        return onset_ns
    grid_ns = max((time_ns for time_ns, _ in steps), key=len)
    joint = np.zeros(len(grid_ns))
    for time_ns, size in steps:
        joint += np.interp(grid_ns, time_ns, size)
    near = np.abs(grid_ns - onset_ns) <= STEP_SEARCH_NS
    quiet = joint[~near]
    if not near.any() or len(quiet) < 10:
        return onset_ns
    largest = int(np.argmax(np.where(near, joint, -np.inf)))
    if joint[largest] < STEP_STANDS_OUT * float(np.median(quiet)):
        return onset_ns
    return int(grid_ns[largest])


def _power_steps(samples: Samples, code: int) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Times and sizes of how a device's apparent power changes over two frames, each relative to its own usual change.

    From phasors where there are some, since the power that a device tells may lag behind them.
    """
    mine = samples.device == code
    columns = samples.columns
    if "current_a" in columns and "voltage_v" in columns:
        power = columns["current_a"][mine] * columns["voltage_v"][mine]
    elif "active_power_w" in columns:
        power = columns["active_power_w"][mine]
    else:
        return None
    time_ns = samples.time_ns[mine][np.isfinite(power)]
    power = power[np.isfinite(power)]
    if len(power) < 10:
        return None
    change = np.abs(power[2:] - power[:-2])
    usual = float(np.median(change))
    scale = max(usual, 1e-9 * float(np.abs(power).max()), 1e-12)
    return time_ns[1:-1], change / scale


def _forget(config: EventWindowConfig, state: EventWindowState) -> None:
    """Let go of batches that no window can need any more."""
    keep_ns = round((config.before + config.after + 2 * config.wait) * NS) + 4 * DETECTORS_AGREE_NS
    oldest = max(state.latest_ns.values()) - keep_ns
    kept = [batch for batch in state.batches if int(batch.time_ns.max()) >= oldest]
    while len(kept) > 1 and sum(batch.rows for batch in kept) > config.max_rows:
        kept.pop(0)
    if len(kept) != len(state.batches):
        state.batches = kept
        state.rows = sum(batch.rows for batch in kept)
    silent = [name for name, time_ns in state.latest_ns.items() if time_ns < oldest]
    for name in silent:
        del state.latest_ns[name]


def _output(_config: EventWindowConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(EventWindow)


NODE = OperatorNode(
    kind="event_window",
    config=EventWindowConfig,
    inputs={
        "samples": Input(accepts=(Samples,), step=take_samples),
        "event": Input(accepts=(FrequencyEvent,), step=take_event),
    },
    output=_output,
    start=start,
    scope="site",
)
