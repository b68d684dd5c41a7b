"""`make bench-inertia`: how far inertia estimates are from the truth, beside the textbook's ways of estimating it."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.report import RESULTS, Report
from edgeflex_connectors.recording_table import Recording
from edgeflex_connectors.recordings import read_recording
from edgeflex_flow.cli.inertia_pipeline import RecordResult, estimate_record
from edgeflex_flow.cli.recorded_units import unit_table
from edgeflex_flow.kernel import warm_up
from edgeflex_flow.messages import Samples
from edgeflex_services.swing_grid import random_grid, two_areas
from edgeflex_services.swing_record import PhaseJump, PmuNoise, PmuRecord, measure
from edgeflex_services.swing_simulator import LoadNoise, simulate

DATA = Path(__file__).parent / "data" / "inertia"
TRAINING = ("kundur_load", "ieee39_load")
FREQUENCY_NOISE_HZ = 1e-3
POWER_NOISE = 1e-3

Array = NDArray[np.float64]


@dataclass
class Truth:
    """What a record's own fields say. Only the benchmark reads them."""

    h_s: dict[str, float]
    rated_mva: dict[str, float]
    onset_s: float

    @property
    def energy_mws(self) -> float:
        return sum(h * self.rated_mva[device] for device, h in self.h_s.items())


def truth_of(file: Path) -> Truth:
    """Units that count: monitored ones that stay on line."""
    with np.load(file) as record:
        counts = record["monitored"] & record["online"]
        names = [str(name) for name in record["gen"]]
        return Truth(
            {name: float(record["h"][k]) for k, name in enumerate(names) if counts[k]},
            {name: float(record["sn"][k]) for k, name in enumerate(names)},
            float(record["event_time"]),
        )


def noisy(recording: Recording, seed: int, *, own_noise: bool = False) -> Recording:
    """1 mHz rms of noise in frequency, the angle's to match, and 0.1 % in power.

    A PMU's clock turns voltage and current alike; `own_noise` turns each by its own angle, as converters do.
    """
    rng = np.random.default_rng(seed)
    samples = recording.samples
    step_s = float(np.median(np.diff(np.unique(samples.time_ns)))) * 1e-9
    # White noise of an angle makes this much of frequency, its central difference.
    angle_rad = rng.normal(0.0, FREQUENCY_NOISE_HZ * math.tau * 2.0 * step_s / math.sqrt(2.0), samples.rows)
    power = 1.0 + rng.normal(0.0, POWER_NOISE, samples.rows)
    columns = dict(samples.columns)
    columns["voltage_angle_rad"] = columns["voltage_angle_rad"] + angle_rad
    current_rad = rng.permutation(angle_rad) if own_noise else angle_rad
    columns["current_angle_rad"] = columns["current_angle_rad"] + current_rad
    columns["current_a"] = columns["current_a"] * power
    columns["frequency_hz"] = columns["frequency_hz"] + rng.normal(0.0, FREQUENCY_NOISE_HZ, samples.rows)
    if "active_power_w" in columns:
        columns["active_power_w"] = columns["active_power_w"] * power
    return dataclasses.replace(recording, samples=samples.with_columns(columns))


@dataclass
class Score:
    """Errors in per cent over many estimates."""

    units: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    systems: list[float] = field(default_factory=list)
    systems_covered: list[bool] = field(default_factory=list)
    asked: int = 0
    ms_per_unit: list[float] = field(default_factory=list)

    def add(self, result: RecordResult, truth: Truth, seconds: float) -> None:
        self.asked += len(truth.h_s)
        self.ms_per_unit.append(1e3 * seconds / len(result.units))
        for device, h_s in truth.h_s.items():
            found = result.units[device].estimate
            if found.h_s is None or found.h_ci95_low_s is None or found.h_ci95_high_s is None:
                continue
            self.units.append(100.0 * (found.h_s / h_s - 1.0))
            self.covered.append(found.h_ci95_low_s <= h_s <= found.h_ci95_high_s)
        total = result.system
        if total is not None and total.kinetic_energy_mws is not None:
            self.systems.append(100.0 * (total.kinetic_energy_mws / truth.energy_mws - 1.0))
            self.systems_covered.append(
                (total.ci95_low_mws or 0.0) <= truth.energy_mws <= (total.ci95_high_mws or math.inf)
            )


