"""What flows need of the network, told by their plans: topics of brokers, and ports.

Fields say so by `topic`, `login`, `url` and `udp_port` in the node contract; no kind is known here by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile.fields import ConfigField, config_fields
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.flowfile.stand_ins import PLACEHOLDER
from edgeflex_flow.flowfile.wires import message_name
from edgeflex_flow.node import FLOW_WIRES, NodeConfig, OpenConnection
from edgeflex_flow.policy import WILDCARD, Binding, TextBinding

_PART = re.compile(r"\{([a-z_]*)\}")
_SHARED = re.compile(r"\$share/[^/]+/")


class NotKnownError(EdgeflexError):
    """A value that is needed to tell what a flow needs is a secret that is not there."""


@dataclass(slots=True)
class BusUser:
    """One user at one broker and the topics that its nodes need."""

    connection: str
    """The connection's name in the site file, of those that log in so the first."""
    url: str
    user: str | None
    """None for a client without user name."""
    password: str | None = field(default=None, repr=False)
    """None when there is none, or when it is a secret that is not there."""
    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)


def bus_users(plans: Iterable[Plan]) -> list[BusUser]:
    """Who talks to which broker and on which topics, in the order of the plans.

    Raises NotKnownError for a topic, an url or a user that is not there, ValueError for one user with two passwords.
    """
    users: dict[tuple[str, str | None], BusUser] = {}
    for plan in plans:
        for node in plan.nodes:
            for bus, access, topic_filter in _filters_of(node, plan):
                user = _user(node, bus, users, plan)
                used = user.publish if access == "publish" else user.subscribe
                used.update(_called(node.connections[bus])(topic_filter))
    return list(users.values())


def new_empty_levels(node: PlannedNode, plan: Plan) -> Iterator[str]:
    """Topics of a node that get an empty level (`//`) by the names of their broker: allowed, but seldom meant."""
    try:
        for bus, _, topic_filter in _filters_of(node, plan):
            for name in _called(node.connections[bus])(topic_filter):
                if "//" in name and "//" not in topic_filter:
                    called = f"'{topic_filter}' is called '{name}' at '{node.connections[bus].name}'"
                    yield f"{called}, with an empty level"
    except NotKnownError:
        return


