"""`make bench`: every measurement in one run, as a table, and written to benchmarks/results/."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks import kernels, latency, start_up, throughput
from benchmarks.report import Report
from edgeflex_services.broker import LocalBroker

PARTS = ("throughput", "latency", "kernels", "start")


@click.command()
@click.option(
    "--only", type=click.Choice(PARTS), multiple=True, help="Measure only this part; nothing is written then."
)
@click.option("--quick", is_flag=True, help="Short and few rounds, to see that it runs; nothing is written then.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """Measure edgeflex-flow beside its floor and beside code written by hand."""
    console = Console()
    report = Report("flow")
    rounds = 2 if quick else 5
    parts = only or PARTS
    with tempfile.TemporaryDirectory() as folder, LocalBroker(Path(folder)) as broker:
        report.notes.append(f"Broker: {broker.name}. {throughput.pin_note()}")
        for part in parts:
            with console.status(f"measuring {part}"):
                if part == "throughput":
                    throughput.measure(report, broker.port, rounds=rounds, sustained_s=5 if quick else 30)
                elif part == "latency":
                    latency.measure(report, broker.port, rounds=rounds, seconds=3 if quick else 6)
                elif part == "kernels":
                    kernels.measure(report, rounds=rounds)
                else:
                    start_up.measure(report, broker.port, rounds=rounds, idle_s=10 if quick else 20)
    report.show(console)
    if not only and not quick:
        report.save()


if __name__ == "__main__":
    main()
