"""A preview as a picture: what was measured, set-points of both runs with the difference shaded, events as marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from edgeflex_flow.cli.on_record import Record
from edgeflex_flow.cli.pictures import plain_frame, save_picture
from edgeflex_flow.cli.preview_compare import Changed, MessagesDifference, Told
from edgeflex_flow.cli.preview_policies import Change
from edgeflex_flow.cli.preview_run import Outcome, Series, SeriesKey
from edgeflex_flow.cli.preview_setpoints import SetpointsDifference
from edgeflex_flow.cli.preview_show import Preview
from edgeflex_flow.cli.preview_words import is_of_a_day, quantity_name, setting

TODAY, PROPOSED, GONE, MEASURED, SHADE = "#c4561a", "#1f6fb4", "#b3261e", "#8a8a8a", "#f2c94c"
MOST_PANELS: Final = 6
"""Of set-points: those that differ most."""
MOST_LANES: Final = 12
LONG_GAP: Final = 8
"""Times the usual distance of what is drawn."""
POINTS: Final = 2000
"""Of a measured column; each is the span of the values around it."""
CONTEXT: Final = ("frequency_hz", "voltage_pu", "voltage_v", "active_power_w")
"""Columns that are drawn above, the first that was recorded."""
_SCALES: Final = {"W": (1e6, "MW"), "var": (1e6, "Mvar")}


class _Lane(NamedTuple):
    """Marks in one row."""

    name: str
    found: MessagesDifference
    device: str


def draw(preview: Preview, records: Mapping[str, Record], outcomes: tuple[Outcome, Outcome], file: Path) -> None:
    """Draw it; the file's ending tells the format. Raises OSError."""
    measured = _measured(records)
    found = preview.comparison.setpoints
    differing = [each for each in found if each.differs] or found
    shown = sorted(differing, key=lambda each: -abs(each.largest or 0.0))[:MOST_PANELS]
    shown.sort(key=found.index)
    lanes = list(_lanes(preview))
    heights = [1.6] * (measured is not None) + [1.8] * len(shown) + [0.5 + 0.22 * len(lanes)] * bool(lanes)
    figure = Figure(figsize=(9.0, 1.6 + sum(heights)), layout="constrained")
    made: Any = figure.subplots(len(heights) or 1, 1, sharex=True, squeeze=False, height_ratios=heights or [1])
    panels = [each for (each,) in made]
    left = list(panels)
    dated = is_of_a_day(preview.record.begin_ns)
    if measured is not None:
        _draw_measured(left.pop(0), *measured, dated=dated)
    for each in shown:
        _draw_setpoints(left.pop(0), each, outcomes, preview.record.end_ns, dated=dated)
    if lanes:
        _draw_lanes(left.pop(0), lanes, dated=dated)
    _finish(figure, panels, preview, dated=dated, has_setpoints=bool(shown))
    save_picture(figure, file)


def _times(time_ns: NDArray[np.int64], *, dated: bool) -> NDArray[Any]:
    """For the time axis: seconds, or dates."""
    return time_ns.astype("datetime64[ns]") if dated else time_ns / 1e9


def _measured(records: Mapping[str, Record]) -> tuple[str, NDArray[np.int64], NDArray[np.float64]] | None:
    """A column that shows what happened: its times and values of all devices."""
    for column in CONTEXT:
        for record in records.values():
            if record.samples is not None and column in record.samples.columns:
                values = record.samples.columns[column]
                if not np.isnan(values).all():
                    return column, record.samples.time_ns, values
    return None


