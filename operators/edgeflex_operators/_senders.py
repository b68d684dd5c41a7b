"""The clocks of the devices that send to a site: what time it is by their tags, though some tags are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples

NS = 1_000_000_000
STEADY_NS = 3 * NS
"""Time tags that jump farther, and not to the others' time, are believed once the device has kept to them for a while.
"""
BELIEVED_AFTER_NS = NS


@dataclass(slots=True)
class _Sender:
    """One device's clock."""

    latest_ns: int
    heard_at_ns: int
    """The site's time when rows came last."""
    apart_since_ns: int | None = None
    """Since when its tags have been elsewhere, without being believed yet."""
    apart_until_ns: int = 0

    def follow(self, oldest_ns: int, newest_ns: int, now_ns: int) -> None:
        goes_on = min(abs(newest_ns - self.latest_ns), abs(oldest_ns - self.latest_ns)) <= STEADY_NS
        if goes_on or abs(newest_ns - now_ns) <= STEADY_NS:
            self.latest_ns = max(self.latest_ns, newest_ns) if goes_on else newest_ns
            self.apart_since_ns = None
            return
        if self.apart_since_ns is None or not 0 <= newest_ns - self.apart_until_ns <= STEADY_NS:
            self.apart_since_ns = oldest_ns
        self.apart_until_ns = newest_ns
        if newest_ns - self.apart_since_ns >= BELIEVED_AFTER_NS:
            self.latest_ns = newest_ns
            self.apart_since_ns = None


@dataclass(slots=True)
class Senders:
    """Clocks of all devices that send."""

    of: dict[str, _Sender] = field(default_factory=dict)
    now_ns: int = 0
    """The median of the devices' clocks: one that is wrong does not move it."""

    def follow(self, samples: Samples) -> None:
        """Move the clocks by the tags of a batch."""
        heard: list[_Sender] = []
        for name, oldest_ns, newest_ns in _spans(samples):
            sender = self.of.get(name)
            if sender is None:
                sender = self.of[name] = _Sender(newest_ns, self.now_ns)
            else:
                sender.follow(oldest_ns, newest_ns, self.now_ns)
            heard.append(sender)
        self.now_ns = self._middle_ns(self.of)
        for sender in heard:
            sender.heard_at_ns = self.now_ns

    def forget_silent(self, keep_ns: int) -> None:
        """Let go of devices that have not sent for so long."""
        silent = [name for name, sender in self.of.items() if abs(self.now_ns - sender.heard_at_ns) > keep_ns]
        for name in silent:
            del self.of[name]

    def forget(self, names: Iterable[str]) -> None:
        """Let go of these devices; the others' time counts."""
        for name in names:
            del self.of[name]
        if self.of:
            self.now_ns = self._middle_ns(self.of)

    def all_past(self, time_ns: int) -> bool:
        """Whether no device that sends has rows to come of the time before."""
        return bool(self.of) and all(sender.latest_ns >= time_ns for sender in self.of.values())

    def ahead_ns(self, device: str) -> int:
        """How far a device's clock is before the others'; 0 when there are too few to tell."""
        sender = self.of.get(device)
        others = self.of.keys() - {device}
        return sender.latest_ns - self._middle_ns(others) if sender is not None and len(others) >= 2 else 0

    def _middle_ns(self, names: Iterable[str]) -> int:
        """The median of these devices' clocks.

        Of an even number the later one of the two in the middle: half of the devices may bring what came late, but
        hardly ever are as many clocks ahead. Of two devices the earlier one.
        """
        latest_ns = sorted(self.of[name].latest_ns for name in names)
        return latest_ns[len(latest_ns) // 2] if len(latest_ns) != 2 else latest_ns[0]


def _spans(samples: Samples) -> Iterator[tuple[str, int, int]]:
    """Oldest and newest tag of each device in a batch, without the tags that stand far apart from most of its own."""
    oldest_ns = np.full(len(samples.devices), np.iinfo(np.int64).max)
    newest_ns = np.full(len(samples.devices), np.iinfo(np.int64).min)
    np.minimum.at(oldest_ns, samples.device, samples.time_ns)
    np.maximum.at(newest_ns, samples.device, samples.time_ns)
    for code in np.flatnonzero(oldest_ns <= newest_ns).tolist():
        oldest, newest = int(oldest_ns[code]), int(newest_ns[code])
        if newest - oldest > STEADY_NS:
            oldest, newest = _most(np.sort(samples.time_ns[samples.device == code]))
        yield samples.devices[code], oldest, newest


def _most(time_ns: NDArray[np.int64]) -> tuple[int, int]:
    """Ends of the largest group of tags, in order, none of which is far from the next."""
    groups = np.split(time_ns, np.flatnonzero(np.diff(time_ns) > STEADY_NS) + 1)
    largest = max(groups, key=len)
    return int(largest[0]), int(largest[-1])
