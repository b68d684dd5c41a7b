"""Measurements of a device as means over regular steps of time, the last so many of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class StepSeries:
    """Sums and counts of the steps from number `first` on; step k begins at k times `step_ns` UTC."""

    step_ns: int
    kept: int
    """How many steps are kept; older ones are let go."""
    first: int = 0
    newest_ns: int | None = None
    """Tag of the newest row."""
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    flags: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def end(self) -> int:
        """Number of the step after the last one with rows."""
        return self.first + len(self.sums)

    def add(self, time_ns: NDArray[np.int64], values: NDArray[np.float64], quality: NDArray[np.uint16]) -> None:
        """Rows in any order, none of them NaN; those of steps that are no longer kept change nothing."""
        if not len(time_ns):
            return
        self.newest_ns = max(int(time_ns.max()), self.newest_ns if self.newest_ns is not None else int(time_ns.max()))
        step = time_ns // self.step_ns
        self._make_room(int(step.min()), int(step.max()) + 1)
        inside = step >= self.first
        places = step[inside] - self.first
        np.add.at(self.sums, places, values[inside])
        np.add.at(self.counts, places, 1)
        np.bitwise_or.at(self.flags, places, quality[inside].astype(np.int64))

    def _make_room(self, begin: int, end: int) -> None:
        last = max(end, self.end) if len(self.sums) else end
        first = max(min(begin, self.first) if len(self.sums) else begin, last - self.kept)
        if first == self.first and last == self.end:
            return
        for name in ("sums", "counts", "flags"):
            before = getattr(self, name)
            table = np.zeros(last - first, dtype=before.dtype)
            kept = before[max(first - self.first, 0) :]
            start = max(self.first - first, 0)
            table[start : start + len(kept)] = kept
            setattr(self, name, table)
        self.first = first

    def means(self, end: int) -> tuple[int, NDArray[np.float64]]:
        """Means of the last steps before `end`, as many as are kept at most, and the number of the first of them.

        NaN for those without rows; none where nothing is known before.
        """
        first = max(self.first, end - self.kept)
        if not len(self.sums) or first >= end:
            return end, np.empty(0)
        means = np.full(end - first, np.nan)
        begin = first - self.first
        counts = self.counts[begin : end - self.first]
        known = len(counts)
        np.divide(self.sums[begin : begin + known], counts, out=means[:known], where=counts > 0)
        return first, means
