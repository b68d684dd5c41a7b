"""The event service on the databus: reports and requests for data come in, answers and requests to run services go out.

A message acts only with a right to it. Either it carries a token in the MQTT 5 user property `authorization`, of an
audience of its own, since others may hear it; or it comes on a topic that the deployment trusts (`--trust`), since the
broker's access list says who may publish there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from paho.mqtt.client import Client, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgeflex_connectors.mqtt_subscribe import filter_problem
from edgeflex_connectors.topics import SHARED
from edgeflex_flow.errors import BadMessageError, FatalError
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Quality, ServiceRequest, decode_message, encode_message
from edgeflex_flow.units import names_its_unit
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.documents import NAME
from edgeflex_services.policy_system.events import (
    Ask,
    BadReportError,
    EventService,
    MayNotAskError,
    Ran,
    Report,
    TooManyRequestsError,
)
from edgeflex_services.policy_system.system import DATABUS, PolicySystem
from edgeflex_services.policy_system.tokens import BEARER, Refused
from edgeflex_services.service_bus import LARGEST_PAYLOAD, Bus

NS_PER_MS = 1_000_000
AUTHORIZATION = "authorization"
DATA_REQUEST = "data_request"
NOT_GOOD = int(Quality.BAD_DATA | Quality.TEST | Quality.REPLAYED)
"""Values with these flags are no state of the grid."""


class Listen(NamedTuple):
    """Topics and the group whose policies hear what comes on them."""

    group: str
    topics: str
    """A filter."""
    is_trusted: bool
    """The broker sees to it that only the group's own devices publish there."""


