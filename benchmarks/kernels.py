"""Operators alone: nanoseconds a row in large batches, microseconds a batch of one row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.report import Report
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import OperatorNode
from edgeflex_operators import frequency_event, rocof

SECTION = "Operators alone, 1,000 devices at 50 frames/s"
DEVICES = 1000
ROWS = 8000
RATE_HZ = 50


def stream(batches: int, rows: int) -> list[Samples]:
    """Consecutive batches of all devices in turn, 50 Hz with 1 mHz of noise."""
    noise = np.random.default_rng(1)
    devices = tuple(f"PMU{k}" for k in range(DEVICES))
    made: list[Samples] = []
    for batch in range(batches):
        row = np.arange(batch * rows, (batch + 1) * rows)
        made.append(
            Samples(
                time_ns=(row // DEVICES) * (1_000_000_000 // RATE_HZ),
                device=(row % DEVICES).astype(np.int32),
                devices=devices,
                columns={"frequency_hz": 50.0 + noise.normal(0.0, 0.001, rows)},
                quality=np.zeros(rows, dtype=np.uint16),
                received_ns=0,
            )
        )
    return made


def seconds_a_batch(
    node: OperatorNode[Any, Any], batches: Sequence[Samples], warm_up: int
) -> tuple[float, list[Samples]]:
    """Median time of a step after the first `warm_up` batches, and what came out."""
    config = node.config()
    state = node.start(config)
    step: Callable[..., Any] | None = node.inputs["in"].step
    assert step is not None
    took: list[float] = []
    out: list[Samples] = []
    for batch in batches:
        start_s = time.perf_counter()
        given = step(config, state, batch)
        took.append(time.perf_counter() - start_s)
        out.extend(message for message in given if isinstance(message, Samples))
    return float(np.median(took[warm_up:])), out


def measure(report: Report, *, rounds: int) -> None:
    large: dict[str, list[float]] = {"rocof": [], "frequency_event": []}
    small: dict[str, list[float]] = {"rocof": [], "frequency_event": []}
    for _ in range(rounds):
        # 8 batches hold the 64 ticks that fill the window of half a second twice over.
        took, slopes = seconds_a_batch(rocof.NODE, stream(60, ROWS), 8)
        large["rocof"].append(took / ROWS * 1e9)
        took, _ = seconds_a_batch(frequency_event.NODE, slopes, 8)
        large["frequency_event"].append(took / ROWS * 1e9)
        took, slopes = seconds_a_batch(rocof.NODE, stream(40_000, 1), 30_000)
        small["rocof"].append(took * 1e6)
        took, _ = seconds_a_batch(frequency_event.NODE, slopes, 1000)
        small["frequency_event"].append(took * 1e6)
    for name, values in large.items():
        report.add(SECTION, f"{name}, batches of {ROWS:,} rows", "ns/sample", values)
    for name, values in small.items():
        report.add(SECTION, f"{name}, batches of one row", "µs/batch", values)
