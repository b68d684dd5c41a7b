"""The newest measurement of each device, and whether a controller may rely on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Quality, Samples

AHEAD_NS = 1_000_000_000
"""A measurement whose time lies farther in the future comes from a clock that is wrong."""


class Trust(NamedTuple):
    """What a controller asks of a measurement. Those that see each frame alone keep it with their state."""

    max_age_s: float
    lowest: float = -math.inf
    highest: float = math.inf
    """Values outside are no measurement of this grid: another unit, a broken sensor."""
    frozen_after_s: float = math.inf
    """A value that stays the same to the last bit for so long, while new ones come, is that of a sensor that hangs."""
    refused: int = int(Quality.BAD_DATA | Quality.TEST)
    """Flags of rows that are as good as none."""


@dataclass(slots=True)
class Reading:
    """The newest row of a device that came with an acceptable quality."""

    time_ns: int
    value: float
    quality: int
    since_ns: int
    """Time tag of the first row with this very value."""


class View(NamedTuple):
    """What can be relied on at one moment, in the order of the devices asked for."""

    values: NDArray[np.float64]
    """NaN where there is nothing to rely on; shape (n,)."""
    missing: dict[str, str]
    """Why, by device."""
    begin_ns: int | None
    end_ns: int | None
    quality: int
    """All flags of what is relied on."""


@dataclass(slots=True)
class Latest:
    """The newest measurement of each device in one column. Rows that are older than what is known change nothing, and
    those that lie ahead of their reception, or of the moment they are looked at, do not become known."""

    column: str
    readings: dict[str, Reading] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Of devices whose last row could not be used: why."""

    def take(self, samples: Samples, trust: Trust, wanted: frozenset[str]) -> int:
        """Take over what concerns these devices; how many rows were used."""
        values = samples.columns.get(self.column)
        if values is None:
            return 0
        used = 0
        rows = zip(
            samples.device.tolist(), samples.time_ns.tolist(), values.tolist(), samples.quality.tolist(), strict=True
        )
        for code, time_ns, value, quality in rows:
            name = samples.devices[code]
            if name in wanted:
                used += self._take(name, time_ns, value, quality, trust, samples.received_ns)
        return used

    def _forget_if_ahead(self, name: str, now_ns: int) -> None:
        """A row that came before the clock was set back must not shut out those that come after."""
        reading = self.readings.get(name)
        if reading is not None and is_ahead(reading.time_ns, now_ns):
            self.refused[name] = _ahead(reading.time_ns, now_ns)
            del self.readings[name]

    def _take(self, name: str, time_ns: int, value: float, quality: int, trust: Trust, received_ns: int) -> bool:
        if received_ns:
            if is_ahead(time_ns, received_ns):
                self.refused[name] = _ahead(time_ns, received_ns)
                return False
            self._forget_if_ahead(name, received_ns)
        before = self.readings.get(name)
        if before is not None and time_ns <= before.time_ns:
            return False
        problem = _problem(value, quality, trust)
        if problem:
            self.refused[name] = problem
            return False
        self.refused.pop(name, None)
        since_ns = before.since_ns if before is not None and before.value == value else time_ns
        self.readings[name] = Reading(time_ns, value, quality, since_ns)
        return True

    def view(self, devices: Sequence[str], now_ns: int, trust: Trust) -> View:
        """What can be relied on now."""
        values = np.full(len(devices), np.nan)
        missing: dict[str, str] = {}
        times: list[int] = []
        quality = 0
        for place, name in enumerate(devices):
            self._forget_if_ahead(name, now_ns)
            reading = self.readings.get(name)
            problem = self._why_not(name, reading, now_ns, trust)
            if problem or reading is None:
                missing[name] = problem
                continue
            values[place] = reading.value
            times.append(reading.time_ns)
            quality |= reading.quality
        return View(values, missing, min(times, default=None), max(times, default=None), quality)

    def _why_not(self, name: str, reading: Reading | None, now_ns: int, trust: Trust) -> str:
        """Why there is nothing to rely on; empty if there is."""
        if reading is None:
            return self.refused.get(name, "nothing came")
        age_s = (now_ns - reading.time_ns) / 1e9
        if age_s > trust.max_age_s:
            return self.refused.get(name, f"{age_s:.1f} s old")
        frozen_s = (reading.time_ns - reading.since_ns) / 1e9
        if frozen_s >= trust.frozen_after_s:
            return f"frozen at {reading.value:g} for {frozen_s:.0f} s"
        return ""


def is_ahead(time_ns: int, now_ns: int) -> bool:
    """Whether a time lies so far in the future that the clock it came from, or the one here, was wrong."""
    return time_ns - now_ns > AHEAD_NS


def _ahead(time_ns: int, now_ns: int) -> str:
    return f"from a clock that is {(time_ns - now_ns) / 1e9:.1f} s ahead"


def _problem(value: float, quality: int, trust: Trust) -> str:
    if quality & trust.refused:
        flags = Quality(quality & trust.refused)
        return f"flagged {', '.join(str(flag.name).lower() for flag in flags)}"
    if not math.isfinite(value):
        return "not a number"
    if not trust.lowest <= value <= trust.highest:
        return f"{value:g} is not plausible: outside {trust.lowest:g} to {trust.highest:g}"
    return ""
