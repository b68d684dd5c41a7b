"""`edgeflex test`: run golden tests of flows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeflex_flow.cli.golden.case_file import find_tests
from edgeflex_flow.cli.golden.running import GoldenResult, run_test
from edgeflex_flow.cli.golden.show import junit, show
from edgeflex_flow.cli.problems import console
from edgeflex_flow.errors import how_to_install
from edgeflex_flow.registry import Registry

EXIT_FAILED: Final = 1
_Advance: TypeAlias = Callable[[GoldenResult], None]


@click.command()
@click.argument("places", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE|FOLDER]…")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=None, help="Tests at once; one a processor unless given."
)
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to it.")
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Draw what failed, to this folder.")
@click.option(
    "--record", type=click.Path(path_type=Path, file_okay=False),
    help="Keep what crossed the wires of each, in this folder: `edgeflex explain` tells where it comes from.",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Write the files of `same_as` anew, as the flows are now.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
@click.pass_obj
def test(
    registry: Registry,
    *,
    places: tuple[Path, ...],
    workers: int | None,
    junit_file: Path | None,
    pictures: Path | None,
    record: Path | None,
    update: bool,
    as_json: bool,
) -> None:
    """Run golden tests: what a flow must make of a recording.

    A FILE is a test, a FOLDER one of flow files, whose tests stand in `tests/` in it; without any, `flows` or the
    folder in which you are. Sources are replaced by what the test records, sinks by ones that keep what they get, and
    the clock by one that the recording moves; nothing is sent or written. What is dropped or lost is a failure.

    Exit codes: 0 all pass; 1 some fail, or could not be run; 2 wrong usage.
    """
    files = list(find_tests(places or (Path("flows") if Path("flows").is_dir() else Path(),)))
    if not files:
        raise click.UsageError("there is no test there: name its file, or a folder with tests/*.yaml")
    how = _How(update=update, record=_new_folder(record))
    results = _run_all(files, registry, min(workers or os.cpu_count() or 1, len(files)), how, quiet=as_json)
    if junit_file is not None:
        junit_file.write_bytes(junit(results))
    if pictures is not None:
        _draw(results, pictures)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(results), indent=2).decode())
    else:
        show(results)
    sys.exit(0 if all(each.good for each in results) else EXIT_FAILED)


class _How(NamedTuple):
    """How tests are run."""

    update: bool
    record: Path | None


def _new_folder(folder: Path | None) -> Path | None:
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.BadParameter(f"{folder} is not empty", param_hint="--record")
    return folder


def _run_all(files: Sequence[Path], registry: Registry, workers: int, how: _How, *, quiet: bool) -> list[GoldenResult]:
    """In the order of the files, whichever ends first."""
    with _progress(len(files), quiet=quiet) as advance:
        if workers == 1:
            found = []
            for file in files:
                found.append(run_test(file, registry, **how._asdict()))
                advance(found[-1])
            return found
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
            waiting = {pool.submit(_in_process, file, how): file for file in files}
            done = {}
            for each in as_completed(waiting):
                done[waiting[each]] = each.result()
                advance(each.result())
            return [done[file] for file in files]


_registry: list[Registry] = []


def _begin() -> None:
    """In each process: the kinds, which cannot be sent there."""
    from edgeflex_flow.cli.kinds import full_registry  # noqa: PLC0415 - only where tests run

    _registry.append(full_registry()[0])


def _in_process(file: Path, how: _How) -> GoldenResult:
    return run_test(file, _registry[0], **how._asdict())


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[_Advance]:
    out = console(err=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal) as progress:
        task = progress.add_task("", total=total)
        failed = 0

        def advance(result: GoldenResult) -> None:
            nonlocal failed
            failed += not result.good
            progress.update(task, advance=1, description=f"{failed} failed" if failed else result.name)

        yield advance


def _draw(results: Sequence[GoldenResult], folder: Path) -> None:
    try:
        # Imported here since it needs the extra `plot`.
        from edgeflex_flow.cli.golden.picture import draw  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(f"--pictures needs matplotlib: {how_to_install('plot')} ({error})") from error
    for each in results:
        if not each.good:
            draw(each, folder)
