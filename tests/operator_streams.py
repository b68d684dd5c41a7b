"""Streams of frequency for the tests of operators: recorded, simulated, and cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import DeadLetter, FrequencyEvent, Samples
from edgeflex_operators import frequency_event, rocof

DATA = Path(__file__).parent / "data"
EPOCH_NS = 1_700_000_000_000_000_000


class Recording(NamedTuple):
    """A recorded disturbance; frequency of shape (samples, generators)."""

    time_s: NDArray[np.float64]
    frequency_hz: NDArray[np.float64]
    names: tuple[str, ...]
    event_s: float

    def at(self, frames_per_s: int) -> Recording:
        """The recording as a device of another rate would have made it, by interpolation."""
        time_s = np.arange(0.0, self.time_s[-1], 1.0 / frames_per_s)
        columns = [np.interp(time_s, self.time_s, column) for column in self.frequency_hz.T]
        return self._replace(time_s=time_s, frequency_hz=np.stack(columns, axis=1))

    def with_noise(self, rms_hz: float, seed: int) -> Recording:
        noise = np.random.default_rng(seed).normal(scale=rms_hz, size=self.frequency_hz.shape)
        return self._replace(frequency_hz=self.frequency_hz + noise)


def recording(name: str) -> Recording:
    """`ieee39` or `kundur`: see tests/data/README.md."""
    with np.load(DATA / f"{name}_load_step.npz") as file:
        names = tuple(str(name) for name in file["gen"])
        return Recording(file["t"], file["bus_freq"].astype(np.float64), names, float(file["event_time"]))


def tags(time_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Time tags as a device with a time base of 1 µs gives them."""
    return EPOCH_NS + np.round(time_s * 1e6).astype(np.int64) * 1000


def seconds(time_ns: int) -> float:
    """The inverse of `tags`."""
    return (time_ns - EPOCH_NS) * 1e-9


def interleaved(
    time_ns: NDArray[np.int64],
    frequency_hz: NDArray[np.float64],
    names: Sequence[str] | None = None,
    quality: int = 0,
) -> Samples:
    """All devices of (samples, devices) in one batch, frame by frame."""
    count, devices = frequency_hz.shape
    return Samples(
        time_ns=np.repeat(time_ns, devices),
        device=np.tile(np.arange(devices, dtype=np.int32), count),
        devices=tuple(names or (f"P{d}" for d in range(devices))),
        columns={"frequency_hz": frequency_hz.ravel()},
        quality=np.full(count * devices, quality, dtype=np.uint16),
        received_ns=0,
    )


def one_device(
    time_ns: Sequence[int] | NDArray[np.int64],
    frequency_hz: Sequence[float] | NDArray[np.float64],
    quality: Sequence[int] | None = None,
    name: str = "G1",
    **columns: NDArray[np.float64],
) -> Samples:
    count = len(time_ns)
    return Samples(
        time_ns=np.asarray(time_ns, dtype=np.int64),
        device=np.zeros(count, dtype=np.int32),
        devices=(name,),
        columns={"frequency_hz": np.asarray(frequency_hz, dtype=np.float64), **columns},
        quality=np.asarray([0] * count if quality is None else quality, dtype=np.uint16),
        received_ns=0,
    )


def cut(samples: Samples, sizes: Sequence[int]) -> Iterator[Samples]:
    """The batch in pieces of these sizes, over and over."""
    begin = 0
    turn = 0
    while begin < samples.rows:
        end = begin + sizes[turn % len(sizes)]
        yield samples.take(np.arange(begin, min(end, samples.rows)))
        begin = end
        turn += 1


def letters(messages: Sequence[Any]) -> list[DeadLetter]:
    return [message for message in messages if isinstance(message, DeadLetter)]


def batches(messages: Sequence[Any]) -> list[Samples]:
    return [message for message in messages if isinstance(message, Samples)]


def detect(
    samples: Samples,
    config: frequency_event.FrequencyEventConfig | None = None,
    sizes: Sequence[int] = (8192,),
    rocof_config: rocof.RocofConfig | None = None,
) -> list[FrequencyEvent]:
    """What `rocof` and then `frequency_event` make of a stream."""
    rocof_config = rocof_config or rocof.RocofConfig()
    rocof_state = rocof.start(rocof_config)
    config = config or frequency_event.FrequencyEventConfig()
    state = frequency_event.start(config)
    found: list[FrequencyEvent] = []
    for batch in cut(samples, sizes):
        for slopes in batches(rocof.step(rocof_config, rocof_state, batch)):
            messages = frequency_event.step(config, state, slopes)
            found += [message for message in messages if isinstance(message, FrequencyEvent)]
    return found


def started(events: Sequence[FrequencyEvent]) -> list[FrequencyEvent]:
    return [event for event in events if event.state == "started"]


def phase_jump_hz(
    time_s: NDArray[np.float64], jump_s: float, window_s: float, jump_deg: float = 10.0
) -> NDArray[np.float64]:
    """What a PMU adds to its frequency when the phase jumps: its phasor is a mean under a Hann window, centred at the
    time tag, and its frequency the derivative of the phasor's angle.
    """

    def angle_rad(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        share = np.clip((at_s - jump_s) / window_s + 0.5, 0.0, 1.0)
        after = share - np.sin(2 * np.pi * share) / (2 * np.pi)
        jump_rad = np.deg2rad(jump_deg)
        angle: NDArray[np.float64] = np.arctan2(after * np.sin(jump_rad), 1.0 - after + after * np.cos(jump_rad))
        return angle

    step_s = 1e-5
    turned: NDArray[np.float64] = angle_rad(time_s + step_s) - angle_rad(time_s - step_s)
    return turned / (2 * step_s) / (2 * np.pi)
