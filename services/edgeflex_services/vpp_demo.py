"""`make demo-vpp`: a day of a virtual power plant, as batteries mostly run today and as planned, in one picture."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeflex_flow.errors import FatalError, how_to_install
from edgeflex_services.vpp_profiles import PER_DAY, Profiles, simbench_profiles, synthetic_profiles
from edgeflex_services.vpp_simulation import (
    BATTERY,
    EXPORT_LIMIT_W,
    HISTORY_DAYS,
    Controller,
    Done,
    by_foresight_eur,
    by_plans,
    by_self_consumption,
)

SIMBENCH_DAY = 170
ENDINGS = (".png", ".svg", ".pdf")
COLOURS = {"wind": "#1f6fb4", "photovoltaics": "#e5a50a", "generator": "#8a5a44", "load": "#555555"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a day and draw it. Exit codes: 0 done; 1 something is missing."""
    parser = argparse.ArgumentParser(prog="make demo-vpp", description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("vpp_day.png"), help="file to draw into (png, svg, pdf)")
    parser.add_argument("--synthetic", action="store_true", help="made up profiles, also where SimBench is installed")
    given = parser.parse_args(arguments)
    try:
        _check(given.picture)
        profiles, day = _profiles(synthetic=given.synthetic)
        begin = day * PER_DAY
        before = by_self_consumption(profiles, begin, PER_DAY)
        after = by_plans(Controller(profiles), begin, PER_DAY)
        best_eur = by_foresight_eur(profiles, begin, PER_DAY)
        _draw(profiles, begin, (before, after), given.picture)
    except FatalError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(
        f"One day of {profiles.source}, planned anew every quarter of an hour\n"
        f"  before, by self-consumption   {before.profit_eur:9,.0f} EUR\n"
        f"  after, planned from forecasts {after.profit_eur:9,.0f} EUR\n"
        f"  who knows the future          {best_eur:9,.0f} EUR, with no emptier a battery at the end\n"
        f"Picture: {given.picture}\n"
    )
    return 0


def _check(picture: Path) -> None:
    """Before a day is run for nothing."""
    if picture.suffix not in ENDINGS or not picture.absolute().parent.is_dir():
        raise FatalError(f"{picture}: cannot be drawn: its folder exists, and it ends in {', '.join(ENDINGS)}")


def _profiles(*, synthetic: bool) -> tuple[Profiles, int]:
    """Profiles and the day to run, which has a history before it."""
    if not synthetic:
        try:
            return simbench_profiles(), SIMBENCH_DAY
        except FatalError:
            sys.stdout.write("SimBench is not installed: the profiles are made up.\n")
    return synthetic_profiles(HISTORY_DAYS + 2), HISTORY_DAYS


def _draw(profiles: Profiles, begin: int, days: tuple[Done, Done], file: Path) -> None:
    figure = _figure()
    panels = figure.subplots(4, 2, sharex=True, sharey="row", height_ratios=(2.0, 1.0, 1.0, 1.0))
    hours = np.arange(PER_DAY) / 4.0
    titles = ("before: self-consumption", "after: planned from forecasts")
    for column, (done, title) in enumerate(zip(days, titles, strict=True)):
        power, battery, energy, price = panels[:, column]
        power.set_title(f"{title}, {done.profit_eur:,.0f} EUR")
        parts = {"wind": done.wind_w, "photovoltaics": done.pv_w, "generator": done.chp_w}
        colours = [COLOURS[name] for name in parts]
        power.stackplot(hours, *(each / 1e6 for each in parts.values()), labels=list(parts), colors=colours, alpha=0.7)
        power.plot(hours, done.load_w / 1e6, color=COLOURS["load"], label="load")
        power.plot(hours, done.exchange_w / 1e6, color="black", linewidth=1.0, label="into the grid")
        power.axhline(EXPORT_LIMIT_W / 1e6, color="#c01c28", linewidth=0.8, linestyle="--", label="export limit")
        battery.bar(hours, done.battery_w / 1e6, width=0.25, align="edge", color="#2a7f5f")
        energy.plot(hours, 100.0 * done.energy_wh / BATTERY.energy, color="#2a7f5f")
        energy.set_ylim(0, 100)
        price.step(hours, profiles.prices[begin : begin + PER_DAY], where="post", color="#7a3e9d")
        price.set_xlabel("hour of the day (UTC)")
    panels[0, 0].legend(fontsize=7, loc="upper left")
    for row, label in enumerate(("MW", "battery, MW", "charge, %", "price, EUR/MWh")):
        panels[row, 0].set_ylabel(label)
    figure.suptitle(f"A day of a virtual power plant ({profiles.source}; prices are made up)")
    figure.savefig(file, dpi=110)


def _figure() -> Any:
    try:
        figure_of: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise FatalError(f"pictures need matplotlib: {how_to_install('plot')}") from error
    return figure_of.Figure(figsize=(11, 9), layout="constrained")


if __name__ == "__main__":
    sys.exit(main())