def _draw_measured(
    panel: Any, column: str, time_ns: NDArray[np.int64], values: NDArray[np.float64], *, dated: bool
) -> None:
    known = ~np.isnan(values)
    time_ns, values = time_ns[known], values[known]
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(np.unique(time_ns))))
    middle = np.array([time_ns[part[len(part) // 2]] for part in parts])
    low = np.array([values[part].min() for part in parts])
    high = np.array([values[part].max() for part in parts])
    gaps = np.flatnonzero(_before_gaps(middle)) + 1
    middle = np.insert(middle, gaps, middle[gaps - 1])
    low, high = (np.insert(edge, gaps, np.nan) for edge in (low, high))
    panel.fill_between(_times(middle, dated=dated), low, high, color=MEASURED, linewidth=0.8, alpha=0.8)
    panel.set_title(f"measured: {column}", loc="left", fontsize=9)


def _before_gaps(time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """After which times nothing was measured for long: no line leads over that.

    >>> _before_gaps(np.array([0, 1, 2, 3, 20, 21])).tolist()
    [False, False, False, True, False]
    """
    apart_ns = np.diff(time_ns)
    return apart_ns > LONG_GAP * np.median(apart_ns) if len(apart_ns) else np.zeros(0, dtype=np.bool_)


def _draw_setpoints(
    panel: Any, found: SetpointsDifference, outcomes: tuple[Outcome, Outcome], end_ns: int, *, dated: bool
) -> None:
    key: SeriesKey = (found.node, found.controller, found.quantity, found.asset)
    scale, unit = _SCALES.get(found.unit, (1.0, found.unit))
    both = [_steps(outcome.setpoints.get(key, Series()), end_ns) for outcome in outcomes]
    edges = np.unique(np.concatenate([times for times, _ in both]))
    today, proposed = (_at(edges, *each) / scale for each in both)
    times = _times(edges, dated=dated)
    panel.fill_between(times, today, proposed, step="post", color=SHADE, alpha=0.6, linewidth=0)
    panel.step(times, today, where="post", color=TODAY, linewidth=1.2)
    panel.step(times, proposed, where="post", color=PROPOSED, linewidth=1.2, linestyle=(0, (4, 1.5)))
    panel.set_title(f"{found.controller}: {quantity_name(found.quantity)} of {found.asset}", loc="left", fontsize=9)
    panel.set_ylabel(unit, fontsize=8)


def _steps(series: Series, end_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    times, values = series.arrays()
    if not len(times):
        return times, values
    return np.append(times, max(end_ns, times[-1])), np.append(values, values[-1])


def _at(edges: NDArray[np.int64], times: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value in force at each time; NaN before the first."""
    if not len(times):
        return np.full(len(edges), np.nan)
    place = np.searchsorted(times, edges, side="right") - 1
    return np.where(place >= 0, values[np.maximum(place, 0)], np.nan)


def _lanes(preview: Preview) -> Iterator[_Lane]:
    """Rows of marks: what differs, device after device, as far as there is room."""
    made = 0
    for found in preview.comparison.messages:
        told: list[Told | Changed] = [*found.only_today, *found.only_proposed, *found.changed]
        for device in dict.fromkeys(", ".join(each.who.values()) for each in told):
            made += 1
            if made > MOST_LANES:
                return
            yield _Lane(f"{found.type.replace('_', ' ')} {device}", found, device)


def _draw_lanes(panel: Any, lanes: Sequence[_Lane], *, dated: bool) -> None:
    for place, lane in enumerate(lanes):
        for told, marker, color in (
            (lane.found.only_today, "x", GONE),
            (lane.found.only_proposed, "P", PROPOSED),
            (lane.found.changed, "d", "#6a6a6a"),
        ):
            times = [each.time_ns for each in told if ", ".join(each.who.values()) == lane.device]
            if times:
                panel.plot(
                    _times(np.array(times, dtype=np.int64), dated=dated),
                    [place] * len(times),
                    linestyle="none",
                    marker=marker,
                    color=color,
                    markersize=6,
                )
    panel.set_yticks(range(len(lanes)), [lane.name for lane in lanes])
    panel.set_ylim(len(lanes) - 0.4, -0.6)
    panel.set_title("what would have been told otherwise", loc="left", fontsize=9)


def _finish(figure: Figure, panels: Sequence[Any], preview: Preview, *, dated: bool, has_setpoints: bool) -> None:
    for panel in panels:
        plain_frame(panel)
    if dated:
        locator: Any = AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
        panels[-1].xaxis.set_major_locator(locator)
        formatter: Any = ConciseDateFormatter(locator, tz=UTC, show_offset=False)  # type: ignore[no-untyped-call]
        panels[-1].xaxis.set_major_formatter(formatter)
        day = datetime.fromtimestamp(preview.record.begin_ns / 1e9, UTC)
        panels[-1].set_xlabel(f"UTC, from {day:%Y-%m-%d} on", fontsize=8)
    else:
        panels[-1].set_xlabel("s", fontsize=8)
    lines = [
        Line2D([], [], color=TODAY, label="today"),
        Line2D([], [], color=PROPOSED, linestyle=(0, (4, 1.5)), label="proposed"),
        Patch(color=SHADE, alpha=0.6, label="difference"),
    ]
    marks = [
        Line2D([], [], linestyle="none", marker="x", color=GONE, label="only today"),
        Line2D([], [], linestyle="none", marker="P", color=PROPOSED, label="only proposed"),
        Line2D([], [], linestyle="none", marker="d", color="#6a6a6a", label="changed"),
    ]
    has_marks = any(each.differs for each in preview.comparison.messages)
    handles = [*(lines if has_setpoints else []), *(marks if has_marks else [])]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    changed = ", ".join(_change(each) for each in preview.changes) or "no setting changes"
    title = f"{preview.flow} at {preview.site}: {changed}"
    figure.suptitle(title if len(title) <= 110 else f"{title[:107]}…", fontsize=10)


def _change(change: Change) -> str:
    before, after = (setting(each, change.unit) for each in (change.before, change.after))
    return f"{change.node}.{change.setting} {before} to {after}"