def estimated(recording: Recording) -> tuple[RecordResult, float]:
    """The result and the time that the estimates alone took."""
    units, _ = unit_table(recording.units, {})
    began_s = time.perf_counter()
    result = estimate_record(recording.batches(), units, on_progress=lambda _rows: None)
    return result, time.perf_counter() - began_s


def score(names: Sequence[str], seeds: Sequence[int], title: str) -> dict[str, Score]:
    """By record."""
    scores: dict[str, Score] = {}
    for name in track(names, description=title, transient=True):
        file = DATA / f"{name}.npz"
        clean, truth = read_recording(file), truth_of(file)
        scores[name] = Score()
        for seed in seeds:
            result, seconds = estimated(noisy(clean, seed))
            scores[name].add(result, truth, seconds)
    return scores


def joined(scores: Sequence[Score]) -> Score:
    whole = Score()
    for each in scores:
        for name in ("units", "covered", "systems", "systems_covered", "ms_per_unit"):
            getattr(whole, name).extend(getattr(each, name))
        whole.asked += each.asked
    return whole


def tell(report: Report, section: str, found: Score) -> None:
    """Add the rows of the training records, with their goals."""

    def add(name: str, unit: str, value: float, asked: str = "", good: Callable[[float], bool] | None = None) -> None:
        report.add(section, name, unit, [value], asked=asked, good=good)

    units, systems = np.abs(found.units), np.abs(found.systems)
    add("system E_k, largest error", "%", float(systems.max(initial=0.0)), "≤ 3", lambda v: v <= 3.0)
    add("system E_k, median error", "%", float(np.median(systems)))
    add("system E_k, interval holds the truth", "%", 100.0 * float(np.mean(found.systems_covered)))
    add("units, median error", "%", float(np.median(units)), "≤ 5", lambda v: v <= 5.0)
    add("units, 90th percentile", "%", float(np.quantile(units, 0.9)), "≤ 12", lambda v: v <= 12.0)
    add("units, median of signed errors", "%", float(np.median(found.units)))
    add(
        "units, interval holds the truth",
        "%",
        100.0 * float(np.mean(found.covered)),
        "90 to 98",
        lambda v: 90.0 <= v <= 98.0,
    )
    add("units accepted", "%", 100.0 * len(found.units) / found.asked)
    add("time per unit, the whole chain", "ms", float(np.median(found.ms_per_unit)), "≤ 50", lambda v: v <= 50.0)


# The textbook's ways --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitCourse:
    """What a PMU tells of a unit in the window, relative to before the onset: pu of frequency and of rated power."""

    time_s: Array
    frequency: Array
    power: Array


def course(samples: Samples, device: str, rated_mva: float, onset_s: float, nominal_hz: float) -> UnitCourse:
    mine = samples.device == samples.devices.index(device)
    time_s: Array = samples.time_ns[mine].astype(np.float64) * 1e-9 - onset_s
    frequency = samples.columns["frequency_hz"][mine] / nominal_hz
    power = samples.columns["active_power_w"][mine] / (rated_mva * 1e6)
    before = (time_s > -2.0) & (time_s < -0.05)
    return UnitCourse(time_s, frequency - frequency[before].mean(), power - power[before].mean())


def power_over_rocof(unit: UnitCourse, span_s: float) -> float:
    """H from the mean change of power over the slope of frequency."""
    inside = (unit.time_s > 0.0) & (unit.time_s <= span_s)
    slope = float(np.polyfit(unit.time_s[inside], unit.frequency[inside], 1)[0])
    return -float(unit.power[inside].mean()) / (2.0 * slope)


