"""What the pictures of all commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DOTS_PER_INCH: Final = 110


def two_panels() -> tuple[Figure, Any, Any]:
    """A figure, its upper panel, and a lower one over the same span."""
    figure = Figure(figsize=(8.0, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    return figure, upper, lower


def plain_frame(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)


def save_picture(figure: Figure, file: Path) -> None:
    """The file's ending tells the format. Raises OSError."""
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=_DOTS_PER_INCH)
