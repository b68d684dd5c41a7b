"""Results of estimating inertia as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.inertia_pipeline import RecordResult, UnitResult
from edgeflex_flow.messages import InertiaEstimate, SystemInertia

UNIX_TIME_FROM_S: Final = 1e8
"""Times from here on are seconds since 1970, not since a record's start."""
MOST_EVENTS: Final = 5


@dataclass(frozen=True, slots=True)
class RecordReport:
    """What became of one file."""

    key: str
    """Name of the record: the file's stem, or more of its path where stems are alike."""
    file: Path
    result: RecordResult | None = None
    error: str = ""
    """Why the file could not be used; empty when it could."""
    warnings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether there is a value for the system."""
        return self.result is not None and energy_mws(self.result.system) is not None


# -- JSON ------------------------------------------------------------------------------------------------------------


def as_builtins(reports: Iterable[RecordReport]) -> dict[str, Any]:
    """The result as JSON holds it."""
    return {"records": {report.key: _record(report) for report in reports}}


def _record(report: RecordReport) -> dict[str, Any]:
    result = report.result or RecordResult()
    energy = energy_mws(result.system)
    low, high = energy_interval_mws(result.system)
    record: dict[str, Any] = {
        "units": {device: _unit(unit.estimate) for device, unit in result.units.items()},
        "system_ek_mws": energy,
        "system_ci95_mws": None if energy is None or low is None or high is None else [low, high],
        "system_reason": no_energy_reason(result) if energy is None and not report.error else "",
        "system_assumed": list(result.system.assumed) if result.system else [],
        "system_remarks": list(result.system.remarks) if result.system else [],
        "system_tripped": list(result.system.tripped) if result.system else [],
        "system_offline": list(result.system.offline) if result.system else [],
        "system_agrees": result.system.agrees if result.system else None,
        "not_counted": not_counted(result),
        "event_id": result.event.id if result.event else None,
        "event_time_s": finite(result.event_time_s),
        "other_events_s": list(result.other_events_s),
    }
    return record | ({"error": report.error} if report.error else {})


def _unit(estimate: InertiaEstimate) -> dict[str, Any]:
    good = estimate.status == "ok"
    unit: dict[str, Any] = {
        "h_s": finite(estimate.h_s) if good else None,
        "ci95_low": finite(estimate.h_ci95_low_s) if good else None,
        "ci95_high": finite(estimate.h_ci95_high_s) if good else None,
        "status": estimate.status,
    }
    made_of = {
        "begin_ns": estimate.begin_ns,
        "end_ns": estimate.end_ns,
        "rows": estimate.rows,
        "settings": estimate.settings,
        "config_digest": estimate.config_digest,
        "unit_digest": estimate.unit_digest,
        "version": estimate.version,
    }
    reason = {} if good else {"reason": estimate.reason}
    return unit | reason | {"remarks": list(estimate.remarks), "made_of": made_of}


def not_counted(result: RecordResult) -> list[str]:
    """Devices of the record that may be units, but are in no sum, since nothing is known of them."""
    return [device for device, unit in result.units.items() if unit.estimate.rated_power_mva is None]


def is_whole(result: RecordResult) -> bool:
    """Whether all that may count in the sum was estimated."""
    return not (result.system is not None and result.system.assumed) and not not_counted(result)


def no_energy_reason(result: RecordResult) -> str:
    """Why there is no value for the system."""
    if result.system is not None and result.system.reason:
        return result.system.reason
    if result.event_time_s is None:
        return "no frequency event was found"
    return "no data of units are given (--units)"


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def energy_mws(system: SystemInertia | None) -> float | None:
    return None if system is None else finite(system.kinetic_energy_mws)


def energy_interval_mws(system: SystemInertia | None) -> tuple[float | None, float | None]:
    return (None, None) if system is None else (finite(system.ci95_low_mws), finite(system.ci95_high_mws))


# -- for people ------------------------------------------------------------------------------------------------------


def show_messages(reports: Iterable[RecordReport]) -> None:
    """Errors and warnings, on standard error."""
    for report in reports:
        for warning in report.warnings:
            click.echo(f"warning: {report.file}: {warning}", err=True)
        if report.error:
            click.echo(f"error: {report.error}", err=True)


def show_tables(reports: Iterable[RecordReport], out: Console) -> None:
    """A table for each record that could be read."""
    for report in reports:
        if report.result is not None:
            out.print(_table(report.key, report.result))
            out.print(_system_line(report.result))
            out.print()


def _table(key: str, result: RecordResult) -> Table:
    table = Table(
        title=Text.assemble((key, "bold"), f", {onset_text(result)}"),
        title_style="",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("unit", style="cyan", no_wrap=True)
    for heading in ("H (s)", "95 % interval", "E_k (MWs)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("reason or remarks", overflow="fold")
    for device, unit in result.units.items():
        table.add_row(Text(printable(device)), *_cells(unit))
    return table


def onset_text(result: RecordResult) -> str:
    """When the event began, on the record's own time axis, and in UTC where that is one of Unix time."""
    if result.event_time_s is None:
        return "no event found"
    text = f"event at {result.event_time_s:.3f} s"
    if result.event_time_s > UNIX_TIME_FROM_S:
        text += f" ({datetime.fromtimestamp(result.event_time_s, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    return text


