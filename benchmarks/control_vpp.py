"""How good forecasts are, and what plans from them earn beside one who knows the future: a month of SimBench.

`python -m benchmarks.control_vpp` writes benchmarks/results/control-vpp; `measure_vpp` fills a report of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.report import Report
from edgeflex_flow.cli.pictures import plain_frame, two_panels
from edgeflex_flow.messages import Forecast
from edgeflex_operators import _forecast_metrics as metrics
from edgeflex_services.vpp_profiles import PER_DAY, STEP_S, Profiles, simbench_profiles
from edgeflex_services.vpp_simulation import (
    BATTERY,
    EXPORT_LIMIT_W,
    Controller,
    Done,
    by_foresight_eur,
    by_plans,
    by_self_consumption,
)

Array = NDArray[np.float64]

FIRST_DAY = 152
"""1 June of the year of SimBench."""
DAYS = 30
METHODS = ("regression", "persistence", "perfect")
DEVIATION_EUR_PER_MWH = 20.0
"""What a deviation from the plan of the last quarter hour costs where it is settled."""
HOURS = ((1, "15 min"), (4, "1 h"), (16, "4 h"), (96, "24 h"))


class Run(NamedTuple):
    """What came of a month by one way of forecasting."""

    done: Done
    solver_s: list[float]
    forecasts: list[Forecast]


def run(profiles: Profiles, method: str, begin: int, steps: int) -> Run:
    assert method in METHODS
    controller = Controller(profiles, method)  # type: ignore[arg-type]
    done = by_plans(controller, begin, steps)
    return Run(done, controller.solver_s, controller.forecasts)


class Scored(NamedTuple):
    """All forecasts of an asset beside what came; shape (forecasts, horizons)."""

    expected: Array
    low: Array
    high: Array
    truth: Array


def scored(profiles: Profiles, name: str, forecasts: Sequence[Forecast]) -> Scored:
    truth_w = {"wind": profiles.wind_w, "pv": profiles.pv_w, "load": profiles.load_w}[name]
    rows: list[tuple[Array, Array, Array, Array]] = []
    for each in forecasts:
        begin = each.begin_ns // (STEP_S * 1_000_000_000) - profiles.first
        truth = truth_w[begin : begin + len(each.values)]
        if each.device == name and len(truth) == len(each.values):
            unknown = (np.nan,) * len(truth)
            quantiles = [np.array(each.quantiles.get(key, unknown)) for key in ("0.1", "0.9")]
            rows.append((np.array(each.values), quantiles[0], quantiles[1], truth))
    expected, low, high, truth = (np.stack(part) for part in zip(*rows, strict=True))
    return Scored(expected, low, high, truth)


def tell_forecasts(report: Report, profiles: Profiles, runs: dict[str, Run]) -> None:
    capacities_w = {"wind": profiles.wind_capacity_w, "pv": profiles.pv_capacity_w, "load": profiles.load_w.max()}
    for name, capacity_w in capacities_w.items():
        found = {method: scored(profiles, name, each.forecasts) for method, each in runs.items() if each.forecasts}
        section = f"Forecast of {name}, by the capacity of {capacity_w / 1e6:.1f} MW"
        for place, told in HOURS:
            for method, each in found.items():
                error = metrics.nmae(each.truth[:, place - 1], each.expected[:, place - 1], capacity_w)
                report.add(section, f"{told} ahead, nMAE, {method}", "%", [100.0 * error])
        for method, each in found.items():
            error = 100.0 * metrics.nrmse(each.truth, each.expected, capacity_w)
            report.add(section, f"all 96 steps, nRMSE, {method}", "%", [error])
        errors = {method: metrics.nmae(each.truth, each.expected, capacity_w) for method, each in found.items()}
        gain = metrics.skill(errors["regression"], errors["persistence"])
        report.add(section, "all 96 steps, skill over persistence, regression", "1", [gain])
        for method, each in found.items():
            day = each.truth > 1e-3 * capacity_w  # at night every forecast of the sun holds
            truth = np.where(day, each.truth, np.nan) if name == "pv" else each.truth
            loss = [metrics.pinball(truth, part, share) for part, share in ((each.low, 0.1), (each.high, 0.9))]
            report.add(
                section, f"pinball loss of 0.1 and 0.9, {method}", "% of capacity", [50.0 * sum(loss) / capacity_w]
            )
            held = 100.0 * metrics.coverage(truth, each.low, each.high)
            is_ours = method == "regression"
            report.add(
                section,
                f"within 0.1 to 0.9, {method}",
                "%",
                [held],
                asked="80" if is_ours else "",
                good=(lambda value: 75.0 <= value <= 85.0) if is_ours else None,
            )


def measure_vpp(report: Report, *, quick: bool = False) -> None:
    """Fill in a month (`quick`: two days) of the virtual power plant."""
    profiles = simbench_profiles()
    begin, steps = FIRST_DAY * PER_DAY, (2 if quick else DAYS) * PER_DAY
    with ProcessPoolExecutor(max_workers=2) as pool:
        waiting = {method: pool.submit(run, profiles, method, begin, steps) for method in METHODS}
        runs = {method: each.result() for method, each in waiting.items()}
    # Not beside them: their solvers are timed.
    best_eur = by_foresight_eur(profiles, begin, steps)
    rule = by_self_consumption(profiles, begin, steps)
    section = f"Virtual power plant, {steps // PER_DAY} days of {profiles.source}, planned anew every 15 min"
    report.add(section, "profit of one who knows all", "EUR", [best_eur])
    for name, profit_eur, asked in (
        ("planned from regression", runs["regression"].done.profit_eur, "≥ 95"),
        ("planned from persistence", runs["persistence"].done.profit_eur, ""),
        ("planned a day ahead, knowing that day", runs["perfect"].done.profit_eur, ""),
        ("self-consumption by rule", rule.profit_eur, ""),
    ):
        good = (lambda value: value >= 95.0) if asked else None
        report.add(section, name, "% of that", [100.0 * profit_eur / best_eur], asked=asked, good=good)
    for method in ("regression", "persistence"):
        gain = (runs[method].done.profit_eur - rule.profit_eur) / (best_eur - rule.profit_eur)
        report.add(section, f"of what foresight adds to the rule, {method}", "%", [100.0 * gain])
        settled = runs[method].done.profit_eur - DEVIATION_EUR_PER_MWH * runs[method].done.deviation_mwh
        told = f"with deviations at {DEVIATION_EUR_PER_MWH:g} EUR/MWh, {method}"
        report.add(section, told, "% of that", [100.0 * settled / best_eur])
    solver_s = sorted(runs["regression"].solver_s)
    for name, share in (("median", 0.5), ("99 of 100", 0.99), ("slowest", 1.0)):
        took_s = solver_s[min(int(share * len(solver_s)), len(solver_s) - 1)]
        report.add(section, f"solving 96 steps, {name}", "s", [took_s], asked="≤ 1", good=lambda value: value <= 1.0)
    tell_forecasts(report, profiles, runs)
    report.figure = picture(profiles, runs["regression"], begin)
    report.notes += [
        "Wind, photovoltaics and load are SimBench's. Prices, which are known a day ahead, the battery (5 MW, 10 MWh),"
        " the generator (3 MW) and the export limit of 14 MW are made up (`edgeflex_services.vpp_profiles`,"
        " `vpp_simulation`).",
        "All plans are within 0.1 % of the best ones; who knows all has one for the whole time. What the battery lacks"
        " at the end is bought back at the highest price of the month.",
        "The solver was timed while two runs at once shared the cores.",
    ]


def picture(profiles: Profiles, planned: Run, begin: int) -> Figure:
    """The first week: what was planned of the exchange and what came above; price and charge below."""
    figure, upper, lower = two_panels()
    steps = min(7 * PER_DAY, len(planned.done.exchange_w))
    days = np.arange(steps) / PER_DAY
    upper.plot(days, planned.done.planned_w[:steps] / 1e6, linewidth=0.8, label="planned a quarter of an hour before")
    upper.plot(days, planned.done.exchange_w[:steps] / 1e6, linewidth=0.8, label="came")
    upper.axhline(EXPORT_LIMIT_W / 1e6, color="#c01c28", linewidth=0.8, linestyle="--", label="export limit")
    upper.set_ylabel("into the grid, MW")
    lower.plot(days, profiles.prices[begin : begin + steps], label="price, EUR/MWh")
    lower.plot(days, 100.0 * planned.done.energy_wh[:steps] / BATTERY.energy, label="charge of the battery, %")
    lower.set_xlabel("day of the month")
    for panel in (upper, lower):
        panel.legend(fontsize=8, frameon=False, loc="upper left")
        plain_frame(panel)
    return figure


@click.command()
@click.option("--quick", is_flag=True, help="Two days, to see that it runs; nothing is written then.")
def main(*, quick: bool) -> None:
    """Measure forecasts and plans of a virtual power plant."""
    report = Report("control-vpp", command="python -m benchmarks.control_vpp")
    measure_vpp(report, quick=quick)
    report.show(Console())
    if not quick:
        report.save()


if __name__ == "__main__":
    main()
