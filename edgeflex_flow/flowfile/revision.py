"""Which version of a flow it is: what its files said, and by what a change of what runs is seen."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from edgeflex_flow.flowfile.network import own_ports
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.node import OpenConnection, SourceNode

DIGEST_DIGITS = 16
_KEY = os.urandom(32)


def digest_of(plan: Plan) -> str:
    """The same for plans that run alike, however their files are written. Anybody may see it: secrets do not count."""
    return hashlib.sha256(_encoded(plan, repr)).hexdigest()[:DIGEST_DIGITS]


def identity_of(plan: Plan) -> bytes:
    """The same, within this process, for plans that run alike with the same secrets."""
    return hmac.digest(_KEY, _encoded(plan, _opened), "sha256")


def _opened(value: object) -> str:
    return str.__str__(value) if isinstance(value, str) else repr(value)


def _encoded(plan: Plan, hook: Callable[[object], str]) -> bytes:
    told = (
        plan.name,
        plan.site,
        str(plan.folder.resolve()),
        [_node(each) for each in plan.nodes],
        _connection(plan.policy_system),
        sorted((name, repr(sorted(bound.items()))) for name, bound in plan.bound_connections.items()),
        plan.state,
        plan.budgets,
    )
    return msgspec.msgpack.encode(told, enc_hook=hook, order="deterministic")


class Call(NamedTuple):
    """A connection, or a node that calls somebody by itself."""

    what: Literal["connection", "node"]
    name: str


def new_calls(old: Plan, new: Plan) -> tuple[Call, ...]:
    """What the new version of a flow calls elsewhere, or as somebody else, than the old one. Without that of which
    policies say where it leads."""
    before, now = _calls(old), _calls(new)
    return tuple(call for call, where in now.items() if before.get(call) != where)


def _calls(plan: Plan) -> dict[Call, bytes]:
    called: dict[Call, Any] = {}
    for node in plan.nodes:
        if isinstance(node.node, SourceNode) and node.node.probe is not None and not node.policies:
            # Some devices have room for one client: with the same address there is nothing to try.
            called[Call("node", node.id)] = [(each.protocol, each.host, each.port) for each in own_ports(node, plan)]
    for connection in connections_of(plan).values():
        if connection.node.probe is not None and connection.name not in plan.bound_connections:
            called[Call("connection", connection.name)] = _connection(connection)
    return {
        call: msgspec.msgpack.encode(each, enc_hook=_opened, order="deterministic") for call, each in called.items()
    }


def connections_of(plan: Plan) -> dict[str, OpenConnection]:
    """All connections of a flow by name."""
    used = [each for node in plan.nodes for each in node.connections.values()]
    used += [] if plan.policy_system is None else [plan.policy_system]
    return {each.name: each for each in used}


def _node(planned: PlannedNode) -> Any:
    return (
        planned.id,
        planned.node.kind,
        planned.config,
        planned.inputs,
        sorted((field, _connection(each)) for field, each in planned.connections.items()),
        repr(sorted(planned.policies.items())),
    )


def _connection(connection: OpenConnection | None) -> Any:
    return None if connection is None else (connection.name, connection.node.kind, connection.config)
