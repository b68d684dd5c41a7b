"""What the APIs of CAMARA have in common: devices, sinks, errors, pages and CloudEvents (Commonalities 0.6 to 0.8)."""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import urlencode

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap
from msgspec import UNSET, Meta, UnsetType

from edgeflex_flow.clock import moment_ns
from edgeflex_services.network_simulator import LOG
from edgeflex_services.network_simulator.door import (
    base_url,
    is_correlator,
    moment_text,
    retry_headers,
    shows_token,
)
from edgeflex_services.network_simulator.notify import Notification
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

CLOUDEVENTS: Final = "application/cloudevents+json"
LONGEST_MESSAGE: Final = 512
MOST_PER_PAGE: Final = 100
CODES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    410: "GONE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "SERVICE_NOT_APPLICABLE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL",
    501: "NOT_IMPLEMENTED",
    502: "BAD_GATEWAY",
    503: "UNAVAILABLE",
    504: "TIMEOUT",
}
NOT_OFFERED: Final = "the service is not offered for this device"
_HTTPS: Final = re.compile(r"https://[^\s]+")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")

Moment = Annotated[datetime, Meta(tz=True)]
ProfileName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]+$", min_length=3, max_length=256)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
_T = TypeVar("_T")


class CamaraError(Exception):
    """An answer with an error."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.told = {"status": status, "code": code, "message": message[:LONGEST_MESSAGE], **more}


def invalid(message: str) -> CamaraError:
    return CamaraError(400, "INVALID_ARGUMENT", message)


def not_found(error: UnknownError) -> CamaraError:
    return CamaraError(404, "NOT_FOUND", str(error))


# Requests -----------------------------------------------------------------------------------------------------------


class CamaraBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A part of a request. What is not known is refused at any depth, as Commonalities 0.8 demands."""


