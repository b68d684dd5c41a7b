"""A grid that a service puts on a broker while a test runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import Forecast
from edgeflex_services.powerflow_grid import make_grid
from edgeflex_services.powerflow_payloads import QUANTITIES
from edgeflex_services.powerflow_plant import Plant
from edgeflex_services.powerflow_service import PowerflowService, ServiceReport, Settings
from edgeflex_services.service_bus import Bus

GRID = make_grid("kerber", storage_kwh=10.0)


def full_sun() -> list[Forecast]:
    """For each inverter, that the sun stays as it is for six hours."""
    now_ns = time.time_ns()
    return [
        Forecast(
            device=name,
            quantity="available_power_pu",
            time_ns=now_ns,
            begin_ns=now_ns,
            step_s=900.0,
            values=(0.22,) * 25,
            method="of others",
            status="ok",
        )
        for name in GRID.inverters.names
    ]


class Running:
    """A service in a thread, with what it tells."""

    def __init__(self, url: str, *, prefix: str = "", user: str | None = None, **settings: Any) -> None:
        self.told: list[dict[str, Any]] = []
        self.report: ServiceReport | None = None
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.bus = Bus(url, list(QUANTITIES), tell=self._tell, prefix=prefix, user=user, password="wrong")
        settings = {"period_s": 0.05} | settings
        self.service = PowerflowService(Plant(GRID), self.bus, Settings(**settings), self._tell)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _tell(self, event: str, **fields: object) -> None:
        self.told.append({"event": event, **fields})

    def _run(self) -> None:
        try:
            self.report = self.service.run(self.stop)
        except FatalError as error:
            self.error = error

    def events(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.told if each["event"] == name]


@contextmanager
def running(url: str, **settings: Any) -> Iterator[Running]:
    made = Running(url, **settings)
    made.bus.start()
    made.thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        made.thread.join(10.0)
        made.bus.close()
    assert not made.thread.is_alive()
