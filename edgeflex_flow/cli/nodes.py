"""`edgeflex nodes`: the kinds that are installed, and their manual pages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click
import msgspec
from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from edgeflex_flow.cli.manual import ROLES, Page, Setting, form_title, pages, port_needs
from edgeflex_flow.errors import nearest
from edgeflex_flow.registry import Registry

EXIT_UNKNOWN = 1
_WIDTH_OF_FILES = 100
"""Columns when the output is no terminal."""


@click.command()
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the pages as JSON.")
@click.pass_obj
def nodes(registry: Registry, *, kind: str | None, as_json: bool) -> None:
    """List the node kinds, or print the manual page of one.

    Exit codes: 0 found; 1 there is no such kind; 2 wrong usage.
    """
    found = [page for page in pages(registry) if kind is None or page.kind == kind]
    if not found:
        assert kind is not None
        _unknown(kind, registry)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found if kind is None else found[0]), indent=2, ensure_ascii=False))
        return
    out = _console()
    if kind is None:
        _show_table(found, out)
    else:
        for page in found:
            _show_page(page, out)


def _console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False)


def _unknown(kind: str, registry: Registry) -> None:
    known = sorted({node.kind for node in registry})
    close = nearest(kind, known)
    hint = f"; did you mean '{close}'?" if close else ""
    click.echo(f"error: unknown kind '{kind}'; known: {', '.join(known)}{hint}", err=True)
    sys.exit(EXIT_UNKNOWN)


def _show_table(found: list[Page], out: Console) -> None:
    for role in ROLES:
        of_role = [page for page in found if page.role == role]
        if not of_role:
            continue
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column(f"{role}s", style="bold cyan", no_wrap=True)
        table.add_column("what it does", ratio=1)
        table.add_column("from", style="dim", no_wrap=True)
        for page in of_role:
            table.add_row(page.kind, Text(page.summary), page.package)
        out.print(table)
        out.print()
    out.print(Text("`edgeflex nodes KIND` prints the manual page of a kind.", style="dim"))


def _show_page(page: Page, out: Console) -> None:
    family = f" of the family {page.family}" if page.family else ""
    out.print(Text.assemble((page.kind, "bold cyan"), (f"  {page.role}{family}, from {page.package}", "dim")))
    out.print()
    out.print(Markdown(page.text))
    for section in page.sections:
        _show_heading(section.title, out)
        out.print(Padding(Markdown(section.text), (0, 0, 0, 2)))
    _show_settings(page, out)
    _show_ports(page, out)
    if page.example:
        _show_heading("Example", out)
        out.print(Padding(Syntax(page.example, "pycon", background_color="default", word_wrap=True), (0, 0, 0, 2)))


def _show_heading(title: str, out: Console) -> None:
    out.print()
    out.print(Text(title, style="bold"))


def _show_settings(page: Page, out: Console) -> None:
    _show_heading("Settings", out)
    if not page.settings:
        out.print("  None.")
        return
    out.print(Padding(_settings_table(page.settings), (0, 0, 0, 2)))
    for form in page.forms:
        _show_heading(form_title(form), out)
        out.print(Padding(Markdown(form.text), (0, 0, 0, 2)))
        out.print(Padding(_settings_table(form.settings), (0, 0, 0, 2)))


def _settings_table(settings: Iterable[Setting]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("setting", style="cyan", no_wrap=True)
    for column in ("type", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for setting in settings:
        kind = f"{setting.type}, {setting.bounds}" if setting.bounds else setting.type
        default = Text("required", style="bold") if setting.required else Text(setting.default)
        table.add_row(setting.key, Text(kind), default, Text(setting.description))
    return table


def _show_ports(page: Page, out: Console) -> None:
    if not page.ports:
        return
    _show_heading("Ports", out)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("port", "accepts", "columns it needs"):
        table.add_column(column)
    for port in page.ports:
        name = f"{port.name} (optional)" if port.optional else port.name
        table.add_row(name, ", ".join(port.accepts), port_needs(port))
    out.print(Padding(table, (0, 0, 0, 2)))
