"""What the handlers of the studio share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from litestar import Request

from edgeflex_flow.clock import Clock
from edgeflex_flow.limits import RateLimit
from edgeflex_flow.studio.link import Link
from edgeflex_flow.studio.model import Model
from edgeflex_flow.studio.users import Door


class Attempts:
    """How often somebody may try to sign in: by address, and by name."""

    def __init__(self, clock: Clock) -> None:
        self._addresses = RateLimit(8, 300.0, clock)
        # Much higher, so that nobody can easily keep a person out by trying from elsewhere.
        self._names = RateLimit(100, 300.0, clock)

    def wait_s(self, address: str, name: str) -> float:
        return max(self._addresses.wait_s(address), self._names.wait_s(name[:64]))

    def add(self, address: str, name: str) -> None:
        self._addresses.add(address)
        self._names.add(name[:64])

    def take_back(self, address: str, name: str) -> None:
        self._addresses.take_back(address)
        self._names.take_back(name[:64])


@dataclass
class Studio:
    """One site."""

    site: str
    base_path: str
    model: Model
    link: Link
    door: Door
    attempts: Attempts
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Each hash takes 19 MB."""
    viewers: Counter[str] = field(default_factory=Counter)
    """How many streams each person looks at."""
    is_ending: bool = False


def studio_of(request: Request[Any, Any, Any]) -> Studio:
    return cast("Studio", request.app.state["studio"])
