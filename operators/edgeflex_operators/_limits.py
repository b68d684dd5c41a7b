"""What keeps a set-point within bounds: the asset's hardware above all, then what a policy allows, then a ramp."""

from __future__ import annotations

import math
from typing import NamedTuple


class Bounds(NamedTuple):
    """A range that a value must stay in, both ends included."""

    low: float
    high: float

    def nearest(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def within(self, hardware: Bounds) -> Bounds:
        """What is left of these bounds inside those of the hardware; where nothing is, the hardware's nearest point.

        >>> Bounds(-5.0, 5.0).within(Bounds(0.0, 8.0)), Bounds(9.0, 12.0).within(Bounds(0.0, 8.0))
        (Bounds(low=0.0, high=5.0), Bounds(low=8.0, high=8.0))
        """
        return Bounds(hardware.nearest(self.low), hardware.nearest(self.high))


UNBOUNDED = Bounds(-math.inf, math.inf)


class Limited(NamedTuple):
    """A value after all limits, and which of them changed it: `hardware`, `policy`, `ramp`."""

    value: float
    by: tuple[str, ...]


def limited(
    wanted: float, hardware: Bounds, *, policy: Bounds = UNBOUNDED, before: float | None = None, ramp: float = math.inf
) -> Limited:
    """The value nearest to `wanted` that may be sent.

    `ramp` is how far it may be from `before`, the value in force; None: there is none, as after a start. The hardware
    comes last, so that a range that shrinks faster than the ramp (a cloud) is followed at once. A range that a policy
    changed is entered along the ramp, without a jump. ValueError for a `wanted` that is not a number, which must not
    reach an asset.

    >>> limited(10.0, Bounds(0.0, 8.0), policy=Bounds(0.0, 6.0), before=2.0, ramp=1.0)
    Limited(value=3.0, by=('policy', 'ramp'))
    >>> limited(5.0, Bounds(0.0, 4.0), before=9.0, ramp=1.0)
    Limited(value=4.0, by=('hardware',))
    """
    if math.isnan(wanted):
        raise ValueError("a set-point that is not a number")
    by: list[str] = []
    value = hardware.nearest(wanted)
    if value != wanted:
        by.append("hardware")
    allowed = policy.within(hardware).nearest(value)
    if allowed != value:
        by = ["policy"]
    if before is not None:
        ramped = Bounds(before - ramp, before + ramp).nearest(allowed)
        if ramped != allowed:
            by.append("ramp")
            allowed = ramped
    last = hardware.nearest(allowed)
    return Limited(last, tuple(by) if last == allowed else ("hardware",))
