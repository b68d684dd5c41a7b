"""`event_window`: what all devices measured around a frequency event."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from edgeflex_flow.messages import DeadLetter, EventWindow, FrequencyEvent, Samples, join_samples, samples_from_rows
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity
from edgeflex_operators._power_steps import CLEAR_STEP, STEP_SEARCH_NS, joint_step, own_steps
from edgeflex_operators._senders import Senders

NS = 1_000_000_000
DETECTORS_AGREE_NS = 3 * NS // 2
"""Onsets this close together are of one event: a disturbance takes that long through a large grid."""
COMPLETE_SHARE = 0.98
ONSETS_KEPT = 256
LOOK_AGAIN_S = 0.5


class EventWindowConfig(NodeConfig, frozen=True, kw_only=True):
    """What all devices measured around a frequency event, joined with the event.

    Keeps the samples of the last `before` + `after` + `wait` and a little more. When a device tells of an event, the
    onset is taken as the median over all devices that tell of it within 1.5 s, and then moved to the frame at which the
    power of all devices together steps, if it does within 1 s: power steps everywhere at once, frequency follows
    later. The window goes out once every device that sends has rows up to its end, or `wait` after half of them have
    (by time tags, so that a replay gives the same), without the late ones, which are named in `missing`. It also goes
    out, with what there is, when all devices fall silent, and when the flow stops.

    No clock of a single device counts for the others: the site's time is the median of all.

    Input:
        samples: Samples of any columns.
        event: FrequencyEvent; those that have ended are ignored.
    Output:
        EventWindow, one for each event. Events may follow each other so closely that their windows overlap.
    Errors:
        `clock_ahead`: an event told by one of three devices or more whose time tags are ahead of the others' by more
        than `wait` + 1.5 s. An event whose window begins before the first sample is told with what there is.
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
    """Batches of the recent past, and the events that are being waited for."""

    batches: deque[tuple[int, Samples]] = field(default_factory=deque)
    """Each with the site's time when it came."""
    rows: int = 0
    """Rows of all batches."""
    senders: Senders = field(default_factory=Senders)
    waiting: list[list[FrequencyEvent]] = field(default_factory=list)
    """What the devices told of each event whose window is not complete."""
    done_ns: deque[int] = field(default_factory=lambda: deque(maxlen=ONSETS_KEPT))
    """Onsets, as first told and as found, of events whose windows went out."""
    heard: bool = False
    """Whether rows came since the last tick."""
    silent_since_ns: int | None = None
    """When a tick first found that none had come."""


def start(_config: EventWindowConfig) -> EventWindowState:
    return EventWindowState()


def take_samples(config: EventWindowConfig, state: EventWindowState, samples: Samples) -> list[WireMessage]:
    if not samples.rows:
        return []
    state.heard = True
    state.senders.follow(samples)
    state.batches.append((state.senders.now_ns, samples))
    state.rows += samples.rows
    given = _complete_windows(config, state)
    _forget(config, state)
    return given


def take_event(config: EventWindowConfig, state: EventWindowState, event: FrequencyEvent) -> list[WireMessage]:
    if event.state == "ended" or any(_agree(event.onset_time_ns, onset_ns) for onset_ns in state.done_ns):
        return []
    ahead_ns = state.senders.ahead_ns(event.device)
    if ahead_ns > DETECTORS_AGREE_NS + round(config.wait * NS):
        return [_of_another_time(event, ahead_ns)]
    for told in state.waiting:
        if _agree(event.onset_time_ns, told[0].onset_time_ns):
            told.append(event)
            break
    else:
        state.waiting.append([event])
    return _complete_windows(config, state)


def _agree(one_ns: int, other_ns: int) -> bool:
    return abs(one_ns - other_ns) <= DETECTORS_AGREE_NS


def _of_another_time(event: FrequencyEvent, ahead_ns: int) -> DeadLetter:
    text = f"event {event.id}: the time tags of '{event.device}' are {ahead_ns / NS:.1f} s ahead of the others'"
    return DeadLetter(node="", reason="clock_ahead", text=text, time_ns=event.onset_time_ns)


def tick(config: EventWindowConfig, state: EventWindowState, now_ns: int) -> list[WireMessage]:
    """Give what is waited for when no device has sent for so long that nothing can be expected any more."""
    if state.heard or state.silent_since_ns is None:
        state.heard, state.silent_since_ns = False, now_ns
        return []
    if now_ns - state.silent_since_ns < round((config.after + config.wait) * NS) + DETECTORS_AGREE_NS:
        return []
    return end(config, state)


