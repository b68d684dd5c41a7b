"""What tests of several stores share: rows to write, and what a store must do whatever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeflex_connectors.store import StoredMessage, stored_message
from edgeflex_flow.messages import Alarm, FrequencyEvent, Samples, samples_from_rows

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000


def event(device: str = "G1", state: str = "started", time_ns: int = START_NS) -> FrequencyEvent:
    return FrequencyEvent(
        id=f"{device}@{time_ns}",
        state="started" if state == "started" else "ended",
        device=device,
        onset_time_ns=time_ns,
        detected_time_ns=time_ns + 9,
        rocof_hz_per_s=-1,
        frequency_before_hz=50,
        frequency_extreme_hz=49,
    )


def alarm(text: str = "x", time_ns: int = START_NS) -> Alarm:
    return Alarm(source="s", severity="info", text=text, time_ns=time_ns)


def kept(*messages: Any) -> list[StoredMessage]:
    return [stored_message(message) for message in messages]


def at(second: float) -> int:
    """A time, in seconds after START_NS."""
    return START_NS + round(second * SECOND_NS)


def grid(seconds: Sequence[float], devices: Sequence[str] = ("G1",), *, quality: int = 0, **columns: float) -> Samples:
    """Rows of each device at these seconds; a column's value grows by a thousandth of the second."""
    values: Mapping[str, float] = columns or {"x_v": 1.0}
    rows = [
        (at(second), device, {name: value + second / 1000 for name, value in values.items()})
        for second in seconds
        for device in devices
    ]
    return samples_from_rows(rows, quality=quality)


def table(samples: Samples) -> dict[tuple[int, str], tuple[dict[str, float], int]]:
    """Values that are not NaN and flags by time and device."""
    return {
        (int(time_ns), samples.devices[code]): (
            {name: float(values[row]) for name, values in samples.columns.items() if not np.isnan(values[row])},
            int(samples.quality[row]),
        )
        for row, (time_ns, code) in enumerate(zip(samples.time_ns, samples.device, strict=True))
    }
