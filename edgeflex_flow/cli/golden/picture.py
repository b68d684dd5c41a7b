"""What failed in a golden test, over time, with the bands that were asked for."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from edgeflex_flow.cli.golden.running import GoldenResult
from edgeflex_flow.cli.pictures import plain_frame, save_picture

MOST_PANELS: Final = 6


def draw(result: GoldenResult, folder: Path) -> Path | None:
    """The picture of a test, if it has numbers to show. Raises OSError."""
    panels = [points for verdict in result.verdicts if not verdict.good for points in verdict.points][:MOST_PANELS]
    if not panels:
        return None
    figure = Figure(figsize=(8.0, 1.2 + 2.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    figure.suptitle(result.name, fontsize=10)
    for panel, points in zip(axes, panels, strict=True):
        good = [points.low <= value <= points.high for value in points.values]
        for is_good, colour in ((True, "#2563eb"), (False, "#dc2626")):
            chosen = [at for at, each in enumerate(good) if each == is_good]
            times = [points.time_s[at] for at in chosen]
            panel.plot(times, [points.values[at] for at in chosen], ".", color=colour, markersize=4)
        if not math.isnan(points.low):
            low, high = panel.get_ylim()
            panel.axhspan(max(points.low, low), min(points.high, high), color="#16a34a", alpha=0.12, linewidth=0)
        panel.set_ylabel(points.name, fontsize=8)
        plain_frame(panel)
    axes[-1].set_xlabel("s since the begin of the recording", fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', Path(result.file).stem)}.png"
    save_picture(figure, file)
    return file
