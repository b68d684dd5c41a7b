"""Which of the files that a command names it works on: by labels, and by the flows that a site lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.outline import Outline, broken_beside, flow_folder, flows_beside, outline

Labels = Mapping[str, str]


class Work(NamedTuple):
    """Flow files that run together, and their site."""

    files: tuple[Path, ...]
    site: Path | None


def chosen(files: Sequence[Path], site: Path | None, wanted: Labels) -> tuple[Path, ...]:
    """Those of the files whose labels have all that is wanted. A flow has its own labels and those of its site.

    Raises click.UsageError when none has, naming the labels that there are.
    """
    outlines = [outline(file) for file in files]
    around = outline(site).labels if site is not None else {}
    return tuple(each.file for each in _matching(outlines, wanted, around))


def work_to_run(files: Sequence[Path], site: Path | None, wanted: Labels) -> Work:
    """What `run` has to run: flow files at their site. A site file stands for all flows that it lists.

    Of several site files the labels choose one. Raises click.UsageError when they do not, or when a flow has no file.
    """
    outlines = [outline(file) for file in files]
    sites = [each for each in outlines if each.is_site]
    if not sites:
        return Work(chosen(files, site, wanted), site)
    if site is not None or len(sites) < len(outlines):
        raise click.UsageError("a site file stands for its flows: give it alone, or flow files and --site")
    # A label that no site has is one of flows.
    of_sites = {name: text for name, text in wanted.items() if any(name in each.labels for each in sites)}
    own = [each for each in sites if _fits(each.labels, of_sites)] if len(sites) > 1 else sites
    if len(own) != 1:
        names = ", ".join(each.name for each in own or sites)
        many = "several sites are left" if own else f"no site has {_told(of_sites)}"
        raise click.UsageError(f"{many}: {names}; one runs at a time; --select LABEL=VALUE chooses")
    found = listed_flows(own[0])
    return Work(tuple(each.file for each in _matching(found, wanted, own[0].labels)), own[0].file)


def listed_flows(site: Outline) -> list[Outline]:
    """The files of the flows that a site lists, found by the names of the flows: files may be called otherwise.

    A file that cannot be read stands for one that is not found: the check tells what is wrong with it. Raises
    click.UsageError when it lists none, or one that is not in exactly one file.
    """
    if not site.flows:
        raise click.UsageError(f"{site.file} lists no flows under 'flows'")
    known = flows_beside(site.file)
    found = [each for name in site.flows for each in _files_of(name, site, known)]
    return list({each.file: each for each in found}.values())


def _files_of(name: str, site: Outline, known: Mapping[str, Sequence[Outline]]) -> Sequence[Outline]:
    found = known.get(name, ()) or broken_beside(site.file)
    if len(found) == 1 or (found and name not in known):
        return found
    listed, folder = f"site '{site.name}' lists the flow '{name}'", flow_folder(site.file)
    if found:
        names = ", ".join(each.file.name for each in found)
        raise click.UsageError(f"{listed}, and several files in {folder} hold it: {names}")
    close = nearest(name, known)
    raise click.UsageError(
        f"{listed}, and no file in {folder} holds it; known: {', '.join(sorted(known)) or 'none'}"
        + (f"; did you mean '{close}'?" if close else "")
    )


def _matching(outlines: Iterable[Outline], wanted: Labels, around: Labels) -> list[Outline]:
    outlines = list(outlines)
    found = [each for each in outlines if _fits({**around, **each.labels}, wanted)]
    if wanted and not found:
        there = sorted({f"{k}={v}" for each in outlines for k, v in {**around, **each.labels}.items()})
        raise click.UsageError(f"no file has the labels {_told(wanted)}; known: {', '.join(there) or 'none'}")
    return found


def _fits(labels: Labels, wanted: Labels) -> bool:
    return all(labels.get(name) == text for name, text in wanted.items())


def _told(wanted: Labels) -> str:
    return ", ".join(f"{name}={text}" for name, text in wanted.items())
