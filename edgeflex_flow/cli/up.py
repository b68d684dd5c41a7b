"""`edgeflex up`: keep all flows of a site running."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from edgeflex_flow.cli import monitored
from edgeflex_flow.cli.logs import tell
from edgeflex_flow.cli.places import Address, Definition
from edgeflex_flow.cli.run import EXIT_BAD_FILE, EXIT_FATAL, tell_problems
from edgeflex_flow.cli.site_files import FilesOfSite
from edgeflex_flow.cli.site_plans import site_file
from edgeflex_flow.cli.supervised import run_supervised
from edgeflex_flow.errors import FatalError, FlowFileError
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.runtime.lifecycle import EXIT_NOT_DRAINED
from edgeflex_flow.signals import heed
from edgeflex_flow.supervisor.nursery import Nursery
from edgeflex_flow.supervisor.site import SupervisedSite, alone
from edgeflex_flow.supervisor.studio import StudioKeeper

PRELOAD = "edgeflex_flow.cli.forked_from"


@click.command()
@click.argument("site", metavar="SITE")
@click.option("-D", "definitions", type=Definition(), multiple=True, help="Set a parameter: -D pmu_port=4713.")
@click.option(
    "--state",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the supervisor's own files; beside the site file unless given.",
)
@click.option("--studio", type=Address(), metavar="HOST:PORT", help="Show the site live there.")
@monitored.option
@click.pass_context
def up(
    context: click.Context,
    *,
    site: str,
    definitions: tuple[tuple[str, str], ...],
    folder: Path | None,
    studio: tuple[str, int] | None,
    monitor: MonitorConfig | None,
) -> None:
    """Keep all flows that SITE lists running, each in a process of its own, until SIGTERM or SIGINT.

    A flow that ends is started again. When flow or site files change, they are checked; of what runs otherwise by them
    a new process is prepared beside the old one and takes over, and when it does not run well the old one goes on.
    Nothing else is touched.

    Exit codes: 0 all ended in order; 1 a file is wrong at the start; 3 another supervisor runs this site.
    """
    file = site_file(site)
    own = folder or file.absolute().parent / f".{file.stem}"
    assert context.parent is not None
    options = context.parent.params
    logs = (options["log_level"], options["log_format"])
    files = FilesOfSite(file, context.obj, dict(definitions), own, logs, studio=studio)
    try:
        with alone(own):
            asyncio.run(_keep(files, own, logs, monitor))
            if multiprocessing.active_children():  # what cannot be killed would be waited for
                tell(logging.ERROR, "some processes could not be ended")
                os._exit(EXIT_NOT_DRAINED)
    except FlowFileError as error:
        tell_problems(error)
        sys.exit(EXIT_BAD_FILE)
    except FatalError as error:
        tell(logging.ERROR, str(error))
        sys.exit(EXIT_FATAL)


async def _keep(files: FilesOfSite, own: Path, logs: tuple[str, str], monitor: MonitorConfig | None) -> None:
    supervised = SupervisedSite(files, lambda kernels: Nursery(run_supervised, [PRELOAD], kernels), own)
    loop = asyncio.get_running_loop()

    def stop(_number: int) -> None:
        loop.call_soon_threadsafe(supervised.stop)

    command = [sys.executable, "-m", "edgeflex_flow.studio", *logs]
    studio = StudioKeeper(supervised, lambda: files.studio, command)
    showing = asyncio.create_task(studio.run())
    try:
        with heed(stop):
            versions = supervised.load()
            where = monitor or next((version.plan.monitor for version in versions.values()), None)
            async with monitored.site_monitored(lambda: supervised.status, where):
                await supervised.run(versions)
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
