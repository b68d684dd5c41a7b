"""How the demo looks: the PMUs with their traces, the counters, the events as they come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.demo.watch import TRACE_PERIOD_NS, TRACE_POINTS, SeenEvent, Trace, Watch
from edgeflex_flow.messages import InertiaEstimate

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 124
NARROW_TRACE_POINTS = 12
TALL = 40
"""Rows of a terminal on which everything has room."""
"""Columns of the picture that `--picture` saves."""
LEAST_SPAN_HZ = 0.02
"""Traces are drawn over at least this span, so that noise does not look like an event."""


@dataclass(frozen=True)
class Numbers:
    """The counters at one moment."""

    elapsed_s: float
    seconds: float
    frames: int
    frames_per_s: float
    rows_stored: int
    kernel_drops: int
    bad_frames: int
    broker: str
    mqtt_port: int
    pmu_port: int


def sparkline(values: Iterable[float], low: float, high: float) -> str:
    """The values as bars between `low` and `high`.

    >>> sparkline([50.0, 49.9], 49.9, 50.0)
    '█▁'
    """
    span = max(high - low, LEAST_SPAN_HZ)
    return "".join(
        " " if math.isnan(value) else BARS[min(len(BARS) - 1, max(0, int((value - low) / span * len(BARS))))]
        for value in values
    )


def draw(watch: Watch, numbers: Numbers, width: int = WIDTH, height: int = TALL) -> RenderableType:
    """The whole screen, for a terminal of this many columns and rows. On a low one, what matters most comes first."""
    traces = watch.traces()
    events = watch.events()
    ended = {seen.event.id for seen in events if seen.event.state == "ended"}
    active = {seen.event.device for seen in events if seen.event.id not in ended}
    bar = ProgressBar(total=numbers.seconds, completed=numbers.elapsed_s, width=min(width, WIDTH))
    points = TRACE_POINTS if width >= WIDTH else NARROW_TRACE_POINTS
    pmus = _pmus(traces, active, watch.estimates(), points)
    if height < TALL:
        return Group(
            _title(numbers),
            bar,
            Text(),
            _counters_line(numbers, events),
            _inertia(watch, bool(events)),
            _events(events),
            pmus,
        )
    return Group(
        _title(numbers),
        bar,
        Text(),
        pmus,
        _arranged(width, _counters(numbers, events), _events(events)),
        _inertia(watch, bool(events)),
    )


def _counters_line(numbers: Numbers, events: list[SeenEvent]) -> Text:
    received = sum(seen.received_ns is not None for seen in events)
    return Text(
        f"{numbers.frames:,} frames ({numbers.frames_per_s:,.0f}/s) · {numbers.rows_stored:,} rows stored · "
        f"{len(events)} events, {received} over MQTT",
        no_wrap=True,
    )


def _arranged(width: int, *parts: RenderableType) -> RenderableType:
    """Side by side where there is room, else one below the other."""
    if width < WIDTH:
        return Group(*parts)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(*parts)
    return grid


def _title(numbers: Numbers) -> Text:
    return Text.assemble(
        ("edgeflex demo", "bold"),
        "  IEEE 39-bus system, +100 MW load step · C37.118.2 over UDP ",
        (f":{numbers.pmu_port}", "cyan"),
        f" · {numbers.broker} ",
        (f":{numbers.mqtt_port}", "cyan"),
    )


def _pmus(traces: dict[str, Trace], active: set[str], estimates: dict[str, InertiaEstimate], points: int) -> Table:
    table = Table("PMU", title_justify="left", expand=False, box=None, padding=(0, 1))
    for name in ("frequency", "ROCOF"):
        table.add_column(name, justify="right")
    table.add_column(f"last {points * TRACE_PERIOD_NS // 1_000_000_000} s", no_wrap=True)
    table.add_column("")
    table.add_column("inertia H (95 % interval)", no_wrap=True)
    known = [value for trace in traces.values() for value in trace.history_hz]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    for name, trace in traces.items():
        table.add_row(
            name,
            f"{trace.frequency_hz:.4f} Hz",
            f"{1000 * trace.rocof_hz_per_s:+.1f} mHz/s",
            Text(sparkline(list(trace.history_hz)[-points:], low, high), style="cyan"),
            Text("●", style="bold red") if name in active else "",
            _unit(estimates.get(name)),
        )
    return table


def _unit(estimate: InertiaEstimate | None) -> Text:
    if estimate is None:
        return Text()
    if estimate.h_s is None:
        return Text(estimate.status, style="yellow")
    return Text(f"{estimate.h_s:.2f} s ({estimate.h_ci95_low_s:.2f} to {estimate.h_ci95_high_s:.2f})", style="green")


def _inertia(watch: Watch, has_event: bool) -> Text:
    """The estimate that follows the event: it needs 5 s of what came after."""
    system = watch.system()
    if system is None:
        return Text("  inertia: waiting for the window after the event …" if has_event else "", style="dim")
    if system.kinetic_energy_mws is None:
        return Text(f"  inertia: {system.reason}", style="yellow")
    low, high = system.ci95_low_mws or 0.0, system.ci95_high_mws or 0.0
    return Text.assemble(
        "  kinetic energy of the system ",
        (f"{system.kinetic_energy_mws / 1e3:.1f} GWs", "bold green"),
        f", 95 % interval {low / 1e3:.1f} to {high / 1e3:.1f} GWs, from {len(system.estimated)} units",
    )


def _counters(numbers: Numbers, events: list[SeenEvent]) -> Panel:
    received = sum(seen.received_ns is not None for seen in events)
    table = Table.grid(padding=(0, 1))
    table.add_row("frames", f"{numbers.frames:,}")
    table.add_row("frames/s", f"{numbers.frames_per_s:,.0f}")
    table.add_row("dropped by the kernel", f"{numbers.kernel_drops:,}")
    table.add_row("bad frames", f"{numbers.bad_frames:,}")
    table.add_row("rows stored", f"{numbers.rows_stored:,}")
    table.add_row("events emitted", f"{len(events)}")
    table.add_row("received over MQTT", f"{received}")
    return Panel(table, title="counters", border_style="dim")


def _events(events: list[SeenEvent]) -> Panel:
    """One line an event: what is known of it by now."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("onset (UTC)", no_wrap=True)
    table.add_column("PMU", no_wrap=True)
    for name in ("ROCOF", "Δf", "sure after", "lasted", "MQTT"):
        table.add_column(name, justify="right", no_wrap=True)
    latest = {seen.event.id: seen for seen in events}
    for seen in sorted(latest.values(), key=lambda seen: seen.event.onset_time_ns)[-10:]:
        event = seen.event
        onset = datetime.fromtimestamp(event.onset_time_ns / 1e9, UTC)
        lasted_s = None if event.end_time_ns is None else (event.end_time_ns - event.onset_time_ns) / 1e9
        table.add_row(
            f"{onset:%H:%M:%S}.{onset.microsecond // 1000:03d}",
            event.device,
            f"{1000 * event.rocof_hz_per_s:+.1f} mHz/s",
            f"{1000 * (event.frequency_extreme_hz - event.frequency_before_hz):+.0f} mHz",
            f"{(event.detected_time_ns - event.onset_time_ns) / 1e9:.2f} s",
            "…" if lasted_s is None else f"{lasted_s:.1f} s",
            "…" if seen.received_ns is None else f"+{(seen.received_ns - seen.emitted_ns) / 1e6:.1f} ms",
        )
    return Panel(table, title="frequency events", border_style="red" if events else "dim")
