"""A table of measurements, on the screen and in benchmarks/results/."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from edgeflex_flow.cli.pictures import save_picture

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measure: the values of all runs, and what was asked of it."""

    name: str
    unit: str
    values: tuple[float, ...]
    asked: str = ""
    good: bool | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        if len(self.values) == 1:
            return "one run"
        return f"{_number(min(self.values))} to {_number(max(self.values))}"

    @property
    def verdict(self) -> str:
        return "" if self.good is None else "yes" if self.good else "**no**"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass
class Report:
    """Rows by section, in the order in which they were measured."""

    name: str
    command: str = "make bench"
    sections: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figure: Figure | None = None
    """A picture to stand beside the tables."""

    def add(
        self,
        section: str,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        asked: str = "",
        good: Callable[[float], bool] | None = None,
    ) -> float:
        """Add a measure; gives its median."""
        values = [float(value) for value in values]
        middle = statistics.median(values)
        verdict = None if good is None else bool(good(middle))
        self.sections.setdefault(section, []).append(Row(name, unit, tuple(values), asked, verdict))
        return middle

    def show(self, console: Console) -> None:
        table = Table("measure", title=f"{self.name} on {machine()}")
        for column in ("median", "spread"):
            table.add_column(column, justify="right")
        for column in ("unit", "asked", "met"):
            table.add_column(column)
        for section, rows in self.sections.items():
            table.add_section()
            table.add_row(f"[bold]{section}[/]")
            for row in rows:
                met = row.verdict.replace("**no**", "[red]no[/]")
                table.add_row(row.name, _number(row.median), row.spread, row.unit, row.asked, met)
        console.print(table)
        for note in self.notes:
            console.print(f"• {note}")

    def save(self) -> None:
        """Write NAME.json and NAME.md into the results folder."""
        RESULTS.mkdir(exist_ok=True)
        content = {
            "name": self.name,
            "machine": machine(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "sections": {section: [asdict(row) for row in rows] for section, rows in self.sections.items()},
            "notes": self.notes,
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        (RESULTS / f"{self.name}.md").write_text(self._markdown())
        if self.figure is not None:
            save_picture(self.figure, RESULTS / f"{self.name}.png")

    def _markdown(self) -> str:
        lines = [f"# {self.name}", "", f"{machine()}, {datetime.now(UTC):%Y-%m-%d}. One run of `{self.command}`.", ""]
        if self.figure is not None:
            lines += [f"![{self.name}]({self.name}.png)", ""]
        for section, rows in self.sections.items():
            lines += [f"## {section}", "", "| measure | median | spread | unit | asked | met |"]
            lines += ["| --- | ---: | ---: | --- | --- | --- |"]
            lines += [
                f"| {row.name} | {_number(row.median)} | {row.spread} | {row.unit} | {row.asked} | {row.verdict} |"
                for row in rows
            ]
            lines.append("")
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """Processor, cores and versions, as far as the system tells."""
    cores = 0
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cores = sum(line.startswith("processor") for line in lines)
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {cores} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
