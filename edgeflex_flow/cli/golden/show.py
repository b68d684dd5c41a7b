"""Results of golden tests, for people and for CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.golden.running import GoldenResult
from edgeflex_flow.cli.problems import table_console


def show(results: Sequence[GoldenResult]) -> None:
    """Each test in a line; of those that failed, what was expected and what came."""
    out = table_console()
    for each in results:
        sign = Text("✓ ", "green") if each.good else Text("✗ ", "red")
        took = f" ({each.took_s:.1f} s)" if not each.error else ""
        out.print(Text.assemble(sign, each.name, (f" {Path(each.file).name}{took}", "dim")))
        if each.error:
            out.print(Text(f"  {each.error}", "red"))
        elif not each.good:
            out.print(_differences(each))
    failed = sum(not each.good for each in results)
    tests = f"{len(results)} test{'' if len(results) == 1 else 's'}"
    out.print(Text(f"{tests}, {failed} failed" if failed else f"{tests} passed", "bold"))


def _differences(result: GoldenResult) -> Table:
    table = Table("expected", "place", "should be", "is")
    for verdict in result.verdicts:
        for at, each in enumerate(verdict.differences):
            told = Text(f"{verdict.text}\n({verdict.got})" if at == 0 else "")
            table.add_row(told, each.place, Text(each.expected, "green"), Text(each.got, "red"))
        if verdict.more:
            table.add_row("", f"and {verdict.more} more", "", "")
    return table


def junit(results: Sequence[GoldenResult]) -> bytes:
    """As JUnit XML: a case a test, with what failed in its text."""
    suite = ElementTree.Element(
        "testsuite",
        name="edgeflex test",
        tests=str(len(results)),
        failures=str(sum(not each.good and not each.error for each in results)),
        errors=str(sum(bool(each.error) for each in results)),
        time=f"{sum(each.took_s for each in results):.3f}",
    )
    for each in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=Path(each.file).stem, name=each.name, file=each.file, time=f"{each.took_s:.3f}"
        )
        if each.error:
            ElementTree.SubElement(case, "error", message=each.error.splitlines()[0]).text = each.error
        elif not each.good:
            lines = [
                f"{verdict.text}: {at.place}: should be {at.expected}, is {at.got}"
                for verdict in each.verdicts
                for at in verdict.differences
            ]
            lines += [f"{verdict.text}: and {verdict.more} more" for verdict in each.verdicts if verdict.more]
            ElementTree.SubElement(case, "failure", message=lines[0]).text = "\n".join(lines)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content
