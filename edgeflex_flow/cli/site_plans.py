"""The flows of a site, for the commands that tell what it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.text import Text

from edgeflex_flow.cli.problems import console, show_problems
from edgeflex_flow.cli.selection import listed_flows
from edgeflex_flow.errors import Problem
from edgeflex_flow.flowfile import CheckedSite, Plan, check_files, check_flows
from edgeflex_flow.flowfile.outline import outline
from edgeflex_flow.registry import Registry

EXIT_WRONG = 1


def site_file(text: str) -> Path:
    """The site file that is meant: a path, or the name of a file in `sites/` or `flows/sites/`."""
    places = (Path(text), Path("sites") / f"{text}.yaml", Path("flows/sites") / f"{text}.yaml")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        text = " or ".join(f"'{place}'" for place in places)
        raise click.BadParameter(f"no site file {text}", param_hint="SITE")
    return found


def plans_of(
    site: Path, files: Sequence[Path], registry: Registry, definitions: Sequence[tuple[str, str]]
) -> list[Plan]:
    """The plans of the files, or of the flows that the site lists when none are given.

    Ends the command with exit code 1 when anything is wrong. Secrets may be missing: the plans then hold placeholders.
    """
    checked = check_flows(
        files or _listed(site, registry, definitions), registry, site=site, params=dict(definitions), secrets="optional"
    )
    _end_if_wrong(problem for flow in checked for problem in flow.problems)
    hidden = [flow for flow in checked if flow.plan is None]
    if hidden:
        out = console(err=True)
        for note in dict.fromkeys(note for flow in hidden for note in flow.notes):
            out.print(Text.assemble(("note", "bold yellow"), ": ", note))
        raise click.ClickException(f"{hidden[0].file}: too much of it is not there to tell what it needs")
    return [flow.plan for flow in checked if flow.plan is not None]


def _listed(site: Path, registry: Registry, definitions: Sequence[tuple[str, str]]) -> list[Path]:
    """The files of the flows that a site lists."""
    (checked,) = check_files([site], registry, params=dict(definitions))
    if not isinstance(checked, CheckedSite):
        raise click.BadParameter(f"'{site}' is no site file", param_hint="SITE")
    _end_if_wrong(checked.problems)
    return [each.file for each in listed_flows(outline(site))]


def _end_if_wrong(problems: Iterable[Problem]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        show_problems(found, console(err=True))
        sys.exit(EXIT_WRONG)
