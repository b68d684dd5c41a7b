"""`link_status`: what the mobile network says of the links of devices, from the 5G device management."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_connectors.device_management import (
    DEVICES_PATH,
    LINKS_PATH,
    LONGEST_DURATION_S,
    DevicePage,
    Gpsi,
    Ipv4,
    Owner,
    Reason,
    device_path,
    read_answer,
)
from edgeflex_connectors.rest import RestConfig, RestSession
from edgeflex_connectors.rest_poll import Read, RestPoll, RestPollConfig
from edgeflex_connectors.rest_retry import retry_refusals
from edgeflex_flow.errors import BadMessageError, FieldError, RetryableError
from edgeflex_flow.messages import LinkStatus, QosState, TimeNs
from edgeflex_flow.node import (
    Context,
    Delays,
    NodeConfig,
    SourceNode,
    Wire,
    WireMessage,
    connection,
    message_wire,
    quantity,
)

ANSWERED_WITHIN: Final = 0.8
"""Share of the connection's time limits that a request may wait for news, so that an answer without any is in time."""
RENEWED_AFTER: Final = 0.8
"""Share of its time after which a watch is asked for anew."""
LOOK_FOR_DEVICES_S: Final = 60.0
"""How often the service is asked for devices that are new."""
WATCHES_AT_ONCE: Final = 20
"""How many watches are asked for between two questions for news."""
UNITS: Final = {"latency": "s", "jitter": "s", "loss": "1", "downlink": "bit/s", "uplink": "bit/s"}

Parameter: TypeAlias = Literal["reachability", "latency", "jitter", "loss", "downlink", "uplink", "signal"]


class LinkWatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the network is to tell of links by itself."""

    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, description="Which parameters.")]
    server_ipv4: Annotated[
        Ipv4 | None, Meta(description="Address of the server to which the devices send; any if not given.")
    ] = None
    profile: Annotated[str | None, Meta(description="QoS profile with which they are compared; none if not given.")] = (
        None
    )
    lasts: Annotated[
        float, quantity("s", "How long a watch lasts; it is renewed before its end.", ge=60, le=LONGEST_DURATION_S)
    ] = 86_400.0


class LinkStatusConfig(NodeConfig, frozen=True, kw_only=True):
    """Ask the 5G device management (`edgeflex serve devices`) again and again what the mobile network says of links.

    The service answers as soon as the link of one of the owner's devices has changed, at the latest after `wait`, which
    is cut to four fifths of the connection's `read_timeout` and `request_timeout`. The next request follows `period`
    after the one before at the earliest, and asks for what has changed since the last answer: also after the service
    was away, and nothing is given twice. A flow that begins gets what is known of all links.

    With `watch` the service is also asked to have the network tell of the links of all the owner's devices by itself:
    of those that are there, and within a minute of those that come. Without it the links change as others ask for them.

    When the service is away, it is asked again after waits that double from `retry_min` to `retry_max`. All that, and
    what its answers mean, is as in `rest_poll`.

    Input:
        None: answers of the service.

    Output:
        `LinkStatus` of each link that changed. Counts those of `rest_poll`, `stale` (links that were given already),
        `watches` (asked for) and `watches_refused`.

    Errors:
        Dead letter `bad_payload` for an answer that cannot be read, or in which a link cannot: the others are used, and
        `bad_rows` counts those that cannot. What is wrong with watches is said in the log, and they are asked for again
        after a minute. Those of `rest_poll` and of the connection besides.

    Source:
        The interface of this project's device management; CAMARA and 3GPP TS 29.122 behind it.

    >>> LinkStatusConfig(api="devices", owner="substation_12").wait
    20.0
    """

    api: Annotated[str, connection("rest", "Connection to the device management.")]
    owner: Annotated[Owner, Meta(description="Group of the policy system to which the devices belong.")]
    wait: Annotated[float, quantity("s", "Longest wait of the service for something new.", ge=0, le=30)] = 20.0
    period: Annotated[float, quantity("s", "Shortest time from one request to the next.", ge=0.05, le=3600)] = 1.0
    watch: Annotated[
        LinkWatch | None, Meta(description="What the network is to tell by itself; nothing if not given.")
    ] = None
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 1.0
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=86_400)] = 30.0
    queue: Annotated[
        int, Meta(ge=1, le=100_000, description="Answers held while the flow is busy; the oldest drop first.")
    ] = 1000

    def refusals(self) -> Iterator[FieldError]:
        yield from retry_refusals(self.retry_min, self.retry_max)


class _Reading(msgspec.Struct, frozen=True):
    value: float | bool | str | None
    unit: str = ""
    meets_profile: bool | None = None


class _Qos(msgspec.Struct, frozen=True):
    profile: str
    state: QosState
    expires_ns: TimeNs | None = None
    confirmed_ns: TimeNs | None = None
    reason: Reason | None = None


class _Link(msgspec.Struct, frozen=True):
    gpsi: Gpsi
    name: Annotated[str, Meta(min_length=1)]
    seq: int
    time_ns: TimeNs
    readings: dict[str, _Reading]
    qos: _Qos | None = None


class _Links(msgspec.Struct, frozen=True):
    seq: Annotated[int, Meta(ge=0)]
    links: list[msgspec.Raw]


def status_of(link: _Link) -> LinkStatus:
    """Raises ValueError for readings in other units than those of the interface."""
    known: dict[str, Any] = {}
    for name, reading in link.readings.items():
        if name in UNITS and isinstance(reading.value, float | int) and not isinstance(reading.value, bool):
            if reading.unit != UNITS[name]:
                raise ValueError(f"`{name}` in another unit; got '{reading.unit}', known: {UNITS[name]}")
            known[name] = float(reading.value)
    reachable, signal, qos = link.readings.get("reachability"), link.readings.get("signal"), link.qos
    return LinkStatus(
        device=link.name,
        gpsi=link.gpsi,
        time_ns=link.time_ns,
        reachable=reachable.value if reachable is not None and isinstance(reachable.value, bool) else None,
        latency_s=known.get("latency"),
        jitter_s=known.get("jitter"),
        loss=known.get("loss"),
        downlink_bit_per_s=known.get("downlink"),
        uplink_bit_per_s=known.get("uplink"),
        signal=None if signal is None else _signal(signal),
        profile=None if qos is None else qos.profile,
        qos_state=None if qos is None else qos.state,
        qos_expires_ns=None if qos is None else qos.expires_ns,
        qos_confirmed_ns=None if qos is None else qos.confirmed_ns,
        meets_profile={
            name: reading.meets_profile for name, reading in link.readings.items() if reading.meets_profile is not None
        },
        reason="" if qos is None or qos.reason is None else str(qos.reason),
    )


def _signal(reading: _Reading) -> str | None:
    if isinstance(reading.value, str):
        return reading.value
    if reading.value is None or isinstance(reading.value, bool):
        return None
    return f"{reading.value:g} {reading.unit}".strip()


class ChangedLinks:
    """Reads answers, and remembers how far they have come."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.since = 0
        """`seq` of the last answer."""

    def read(self, body: bytes, received_ns: int) -> Read:
        del received_ns
        try:
            answer = msgspec.json.decode(body, type=_Links)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessageError(str(error), reason="bad_payload", payload=body) from error
        if answer.seq < self.since:
            self._context.log.warning(
                "the device management counts from %d again, after %d: all links are new", answer.seq, self.since
            )
            self.since = 0
        given: list[WireMessage] = []
        bad: list[BadMessageError] = []
        for raw in answer.links:
            try:
                link = msgspec.json.decode(raw, type=_Link)
                status = status_of(link)
            except (ValueError, msgspec.DecodeError, RecursionError) as error:
                bad.append(BadMessageError(f"a link: {error}", reason="bad_payload", payload=bytes(raw)))
                continue
            if link.seq > self.since:
                given.append(status)
            else:
                self._context.counters.add("stale")
        self.since = answer.seq
        return Read(given, bad_rows=len(bad), error=bad[0] if bad else None)


