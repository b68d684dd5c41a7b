"""Whether the connections of flows can be made: opens each, authenticates, changes nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
from rich.text import Text

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.node import Context, Counters, OpenConnection

AT_ONCE = 16
SOON_DAYS = 30
"""A certificate that ends so soon is worth a warning."""
DAY_S = 86_400.0


class Reached(msgspec.Struct, frozen=True):
    """What became of trying one connection."""

    name: str
    kind: str
    ok: bool
    latency_ms: float | None = None
    peer: str = ""
    """What the far side says of itself."""
    certificate_until: datetime | None = None
    error: str = ""

    @property
    def certificate_days(self) -> float | None:
        if self.certificate_until is None:
            return None
        return (self.certificate_until.timestamp() - time.time()) / DAY_S


def reach_all(plans: Iterable[Plan]) -> list[Reached]:
    """Try every connection that the flows use, each once, side by side."""
    wanted: dict[tuple[str, str], tuple[Plan, OpenConnection]] = {}
    for plan in plans:
        for node in plan.nodes:
            for connection in node.connections.values():
                wanted.setdefault((plan.site, connection.name), (plan, connection))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda each: _reach(*each), wanted.values()))


def _reach(plan: Plan, connection: OpenConnection) -> Reached:
    told = Reached(connection.name, connection.node.kind, ok=False)
    if connection.node.probe is None:
        return msgspec.structs.replace(told, error=f"a connection of kind '{connection.node.kind}' cannot be tried")
    context = Context(
        flow=plan.name,
        site=plan.site,
        node=connection.name,
        clock=SystemClock(),
        counters=Counters(),
        log=logging.getLogger(f"edgeflex.connect.{connection.name}"),
        dead_letter=lambda _reason, _text, _payload: None,
        fail=lambda _error: None,
        folder=plan.folder,
    )
    try:
        probe = connection.node.probe(connection.config, context)
    except EdgeflexError as error:
        return msgspec.structs.replace(told, error=str(error))
    until = None
    if probe.certificate_until_s is not None:
        until = datetime.fromtimestamp(probe.certificate_until_s, UTC)
    return msgspec.structs.replace(
        told, ok=True, latency_ms=1e3 * probe.latency_s, peer=probe.peer, certificate_until=until
    )


def line(reached: Reached) -> Text:
    """One connection for people."""
    name = (f"{reached.name}", "bold")
    what = f" ({reached.kind}): "
    if not reached.ok:
        return Text.assemble(("✗ ", "bold red"), name, what, reached.error)
    parts = [f"{reached.latency_ms:.1f} ms"]
    parts += [reached.peer] if reached.peer else []
    days = reached.certificate_days
    if reached.certificate_until is not None and days is not None:
        parts.append(f"certificate until {reached.certificate_until:%Y-%m-%d}, {days:.0f} days")
    soon = days is not None and days < SOON_DAYS
    sign = ("! ", "bold yellow") if soon else ("✓ ", "bold green")
    return Text.assemble(sign, name, what, ", ".join(parts), " - renew it soon" if soon else "")