class EventBus(Bus):
    """Hears reports on the databus and sends requests to run services. `on_deaf` is called when it cannot hear."""

    def __init__(
        self,
        system: PolicySystem,
        url: str,
        listens: Sequence[Listen],
        *,
        tell: Callable[..., None],
        on_deaf: Callable[[], None],
        user: str | None = None,
        password: str | None = None,
        ca: str | None = None,
    ) -> None:
        _check_apart(listens)
        super().__init__(
            url,
            [each.topics for each in listens],
            tell=tell,
            user=user,
            password=password,
            ca=ca,
            name="edgeflex-policy",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        self._system = system
        self._listens = listens
        self._on_deaf = on_deaf
        self.is_deaf = False
        self._service: EventService | None = None
        self._counts_lock = threading.Lock()
        self.counts: dict[str, int] = {}
        """What became of messages, by word."""
        system.counts["bus"] = self._counts_now

    def hear(self, service: EventService) -> None:
        """Give reports to this service from now on."""
        self._service = service
        self.start()

    def run_service(self, group: str, request: ServiceRequest) -> Ran:
        """Ask on the databus that a service runs; what became of that."""
        topic = f"edgeflex/{group}/service/{request.service}"
        if not self._client.is_connected():
            self._count("not_sent")
            return Ran(f"could not ask for {request.service}: the databus is away", has_gone=False)
        self._client.publish(self._names.outward(topic), encode_message(request), qos=1)
        self._count("sent")
        return Ran(f"asked for {request.service} on {topic}", has_gone=True)

    def _cannot_listen(self, error: Exception) -> None:
        super()._cannot_listen(error)
        if not self.is_deaf:
            self.is_deaf = True
            self._on_deaf()

    def _count(self, word: str) -> None:
        with self._counts_lock:
            self.counts[word] = self.counts.get(word, 0) + 1

    def _counts_now(self) -> dict[str, int]:
        with self._counts_lock:
            return {"is_connected": int(self._client.is_connected()), **self.counts}

    def _came(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        """In paho's thread. What the broker had kept from before is no event of now."""
        if message.retain or self._service is None:
            self._count("retained")
            return
        try:
            self._take(self._service, message)
        except Exception:
            self._count("failed")
            LOG.exception("message on '%s'", message.topic)

    def _take(self, service: EventService, message: MQTTMessage) -> None:
        """Rights first: nothing of a message is decoded that nobody vouches for."""
        topic = self._names.inward(message.topic)
        listen = next((each for each in self._listens if topic_matches_sub(each.topics, topic)), None)
        if listen is None or len(message.payload) > LARGEST_PAYLOAD:
            self._count("too_large" if listen is not None else "not_wanted")
            return
        shown = self._shown(message)
        if shown is None and (_has_token(message) or not listen.is_trusted):
            self._refuse(topic, listen)
            return
        try:
            ask = ask_in(bytes(message.payload), listen.group)
            if ask is None:
                self._report(service, listen, topic, message, shown)
            else:
                self._answer(service, ask, topic, shown)
        except (BadMessageError, BadReportError) as error:
            self._count("bad")
            LOG.warning("message on '%s': %s", topic, error)

    def _refuse(self, topic: str, listen: Listen) -> None:
        self._count("refused")
        LOG.warning("message on '%s' refused: it shows no right to report in group '%s'", topic, listen.group)

    def _report(
        self, service: EventService, listen: Listen, topic: str, message: MQTTMessage, shown: User | None
    ) -> None:
        sender = shown or User(name=DATABUS, roles={listen.group: "reporter"})
        if not sender.may("reporter", listen.group):
            self._refuse(topic, listen)
            return
        self._system.traffic.count(sender.name)
        for report in reports_in(bytes(message.payload), listen.group):
            service.report(sender, report, topic)
            self._count("reports")

    def _answer(self, service: EventService, ask: Ask, topic: str, sender: User | None) -> None:
        """Answer a request on a topic that is its sender's own. Who asks is told by a token, on trusted topics too."""
        if sender is None:
            self._count("refused")
            LOG.warning("request on '%s' refused: it does not show who asks", topic)
            return
        self._system.traffic.count(sender.name)
        try:
            answer = service.ask(sender, ask, topic)
        except (MayNotAskError, TooManyRequestsError) as error:
            self._count("refused")
            LOG.warning("request of '%s' on '%s' refused: %s", sender.name, topic, error)
            return
        self._client.publish(
            self._names.outward(f"edgeflex/{ask.group}/answer/{sender.name}"), msgspec.json.encode(answer), qos=1
        )
        self._count("answers")

    def _subscription(self, topic: str) -> tuple[str, SubscribeOptions]:
        """Without what this client itself sends."""
        return topic, SubscribeOptions(qos=1, noLocal=True)

    def _shown(self, message: MQTTMessage) -> User | None:
        """Whom the token of a message shows; None if it has none, or none that is good."""
        if not _has_token(message):
            return None
        try:
            return self._system.tokens.check(_token_of(message), on_bus=True)
        except Refused as error:
            LOG.info("token on '%s' refused: %s", message.topic, error)
            return None


def listen_problem(listen: Listen) -> str | None:
    """What is wrong with what is to be heard; None if nothing is."""
    if not re.fullmatch(NAME, listen.group):
        return f"'{listen.group}' is no name of a group: letters, digits, `_`, `-` and `.`"
    if listen.topics.startswith(SHARED):
        return f"'{listen.topics}': a shared subscription brings only a part of what is reported"
    problem = filter_problem(listen.topics)
    return None if problem is None else f"'{listen.topics}': {problem}"


def _check_apart(listens: Sequence[Listen]) -> None:
    """Raise FatalError when a message could come by two filters: it would act twice, perhaps in two groups."""
    for at, one in enumerate(listens):
        for other in listens[:at]:
            if filters_meet(one.topics, other.topics):
                raise FatalError(f"'{one.topics}' and '{other.topics}' overlap: a message would act twice")


def filters_meet(one: str, other: str) -> bool:
    """Whether a topic can match both filters.

    >>> filters_meet("a/+/c", "a/b/#"), filters_meet("a/+", "a/b/c"), filters_meet("a/#", "a")
    (True, False, True)
    """
    a, b = one.split("/"), other.split("/")
    for left, right in zip(a, b, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    longer = a if len(a) > len(b) else b
    return len(a) == len(b) or longer[min(len(a), len(b))] == "#"


def _has_token(message: MQTTMessage) -> bool:
    return AUTHORIZATION in _user_properties(message)


def _token_of(message: MQTTMessage) -> str:
    return _user_properties(message).get(AUTHORIZATION, "").removeprefix(BEARER)


def _user_properties(message: MQTTMessage) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", ()))


def ask_in(payload: bytes, group: str) -> Ask | None:
    """The request for data in a payload, to the policies of this group; None if it is something else.

    Raises BadMessageError.
    """
    try:
        told = msgspec.json.decode(payload, type=dict[str, Any])
        if told.get("type") != DATA_REQUEST:
            return None
        return msgspec.convert({**{name: value for name, value in told.items() if name != "type"}, "group": group}, Ask)
    except msgspec.ValidationError as error:
        if payload.lstrip()[:1] != b"{":
            return None
        raise BadMessageError(str(error), reason="bad_payload", payload=payload) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # whoever reads it as a report says what is wrong


def reports_in(payload: bytes, group: str) -> list[Report]:
    """What a payload reports: rows of measurements (`json.edgeflex`), or a message such as a frequency event.

    Raises BadMessageError.
    """
    try:
        if payload.lstrip()[:1] == b"{":
            return [_report_of(decode_message(payload, BUILT_IN_MESSAGES), group)]
        rows = msgspec.json.decode(payload, type=list[dict[str, Any]])
        return [report for row in rows if (report := _report_of_row(row, group)) is not None]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(str(error), reason="bad_payload", payload=payload) from error


def _report_of(message: Message, group: str) -> Report:
    told = {name: getattr(message, name) for name in message.__struct_fields__}
    time_ns = told.get("time_ns", told.get("onset_time_ns"))
    asset = told.get("device") or told.get("source")
    tag = str(message.__struct_config__.tag)
    return _checked(group=group, asset=asset, action=tag, values=_values(told), time_ns=time_ns)


def _report_of_row(row: Mapping[str, Any], group: str) -> Report | None:
    """A row of `json.edgeflex`; None if its quality says that it is no state of the grid."""
    quality = row.get("quality", 0)
    if not isinstance(quality, int) or quality & NOT_GOOD:
        return None
    created_ms = row.get("created")
    time_ns = row.get("time_ns")
    if time_ns is None and isinstance(created_ms, int):
        time_ns = created_ms * NS_PER_MS
    if time_ns is None:
        raise BadMessageError("a row has no time: `time_ns`, or `created`", reason="bad_payload")
    return _checked(group=group, asset=row.get("device"), action="measured", values=_values(row), time_ns=time_ns)


def _checked(**told: Any) -> Report:
    return msgspec.convert(told, Report)


def _values(told: Mapping[str, Any]) -> dict[str, float]:
    """Numbers whose names end in a unit."""
    return {
        name: float(value)
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and names_its_unit(name)
    }
