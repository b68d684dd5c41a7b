"""What the APIs of CAMARA share: who a device is, where notifications go, pages, errors and CloudEvents.

Source: CAMARA Commonalities 0.6 to 0.8, CloudEvents 1.0 (JSON format).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgeflex_flow.clock import Clock
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.devices import LOG
from edgeflex_services.devices.network import (
    Device,
    NetworkError,
    NetworkRefusedError,
    Reason,
    Traffic,
    reason_of,
)
from edgeflex_services.devices.network_http import Answer, NetworkHttp, bad_answer, decoded, notified
from edgeflex_services.devices.times import Moment, time_text

CLOUD_EVENT: Final = "application/cloudevents+json"
PER_PAGE: Final = 100
MOST_PAGES: Final = 10_000
"""A network that gives the same page for ever must not be asked for ever."""
TOKEN_LIFE_S: Final = 10 * 365 * 86400
"""The service's own tokens do not end by themselves, but the standard wants a time: groups last for years."""
UNSUPPORTED: Final = "UNSUPPORTED_IDENTIFIER"

_PHONE_NUMBER: Final = re.compile(r"\+[1-9][0-9]{4,14}")
_T = TypeVar("_T")


class CamaraApi:
    """One API: its path, and the header by which the network's people find a request again."""

    def __init__(self, http: NetworkHttp, path: str) -> None:
        self._http = http
        self._path = path.rstrip("/")

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        also: Sequence[int] = (),
    ) -> Answer:
        """Raises NetworkRefusedError, NetworkMissingError or NetworkAwayError, as `NetworkHttp` does."""
        correlator = str(uuid.uuid4())
        try:
            return await self._http.request(
                method, self._path + path, query=query, headers={"x-correlator": correlator}, body=body, also=also
            )
        except NetworkError as error:
            LOG.info("%s %s%s: %s (x-correlator %s)", method, self._path, path, error, correlator)
            raise

    def error_of(self, answer: Answer) -> NetworkError:
        """What an answer that `also` let through means after all."""
        return self._http.error_of(answer)

    async def items(
        self, path: str, page_of: type[Page[_T]], query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[_T]:
        """All items of a list that comes in pages."""
        for number in range(1, MOST_PAGES + 1):
            asked = [*query, ("perPage", str(PER_PAGE)), ("page", str(number))]
            answer = await self.request("GET", path, query=asked)
            page = answer.read(page_of)
            for item in page.items:
                yield item
            last = page.pagination.total_pages
            if not page.items or (last is not None and number >= last):
                return
        raise bad_answer(200, f"the list of {self._path}{path} has no end")


class Pagination(msgspec.Struct, frozen=True, rename="camel"):
    """Where a page is in its list."""

    total_pages: int | None = None


class Page(msgspec.Struct, Generic[_T], frozen=True):
    """Some of the items of a list."""

    items: list[_T]
    pagination: Pagination = Pagination()


def camara_reason(status: int, body: Mapping[str, Any] | None) -> Reason:
    """What an error answer says.

    >>> camara_reason(409, {"status": 409, "code": "CONFLICT", "message": "there is one"})
    Reason(code='CONFLICT', text='there is one', status=409)
    """
    return reason_of(status, body, "code", "message")


def phone_number(device: Device) -> str:
    """By which groups know a device. Raises NetworkRefusedError: External Identifiers are not allowed there."""
    number = device.phone_number
    if number is None or _PHONE_NUMBER.fullmatch(number) is None:
        text = f"CAMARA knows devices of a group by their phone number only; got '{device.gpsi}', known: msisdn-…"
        raise NetworkRefusedError(Reason(code=UNSUPPORTED, text=text))
    return number


def device_object(device: Device) -> dict[str, str]:
    """A device in a request about one. Raises NetworkRefusedError."""
    if device.external_id is not None:
        return {"networkAccessIdentifier": device.external_id}
    return {"phoneNumber": phone_number(device)}


def server_objects(traffic: Traffic) -> dict[str, Any]:
    """The server, and its ports if not all of them are meant."""
    server: dict[str, Any] = {"applicationServer": {"ipv4Address": traffic.server_ipv4}}
    if traffic.server_ports:
        server["applicationServerPorts"] = {"ports": list(traffic.server_ports)}
    return server


def sink_objects(callback_url: str, callback_token: str, clock: Clock) -> dict[str, Any]:
    """Where notifications go, and what they show there."""
    return {
        "sink": callback_url,
        "sinkCredential": {
            "credentialType": "ACCESSTOKEN",
            "accessToken": callback_token,
            "accessTokenExpiresUtc": time_text(clock.now_ns() + TOKEN_LIFE_S * NS_PER_S),
            "accessTokenType": "bearer",
        },
    }


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of a notification."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    source: Annotated[str, Meta(min_length=1, max_length=2048)]
    kind: str = msgspec.field(name="type")
    specversion: Literal["1.0"]
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"
    data: msgspec.Raw = msgspec.Raw(b"{}")

    def read(self, shape: type[_T]) -> _T:
        """What it tells. Raises BadNotificationError."""
        return decoded(self.data, shape)


def read_event(content_type: str, body: bytes) -> CloudEvent:
    """The envelope of what came to a callback. Raises BadNotificationError."""
    return notified(content_type, CLOUD_EVENT, body, CloudEvent)