def _filters_of(node: PlannedNode, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The topic filters of a node, in the names of the flow: the field of the connection, "publish" or "subscribe", and
    the filter. Raises NotKnownError."""
    for each in config_fields(type(node.config)):
        access, bus = each.hint.noted("topics"), each.hint.noted("bus")
        if access is None or bus not in node.connections:
            continue
        topics = _texts(getattr(node.config, each.name), f"node '{node.id}': '{each.key}'")
        for topic in (*topics, *_allowed_topics(node.policies.get(each.name))):
            filters = _filters(topic, node, plan) if access == "publish" else [_SHARED.sub("", topic, count=1)]
            yield from ((bus, access, topic_filter) for topic_filter in filters)


def _allowed_topics(binding: Binding | None) -> Iterator[str]:
    """What a policy may have a node subscribe to, as filters: `+` for a level in which a `*` stands."""
    for pattern in binding.allowed if isinstance(binding, TextBinding) else ():
        yield "/".join("+" if WILDCARD in level else level for level in pattern.split("/"))


def _called(connection: OpenConnection) -> Callable[[str], Iterable[str]]:
    """What the broker calls the topics of a filter of the flows."""
    topics_of = connection.node.topics_of
    return (lambda topic: (topic,)) if topics_of is None else partial(topics_of, connection.config)


def _user(node: PlannedNode, bus: str, users: dict[tuple[str, str | None], BusUser], plan: Plan) -> BusUser:
    connection = node.connections[bus]
    found: dict[str, str | None] = {"user": None, "password": None, "url": connection.name}
    for each in config_fields(type(connection.config)):
        part = each.hint.noted("login") or ("url" if each.hint.noted("url") else None)
        if part is not None and getattr(connection.config, each.name) is not None:
            found[part] = str(getattr(connection.config, each.name))
    for part in ("user", "url"):
        _texts(found[part] or "", f"connection '{connection.name}': its {part}")
    password = None if found["password"] == PLACEHOLDER else found["password"]
    made = BusUser(connection.name, found["url"] or "", found["user"], password)
    user = users.setdefault((made.url, made.user), made)
    if user.password != made.password:
        raise ValueError(
            f"connections '{user.connection}' and '{made.connection}' log in as '{made.user}' with two passwords"
        )
    user.publish.update(_of_client(node, connection, plan))
    return user


def _of_client(node: PlannedNode, connection: OpenConnection, plan: Plan) -> Iterator[str]:
    """Topics that a client of the connection publishes on by itself, whatever its node does."""
    called = _called(connection)
    for each in config_fields(type(connection.config)):
        topic = getattr(connection.config, each.name)
        if each.hint.noted("topics") and topic is not None:
            [text] = _texts(topic, f"connection '{connection.name}': '{each.key}'")
            for name, value in (("site", plan.site), ("flow", plan.name), ("node", node.id)):
                text = text.replace(f"{{{name}}}", value)
            yield from called(text)


def _texts(value: object, what: str) -> tuple[str, ...]:
    texts = value if isinstance(value, tuple) else (value,)
    if PLACEHOLDER in texts:
        raise NotKnownError(f"{what} is not there")
    return tuple(str(each) for each in texts)


def _filters(topic: str, node: PlannedNode, plan: Plan) -> Iterator[str]:
    """The topics that a pattern to publish on may become, as filters: `+` for a level that a message fills in."""
    for name in _message_types(node, plan) if "{type}" in topic else ("",):
        levels = topic.replace("{type}", name).split("/")
        yield "/".join("+" if _PART.search(level) else level for level in levels)


def _message_types(node: PlannedNode, plan: Plan) -> list[str]:
    by_id = {each.id: each for each in plan.nodes}
    names: set[str] = set()
    for source in (each for ids in node.inputs.values() for each in ids):
        wire = FLOW_WIRES[source] if source in FLOW_WIRES else by_id[source].wire
        names |= {message_name(each) for each in (() if wire is None else wire.messages)}
    return sorted(names)


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port that a node listens on, or one elsewhere that it calls."""

    direction: str
    """"in" or "out"."""
    protocol: str
    """"tcp" or "udp"."""
    host: str
    """The address it listens on, or the host it calls."""
    port: int
    scheme: str
    """As in the url, `mqtts`; empty for ports to listen on."""
    used_by: tuple[str, ...]
    """`flow/node` of each, with the connection's name if it is the connection that calls."""

    @property
    def users(self) -> str:
        return ", ".join(self.used_by)


def own_ports(node: PlannedNode, plan: Plan) -> list[Port]:
    """Ports of a node itself, not those of its connections. Raises NotKnownError."""
    return sorted(set(_ports(node.config, f"{plan.name}/{node.id}")))


def ports(plans: Iterable[Plan]) -> list[Port]:
    """All ports of the plans' nodes, of the connections that they use, and of their sites. Raises NotKnownError."""
    found: set[Port] = set()
    for plan in plans:
        for node in plan.nodes:
            who = f"{plan.name}/{node.id}"
            found.update(_ports(node.config, who))
            for name in dict.fromkeys(each.name for each in node.connections.values()):
                config = next(each.config for each in node.connections.values() if each.name == name)
                found.update(_ports(config, f"{who} ({name})"))
                found.update(_allowed_ports(config, plan.bound_connections.get(name, {}), f"{who} ({name})"))
        if plan.policy_system is not None:
            found.update(_ports(plan.policy_system.config, f"{plan.name} ({plan.policy_system.name})"))
        for what, served in (("studio", plan.studio), ("monitor", plan.monitor)):
            if served is not None:
                found.add(Port("in", "tcp", served.host, served.port, "", (f"{plan.site} ({what})",)))
    users: dict[Port, tuple[str, ...]] = {}
    for port in found:
        alone = replace(port, used_by=())
        users[alone] = (*users.get(alone, ()), *port.used_by)
    return sorted(replace(port, used_by=tuple(sorted(names))) for port, names in users.items())


def _allowed_ports(config: NodeConfig, bindings: Mapping[str, Binding], who: str) -> Iterator[Port]:
    """Those of urls that a policy may give a connection; a `*` in a host stays one."""
    for each in config_fields(type(config)):
        binding = bindings.get(each.name)
        for pattern in binding.allowed if isinstance(binding, TextBinding) else ():
            yield from _port(config, each, pattern, who)


def _ports(config: msgspec.Struct, who: str) -> Iterator[Port]:
    """Those of a config, and of the configs within it."""
    if isinstance(config, NodeConfig):
        for direction, protocol, host, port in config.ports():
            (text,) = _texts(host, f"{who}: its host")
            yield Port(direction, protocol, text, port, "", (who,))
    for each in config_fields(type(config)):
        value = getattr(config, each.name)
        for part in value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, msgspec.Struct):
                yield from _ports(part, who)
        if value is not None:
            yield from _port(config, each, value, who)


def _port(config: msgspec.Struct, each: ConfigField, value: Any, who: str) -> Iterator[Port]:
    if each.hint.noted("claims") == "udp_port" and value:  # 0 is any port: only answers come there
        (host,) = _texts(getattr(config, each.hint.noted("host")), f"{who}: its host")
        yield Port("in", "udp", host, value, "", (who,))
    known = each.hint.noted("url")
    if known is not None:
        (text,) = _texts(value, f"{who}: '{each.key}'")
        split = urlsplit(text)
        yield Port("out", "tcp", split.hostname or "", split.port or known[split.scheme], split.scheme, (who,))
