"""Names of topics on the databus: those of the platform, and what a site's broker calls them.

All names of the edgeFLEX platform stand in `PLATFORM`, exactly as its components write them, the misspelling
"measuremnts" included; `docs/topics.md` is made from it. Flows may also use an alias; on the wire stands the name. A
broker with other names is described by a `TopicMap` of the connection, so that flows stay as they are.

Sources: edgeFLEX D4.3, section 6.3 (voltage control); the CoVEE software of RWTH Aachen (edgePMU, flexibility).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from edgeflex_flow.errors import FieldError

SHARED = "$share/"
MOST_KNOWN = 4096


class PlatformTopic(msgspec.Struct, frozen=True):
    """A topic of the platform: who publishes what on it."""

    name: str
    publisher: str
    subscriber: str
    payload: str
    aliases: tuple[str, ...] = ()


PLATFORM: tuple[PlatformTopic, ...] = (
    PlatformTopic(
        "/voltage_control/measuremnts/voltage",
        "power flow, or the field",
        "voltage control",
        '`{"voltage_measurements": {"node_7": 1.031}}`, per unit',
        ("/voltage_control/measurements/voltage",),
    ),
    PlatformTopic(
        "/voltage_control/measuremnts/pv",
        "power flow, or the field",
        "voltage control",
        '`{"pv_input_measurements": {"node_7": 1.1}}`, per unit',
        ("/voltage_control/measurements/pv",),
    ),
    PlatformTopic(
        "/voltage_control/control/active_power",
        "voltage control",
        "power flow, or the field",
        '`{"active_power": {"node_7": -0.12}}`, per unit: change of the power of PV, not above 0',
    ),
    PlatformTopic(
        "/voltage_control/control/reactive_power",
        "voltage control",
        "power flow, or the field",
        '`{"reactive_power": {"node_7": -0.3}}`, per unit',
    ),
    PlatformTopic(
        "/voltage_control/control/active_power_ESS",
        "voltage control",
        "power flow, or the field",
        '`{"active_power_ESS": {"node_7": -0.2}}`, per unit: positive is discharge',
        ("/voltage_control/control/active_power_ess",),
    ),
    PlatformTopic("/edgeflex/edgepmu0/ch0", "edgePMU", "services", "`json.edgeflex`: an array of flat objects"),
    PlatformTopic("/edgeflex/goflex/flex_request", "voltage control (MPC)", "flexibility market", "`flex`: a request"),
    PlatformTopic("/edgeflex/goflex/flex_result", "flexibility market", "voltage control (MPC)", "`flex`: its answer"),
)

OWN: tuple[tuple[str, str], ...] = (
    ("edgeflex/SITE/pmu/DEVICE", "samples of one PMU"),
    ("edgeflex/SITE/measurement/DEVICE", "samples of one meter"),
    ("edgeflex/SITE/event/frequency", "messages of the type `frequency_event`"),
    ("edgeflex/SITE/event/limit", "messages of the type `crossing`"),
    ("edgeflex/SITE/inertia/TYPE", "estimates of inertia, by type of message"),
    ("edgeflex/SITE/rocof", "ROCOF of PMUs, for the event service of the policy system"),
    ("edgeflex/GROUP/service/NAME", "messages of the type `service_request`, from that event service"),
    ("edgeflex/GROUP/answer/USER", "its answers to requests for data, see [policies](policies.md#on-the-databus)"),
    (
        "edgeflex/SITE/policy/ID",
        "messages of the type `policy`, retained, for services that speak only MQTT",
    ),
    ("edgeflex/SITE/external/DEVICE", "measurements of another platform's service"),
    (
        "/voltage_control/measuremnts/soc",
        'state of charge from a simulated grid: `{"soc_measurements": {"node_7": 55.0}}`, % of the capacity',
    ),
    ("edgeflex/SITE/setpoints/units", "messages of the type `setpoints`: what units are told to do"),
    ("edgeflex/SITE/setpoints/controllers", "messages of the type `setpoints`: what controllers ask of an area"),
    ("edgeflex/SITE/shadow_setpoints/units", "the same of controllers in shadow mode; nothing obeys it"),
    ("edgeflex/SITE/shadow_setpoints/controllers", "the same"),
    (
        "edgeflex/SITE/alarm/NAME",
        "messages of the type `alarm` from units, controllers, the watchdog, or the flow NAME",
    ),
    ("edgeflex/SITE/vpp/measurement/DEVICE", "active power of the assets of a virtual power plant"),
    ("edgeflex/SITE/vpp/charge/DEVICE", "state of charge of its storage"),
    ("edgeflex/SITE/vpp/price/DEVICE", "prices"),
    ("edgeflex/SITE/vpp/TYPE", "set-points, plans, alarms and answers of its controller, by type of message"),
    ("edgeflex/SITE/flexibility/TYPE", "answers of the market to requests of flexibility, and alarms about it"),
    (
        "edgeflex/SITE/link/TYPE",
        "what a mobile network says of links, qualities that are asked for, and alarms, by type of message",
    ),
    ("edgeflex/SITE/status/FLOW/NODE", "whether a node of a flow is connected (`status_topic`)"),
)
"""How topics of flows that ship, and those that the platform lacks, are called; SITE is the site's name."""

