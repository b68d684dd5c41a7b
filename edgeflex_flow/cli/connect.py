"""Whether the connections of flows can be made, and their devices called: opens each, authenticates, changes nothing.

What only listens, or sends to somebody who never answers, cannot be tried without doing its work: that is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from rich.text import Text

from edgeflex_flow.cli.connect_policies import Found, found_policies
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.flowfile.network import own_ports
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.flowfile.revision import Call, connections_of
from edgeflex_flow.node import Context, Counters, OpenConnection, Probe, SourceNode

AT_ONCE = 16
SOON_DAYS = 30
"""A certificate that ends so soon is worth a warning."""
DAY_S = 86_400.0


class Reached(msgspec.Struct, frozen=True):
    """What became of trying one connection, or one device that a node calls by itself."""

    name: str
    """Of the connection, `flow/node`, or `connection/policy`."""
    kind: str
    ok: bool
    latency_ms: float | None = None
    peer: str = ""
    """What the far side says of itself."""
    certificate_until: datetime | None = None
    not_tried: str = ""
    """Ports that were left alone."""
    warning: str = ""
    """What works, and not as somebody may think."""
    error: str = ""

    @property
    def certificate_days(self) -> float | None:
        if self.certificate_until is None:
            return None
        return (self.certificate_until.timestamp() - time.time()) / DAY_S


def reach_all(plans: Iterable[Plan]) -> list[Reached]:
    """Try every connection that the flows use, each once, and every device that a node calls, side by side.

    Of a policy system the policies are asked for to which the flows of its site bind settings.
    """
    plans = list(plans)
    connections: dict[tuple[str, str], Callable[[], list[Reached]]] = {}
    bound: dict[tuple[str, str], list[Plan]] = {}
    for plan in plans:
        if plan.policy_system is not None:
            place = plan.site, plan.policy_system.name
            bound.setdefault(place, []).append(plan)
            connections[place] = partial(_reach_policies, bound[place], plan.policy_system)
        for node in plan.nodes:
            for connection in node.connections.values():
                connections.setdefault((plan.site, connection.name), partial(_reach_alone, plan, connection))
    nodes = [call for plan in plans for node in plan.nodes for call in _calls_of(node, plan)]
    return _side_by_side([*connections.values(), *nodes])


def _side_by_side(calls: Sequence[Callable[[], list[Reached]]]) -> list[Reached]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [each for found in pool.map(lambda call: call(), calls) for each in found]


def unreached(plan: Plan, tried: Collection[Call]) -> list[str]:
    """Why some connections and nodes of a flow do not reach what they call."""
    calls: list[Callable[[], list[Reached]]] = [
        partial(_reach_alone, plan, each)
        for name, each in connections_of(plan).items()
        if Call("connection", name) in tried
    ]
    calls += [call for node in plan.nodes if Call("node", node.id) in tried for call in _calls_of(node, plan)]
    return [f"'{each.name.rpartition('/')[2]}': {each.error}" for each in _side_by_side(calls) if not each.ok]


def _reach_alone(plan: Plan, connection: OpenConnection) -> list[Reached]:
    return [_reach(plan, connection)]


def _reach_policies(plans: Sequence[Plan], connection: OpenConnection) -> list[Reached]:
    """A policy system, and if it answers what the policies do in the flows."""
    reached = _reach(plans[0], connection)
    if not reached.ok:
        return [reached]
    try:
        found = found_policies(plans, connection, _context(plans[0], connection.name))
    except EdgeflexError as error:
        return [msgspec.structs.replace(reached, ok=False, error=str(error))]
    return [reached, *(_of_policy(connection.name, each) for each in found)]


def _of_policy(system: str, found: Found) -> Reached:
    return Reached(
        f"{system}/{found.policy_id}",
        "policy",
        ok=not found.errors,
        peer=found.shown,
        warning="; ".join(found.warnings),
        error="; ".join(found.errors),
    )


def _reach(plan: Plan, connection: OpenConnection) -> Reached:
    told = Reached(connection.name, connection.node.kind, ok=False)
    if connection.node.probe is None:
        return msgspec.structs.replace(told, error=f"a connection of kind '{connection.node.kind}' cannot be tried")
    return _try(told, connection.node.probe, connection.config, _context(plan, connection.name))


def _calls_of(node: PlannedNode, plan: Plan) -> Iterator[Callable[[], list[Reached]]]:
    """How to try a node that has to do with the network by itself."""
    probe = node.node.probe if isinstance(node.node, SourceNode) else None
    ports = [port for port in own_ports(node, plan) if probe is None or port.direction == "in"]
    directions = {"in": "listens on", "out": "sends to"}
    not_tried = ", ".join(
        f"{directions[port.direction]} {port.protocol.upper()} {port.host}:{port.port}" for port in ports
    )
    told = Reached(f"{plan.name}/{node.id}", node.node.kind, ok=True, not_tried=not_tried)
    if probe is not None:
        yield lambda: [_try(told, probe, node.config, _context(plan, node.id))]
    elif not_tried:
        yield lambda: [told]


def _context(plan: Plan, name: str) -> Context:
    return Context(
        flow=plan.name,
        site=plan.site,
        node=name,
        clock=SystemClock(),
        counters=Counters(),
        log=logging.getLogger(f"edgeflex.connect.{name}"),
        dead_letter=lambda _reason, _text, _payload: None,
        fail=lambda _error: None,
        folder=plan.folder,
    )


def _try(told: Reached, probe: Callable[[Any, Context], Probe], config: object, context: Context) -> Reached:
    try:
        found = probe(config, context)
    except EdgeflexError as error:
        return msgspec.structs.replace(told, ok=False, error=str(error))
    until = None
    if found.certificate_until_s is not None:
        until = datetime.fromtimestamp(found.certificate_until_s, UTC)
    return msgspec.structs.replace(
        told, ok=True, latency_ms=1e3 * found.latency_s, peer=found.peer, certificate_until=until
    )


def line(reached: Reached) -> Text:
    """One connection, device or policy for people."""
    name = (f"{reached.name}", "bold")
    what = f" ({reached.kind}): "
    if not reached.ok:
        return Text.assemble(("✗ ", "bold red"), name, what, reached.error)
    parts = [] if reached.latency_ms is None else [f"{reached.latency_ms:.1f} ms"]
    parts += [reached.peer] if reached.peer else []
    parts += [f"{reached.not_tried}; not tried"] if reached.not_tried else []
    days = reached.certificate_days
    if reached.certificate_until is not None and days is not None:
        parts.append(f"certificate until {reached.certificate_until:%Y-%m-%d}, {days:.0f} days")
    soon = days is not None and days < SOON_DAYS
    warnings = [each for each in (reached.warning, "renew it soon" if soon else "") if each]
    is_tried = reached.latency_ms is not None or reached.peer or warnings
    sign = ("! ", "bold yellow") if warnings else ("✓ ", "bold green") if is_tried else ("- ", "bold")
    return Text.assemble(sign, name, what, " - ".join([", ".join(parts), *warnings] if parts else warnings))
