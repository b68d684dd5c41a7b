"""What a message is called, and over which time that rests which it tells."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from edgeflex_flow.messages import DispatchPlan, FrequencyEvent, Message, Samples, message_time_ns, pack_messages

WHO = ("device", "controller", "source", "node", "offered_by", "name")
"""Fields that say whom a message is about, or who gave it; the first that a message has counts."""


def identity_of(message: Message) -> str:
    """The same for what a message is about whenever it is computed.

    An event has its `id`. What follows from an event is called after it and the device: `G1@1633791645123456789/G2`.
    All else by who, when and, of set-points, what: `droop@1633791645123456789/active_power_w`.

    >>> from edgeflex_flow.messages import Alarm
    >>> identity_of(Alarm(source="rocof", severity="info", text="x", time_ns=5))
    'rocof@5'
    """
    own: Any = getattr(message, "id", None)
    if isinstance(own, str) and own:
        return own
    event: str = getattr(message, "event_id", "")
    if event:
        return f"{event}/{getattr(message, 'device', 'system')}"
    quantity = getattr(message, "quantity", None) or getattr(message, "column", None)
    text = f"{who_of(message)}@{message_time_ns(message) or 0}"
    return f"{text}/{quantity}" if quantity else text


def type_of(message: Message) -> str:
    """Its type as it stands in JSON."""
    return str(message.__struct_config__.tag)


def who_of(message: Message) -> str:
    """Whom a message is about, or who gave it; empty if it does not say."""
    return next((str(value) for name in WHO if (value := getattr(message, name, ""))), "")


def is_called(message: Message, wanted: str) -> bool:
    """Whether this is what a message is called, with or without what stands behind the last `/`."""
    name = identity_of(message)
    return name == wanted or name.startswith(f"{wanted}/")


def essence(message: Message) -> bytes:
    """A message as MessagePack, in which NaN is not infinity, without what no computation gives twice."""
    if isinstance(message, DispatchPlan):
        message = replace(message, solver_s=0.0)
    return pack_messages([message])[1:]  # the one in a list of one, whose head is a byte


class Span(NamedTuple):
    """From this time tag to that one, both included, UTC nanoseconds."""

    begin_ns: int
    end_ns: int

    def of(self, samples: Samples, devices: Collection[str]) -> Samples | None:
        """The rows within it, of these devices or, without any, of all; None if there are none."""
        chosen = (samples.time_ns >= self.begin_ns) & (samples.time_ns <= self.end_ns)
        if devices:
            codes = [code for code, name in enumerate(samples.devices) if name in devices]
            chosen &= np.isin(samples.device, codes)
        there = np.flatnonzero(chosen)
        return samples.take(there) if len(there) else None


def span_behind(message: Message, window_s: float | None) -> Span | None:
    """The time tags of the samples that a message rests on: as it says itself, else a window back from its own time.

    `window_s`: how far back operators on the way look; None if one does not say. None if nothing tells it.
    """
    for names in (("measured_begin_ns", "measured_end_ns"), ("begin_ns", "end_ns")):
        begin_ns, end_ns = (getattr(message, name, None) for name in names)
        if begin_ns is not None and end_ns is not None and end_ns >= begin_ns > 0:
            return Span(begin_ns, end_ns)
    if window_s is None:
        return None
    if isinstance(message, FrequencyEvent):
        last_ns = message.end_time_ns or message.detected_time_ns
        return Span(message.onset_time_ns - round(window_s * 1e9), last_ns)
    time_ns = message_time_ns(message)
    return None if time_ns is None else Span(time_ns - round(window_s * 1e9), time_ns)