class Watches:
    """Has the network tell of the links of all devices of an owner."""

    def __init__(self, watch: LinkWatch, owner: str, context: Context) -> None:
        self._watch = watch
        self._owner = owner
        self._context = context
        wanted = {"parameters": watch.parameters, "server_ipv4": watch.server_ipv4, "profile": watch.profile}
        told = {name: value for name, value in wanted.items() if value is not None}
        self._body = msgspec.json.encode({**told, "lasts_s": int(watch.lasts)})
        self._due_s: dict[str, float] = {}
        """By GPSI, when its watch is to be asked for, in monotonic seconds."""
        self._look_s = 0.0
        """When to look for new devices."""
        self._paused_s = 0.0
        """Until when nothing is asked for."""

    @property
    def is_due(self) -> bool:
        """Whether there is something to ask for now."""
        return max(min((self._look_s, *self._due_s.values())), self._paused_s) <= time.monotonic()

    def pause(self) -> None:
        """Ask for nothing for a while."""
        self._paused_s = time.monotonic() + LOOK_FOR_DEVICES_S

    def ask(self, session: RestSession) -> None:
        """Ask for some of what is due. Raises RetryableError and BadMessageError when the service is not there."""
        if not self.is_due:
            return
        if self._look_s <= time.monotonic():
            self._look(session)
            self._look_s = time.monotonic() + LOOK_FOR_DEVICES_S
        due = [gpsi for gpsi, due_s in self._due_s.items() if due_s <= time.monotonic()]
        for gpsi in due[:WATCHES_AT_ONCE]:
            self._ask_for(session, gpsi)

    def _look(self, session: RestSession) -> None:
        """Which devices there are."""
        found: set[str] = set()
        after: str | None = ""
        while after is not None:
            query = [("owner", self._owner), ("state", "onboarded"), *([("after", after)] if after else [])]
            answer = session.request("GET", DEVICES_PATH, query=query)
            if not answer.is_success:
                raise RetryableError(f"{session.name}: GET {DEVICES_PATH}: {session.shown(answer)}")
            page = read_answer(answer, DevicePage)
            found.update(each.gpsi for each in page.devices)
            after = page.after if page.after != after else None
        self._due_s = {gpsi: self._due_s.get(gpsi, 0.0) for gpsi in sorted(found)}

    def _ask_for(self, session: RestSession, gpsi: str) -> None:
        path = device_path(gpsi, "watch")
        headers = {"Content-Type": "application/json"}
        answer = session.request("PUT", path, query=[("wait_s", "0")], headers=headers, content=self._body)
        self._context.counters.add("watches")
        if answer.is_success:
            self._due_s[gpsi] = time.monotonic() + RENEWED_AFTER * self._watch.lasts
            return
        self._due_s[gpsi] = time.monotonic() + LOOK_FOR_DEVICES_S
        self._context.counters.add("watches_refused")
        self._context.log.warning("%s: PUT %s: %s", session.name, path, session.shown(answer))


class LinkPoll(RestPoll):
    """The source: asks for what is new, and between that for watches."""

    def __init__(self, config: LinkStatusConfig, context: Context) -> None:
        self._links = ChangedLinks(context)
        polling = RestPollConfig(
            api=config.api,
            path=LINKS_PATH,
            period=config.period,
            messages=("link_status",),
            retry_min=config.retry_min,
            retry_max=config.retry_max,
            queue=config.queue,
        )
        super().__init__(polling, context, reader=self._links)
        self._watches = None if config.watch is None else Watches(config.watch, config.owner, context)
        self._owner = config.owner
        api = context.connections["api"].config
        assert isinstance(api, RestConfig)
        self._wait_s = min(config.wait, ANSWERED_WITHIN * min(api.read_timeout, api.request_timeout))

    def query(self) -> Sequence[tuple[str, str]]:
        is_hurried = self._watches is not None and self._watches.is_due
        wait_s = self._wait_s if self._reached and not is_hurried else 0.0
        return (("owner", self._owner), ("since", str(self._links.since)), ("wait_s", f"{wait_s:g}"))

    def before_asking(self, session: RestSession) -> None:
        if self._watches is None:
            return
        try:
            self._watches.ask(session)
        except (RetryableError, BadMessageError) as error:
            self._watches.pause()
            if not self._stop.is_set():
                self._context.log.warning("watches: %s; asked for again in %g s", error, LOOK_FOR_DEVICES_S)


def output(_config: LinkStatusConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(LinkStatus)


def open_source(config: LinkStatusConfig, context: Context) -> LinkPoll:
    return LinkPoll(config, context)


NODE = SourceNode(
    kind="link_status",
    config=LinkStatusConfig,
    output=output,
    open=open_source,
    delays=lambda config: Delays(period_s=config.period),
)