class DeviceIpv4(CamaraBody, frozen=True, kw_only=True):
    """An address of a device as the internet sees it, with what tells it from others behind it."""

    public_address: str
    private_address: str | UnsetType = UNSET
    public_port: Annotated[int, Meta(ge=1, le=65_535)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.private_address is UNSET and self.public_port is UNSET:
            raise ValueError("with `publicAddress` goes `privateAddress` or `publicPort`")
        for each in (self.public_address, self.private_address):
            if each is not UNSET:
                ipaddress.IPv4Address(each)


class DeviceIds(CamaraBody, frozen=True, kw_only=True):
    """By what a client names a device."""

    phone_number: Annotated[str, Meta(pattern=r"^\+[1-9][0-9]{4,14}$")] | UnsetType = UNSET
    network_access_identifier: Annotated[str, Meta(max_length=2048)] | UnsetType = UNSET
    ipv4_address: DeviceIpv4 | UnsetType = UNSET
    ipv6_address: Annotated[str, Meta(max_length=45)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if all(getattr(self, each) is UNSET for each in self.__struct_fields__):
            raise ValueError("a device has at least one identifier")
        if self.ipv6_address is not UNSET:
            ipaddress.IPv6Address(self.ipv6_address)


class PortRange(CamaraBody, frozen=True, kw_only=True):
    from_: Port = msgspec.field(name="from")
    to: Port


class Ports(CamaraBody, frozen=True, kw_only=True):
    """Some ports, at least one."""

    ranges: Annotated[list[PortRange], Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    ports: Annotated[list[Port], Meta(min_length=1, max_length=100)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.ranges is UNSET and self.ports is UNSET:
            raise ValueError("`ports` or `ranges` are needed")


class ApplicationServer(CamaraBody, frozen=True, kw_only=True):
    """With what a device talks: an address or a network of them."""

    ipv4_address: str | UnsetType = UNSET
    ipv6_address: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.ipv4_address is UNSET and self.ipv6_address is UNSET:
            raise ValueError("`ipv4Address` or `ipv6Address` is needed")
        if self.ipv4_address is not UNSET:
            ipaddress.IPv4Network(self.ipv4_address, strict=False)
        if self.ipv6_address is not UNSET:
            ipaddress.IPv6Network(self.ipv6_address, strict=False)


class AccessToken(CamaraBody, frozen=True, kw_only=True):
    """Of the kinds of `SinkCredential` the one that this network takes."""

    credential_type: str
    access_token: Annotated[str, Meta(max_length=4096)]
    access_token_expires_utc: Moment
    access_token_type: str


class SinkCodes(NamedTuple):
    """What an API says to a sink that is none."""

    sink: str
    credential: str
    token: str


OWN_CODES: Final = SinkCodes("INVALID_SINK", "INVALID_CREDENTIAL", "INVALID_TOKEN")
GENERAL_CODES: Final = SinkCodes("INVALID_ARGUMENT", "INVALID_ARGUMENT", "INVALID_ARGUMENT")
"""Of APIs that list no others: those of Dedicated Networks."""


class Sink(NamedTuple):
    """Where notifications go."""

    url: str
    token: str | None = None
    token_expires_ns: int | None = None


async def read(request: AnyRequest, model: type[_T]) -> _T:
    """The body. Raises CamaraError."""
    try:
        return msgspec.json.decode(await request.body(), type=model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(str(error)) from error


def convert(given: object, model: type[_T]) -> _T:
    """A part of a body. Raises CamaraError."""
    try:
        return msgspec.convert(given, type=model)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error


def sink_of(
    url: str | UnsetType, credential: Mapping[str, Any] | UnsetType, codes: SinkCodes = OWN_CODES
) -> Sink | None:
    """Where to tell, if anywhere. Raises CamaraError."""
    if url is UNSET:
        return None
    if not _HTTPS.fullmatch(url) or len(url) > 2048:
        raise CamaraError(400, codes.sink, f"`sink` is an https address; got '{url[:100]}'")
    if credential is UNSET:
        return Sink(url)
    kind = credential.get("credentialType")
    if kind is None:
        raise invalid("`sinkCredential` has a `credentialType`")
    if kind != "ACCESSTOKEN":
        raise CamaraError(400, codes.credential, f"only ACCESSTOKEN is taken as `sinkCredential`; got '{kind}'")
    token = convert(credential, AccessToken)
    if token.access_token_type != "bearer" or not _TOKEN.fullmatch(token.access_token):  # noqa: S105 - no secret
        raise CamaraError(400, codes.token, "`accessTokenType` is bearer, and the token has no spaces")
    return Sink(url, token.access_token, moment_ns(token.access_token_expires_utc))


def id_in_path(text: str) -> str:
    """An id that is to be a UUID. Raises CamaraError."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid(f"an id is a UUID; got '{text[:100]}'") from None


# Devices ------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A device that a client named."""

    subscriber: Subscriber
    shown: dict[str, Any]
    """The one identifier by which answers name it."""


def find(world: World, ids: DeviceIds | UnsetType) -> Found:
    """The device that is meant by the first identifier of which the network knows the kind. Raises CamaraError."""
    if ids is UNSET:
        raise CamaraError(422, "MISSING_IDENTIFIER", "the token names no device, so `device` is needed")
    try:
        found = _find(world, ids)
    except UnknownError as error:
        raise CamaraError(404, "IDENTIFIER_NOT_FOUND", str(error)) from error
    if found is None:
        raise CamaraError(422, "UNSUPPORTED_IDENTIFIER", "this network knows no device by its IPv6 address")
    return found


def find_willing(world: World, ids: DeviceIds | UnsetType) -> Found:
    """The same, of a device that may be given something. Raises CamaraError."""
    found = find(world, ids)
    if world.refuses(found.subscriber):
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", NOT_OFFERED)
    return found


def _find(world: World, ids: DeviceIds) -> Found | None:
    if ids.phone_number is not UNSET:
        return Found(world.subscriber(f"msisdn-{ids.phone_number[1:]}"), {"phoneNumber": ids.phone_number})
    if ids.network_access_identifier is not UNSET:
        external_id = ids.network_access_identifier
        return Found(world.subscriber(f"extid-{external_id}"), {"networkAccessIdentifier": external_id})
    if ids.ipv4_address is not UNSET:
        address = ids.ipv4_address
        inside = address.public_address if address.private_address is UNSET else address.private_address
        return Found(world.at_address(inside), {"ipv4Address": msgspec.to_builtins(address)})
    return None


# Answers ------------------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    """Which part of a list is wanted."""

    number: int
    size: int


def page_of(request: AnyRequest) -> Page:
    """Raises CamaraError."""
    return Page(_number(request, "page", 1, 2**31 - 1), _number(request, "perPage", 20, MOST_PER_PAGE))


def _number(request: AnyRequest, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= most:
        raise CamaraError(400, "OUT_OF_RANGE", f"`{name}` is a number from 1 to {most}; got '{text[:20]}'")
    return int(text)


def page_answer(
    request: AnyRequest, key: str, things: Iterable[_T], total: int, show: Callable[[_T], Any]
) -> Response[Any]:
    """The page of a list that the request asks for, with its headers. Raises CamaraError."""
    page = page_of(request)
    first = (page.number - 1) * page.size
    shown = [show(each) for each in itertools.islice(things, first, first + page.size)]
    pages = math.ceil(total / page.size)
    pagination = {"page": page.number, "perPage": page.size, "totalCount": total, "totalPages": pages}
    headers = {"X-Total-Count": str(total), "X-Total-Pages": str(pages)}
    if links := _links(request, page.number, pages):
        headers["Link"] = links
    return Response({key: shown, "pagination": pagination}, headers=headers)


def _links(request: AnyRequest, page: int, pages: int) -> str:
    wanted = {"first": 1, "prev": page - 1, "next": page + 1, "last": pages}
    path = f"{base_url(request)}{request.url.path}"
    more = {name: text for name, text in request.query_params.items() if name != "page"}
    return ", ".join(
        f'<{path}?{urlencode({**more, "page": number})}>; rel="{name}"'
        for name, number in wanted.items()
        if 1 <= number <= pages
    )


def tell(simulation: Simulation, sink: Sink | None, event: Mapping[str, Any], correlator: str | None) -> None:
    """Send a CloudEvent, of which `source`, `type` and `data` are given, if there is where to."""
    if sink is None:
        return
    whole = {
        "id": str(uuid.uuid4()),
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "time": moment_text(simulation.world.now_ns),
        **event,
    }
    simulation.notifier.send(
        Notification(sink.url, CLOUDEVENTS, msgspec.json.encode(whole), sink.token, correlator),
    )


# The door -----------------------------------------------------------------------------------------------------------


async def enter(request: AnyRequest) -> None:
    """Before each request: what is due is done, and who may not come in is told so. Raises CamaraError."""
    simulation = simulation_of(request)
    if not is_correlator(request.headers.get("x-correlator", "")):
        raise invalid("`x-correlator` has up to 256 letters, digits and -_:;./<>{}")
    if (status := simulation.world.behaviour.fail_status) is not None:
        raise CamaraError(status, CODES.get(status, "INTERNAL"), "the network was told to fail")
    if not shows_token(request):
        raise CamaraError(401, "UNAUTHENTICATED", "a valid token is needed")
    simulation.world.go_on()


def correlator_of(request: AnyRequest) -> str | None:
    return request.headers.get("x-correlator")


def _answer(_: AnyRequest, error: CamaraError) -> Response[Any]:
    headers = retry_headers(error.status)
    return Response(error.told, status_code=error.status, media_type="application/json", headers=headers)


def _http_error(request: AnyRequest, error: HTTPException) -> Response[Any]:
    code = CODES.get(error.status_code, "INTERNAL")
    return _answer(request, CamaraError(error.status_code, code, error.detail))


def _unforeseen(request: AnyRequest, error: Exception) -> Response[Any]:
    LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    return _answer(request, CamaraError(500, "INTERNAL", "an error of the network, which its log tells"))


ERRORS: Final = cast("ExceptionHandlersMap", {CamaraError: _answer, HTTPException: _http_error, Exception: _unforeseen})