def end(config: EventWindowConfig, state: EventWindowState) -> list[WireMessage]:
    """Windows of the events that are still waited for, with what there is."""
    return _windows(config, state, list(state.waiting))


def _complete_windows(config: EventWindowConfig, state: EventWindowState) -> list[WireMessage]:
    return _windows(config, state, [told for told in state.waiting if _is_complete(config, state, told)])


def _windows(
    config: EventWindowConfig, state: EventWindowState, events: list[list[FrequencyEvent]]
) -> list[WireMessage]:
    windows: list[WireMessage] = []
    for told in events:
        state.waiting.remove(told)
        window = _window(config, state, told)
        # A device far away may tell of an event so late that it seems another one, until power shows the onset.
        if not any(_agree(window.onset_time_ns, onset_ns) for onset_ns in state.done_ns):
            windows.append(window)
        state.done_ns += [told[0].onset_time_ns, window.onset_time_ns]
    return windows


def _is_complete(config: EventWindowConfig, state: EventWindowState, told: list[FrequencyEvent]) -> bool:
    end_ns = told[0].onset_time_ns + DETECTORS_AGREE_NS + round(config.after * NS)
    return state.senders.all_past(end_ns) or state.senders.now_ns >= end_ns + round(config.wait * NS)


def _window(config: EventWindowConfig, state: EventWindowState, told: list[FrequencyEvent]) -> EventWindow:
    onset_ns = int(np.median([event.onset_time_ns for event in told]))
    before_ns = round(config.before * NS)
    step = joint_step(_between(state, onset_ns - before_ns, onset_ns + STEP_SEARCH_NS), onset_ns)
    if step is not None and step.ratio >= CLEAR_STEP:
        onset_ns = step.time_ns
    begin_ns, end_ns = onset_ns - before_ns, onset_ns + round(config.after * NS)
    samples = _between(state, begin_ns, end_ns)
    told = sorted(told, key=lambda event: (event.detected_time_ns, event.device))  # however they came
    return EventWindow(
        event=told[0],
        policies={name: version for event in told for name, version in event.policies.items()},
        onset_time_ns=onset_ns,
        begin_ns=begin_ns,
        end_ns=end_ns,
        samples=samples,
        power_step=None if step is None else step.ratio,
        own_steps_ns=own_steps(samples, onset_ns),
        missing=_missing(samples, state.senders.of, begin_ns, end_ns),
    )


def _between(state: EventWindowState, begin_ns: int, end_ns: int) -> Samples:
    """All rows of the time, device after device, in order of time; of rows with the same tag the last that came."""
    inside = [batch.take((batch.time_ns >= begin_ns) & (batch.time_ns < end_ns)) for _, batch in state.batches]
    joined = join_samples(inside or [samples_from_rows([])])
    ordered = joined.take(np.lexsort((np.arange(joined.rows), joined.time_ns, joined.device)))
    again = (np.diff(ordered.device) == 0) & (np.diff(ordered.time_ns) == 0)
    return ordered.take(np.append(~again, True)) if again.any() else ordered


def _missing(samples: Samples, senders: Iterable[str], begin_ns: int, end_ns: int) -> tuple[str, ...]:
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


def _forget(config: EventWindowConfig, state: EventWindowState) -> None:
    """Let go of batches that no window can need any more, by when they came, since a tag may be wrong."""
    keep_ns = round((config.before + config.after + 2 * config.wait) * NS) + 4 * DETECTORS_AGREE_NS
    now_ns = state.senders.now_ns
    while abs(now_ns - state.batches[0][0]) > keep_ns or (len(state.batches) > 1 and state.rows > config.max_rows):
        _, oldest = state.batches.popleft()
        state.rows -= oldest.rows
    state.senders.forget_silent(keep_ns)


def _output(_config: EventWindowConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(EventWindow)


def _delays(config: EventWindowConfig) -> Delays:
    """By time tags: the window is over at its end after the onset, and `wait` later for who is late."""
    return Delays(onset_lag_s=config.after + config.wait + DETECTORS_AGREE_NS / NS)


NODE = OperatorNode(
    kind="event_window",
    config=EventWindowConfig,
    inputs={
        "samples": Input(accepts=(Samples,), step=take_samples),
        "event": Input(accepts=(FrequencyEvent,), step=take_event),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: LOOK_AGAIN_S,
    loose_ticks=True,
    end=end,
    scope="site",
    delays=_delays,
)