def regression(unit: UnitCourse, span_s: float) -> float:
    """H from 2H dw/dt = -dP - D dw - c by least squares, in integral form."""
    inside = (unit.time_s > 0.0) & (unit.time_s <= span_s)
    time_s, frequency, power = unit.time_s[inside], unit.frequency[inside], unit.power[inside]
    step_s = float(np.median(np.diff(time_s)))
    matrix = np.stack([-np.cumsum(power) * step_s, -np.cumsum(frequency) * step_s, np.ones_like(time_s)], axis=1)
    over_m = float(np.linalg.lstsq(matrix, frequency, rcond=None)[0][0])
    return 0.5 / over_m if over_m else math.inf


def textbook(seeds: Sequence[int]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Name, unit errors and system errors of each way, in per cent, on the training records."""
    ways: dict[str, Callable[[UnitCourse], float]] = {
        "ΔP over ROCOF, 0.25 s": lambda unit: power_over_rocof(unit, 0.25),
        "H, D regression, 0.25 s": lambda unit: regression(unit, 0.25),
        "H, D regression, 1 s": lambda unit: regression(unit, 1.0),
    }
    unit_errors: dict[str, list[float]] = {way: [] for way in ways}
    system_errors: dict[str, list[float]] = {way: [] for way in ways}
    aggregated: list[float] = []
    for name in TRAINING:
        file = DATA / f"{name}.npz"
        clean, truth = read_recording(file), truth_of(file)
        for seed in seeds:
            samples = noisy(clean, seed).samples
            courses = {
                device: course(samples, device, truth.rated_mva[device], truth.onset_s, 60.0) for device in truth.h_s
            }
            for way, estimate in ways.items():
                found = {device: estimate(unit) for device, unit in courses.items()}
                unit_errors[way] += [100.0 * (found[device] / h_s - 1.0) for device, h_s in truth.h_s.items()]
                energy_mws = sum(h_s * truth.rated_mva[device] for device, h_s in found.items())
                system_errors[way].append(100.0 * (energy_mws / truth.energy_mws - 1.0))
            aggregated.append(100.0 * (_one_equation(courses, truth) / truth.energy_mws - 1.0))
    for way in ways:
        yield way, unit_errors[way], system_errors[way]
    yield "one equation for the system, 1 s", [], aggregated


def _one_equation(courses: dict[str, UnitCourse], truth: Truth) -> float:
    """Kinetic energy from the rating-weighted frequency and the summed power."""
    rated = np.array([truth.rated_mva[device] for device in courses])
    frequency = np.average([unit.frequency for unit in courses.values()], axis=0, weights=rated)
    power = np.average([unit.power for unit in courses.values()], axis=0, weights=rated)
    time_s = next(iter(courses.values())).time_s
    return regression(UnitCourse(time_s, frequency, power), 1.0) * float(rated.sum())


# Nothing to estimate --------------------------------------------------------------------------------------------------


def quiet_records(count: int, *, jumps: bool) -> Iterator[PmuRecord]:
    """Load noise alone, with or without a jump of one or all PMUs' time source, in many grids."""
    rng = np.random.default_rng(7 if jumps else 11)
    for number in range(count):
        grid = two_areas() if number % 4 == 0 else random_grid(4 + number % 5, seed=number)
        run = simulate(grid, 15.0, noise=LoadNoise(share=float(rng.choice([0.0, 0.002, 0.005, 0.01]))), seed=number)
        jump = None
        if jumps:
            units = None if number % 3 == 0 else (int(rng.integers(len(grid.units))),)
            angle = float(np.radians(rng.choice([-20.0, -10.0, -5.0, 5.0, 10.0, 20.0])))
            jump = PhaseJump(at_s=float(rng.uniform(4.0, 8.0)), angle_rad=angle, units=units)
        yield measure(run, frames_per_s=50, noise=PmuNoise(), jump=jump, seed=number)


def accepted_without_event(count: int, *, jumps: bool, folder: Path) -> tuple[int, int]:
    """How many units of how many were accepted though there was no event."""
    accepted = total = 0
    title = "phase jumps" if jumps else "no event"
    for number, record in enumerate(track(quiet_records(count, jumps=jumps), title, total=count, transient=True)):
        file = folder / f"{number}.npz"
        record.save(file)
        result, _ = estimated(read_recording(file))
        file.unlink()
        total += len(result.units)
        accepted += sum(unit.estimate.status == "ok" for unit in result.units.values())
    return accepted, total


@click.command()
@click.option("--quick", is_flag=True, help="Few draws, to see that it runs; nothing is written then.")
def main(*, quick: bool) -> None:
    """Measure inertia estimates against the truth."""
    console = Console()
    report = Report("inertia", command="make bench-inertia")
    draws, records = (2, 6) if quick else (20, 100)
    warm_up(["edgeflex_operators.inertia_event", "edgeflex_operators.rocof", "edgeflex_operators.frequency_event"])
    training = score(TRAINING, range(draws), "training records")
    section = f"Training records, {draws} draws of noise each (1 mHz in frequency, 0.1 % in power)"
    tell(report, section, joined(list(training.values())))
    for name, units, systems in textbook(range(draws)):
        if units:
            report.add("The same by the textbook", f"{name}: units, median error", "%", [_middle(units)])
        report.add("The same by the textbook", f"{name}: system, median error", "%", [_middle(systems)])
    with tempfile.TemporaryDirectory() as folder:
        for title, jumps in (("no event", False), ("only a phase jump", True)):
            accepted, total = accepted_without_event(records, jumps=jumps, folder=Path(folder))
            report.add(
                f"{records} records each with nothing to estimate",
                f"{title}: accepted of {total} units",
                "units",
                [float(accepted)],
                asked="0",
                good=lambda value: value == 0,
            )
    others = sorted(file.stem for file in DATA.glob("*.npz") if file.stem not in TRAINING)
    for name, found in score(others, range(2 if quick else 5), "other systems").items():
        tell_other(report, name, found)
    report.notes += how_chosen(others)
    report.show(console)
    if not quick:
        report.save()


def how_chosen(records: Sequence[str]) -> list[str]:
    """What `python -m benchmarks.inertia_choice` found when it was last run."""
    notes = ["Intervals and thresholds are the same for all systems; no record has settings of its own."]
    told = RESULTS / "inertia_choice.json"
    if told.exists():
        notes += [note for note in json.loads(told.read_text())["notes"] if note.startswith("Chosen")]
        notes.append(
            f"The choice saw all records here: {', '.join((*TRAINING, *records))}. What it gives on networks that it"
            " did not see is in inertia_choice.md."
        )
    return notes


def tell_other(report: Report, name: str, found: Score) -> None:
    section = "Other systems and events (ANDES), 5 draws each"
    if not found.units:
        report.add(section, f"{name}: accepted", "units", [0.0])
        return
    report.add(section, f"{name}: units, median error", "%", [_middle(found.units)])
    report.add(section, f"{name}: units, 90th percentile", "%", [float(np.quantile(np.abs(found.units), 0.9))])
    report.add(section, f"{name}: interval holds the truth", "%", [100.0 * float(np.mean(found.covered))])
    report.add(section, f"{name}: system error", "%", found.systems or [math.nan])
    if found.systems:
        held = 100.0 * float(np.mean(found.systems_covered))
        report.add(section, f"{name}: system, interval holds the truth", "%", [held])


def _middle(errors: Sequence[Any]) -> float:
    return float(np.median(np.abs(errors)))


if __name__ == "__main__":
    main()