_NAME_OF_ALIAS = {alias: topic.name for topic in PLATFORM for alias in topic.aliases}


@dataclass(frozen=True)
class TopicMap:
    """What a broker calls the topics of flows.

    `names` replaces whole topics, or their first levels: `{edgeflex: grid/north}` makes `edgeflex/a` to `grid/north/a`;
    the longest that fits counts. Then `prefix`, which ends with `/`, is put before. A topic that begins with `/` keeps
    it, since else nobody could tell `/a` from `a` when it comes back. Shared subscriptions keep `$share/GROUP/` in
    front.

    >>> there = TopicMap("utility/", {"edgeflex/demo": "north"})
    >>> there.outward("edgeflex/demo/event"), there.inward("utility/north/event")
    ('utility/north/event', 'edgeflex/demo/event')
    >>> TopicMap().outward("/voltage_control/measurements/pv")
    '/voltage_control/measuremnts/pv'
    """

    prefix: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    _known: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}), repr=False, compare=False)
    """What outward and inward have found before: the same topics come again and again."""

    def outward(self, topic: str) -> str:
        """A flow's topic in the names of the broker."""
        known = self._known[0]
        return known.get(topic) or _keep(known, topic, self._outward(topic))

    def _outward(self, topic: str) -> str:
        return self.prefix + _replaced(_NAME_OF_ALIAS.get(topic, topic), self.names.items())

    def filters_outward(self, topic_filter: str) -> tuple[str, ...]:
        """A flow's topic filter in the names of the broker: several where its wildcards cover topics that have another
        name there. None of them covers another: brokers may send a message once for each that fits.

        >>> TopicMap("u/", {"pmu/G1": "gen1"}).filters_outward("$share/pair/pmu/+")
        ('$share/pair/u/pmu/+', '$share/pair/u/gen1')
        """
        share, own = "", topic_filter
        if topic_filter.startswith(SHARED):
            group, _, own = topic_filter.removeprefix(SHARED).partition("/")
            share = f"{SHARED}{group}/"
        within = (_within(own, first) for first in (*self.names, *_NAME_OF_ALIAS))
        called = dict.fromkeys(self._outward(each) for each in (own, *within) if each is not None)
        return tuple(share + one for one in called if not any(_covers(each, one) for each in called if each != one))

    def told(self, topic: str) -> str:
        """A flow's topic for people, with the broker's own name of it where that is another.

        >>> TopicMap("north/").told("pmu/G1"), TopicMap().told("pmu/G1")
        ("'pmu/G1' ('north/pmu/G1' there)", "'pmu/G1'")
        """
        there = self.outward(topic)
        return f"'{topic}'" if there == topic else f"'{topic}' ('{there}' there)"

    def inward(self, topic: str) -> str:
        """A topic of the broker in the names of the flow."""
        known = self._known[1]
        return known.get(topic) or _keep(known, topic, self._inward(topic))

    def _inward(self, topic: str) -> str:
        return _replaced(topic.removeprefix(self.prefix), [(name, key) for key, name in self.names.items()])

    def refusals(self) -> Iterator[FieldError]:
        """What is wrong with the fields `topic_prefix` and `topics` of a connection."""
        texts = [("topic_prefix", self.prefix)]
        texts += [(f"topics.{key}", text) for key, name in self.names.items() for text in (key, name)]
        for where, text in texts:
            if any(character in text for character in "+#\0"):
                yield FieldError(f"`{where}` holds no wildcards", where, got=f"'{text}'")
        if self.prefix and not self.prefix.endswith("/"):
            text = f"`topic_prefix` must end with '/': else 'pmu/G1' would be called '{self.prefix}pmu/G1' there"
            yield FieldError(text, "topic_prefix", got=f"'{self.prefix}'", nearest=f"{self.prefix}/")
        for key, name in self.names.items():
            if not key or not name or key.endswith("/") or name.endswith("/"):
                text = "`topics` names whole topics or their first levels, without '/' at the end"
                yield FieldError(text, f"topics.{key}", got=f"'{key}: {name}'")
        if len(set(self.names.values())) != len(self.names):
            yield FieldError("`topics` gives one name to two topics", "topics")


