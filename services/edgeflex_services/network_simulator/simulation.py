"""The whole of the simulated network while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Request

from edgeflex_flow.clock import Clock
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.groups import Groups
from edgeflex_services.network_simulator.model import Setup
from edgeflex_services.network_simulator.notify import Notifier
from edgeflex_services.network_simulator.sessions import Sessions
from edgeflex_services.network_simulator.watches import Watches
from edgeflex_services.network_simulator.world import MovedClock, World

AnyRequest = Request[Any, Any, Any]


class Simulation:
    """What requests are answered from. `token`: what clients must show; None: nothing. Raises FatalError."""

    def __init__(
        self, clock: Clock, setup: Setup, *, seed: int | None = None, token: str | None = None, ca: Path | None = None
    ) -> None:
        self.clock = MovedClock(clock)
        self.world = World(self.clock, setup, seed=seed)
        self.sessions = Sessions(self.world)
        self.groups = Groups(self.world)
        self.watches = Watches(self.world)
        self.token = token
        self.notifier = Notifier(lambda: self.world.behaviour.notify, self.world.chance, ca)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Time goes on while the block runs."""
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            await self.notifier.close()

    async def _go_on(self) -> None:
        planned = asyncio.Event()
        self.world.wake = planned.set
        while True:
            self.world.go_on()
            planned.clear()
            try:
                await asyncio.wait_for(planned.wait(), self._wait_s())
            except TimeoutError:
                continue

    def _wait_s(self) -> float | None:
        """Until something is due; None: nothing is."""
        due_ns = self.world.next_due_ns
        return None if due_ns is None else max((due_ns - self.clock.now_ns()) / NS_PER_S, 0.0)


def simulation_of(request: AnyRequest) -> Simulation:
    simulation: Simulation = request.app.state.simulation
    return simulation
