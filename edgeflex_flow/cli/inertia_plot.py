"""Pictures of estimated inertia: by unit, what was measured beside what the model explains."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from edgeflex_flow.cli.inertia_output import (
    energy_interval_mws,
    energy_mws,
    finite,
    interval,
    is_whole,
    no_energy_reason,
    not_counted,
    number,
    onset_text,
    shares,
)
from edgeflex_flow.cli.inertia_pipeline import RecordResult, UnitResult
from edgeflex_flow.cli.pictures import plain_frame, save_picture
from edgeflex_flow.messages import InertiaEstimate

FORMATS: Final = (".png", ".svg", ".pdf")
GOOD, REFUSED, MEASURED = "#1f6fb4", "#c4561a", "#555555"
_REFUSED_GROUND: Final = "#fdf3ec"
_PANEL_INCHES: Final = (3.3, 2.35)
_HEADER_INCHES: Final = 2.9
_TITLE_LETTERS: Final = 44
"""Letters of a title that fit over a panel."""
_NAME_LETTERS: Final = 18


def draw_record(key: str, result: RecordResult, file: Path) -> None:
    """Draw one record into a file whose ending tells the format. Raises OSError."""
    figure = make_figure(key, result)
    save_picture(figure, file)


def make_figure(key: str, result: RecordResult) -> Figure:
    """A panel for the system above one for each unit."""
    count = len(result.units)
    across = _panels_across(count)
    down = math.ceil(count / across)
    width = across * _PANEL_INCHES[0]
    figure = Figure(figsize=(width, _HEADER_INCHES + down * _PANEL_INCHES[1]))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    heights = [_HEADER_INCHES, *[_PANEL_INCHES[1]] * down]
    grid = figure.add_gridspec(1 + down, across, height_ratios=heights)
    words = max(1, round(across * 0.3))
    _draw_system(figure.add_subplot(grid[0, :words]), key, result)
    if count:
        _draw_energies(figure.add_subplot(grid[0, words:]), result)
    span = _time_span(list(result.units.values()))
    for place, (device, unit) in enumerate(result.units.items()):
        row, column = divmod(place, across)
        panel = figure.add_subplot(grid[1 + row, column])
        _draw_unit(panel, device, unit, span)
        if place + across >= count:
            panel.set_xlabel("time since the onset in s", fontsize=8)
        if column == 0:
            panel.set_ylabel("deviation in mHz", fontsize=8)
    return figure


def _panels_across(count: int) -> int:
    """Panels in a row: about as many as make the picture square, and such that few places stay empty."""
    least = max(3, math.ceil(math.sqrt(count * 0.8)))
    return min(range(least, least + 3), key=lambda across: -count % across)


def _time_span(units: Sequence[UnitResult]) -> tuple[float, float]:
    ends = [(unit.time_s[0], unit.time_s[-1]) for unit in units if unit.time_s is not None and len(unit.time_s)]
    return (min(begin for begin, _ in ends), max(end for _, end in ends)) if ends else (0.0, 1.0)


def _draw_system(panel: Any, key: str, result: RecordResult) -> None:
    """The value for the system, in words."""
    panel.set_axis_off()
    system, energy = result.system, energy_mws(result.system)
    if system is None or energy is None:
        value, color = "no value", REFUSED
        lines = textwrap.wrap(_plain(no_energy_reason(result)), 40)[:4]
    else:
        value, color = f"E$_k$ = {number(energy / 1e3, 2)} GWs", GOOD if is_whole(result) else REFUSED
        low, high = energy_interval_mws(system)
        lines = [f"95 % interval {_gigawatt_seconds(low)} to {_gigawatt_seconds(high)} GWs"]
        counted = (*shares(system), (not_counted(result), "not counted"))
        lines.append("units: " + ", ".join(f"{len(names)} {word}" for names, word in counted if names))
        if system.kinetic_energy_from_lost_power_mws is not None:
            verdict = "agrees" if system.agrees else "disagrees"
            lost = _gigawatt_seconds(system.kinetic_energy_from_lost_power_mws)
            lines.append(f"from the lost power {lost} GWs: {verdict}")
    panel.text(0.0, 1.0, _plain(key), fontsize=13, fontweight="bold", va="top", transform=panel.transAxes)
    panel.text(
        0.0,
        0.84,
        textwrap.fill(f"system, {onset_text(result)}", _TITLE_LETTERS),
        fontsize=9,
        color=MEASURED,
        va="top",
        transform=panel.transAxes,
    )
    panel.text(0.0, 0.66, value, fontsize=17, color=color, va="top", transform=panel.transAxes)
    panel.text(0.0, 0.42, "\n".join(lines), fontsize=9, va="top", linespacing=1.5, transform=panel.transAxes)
    if result.units:
        _draw_legend(panel)


def _draw_legend(panel: Any) -> None:
    """What the colours of all panels mean."""
    handles = [
        Line2D([], [], color=MEASURED, linewidth=0.9, label="measured"),
        Line2D([], [], color=GOOD, linewidth=1.3, label="fitted"),
        Patch(color=GOOD, alpha=0.2, label="fitted ± 1.96 · residual rms"),
        Patch(facecolor=_REFUSED_GROUND, edgecolor=REFUSED, label="refused"),
    ]
    panel.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, -0.06), ncols=2, fontsize=7, frameon=False)


def _gigawatt_seconds(value_mws: float | None) -> str:
    return number(None if value_mws is None else value_mws / 1e3, 2)


def _draw_energies(panel: Any, result: RecordResult) -> None:
    """What each unit adds, with its interval."""
    estimates = {device: unit.estimate for device, unit in result.units.items()}
    places = np.arange(len(estimates))
    for place, made in zip(places, estimates.values(), strict=True):
        energy = finite(made.kinetic_energy_mws)
        if made.status != "ok" or energy is None:
            panel.axvspan(place - 0.4, place + 0.4, color=_REFUSED_GROUND)
            panel.text(
                place, 0.03, made.status, rotation=90, fontsize=7, color=REFUSED, ha="center", va="bottom",
                transform=panel.get_xaxis_transform(),
            )  # fmt: skip
            continue
        panel.bar(place, energy / 1e3, width=0.7, color=GOOD, alpha=0.45)
        panel.errorbar(place, energy / 1e3, yerr=_error_bar(made, energy / 1e3), color=GOOD, capsize=3, linewidth=1.5)
    names = [_clipped(device, _NAME_LETTERS) for device in estimates]
    panel.set_xticks(places, names, rotation=90 if len(estimates) > 6 else 0, fontsize=8)
    for label, made in zip(panel.get_xticklabels(), estimates.values(), strict=True):
        label.set_color("black" if made.status == "ok" else REFUSED)
    panel.set_xlim(-0.6, max(len(estimates), 1) - 0.4)
    panel.set_ylim(bottom=0.0)
    panel.set_title("kinetic energy by unit in GWs, with 95 % interval", fontsize=9, loc="left")
    plain_frame(panel)


def _error_bar(made: InertiaEstimate, energy_gws: float) -> NDArray[np.float64] | None:
    """How far the interval reaches down and up, in GWs, shape (2, 1)."""
    h_s, low_s, high_s = finite(made.h_s), finite(made.h_ci95_low_s), finite(made.h_ci95_high_s)
    if not h_s or low_s is None or high_s is None:
        return None
    reach = np.array([[h_s - low_s], [high_s - h_s]]) * energy_gws / h_s
    return np.maximum(reach, 0.0)


def _draw_unit(panel: Any, device: str, unit: UnitResult, span: tuple[float, float]) -> None:
    """Measured and fitted deviation; the band would hold 95 % of normal residuals."""
    made = unit.estimate
    good = made.status == "ok"
    color = GOOD if good else REFUSED
    panel.set_title(_title(device, made), fontsize=8.5, loc="left", color="black" if good else REFUSED)
    if not good:
        panel.set_facecolor(_REFUSED_GROUND)
    plain_frame(panel)
    panel.set_xlim(span)
    panel.axvline(0.0, color="#999999", linewidth=0.8, linestyle=":")
    if unit.time_s is None or unit.measured_hz is None or not len(unit.time_s):
        panel.set_yticks([])
        panel.text(0.5, 0.5, "nothing to draw", fontsize=8, color=REFUSED, ha="center", transform=panel.transAxes)
        return
    before_hz = _baseline_hz(unit.time_s, unit.measured_hz)
    measured_mhz = (unit.measured_hz - before_hz) * 1e3
    panel.plot(unit.time_s, measured_mhz, color=MEASURED, linewidth=0.9, label="measured")
    if unit.fitted_hz is not None:
        _draw_fit(panel, unit.time_s, measured_mhz, (unit.fitted_hz - before_hz) * 1e3, color)


def _draw_fit(
    panel: Any,
    time_s: NDArray[np.float64],
    measured_mhz: NDArray[np.float64],
    fitted_mhz: NDArray[np.float64],
    color: str,
) -> None:
    residual_mhz = measured_mhz - fitted_mhz
    known = residual_mhz[np.isfinite(residual_mhz)]
    rms_mhz = float(np.sqrt(np.mean(known**2))) if len(known) else math.nan
    band_mhz = 1.96 * rms_mhz
    panel.fill_between(time_s, fitted_mhz - band_mhz, fitted_mhz + band_mhz, color=color, alpha=0.2, linewidth=0)
    panel.plot(time_s, fitted_mhz, color=color, linewidth=1.3, label="fitted")
    panel.text(
        0.98, 0.96, f"residual {rms_mhz:.2g} mHz rms", fontsize=7, color=color, ha="right", va="top",
        transform=panel.transAxes, bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _baseline_hz(time_s: NDArray[np.float64], measured_hz: NDArray[np.float64]) -> float:
    """The frequency before the onset; 0 where there is none before it and deviations were measured."""
    before = measured_hz[(time_s < 0.0) & np.isfinite(measured_hz)]
    return float(np.median(before)) if len(before) else 0.0


def _title(device: str, made: InertiaEstimate) -> str:
    if made.status == "ok":
        notes = [*(["indicative"] if made.indicative else []), *made.remarks]
        text = f"H = {number(made.h_s, 2)} s ({interval(made.h_ci95_low_s, made.h_ci95_high_s, 2)})"
        return "\n".join([_clipped(device), text, _clipped(", ".join(notes))]).rstrip()
    return "\n".join([_clipped(f"{device}: {made.status}"), *_two_lines(made.reason)])


def _clipped(text: str, most: int = _TITLE_LETTERS) -> str:
    return _plain(text if len(text) <= most else text[: most - 1] + "…")


def _plain(text: str) -> str:
    """Text as it is: between dollars matplotlib would look for formulas."""
    return text.replace("$", r"\$")


def _two_lines(text: str) -> list[str]:
    lines = textwrap.wrap(text, _TITLE_LETTERS)
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: _TITLE_LETTERS - 1]}…"]
    return [_plain(line) for line in lines]
