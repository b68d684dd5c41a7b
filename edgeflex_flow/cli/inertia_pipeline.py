"""What estimating the inertia of one recorded event gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import FrequencyEvent, InertiaEstimate, SystemInertia


@dataclass(frozen=True, slots=True)
class UnitResult:
    """One generating unit: its estimate, and the course of its frequency that the estimate explains."""

    estimate: InertiaEstimate
    time_s: NDArray[np.float64] | None = None
    """Time since the onset, shape (n,)."""
    measured_hz: NDArray[np.float64] | None = None
    """Measured frequency, shape (n,)."""
    fitted_hz: NDArray[np.float64] | None = None
    """Frequency of the fitted model, shape (n,)."""


@dataclass(frozen=True, slots=True)
class RecordResult:
    """One recorded event."""

    units: dict[str, UnitResult] = field(default_factory=dict)
    """By device."""
    system: SystemInertia | None = None
    event_time_s: float | None = None
    """Onset of the event, in seconds of the record's own time axis."""
    event: FrequencyEvent | None = None
