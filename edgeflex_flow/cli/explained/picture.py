"""The samples behind a message, over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from edgeflex_flow.cli.explained.show import Explanation, when
from edgeflex_flow.cli.pictures import plain_frame, save_picture
from edgeflex_flow.messages import Samples

MOST_PANELS: Final = 6
MOST_DEVICES: Final = 10


def draw(told: Explanation, samples: Mapping[str, Samples], file: Path) -> None:
    """A panel for each column, a line for each device; when the message was given is marked. Raises OSError."""
    panels = [(source, each, name) for source, each in samples.items() for name in each.columns][:MOST_PANELS]
    figure = Figure(figsize=(8.0, 1.2 + 2.2 * max(len(panels), 1)), layout="constrained")
    axes = figure.subplots(max(len(panels), 1), 1, squeeze=False, sharex=True)[:, 0]
    figure.suptitle(f"{told.id}: {told.type} of {told.node}", fontsize=10)
    for panel, (source, each, name) in zip(axes, panels, strict=False):  # without any there is one panel, empty
        for code in np.unique(each.device)[:MOST_DEVICES]:
            chosen = each.device == code
            seconds = (each.time_ns[chosen] - told.given_ns) / 1e9
            panel.plot(seconds, each.columns[name][chosen], ".-", markersize=3, linewidth=0.8, label=each.devices[code])
        panel.axvline(0.0, color="#dc2626", linewidth=0.8)
        panel.set_ylabel(f"{source}\n{name}", fontsize=8)
        plain_frame(panel)
    if panels:
        axes[0].legend(fontsize=7, frameon=False)
    axes[-1].set_xlabel(f"s before it was given, {when(told.given_ns)}", fontsize=8)
    save_picture(figure, file)
