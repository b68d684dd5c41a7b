"""How the constants of the inertia fit were chosen, and what they give on systems that had no part in it.

    python -m benchmarks.inertia_choice RECORDS

RECORDS is a folder that ``python -m benchmarks.inertia_truth RECORDS`` filled, or a part of it. Every candidate, which
is one set of assumptions for all units, is fitted to all load steps and trips. Each network is then left out in turn:
candidate and widths of the intervals are chosen from the others, by how likely they make the truth, and are judged on
the one left out. Random grids, line openings, load noise and phase jumps have no part in any choice.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.inertia import DATA, Truth, estimated, noisy, truth_of
from benchmarks.report import Report
from edgeflex_connectors.recording_table import Recording
from edgeflex_connectors.recordings import read_recording
from edgeflex_flow.cli.recorded_units import unit_table
from edgeflex_flow.kernel import warm_up
from edgeflex_flow.units import NS_PER_S
from edgeflex_operators import _swing as swing
from edgeflex_operators._unit_fit import CHOSEN, Assumptions, Limits, fit_unit
from edgeflex_operators.inertia_event import InertiaEventConfig
from edgeflex_operators.system_inertia import COMMON_DEVIATION
from edgeflex_services.swing_grid import random_grid
from edgeflex_services.swing_record import PmuNoise, measure
from edgeflex_services.swing_simulator import LoadStep, UnitTrip, simulate

BEFORE_S, AFTER_S = 2.0, 5.0
NORMAL_95 = 1.959964
DEFAULTS = InertiaEventConfig(units={})
LIMITS = Limits(DEFAULTS.min_deviation, DEFAULTS.stand_out, math.inf, DEFAULTS.max_residual)
"""Those of a flow, but that no interval is too wide: how wide it is, is what is sought."""

INFLATIONS = (1.0, 1.3, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
MODEL_DEVIATIONS = (0.01, 0.015, 0.02, 0.025, 0.03)
"""No narrower: current and voltage transformers of class 0.5 alone make 0.7 % of power."""
COMMON_DEVIATIONS = (0.005, 0.008, 0.012, 0.016, 0.02, 0.025)

Array = NDArray[np.float64]


class Candidate(NamedTuple):
    """One way to fit all units."""

    name: str
    assumptions: Assumptions
    after_s: float = AFTER_S


def _with(base: Assumptions, **priors: tuple[float, float]) -> Assumptions:
    return base._replace(priors={**base.priors, **{getattr(swing, f"LOG_{name}"): v for name, v in priors.items()}})


TEXTBOOK = _with(CHOSEN, T1=(0.2, 1.0), XQ=(4.8, 0.4), TQ=(0.6, 0.5), XQ1=(1.4, 0.35), TQ1=(0.05, 0.3))
WIDE = _with(TEXTBOOK, T1=(0.15, 1.0), XQ=(4.5, 0.6), TQ=(0.6, 0.7), XQ1=(1.3, 0.4), TQ1=(0.055, 0.5))
CANDIDATES = (
    Candidate("currents as measured", TEXTBOOK._replace(smooth_s=0.0)),
    Candidate("smoothed over 0.14 s", TEXTBOOK._replace(smooth_s=0.14)),
    Candidate("smoothed over 0.2 s", TEXTBOOK._replace(smooth_s=0.2)),
    Candidate("0.14 s, wide axis", WIDE._replace(smooth_s=0.14)),
    Candidate("0.2 s, wide axis", WIDE._replace(smooth_s=0.2)),
    Candidate("0.14 s, wide axis, three times the drift", WIDE._replace(smooth_s=0.14, drift_share=0.015)),
    Candidate("0.14 s, wide axis, 3.5 s after the onset", WIDE._replace(smooth_s=0.14), 3.5),
)


class Fit(NamedTuple):
    """What a candidate makes of one unit in one record."""

    network: str
    system: str
    record: str
    energy_mws: float
    error: float
    """Of the logarithm of H."""
    deviation: float
    """The fit's own."""