def _cells(unit: UnitResult) -> tuple[Text, ...]:
    made = unit.estimate
    if made.status != "ok":
        return Text("–"), Text("–"), Text("–"), Text(made.status, style="yellow"), Text(printable(made.reason))
    notes = [*(["indicative"] if made.indicative else []), *made.remarks]
    return (
        Text(number(made.h_s, 3), style="bold"),
        Text(interval(made.h_ci95_low_s, made.h_ci95_high_s, 3)),
        Text(number(made.kinetic_energy_mws, 0)),
        Text(made.status, style="green"),
        Text(", ".join(notes)),
    )


def _system_line(result: RecordResult) -> Text:
    system = result.system
    energy = energy_mws(system)
    if system is None or energy is None:
        return Text.assemble(
            ("✗ ", "bold red"),
            ("system", "bold"),
            f": no value: {printable(no_energy_reason(result))}",
            _other_events(result),
        )
    counts = [f"{len(names)} {word}" for names, word in shares(system) if names]
    left_out = not_counted(result)
    text = Text.assemble(
        ("✓ ", "bold green") if is_whole(result) else ("! ", "bold yellow"),
        ("system", "bold"),
        ": E_k ",
        (f"{number(energy, 0)} MWs", "bold"),
        f", 95 % interval {interval(*energy_interval_mws(system), 0)} MWs ({', '.join(counts)})",
    )
    if system.kinetic_energy_from_lost_power_mws is not None:
        verdict = "agrees" if system.agrees else "disagrees by more than a quarter"
        text.append(
            f"; from the lost power {number(system.kinetic_energy_from_lost_power_mws, 0)} MWs, which {verdict}"
        )
    if system.remarks:
        text.append(f"; remarks: {', '.join(system.remarks)}")
    if system.assumed:
        text.append(f"; assumed, not estimated: {printable(', '.join(system.assumed))}")
    if left_out:
        text.append(f"; not counted, for want of unit data: {printable(', '.join(left_out))}")
    return text.append(_other_events(result))


def _other_events(result: RecordResult) -> str:
    """What else is in the record."""
    others = result.other_events_s
    if not others:
        return ""
    shown = ", ".join(f"{each:.3f} s" for each in others[:MOST_EVENTS])
    more = f" and {len(others) - MOST_EVENTS} more" if len(others) > MOST_EVENTS else ""
    return f"\nother events: {shown}{more}; --event TIME chooses one"


def shares(system: SystemInertia) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Units by how they count, with the word for it."""
    return (
        (system.estimated, "estimated"),
        (system.assumed, "assumed"),
        (system.tripped, "tripped"),
        (system.offline, "off line"),
    )


def printable(text: str) -> str:
    r"""Text of a file for a terminal: what would move the cursor or change colours is shown, not done.

    >>> print(printable("G1" + chr(27) + "[31m"))
    G1\x1b[31m
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def number(value: float | None, digits: int) -> str:
    """A number with thousands apart; a dash for none.

    >>> number(90692.4, 0), number(None, 0)
    ('90 692', '–')
    """
    return "–" if finite(value) is None else f"{value:,.{digits}f}".replace(",", " ")


def interval(low: float | None, high: float | None, digits: int) -> str:
    """An interval in words.

    >>> interval(4.05, 4.371, 2)
    '4.05 to 4.37'
    """
    return f"{number(low, digits)} to {number(high, digits)}"