def _keep(known: dict[str, str], topic: str, name: str) -> str:
    if len(known) >= MOST_KNOWN:
        known.clear()
    known[topic] = name
    return name


def _replaced(topic: str, names: Iterable[tuple[str, str]]) -> str:
    for first, other in sorted(names, key=lambda each: -len(each[0])):
        if topic == first or topic.startswith(first + "/"):
            return other + topic[len(first) :]
    return topic


def _within(topic_filter: str, first: str) -> str | None:
    """A filter for those of its topics that begin with these levels; None if there are none.

    >>> _within("+/+/x", "a/b"), _within("a/#", "a/b"), _within("+", "a/b")
    ('a/b/x', 'a/b/#', None)
    """
    levels, wanted = topic_filter.split("/"), first.split("/")
    for level, own in zip(levels, wanted, strict=False):
        if level == "#":
            return f"{first}/#"
        if level not in ("+", own):
            return None
    return "/".join((first, *levels[len(wanted) :])) if len(levels) >= len(wanted) else None


def _covers(wide: str, narrow: str) -> bool:
    """Whether each topic of one filter is one of the other.

    >>> _covers("a/#", "a"), _covers("+/b", "a/b"), _covers("a/+", "a/#")
    (True, True, False)
    """
    levels, others = wide.split("/"), narrow.split("/")
    for place, level in enumerate(levels):
        if level == "#":
            return True
        if place == len(others) or (level != others[place] and (level != "+" or others[place] == "#")):
            return False
    return len(levels) == len(others)


def to_markdown() -> str:
    """The page `docs/topics.md`."""
    lines = [
        "<!-- Generated by `python -m edgeflex_connectors.topics > docs/topics.md`; do not edit. -->",
        "",
        "# Topics on the databus",
        "",
        "Names stand in one place, `connectors/edgeflex_connectors/topics.py`, from which this page is made.",
        "",
        "## Of the edgeFLEX platform",
        "",
        'Exactly as its components write them: "measuremnts" is how the platform spells it. A flow may also use an',
        "alias; on the wire stands the name.",
        "",
        "| topic | alias | published by | subscribed by | payload |",
        "| --- | --- | --- | --- | --- |",
    ]
    for topic in PLATFORM:
        aliases = ", ".join(f"`{alias}`" for alias in topic.aliases)
        lines.append(f"| `{topic.name}` | {aliases} | {topic.publisher} | {topic.subscriber} | {topic.payload} |")
    lines += [
        "",
        "Sources: edgeFLEX deliverable D4.3, section 6.3; the CoVEE software of RWTH Aachen for edgePMU, flexibility",
        "and the payloads.",
        "",
        "## Of the flows and services that ship",
        "",
        "| topic | what comes there |",
        "| --- | --- |",
        *(f"| `{topic}` | {what} |" for topic, what in OWN),
        "",
        "SITE is the name of the site, GROUP that of a group of policies, USER that of one of its users, ID that of a",
        "policy, DEVICE, TYPE, FLOW and NODE those of device, message type, flow and node.",
        "",
        "## A broker with other names",
        "",
        "The site file describes it, at the connection; flows stay as they are:",
        "",
        "```yaml",
        "connections:",
        "  databus:",
        "    kind: mqtt",
        '    url: "mqtts://bus.utility.example"',
        "    topics: {/voltage_control: vc, edgeflex/substation_12: telemetry}",
        "    topic_prefix: utility/north/",
        "```",
        "",
        "`topics` replaces a topic, or its first levels; the longest that fits counts. Then `topic_prefix`, which ends",
        "with `/`, is put before: `/voltage_control/measuremnts/pv` becomes `utility/north/vc/measuremnts/pv`. A topic",
        "that begins with `/` keeps it: with the prefix alone that one would be called",
        "`utility/north//voltage_control/measuremnts/pv`, which the check notes, so give it a name without, such as",
        "`{/voltage_control: voltage_control}`.",
        "",
        "Messages that come in are given to the flow under its own names, so a pattern in `device` is one of the",
        "flow's topic. A topic filter whose wildcards cover topics with other names stands for those too: with",
        "`{pmu/G1: gen1}` a node that subscribes to `pmu/+` gets `gen1` as well, and `edgeflex acl` allows it.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
