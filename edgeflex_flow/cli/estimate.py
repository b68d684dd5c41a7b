"""`edgeflex estimate`: estimates from recorded files."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import click
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgeflex_connectors.recording_table import RecordingError, target_of
from edgeflex_connectors.recordings import read_recording
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS
from edgeflex_flow.cli.inertia_output import RecordReport, as_builtins, show_messages, show_tables
from edgeflex_flow.cli.inertia_pipeline import DEFAULT_CHOICE, Choice, RecordResult, settings_known
from edgeflex_flow.cli.places import Definition
from edgeflex_flow.cli.problems import WIDTH_OF_FILES, console, show_problems
from edgeflex_flow.cli.recorded_units import unit_table
from edgeflex_flow.cli.times import Time
from edgeflex_flow.errors import EdgeflexError, FlowFileError, how_to_install
from edgeflex_flow.flowfile import load_table
from edgeflex_flow.flowfile.fields import check_bounds, parse_number
from edgeflex_flow.messages import Samples, SystemInertia
from edgeflex_operators._units import GeneratingUnit, UnitTable

EXIT_NO_ESTIMATE: Final = 1
_NOMINAL_HZ: Final = {"50Hz": 50.0, "60Hz": 60.0}


class EstimateRecord(Protocol):
    """Estimates the inertia of the units in one record. `on_progress` is told how many rows were taken since last."""

    def __call__(
        self, batches: Iterable[Samples], units: UnitTable, *, choice: Choice, on_progress: Callable[[int], None]
    ) -> RecordResult: ...


@click.group()
def estimate() -> None:
    """Estimate quantities of the grid from recorded files."""


@estimate.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECORD…")
@click.option("--units", "units_file", type=click.Path(path_type=Path), help="File with the data of generating units.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw measured and fitted frequencies: out.png, out.svg or out.pdf; of several records one file each.",
)
@click.option(
    "--nominal",
    type=click.Choice(list(_NOMINAL_HZ)),
    help="Nominal frequency, to derive the frequency of records that hold angles only.",
)
@click.option(
    "--channel",
    "channels",
    type=Definition(),
    multiple=True,
    help="Column of a phasor or analog in captures: --channel VPOS=voltage_v.",
)
@click.option(
    "--event",
    "event_s",
    type=float,
    help="Of several events the one nearest to this time of the record, in seconds.",
)
@click.option("--begin", type=Time(), help="Of a store, use what is from this time on: 2026-05-01T10:00:00Z.")
@click.option("--end", type=Time(), help="Of a store, use what is before this time.")
@click.option(
    "--set",
    "settings",
    type=Definition(),
    multiple=True,
    help="A setting of frequency_event or inertia_event, as a policy may have changed it: --set max_deviation=0.1.",
)
def inertia(
    *,
    records: tuple[Path, ...],
    units_file: Path | None,
    as_json: bool,
    plot: Path | None,
    nominal: str | None,
    channels: tuple[tuple[str, str], ...],
    event_s: float | None,
    begin: int | None,
    end: int | None,
    settings: tuple[tuple[str, str], ...],
) -> None:
    """Estimate the inertia of generating units, and of the system, from records of an event.

    RECORD is an .npz file, a .csv, a store (.db, .sqlite) or a capture of C37.118 frames (.pcap, .pcapng). The data of
    the units come from the record or from --units, which goes before it.

    Exit codes: 0 every record gave a value for the system; 1 a file cannot be used, or there is no estimate; 2 wrong
    usage.
    """
    if event_s is not None and not math.isfinite(event_s):
        raise click.BadParameter(f"a time in seconds is expected; got {event_s}", param_hint="--event")
    draw = _drawing(plot)
    given = _read_units(units_file)
    estimator = Estimator(
        _pipeline(),
        units=given,
        nominal_hz=None if nominal is None else _NOMINAL_HZ[nominal],
        channels=_checked_channels(channels),
        choice=Choice(event_s, _checked_settings(settings)),
        begin_ns=EARLIEST_NS if begin is None else begin,
        end_ns=LATEST_NS if end is None else end,
    )
    reports = estimator.run(records, _progress())
    show_messages(reports)
    if as_json:
        click.echo(json.dumps(as_builtins(reports), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show_tables(reports, _console())
    for report, file in zip(reports, plot_files(plot, reports), strict=True) if plot else ():
        if report.result is not None:
            draw(report.key, report.result, file)
    sys.exit(0 if all(report.good for report in reports) else EXIT_NO_ESTIMATE)


def _pipeline() -> EstimateRecord:
    # Imported when it is used: it brings the kernels of the estimators with it.
    found: EstimateRecord = importlib.import_module("edgeflex_flow.cli.inertia_pipeline").estimate_record
    return found


def _drawing(plot: Path | None) -> Callable[[str, RecordResult, Path], None]:
    """What draws a record into a file. Checked before the work, of which nothing should be lost."""
    if plot is None:
        return lambda _key, _result, _file: None
    try:
        module = importlib.import_module("edgeflex_flow.cli.inertia_plot")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise click.UsageError(f"--plot needs matplotlib: {how_to_install('plot')}") from error
    if not plot.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder '{plot.parent}'", param_hint="--plot")
    if plot.suffix.lower() not in module.FORMATS:
        known = ", ".join(module.FORMATS)
        raise click.BadParameter(f"'{plot}' ends in none of the known ways: {known}", param_hint="--plot")

    def draw(key: str, result: RecordResult, file: Path) -> None:
        try:
            module.draw_record(key, result, file)
        except OSError as error:
            raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error

    return draw


def _read_units(file: Path | None) -> dict[str, GeneratingUnit]:
    if file is None:
        return {}
    try:
        return load_table(file, GeneratingUnit)
    except FlowFileError as error:
        show_problems(error.problems, console(err=True))
        sys.exit(EXIT_NO_ESTIMATE)


def _checked_channels(channels: Sequence[tuple[str, str]]) -> dict[str, str]:
    for name, column in channels:
        try:
            target = target_of(column)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--channel") from error
        if target is None:
            raise click.BadParameter(f"'{column}' of channel '{name}' is no column of a record", param_hint="--channel")
    return dict(channels)


def _checked_settings(settings: Sequence[tuple[str, str]]) -> dict[str, float]:
    known = settings_known()
    found: dict[str, float] = {}
    for name, text in settings:
        if name not in known:
            raise click.BadParameter(f"no setting '{name}'; known: {', '.join(sorted(known))}", param_hint="--set")
        try:
            found[name] = parse_number(known[name], name, text)
            check_bounds(known[name], name, found[name])
        except (ValueError, TypeError) as error:
            raise click.BadParameter(f"{name}: {error}", param_hint="--set") from error
    return found


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False)


def _progress() -> Progress:
    err = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


@dataclass(frozen=True, slots=True)
class Estimator:
    """Reads and estimates records; knows nothing of the command line."""

    estimate_record: EstimateRecord
    units: Mapping[str, GeneratingUnit] = field(default_factory=dict)
    """Data of units that go before what a record tells."""
    nominal_hz: float | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    """Columns of a capture's phasors and analogs by name."""
    choice: Choice = DEFAULT_CHOICE
    begin_ns: int = EARLIEST_NS
    end_ns: int = LATEST_NS
    """The time of a store that is read."""

    def run(self, files: Sequence[Path], progress: Progress) -> list[RecordReport]:
        """Estimate each file; one that cannot be used does not keep the others from it."""
        reports = []
        with progress:
            records = progress.add_task("records", total=len(files))
            for key, file in zip(record_keys(files), files, strict=True):
                rows = progress.add_task(key, total=None)
                reports.append(self._estimate(key, file, progress, rows))
                progress.remove_task(rows)
                progress.advance(records)
        return reports

    def _estimate(self, key: str, file: Path, progress: Progress, task: TaskID) -> RecordReport:
        try:
            recording = read_recording(
                file,
                nominal_hz=self.nominal_hz,
                channels=self.channels,
                begin_ns=self.begin_ns,
                end_ns=self.end_ns,
            )
        except RecordingError as error:
            return RecordReport(key, file, error=str(error))
        units, unusable = unit_table(recording.units, self.units)
        doubts = [f"what the file tells of unit '{device}' cannot be right: {why}" for device, why in unusable.items()]
        warnings = (*recording.warnings, *doubts)
        progress.update(task, total=recording.samples.rows)
        try:
            result = self.estimate_record(
                recording.batches(), units, choice=self.choice, on_progress=lambda rows: progress.advance(task, rows)
            )
        except EdgeflexError as error:
            return RecordReport(key, file, error=f"{file}: {error}", warnings=warnings)
        # What the record says is none of the system's units is not one whose data are wanting.
        strangers = {device for device, facts in recording.units.items() if not facts.monitored} - units.keys()
        own = {device: unit for device, unit in result.units.items() if device not in strangers}
        system = without_sum(result.system, unusable) if unusable else result.system
        return RecordReport(key, file, dataclasses.replace(result, units=own, system=system), warnings=warnings)


