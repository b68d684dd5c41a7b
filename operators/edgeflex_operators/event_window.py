"""`event_window`: what all devices measured around a frequency event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_flow.messages import EventWindow, FrequencyEvent, Samples, join_samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity

NS = 1_000_000_000
DETECTORS_AGREE_NS = 3 * NS // 2
"""Onsets this close together are of one event: a disturbance takes that long through a large grid."""
STEP_SEARCH_NS = NS
CLEAR_STEP = 25.0
"""From this ratio on, the joint step of power tells the onset better than the detectors do. Load noise makes up to
15."""
SMALLEST_USUAL = 1e-6
SHARP_FRAMES = 5
SHARPNESS = 4.0
"""By how much (squared) a step of power exceeds what is five frames before and after."""
CLOCKS_AGREE_NS = 80_000_000
"""Two frames at 25 frames/s: the onset is told to a frame, and so is a device's own step."""
STEPS_TOO = 0.25
"""A step at the onset counts beside a sharper one if it is at least so large (squared)."""
LEAST_ROWS = 10
COMPLETE_SHARE = 0.98


class EventWindowConfig(NodeConfig, frozen=True, kw_only=True):
    """What all devices measured around a frequency event, joined with the event.

    Keeps the samples of the last `before` + `after` + `wait` and a little more. When a device tells of an event, the
    onset is taken as the median over all devices that tell of it within 1.5 s, and then moved to the frame at which the
    power of all devices together steps, if it does within 1 s: power steps everywhere at once, frequency follows
    later. The window goes out once every device that sends has rows up to its end, or `wait` after the first device has
    (by time tags, so that a replay gives the same), without the late ones, which are named in `missing`.

    Input:
        samples: Samples of any columns.
        event: FrequencyEvent; those that have ended are ignored.
    Output:
        EventWindow, one for each event. Events may follow each other so closely that their windows overlap.
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
    latest_ns: dict[str, int] = field(default_factory=dict)
    """Newest time tag of each device that sends."""
    waiting: list[list[FrequencyEvent]] = field(default_factory=list)
    """What the devices told of each event whose window is not complete."""
    done_ns: list[int] = field(default_factory=list)
    """Onsets, as first told and as found, of events whose windows went out."""


def start(_config: EventWindowConfig) -> EventWindowState:
    return EventWindowState()


def take_samples(config: EventWindowConfig, state: EventWindowState, samples: Samples) -> list[WireMessage]:
    if not samples.rows:
        return []
    state.batches.append(samples)
    for code in np.unique(samples.device).tolist():
        name = samples.devices[code]
        newest = int(samples.time_ns[samples.device == code].max())
        state.latest_ns[name] = max(state.latest_ns.get(name, newest), newest)
    given = _complete_windows(config, state)
    _forget(config, state)
    return given


def take_event(config: EventWindowConfig, state: EventWindowState, event: FrequencyEvent) -> list[WireMessage]:
    if event.state == "ended" or any(_agree(event.onset_time_ns, onset_ns) for onset_ns in state.done_ns):
        return []
    for told in state.waiting:
        if _agree(event.onset_time_ns, told[0].onset_time_ns):
            told.append(event)
            break
    else:
        state.waiting.append([event])
    return _complete_windows(config, state)


def _agree(one_ns: int, other_ns: int) -> bool:
    return abs(one_ns - other_ns) <= DETECTORS_AGREE_NS


def remaining(config: EventWindowConfig, state: EventWindowState) -> list[EventWindow]:
    """Windows of the events that are still waited for, with what there is: for the end of a recording."""
    return _windows(config, state, list(state.waiting))


def _complete_windows(config: EventWindowConfig, state: EventWindowState) -> list[WireMessage]:
    return [
        *_windows(config, state, [told for told in state.waiting if _is_complete(config, state, told[0].onset_time_ns)])
    ]


def _windows(
    config: EventWindowConfig, state: EventWindowState, events: list[list[FrequencyEvent]]
) -> list[EventWindow]:
    windows: list[EventWindow] = []
    for told in events:
        state.waiting.remove(told)
        window = _window(config, state, told)
        # A device far away may tell of an event so late that it seems another one, until power shows the onset.
        if not any(_agree(window.onset_time_ns, onset_ns) for onset_ns in state.done_ns):
            windows.append(window)
        state.done_ns += [told[0].onset_time_ns, window.onset_time_ns]
    return windows


def _is_complete(config: EventWindowConfig, state: EventWindowState, onset_ns: int) -> bool:
    end_ns = onset_ns + DETECTORS_AGREE_NS + round(config.after * NS)
    if all(time_ns >= end_ns for time_ns in state.latest_ns.values()):
        return True
    return max(state.latest_ns.values(), default=end_ns) >= end_ns + round(config.wait * NS)


def _window(config: EventWindowConfig, state: EventWindowState, told: list[FrequencyEvent]) -> EventWindow:
    onset_ns = int(np.median([event.onset_time_ns for event in told]))
    step = _joint_step(config, state, onset_ns)
    if step is not None and step.ratio >= CLEAR_STEP:
        onset_ns = step.time_ns
    begin_ns, end_ns = onset_ns - round(config.before * NS), onset_ns + round(config.after * NS)
    samples = _between(state.batches, begin_ns, end_ns)
    return EventWindow(
        event=told[0],
        onset_time_ns=onset_ns,
        begin_ns=begin_ns,
        end_ns=end_ns,
        samples=samples,
        power_step=None if step is None else step.ratio,
        own_steps_ns=_own_steps(samples, onset_ns),
        missing=_missing(samples, state.latest_ns, begin_ns, end_ns),
    )


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


class _Step(NamedTuple):
    """Where the power of all devices together changes most, and how many times more than is usual before (squared)."""

    time_ns: int
    ratio: float


def _joint_step(config: EventWindowConfig, state: EventWindowState, onset_ns: int) -> _Step | None:
    """The largest change of power within 1 s of the onset; None when the window has too little to tell."""
    quiet_until_ns = onset_ns - STEP_SEARCH_NS
    around = _between(state.batches, onset_ns - round(config.before * NS), onset_ns + STEP_SEARCH_NS)
    steps = [
        step for code in range(len(around.devices)) if (step := _power_steps(around, code, quiet_until_ns)) is not None
    ]
    if not steps:
        return None
    grid_ns = max((time_ns for time_ns, _ in steps), key=len)
    joint = np.zeros(len(grid_ns))
    for time_ns, size in steps:
        joint += np.interp(grid_ns, time_ns, size * size)
    near = grid_ns > quiet_until_ns
    if not near.any():
        return None
    largest = int(np.argmax(np.where(near, joint, -np.inf)))
    usual = max(float(np.median(joint[~near])), SMALLEST_USUAL)  # a recording without noise may not change at all
    return _Step(int(grid_ns[largest]), float(joint[largest]) / usual)


def _own_steps(samples: Samples, onset_ns: int) -> dict[str, int]:
    """When the power of each device steps by itself: a sharp peak, as no swing makes one.

    Power steps everywhere at once, so that another time than the others' is another clock. A device whose power steps
    at the onset too, no matter what follows, has the right time.
    """
    found: dict[str, int] = {}
    quiet_until_ns = onset_ns - STEP_SEARCH_NS
    for code, name in enumerate(samples.devices):
        steps = _power_steps(samples, code, quiet_until_ns)
        if steps is None:
            continue
        time_ns, size = steps
        square = size * size
        usual = max(float(np.median(square[time_ns <= quiet_until_ns])), SMALLEST_USUAL)
        around = np.maximum(
            np.pad(square, SHARP_FRAMES)[: len(square)], np.pad(square, SHARP_FRAMES)[2 * SHARP_FRAMES :]
        )
        sharp = np.flatnonzero(
            (time_ns > quiet_until_ns) & (square >= CLEAR_STEP * usual) & (square > SHARPNESS * around)
        )
        if len(sharp):
            first = int(sharp[0])
            peak = first + int(np.argmax(square[first : first + SHARP_FRAMES]))
            at_onset = float(square[np.abs(time_ns - onset_ns) <= CLOCKS_AGREE_NS].max(initial=0.0))
            steps_with_all = at_onset >= max(CLEAR_STEP * usual, STEPS_TOO * square[peak])
            found[name] = onset_ns if steps_with_all else int(time_ns[peak])
    return found


def _power_steps(
    samples: Samples, code: int, quiet_until_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Times and sizes of how a device's apparent power changes over two frames, each relative to what is usual before.

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
    known = np.isfinite(power)
    time_ns, power = samples.time_ns[mine][known], power[known]
    if len(power) < LEAST_ROWS:
        return None
    middle_ns, change = time_ns[1:-1], np.abs(power[2:] - power[:-2])
    quiet = change[middle_ns <= quiet_until_ns]
    if len(quiet) < LEAST_ROWS:
        return None
    # Power that does not change at all is a recording without noise.
    return middle_ns, change / max(float(np.median(quiet)), 1e-5 * float(np.abs(power).max()), 1e-12)


def _forget(config: EventWindowConfig, state: EventWindowState) -> None:
    """Let go of batches that no window can need any more."""
    keep_ns = round((config.before + config.after + 2 * config.wait) * NS) + 4 * DETECTORS_AGREE_NS
    oldest = max(state.latest_ns.values()) - keep_ns
    kept = [batch for batch in state.batches if int(batch.time_ns.max()) >= oldest]
    while len(kept) > 1 and sum(batch.rows for batch in kept) > config.max_rows:
        kept.pop(0)
    state.batches = kept
    state.done_ns = [onset_ns for onset_ns in state.done_ns if onset_ns >= oldest]
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