class Widths(NamedTuple):
    """How wide intervals are."""

    inflation: float
    model_deviation: float

    def of(self, fits: Sequence[Fit]) -> Array:
        """Standard deviations of the logarithm of H."""
        own = np.array([fit.deviation for fit in fits])
        deviations: Array = np.hypot(self.inflation * own, self.model_deviation)
        return deviations


def network_of(system: str) -> str:
    """Variants of a network, with classical machines or governors, are left out together."""
    return system.removesuffix("gencls").removesuffix("gov")


# Fits -----------------------------------------------------------------------------------------------------------------


def fits_of(candidate: Candidate, recording: Recording, truth: Truth, name: str) -> Iterator[Fit]:
    """Fits of all units that an accepted estimate would need, but for its width."""
    units, _ = unit_table(recording.units, {})
    onset_ns = round(truth.onset_s * NS_PER_S)
    system = name.split("_", maxsplit=1)[0]
    for device, h_s in truth.h_s.items():
        found = fit_unit(
            recording.samples,
            device,
            units[device],
            onset_ns=onset_ns,
            begin_ns=onset_ns - round(BEFORE_S * NS_PER_S),
            end_ns=onset_ns + round(candidate.after_s * NS_PER_S),
            limits=LIMITS,
            nominal_hz=60.0,
            assumptions=candidate.assumptions._replace(inflation=1.0, model_deviation=0.0),
        )
        if found.h_s is not None and found.deviation is not None:
            energy_mws = h_s * truth.rated_mva[device]
            yield Fit(network_of(system), system, name, energy_mws, math.log(found.h_s / h_s), found.deviation)


def all_fits(files: Sequence[Path], candidates: Sequence[Candidate], *, own_noise: bool) -> dict[str, list[Fit]]:
    """By candidate."""
    found: dict[str, list[Fit]] = {candidate.name: [] for candidate in candidates}
    title = "noise of each phasor" if own_noise else "noise in common"
    for number, file in enumerate(track(files, title, transient=True)):
        truth = truth_of(file)
        recording = noisy(read_recording(file), number, own_noise=own_noise)
        for candidate in candidates:
            found[candidate.name] += fits_of(candidate, recording, truth, file.stem)
    return found


def events(records: Path) -> list[Path]:
    """Load steps and trips."""
    found = []
    for file in sorted(records.glob("*.npz")):
        with np.load(file) as record:
            if str(record["event_kind"]) in ("load", "trip"):
                found.append(file)
    return found


# The choice -----------------------------------------------------------------------------------------------------------


def unlikelihood(errors: Array, deviations: Array) -> float:
    """Mean negative logarithm of the density of a normal distribution, less a constant: small is likely and sharp."""
    return float(np.mean(np.log(deviations) + 0.5 * (errors / deviations) ** 2))


