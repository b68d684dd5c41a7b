"""What the demo found, in the end: checked against the store and the simulator, not only against its own counters."""

from __future__ import annotations

import sqlite3
import statistics
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeflex_flow.cli.demo.watch import SeenEvent


@dataclass
class Summary:
    """The result of a demo."""

    seconds: float
    broker: str
    frames_sent: int
    frames_received: int
    kernel_drops: int
    bad_frames: int
    samples_stored: int
    events_stored: int
    events_emitted: int
    events_received_over_mqtt: int
    devices_with_event: list[str]
    detection_delay_s: list[float]
    """From the simulator's load step to the time tag of the sample that made the detector sure, by event."""
    mqtt_latency_ms: float | None
    """Median from emitting an event to having it at the subscriber."""
    units_estimated: list[str]
    """Units whose inertia estimate was accepted."""
    system_ek_mws: float | None
    """Kinetic energy of the system, as the subscriber received it; None when the demo was too short for it."""
    system_ci95_mws: tuple[float | None, float | None] | None
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def show(self, console: Console) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("frames sent, received, lost", self._frames())
        table.add_row("values and events in the store", f"{self.samples_stored:,} and {self.events_stored}")
        table.add_row("PMUs with an event", f"{len(self.devices_with_event)}")
        if self.detection_delay_s:
            table.add_row(
                "detected after the load step",
                f"{min(self.detection_delay_s):.2f} to {max(self.detection_delay_s):.2f} s, "
                f"median {statistics.median(self.detection_delay_s):.2f} s",
            )
        if self.mqtt_latency_ms is not None:
            table.add_row("event to MQTT subscriber", f"{self.mqtt_latency_ms:.1f} ms (median)")
        if self.system_ek_mws is not None:
            table.add_row("inertia of the system", self._inertia())
        console.print(table)
        for problem in self.problems:
            console.print(f"[bold red]problem:[/] {problem}")

    def _inertia(self) -> str:
        low, high = self.system_ci95_mws or (None, None)
        interval = "" if low is None or high is None else f", 95 % interval {low / 1e3:.1f} to {high / 1e3:.1f}"
        return f"{(self.system_ek_mws or 0.0) / 1e3:.1f} GWs{interval} ({len(self.units_estimated)} units)"

    def _frames(self) -> str:
        return f"{self.frames_sent:,}, {self.frames_received:,}, {self.frames_sent - self.frames_received:,}"


def count_stored(database: Path) -> tuple[int, int]:
    """(values, frequency events) in the store, read by a connection of its own."""
    if not database.exists():
        return 0, 0  # stopped before the flow began
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        samples = connection.execute("SELECT count(*) FROM samples").fetchone()[0]
        events = connection.execute("SELECT count(*) FROM messages WHERE type = 'frequency_event'").fetchone()[0]
    return int(samples), int(events)


def started_events(events: list[SeenEvent]) -> list[SeenEvent]:
    return [seen for seen in events if seen.event.state == "started"]
