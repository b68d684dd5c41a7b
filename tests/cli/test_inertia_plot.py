"""Pictures of estimates: what an engineer reads off them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inertia_results import inertia_estimate
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from edgeflex_flow.cli.inertia_pipeline import RecordResult, UnitResult
from edgeflex_flow.cli.inertia_plot import draw_record, make_figure
from edgeflex_flow.messages import EstimateStatus, SystemInertia

SYSTEM = SystemInertia(
    event_id="e",
    time_ns=0,
    kinetic_energy_mws=90_692.4,
    ci95_low_mws=87_000.0,
    ci95_high_mws=94_000.0,
    estimated=("A", "B"),
    tripped=("C",),
)


def unit(
    device: str, status: EstimateStatus = "ok", *, reason: str = "", level_hz: float = 60.0, drawn: bool = True
) -> UnitResult:
    numbers: dict[str, Any] = {}
    if status == "ok":
        numbers = {"h_s": 4.2, "h_ci95_low_s": 4.0, "h_ci95_high_s": 4.5, "kinetic_energy_mws": 4200.0}
    made = inertia_estimate(device, status, reason=reason, **numbers)
    if not drawn:
        return UnitResult(made)
    time_s = np.arange(-120, 300) / 60.0
    course_hz = level_hz - 0.03 * np.maximum(time_s, 0.0) * np.exp(-np.maximum(time_s, 0.0) / 3.0)
    return UnitResult(made, time_s, course_hz + 0.001 * np.sin(40 * time_s), course_hz)


def texts(figure: Figure) -> Iterator[Text]:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    for found in figure.findobj(Text):
        assert isinstance(found, Text)
        if found.get_visible() and found.get_text().strip():
            yield found


def result(count: int) -> RecordResult:
    kinds: tuple[EstimateStatus, ...] = ("ok", "ok", "not_excited", "ok", "no_data")
    reason = "largest deviation 6.1 mHz, 10 mHz are needed; power changed by 4 standard deviations of its noise only"
    units = {
        f"GENROU_{number}": unit(
            f"GENROU_{number}", kinds[number % 5], reason=reason, drawn=kinds[number % 5] != "no_data"
        )
        for number in range(count)
    }
    return RecordResult(units, SYSTEM, 3.007)


def test_the_system_stands_first_with_its_interval() -> None:
    shown = "\n".join(text.get_text() for text in texts(make_figure("case", result(5))))
    assert "case" in shown
    assert "90.69 GWs" in shown
    assert "95 % interval 87.00 to 94.00 GWs" in shown
    assert "2 estimated, 1 tripped" in shown
    assert "event at 3.007 s" in shown


def test_each_unit_has_a_panel_with_h_or_the_reason() -> None:
    figure = make_figure("case", result(5))
    titles = [axes.get_title(loc="left") for axes in figure.axes[2:]]
    assert titles[0] == "GENROU_0\nH = 4.20 s (4.00 to 4.50)"
    assert titles[2].startswith("GENROU_2: not_excited\nlargest deviation 6.1 mHz")
    colors = [axes.get_facecolor() for axes in figure.axes[2:]]
    assert colors[0] != colors[2] == colors[4]


@pytest.mark.parametrize("level_hz", [60.0, 0.0])
def test_curves_are_deviations_in_mhz_whether_measured_so_or_not(level_hz: float) -> None:
    figure = make_figure("case", RecordResult({"A": unit("A", level_hz=level_hz)}, SYSTEM, 0.0))
    measured, fitted = (line.get_ydata() for line in figure.axes[2].get_lines()[1:3])
    assert np.asarray(measured)[:120] == pytest.approx(0.0, abs=2.0)
    assert np.asarray(fitted).min() == pytest.approx(-90 / math.e, abs=1.0)
    assert any("residual 0.71 mHz rms" in text.get_text() for text in texts(figure))


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 4, 10, 50])
def test_no_text_covers_another_or_leaves_the_picture(count: int) -> None:
    figure = make_figure("case", result(count))
    found = list(texts(figure))
    canvas: Any = figure.canvas
    renderer = canvas.get_renderer()
    boxes = [(text, text.get_window_extent(renderer)) for text in found]
    width, height = figure.bbox.width, figure.bbox.height
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
        for other, second in boxes[index + 1 :]:
            apart = (
                box.x1 <= second.x0 + 1 or second.x1 <= box.x0 + 1 or box.y1 <= second.y0 + 1 or second.y1 <= box.y0 + 1
            )
            assert apart, (text, other)


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_record_without_event_or_with_odd_names_is_drawn(tmp_path: Path, name: str) -> None:
    nothing = SystemInertia(event_id="", time_ns=0, kinetic_energy_mws=None, reason="costs $5, not $6")
    draw_record("$case$", RecordResult({}, nothing), tmp_path / name)
    draw_record("case", RecordResult({"a$b$c": unit("a$b$c", "phase_jump", reason="$x_$")}), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000