def by_system(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    found: dict[str, list[Fit]] = {}
    for fit in fits:
        found.setdefault(fit.system, []).append(fit)
    return found


def score(fits: Sequence[Fit], widths: Widths) -> float:
    """Every system counts the same, however many units and records it has."""
    systems = by_system(fits).values()
    return float(np.mean([unlikelihood(np.array([f.error for f in each]), widths.of(each)) for each in systems]))


def best_widths(fits: Sequence[Fit]) -> tuple[Widths, float]:
    tried = [Widths(inflation, model) for inflation in INFLATIONS for model in MODEL_DEVIATIONS]
    scores = [score(fits, widths) for widths in tried]
    best = int(np.argmin(scores))
    return tried[best], scores[best]


def sums(fits: Sequence[Fit], widths: Widths) -> list[tuple[str, float, float]]:
    """System, relative error and relative deviation of each record's sum, by the units' intervals alone."""
    records: dict[str, list[Fit]] = {}
    for fit in fits:
        records.setdefault(fit.record, []).append(fit)
    found = []
    for each in records.values():
        truth_mws = np.array([fit.energy_mws for fit in each])
        energy_mws = truth_mws * np.exp([fit.error for fit in each])
        deviation = float(np.linalg.norm(energy_mws * widths.of(each)) / energy_mws.sum())
        found.append((each[0].system, float(energy_mws.sum() / truth_mws.sum() - 1.0), deviation))
    return found


def best_common(fits: Sequence[Fit], widths: Widths) -> float:
    """The deviation that all units of a system share."""
    found = sums(fits, widths)
    systems = sorted({system for system, _, _ in found})

    def told(common: float) -> float:
        scores = []
        for system in systems:
            mine = np.array([(error, math.hypot(own, common)) for name, error, own in found if name == system])
            scores.append(unlikelihood(mine[:, 0], mine[:, 1]))
        return float(np.mean(scores))

    return min(COMMON_DEVIATIONS, key=told)


class Choice(NamedTuple):
    """What is best for some fits."""

    candidate: str
    widths: Widths
    common: float

    @property
    def words(self) -> str:
        return (
            f"{self.candidate}; intervals {self.widths.inflation:g} times the fit's own and "
            f"{100 * self.widths.model_deviation:g} %, sums {100 * self.common:g} %"
        )


def chosen_from(fits: dict[str, list[Fit]]) -> Choice:
    best = {name: best_widths(each) for name, each in fits.items()}
    name = min(best, key=lambda candidate: best[candidate][1])
    return Choice(name, best[name][0], best_common(fits[name], best[name][0]))


def judge(report: Report, section: str, prefix: str, fits: Sequence[Fit], choice: Choice) -> None:
    """Rows of what a choice gives on fits."""
    deviations = choice.widths.of(fits)
    accepted = deviations <= DEFAULTS.max_deviation
    errors = np.array([fit.error for fit in fits])[accepted]
    deviations = deviations[accepted]

    def add(name: str, values: Sequence[float]) -> None:
        report.add(section, prefix + name, "%", values)

    add("units, median error", [100.0 * float(np.median(np.abs(errors)))])
    add("units, 90th percentile", [100.0 * float(np.quantile(np.abs(errors), 0.9))])
    add("units, median of signed errors", [100.0 * float(np.median(errors))])
    add("units, half a middling interval", [100.0 * NORMAL_95 * float(np.median(deviations))])
    add("units, interval holds the truth", [100.0 * float(np.mean(np.abs(errors) <= NORMAL_95 * deviations))])
    totals = sums(fits, choice.widths)
    held = [abs(error) <= NORMAL_95 * math.hypot(own, choice.common) for _, error, own in totals]
    add("system error", [100.0 * error for _, error, _ in totals])
    add("system, interval holds the truth", [100.0 * float(np.mean(held))])


# What has no part in the choice ---------------------------------------------------------------------------------------


def grid_fits(candidate: Candidate, grids: int) -> list[Fit]:
    """Load steps and trips in random grids of this project's own simulator."""
    found: list[Fit] = []
    for number in track(range(grids), "random grids", transient=True):
        grid = random_grid(5 + number % 4, seed=1000 + number, nominal_hz=60.0)
        step = LoadStep(at_s=3.007, load=1, power_mw=0.03 * sum(unit.power_mw for unit in grid.units))
        event = UnitTrip(at_s=3.007, unit=0) if number % 4 == 3 else step
        record = measure(simulate(grid, 9.0, [event]), frames_per_s=60, noise=PmuNoise(), seed=number)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"grid_{number}.npz"
            record.save(file)
            found += fits_of(candidate, read_recording(file), truth_of(file), file.stem)
    return found


def tell_false_alarms(report: Report, records: Path) -> None:
    """What the whole chain accepts where no power was lost."""
    kinds: dict[str, list[tuple[str, int, int]]] = {}
    for number, file in enumerate(track(sorted(records.glob("*.npz")), "nothing to estimate", transient=True)):
        with np.load(file) as record:
            kind, seconds = str(record["event_kind"]), float(record["t"][-1])
        if kind in ("load", "trip") or seconds > 60.0:
            continue
        result, _ = estimated(noisy(read_recording(file), number))
        accepted = sum(unit.estimate.status == "ok" for unit in result.units.values())
        kinds.setdefault(kind.replace("_", " "), []).append((file.stem, accepted, len(result.units)))
    section = "Records of ANDES with nothing to estimate"
    for kind, told in sorted(kinds.items()):
        units = sum(total for _, _, total in told)
        name = f"{kind}: accepted of {units} units in {len(told)} records"
        report.add(
            section, name, "units", [float(sum(n for _, n, _ in told))], asked="0", good=lambda value: value == 0
        )
        report.notes += [f"{stem}: {n} of {total} units were accepted." for stem, n, total in told if n]


@click.command()
@click.argument("records", type=click.Path(exists=True, file_okay=False, path_type=Path), default=DATA)
@click.option("--quick", is_flag=True, help="Few records, to see that it runs; nothing is written then.")
def main(records: Path, *, quick: bool) -> None:
    """Choose the constants of the inertia fit from RECORDS, and judge the choice on what had no part in it."""
    warm_up(["edgeflex_operators.inertia_event", "edgeflex_operators.rocof", "edgeflex_operators.frequency_event"])
    report = Report("inertia_choice", command="python -m benchmarks.inertia_choice RECORDS")
    files = events(records)[:: 4 if quick else 1]
    fits = all_fits(files, CANDIDATES, own_noise=False)
    whole = chosen_from(fits)
    section = "Candidates, with the widths that are best for each: how likely they make the truth, all systems alike"
    for name, each in fits.items():
        report.add(section, name, "nat", [-best_widths(each)[1]])
    networks = sorted({fit.network for each in fits.values() for fit in each})
    choices = {network: chosen_from(_without(fits, network)) for network in networks} if len(networks) > 1 else {}
    named = {each.candidate for each in (whole, *choices.values())}
    own = all_fits(files, [each for each in CANDIDATES if each.name in named], own_noise=True)
    for network, choice in choices.items():
        section = f"{network} left out: {choice.words}"
        for system, each in by_system([fit for fit in fits[choice.candidate] if fit.network == network]).items():
            judge(report, section, f"{system}: ", each, choice)
        left_out = [fit for fit in own[choice.candidate] if fit.network == network]
        judge(report, section, "noise of each phasor: ", left_out, choice)
    section = f"Random grids, which had no part: {whole.words}"
    candidate = next(each for each in CANDIDATES if each.name == whole.candidate)
    judge(report, section, "", grid_fits(candidate, 3 if quick else 24), whole)
    tell_false_alarms(report, records)
    report.notes += list(_conclusions(whole, len(files)))
    report.show(Console())
    if not quick:
        report.save()


def _without(fits: dict[str, list[Fit]], network: str) -> dict[str, list[Fit]]:
    return {name: [fit for fit in each if fit.network != network] for name, each in fits.items()}


def _conclusions(whole: Choice, records: int) -> Iterator[str]:
    yield f"Chosen from all {records} load steps and trips: {whole.words}."
    used = Widths(CHOSEN.inflation, CHOSEN.model_deviation)
    yield (
        f"Used when this ran: {_name_of(CHOSEN)}; intervals {used.inflation:g} times the fit's own and "
        f"{100 * used.model_deviation:g} %, sums {100 * COMMON_DEVIATION:g} %."
    )


def _name_of(assumptions: Assumptions) -> str:
    for candidate in CANDIDATES:
        if candidate.after_s == AFTER_S and candidate.assumptions == assumptions:
            return candidate.name
    return "none of the candidates"


if __name__ == "__main__":
    main()
