"""Metrics and health of what `edgeflex run` and `edgeflex up` run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

import click
from msgspec.structs import replace

from edgeflex_flow.cli import places
from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.flowfile.revision import digest_of
from edgeflex_flow.monitor.status import WELL, SiteStatus, status_of_run
from edgeflex_flow.runtime.run import FlowRun

TURN_S = 1.0
AGAIN_S = 10.0
"""After an address that could not be used."""

log = logging.getLogger("edgeflex.monitor")


class Address(click.ParamType[MonitorConfig]):
    """`HOST:PORT`, or a port on this machine alone."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> MonitorConfig:
        if isinstance(value, MonitorConfig):
            return value
        host, port = places.Address().convert(value, param, ctx)
        return MonitorConfig(host=host, port=port)


option = click.option(
    "--monitor", type=Address(), help="Tell metrics and health over HTTP there, for example 127.0.0.1:9464."
)


@contextmanager
def flow_monitored(run: FlowRun, where: MonitorConfig | None) -> Iterator[None]:
    """Tell how the one flow is that this process runs, if it is to be told. FatalError if it cannot listen there."""
    if where is None:
        yield
        return
    started_ns, digest = time.time_ns(), digest_of(run.plan)
    with _served(where, lambda: _of_run(run, digest, started_ns)):
        yield


def _served(where: MonitorConfig, known: Callable[[], SiteStatus]) -> AbstractContextManager[int]:
    # Imported here because it costs start-up time and memory that a flow which nobody asks does not need.
    from edgeflex_flow.monitor.server import serve_monitor  # noqa: PLC0415

    return serve_monitor(where.host, where.port, known)


def _of_run(run: FlowRun, digest: str, started_ns: int) -> SiteStatus:
    has_started = run.started.is_set() or run.stopping or run.ending
    return status_of_run(run, WELL if has_started else "starting", digest, started_ns)


@asynccontextmanager
async def site_monitored(status: Callable[[], SiteStatus], where: MonitorConfig | None) -> AsyncIterator[None]:
    """Tell how a supervised site is, if it is to be told.

    Where nothing can listen, that is said and tried again: flows go on without being watched rather than not at all.
    """
    if where is None:
        yield
        return
    turn = _Turn()
    tasks = [asyncio.create_task(turn.go_on()), asyncio.create_task(_serve(status, where, turn))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Turn:
    """Shows that the loop goes on."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    async def go_on(self) -> None:
        while True:
            self._last_s = time.monotonic()
            await asyncio.sleep(TURN_S)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._last_s


async def _serve(status: Callable[[], SiteStatus], where: MonitorConfig, turn: _Turn) -> None:
    said = False
    while True:
        try:
            serving = _served(where, lambda: replace(status(), turn_age_s=turn.age_s))
            await asyncio.to_thread(serving.__enter__)  # a name server may take its time
            try:
                await asyncio.Future()
            finally:
                serving.__exit__(None, None, None)
        except FatalError as error:
            if not said:
                log.error("%s; tried again each %.0f s", error, AGAIN_S)  # noqa: TRY400
            said = True
        await asyncio.sleep(AGAIN_S)