def without_sum(system: SystemInertia | None, unusable: Iterable[str]) -> SystemInertia | None:
    """A sum that lacks units whose data cannot be right is none: they may be larger than all others."""
    if system is None:
        return None
    reason = f"the data of {', '.join(unusable)} cannot be right"
    return replace(system, kinetic_energy_mws=None, ci95_low_mws=None, ci95_high_mws=None, agrees=None, reason=reason)


def record_keys(files: Sequence[Path]) -> list[str]:
    """A name for each file that no other has: its stem, else its name, else its path, else that with a number.

    >>> record_keys([Path("a/x.npz"), Path("b/x.csv"), Path("y.csv"), Path("y.csv")])
    ['x.npz', 'x.csv', 'y.csv', 'y.csv#2']
    """
    forms: tuple[Callable[[Path], str], ...] = (lambda file: file.stem, lambda file: file.name, str)
    keys = [forms[0](file) for file in files]
    for form in forms[1:]:
        counts = Counter(keys)
        keys = [form(file) if counts[key] > 1 else key for key, file in zip(keys, files, strict=True)]
    taken: Counter[str] = Counter()
    numbered = []
    for key in keys:
        taken[key] += 1
        numbered.append(key if taken[key] == 1 else f"{key}#{taken[key]}")
    return numbered


def plot_files(plot: Path, reports: Sequence[RecordReport]) -> list[Path]:
    """Where each record's picture goes: `plot` itself if there is one record, else `plot` with the record's name."""
    if len(reports) == 1:
        return [plot]
    names = [re.sub(r"[^\w.#-]+", "_", report.key) for report in reports]
    return [plot.with_name(f"{plot.stem}-{name}{plot.suffix}") for name in names]
