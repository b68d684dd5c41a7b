"""The REST interface of the 5G device management (`edgeflex serve devices`), as far as flows use it."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.rest_retry import RETRIED_STATUSES
from edgeflex_flow.errors import BadMessageError

DEVICES_PATH: Final = "/api/v1/devices"
LINKS_PATH: Final = "/api/v1/links"
OPERATIONS_PATH: Final = "/api/v1/operations"
LONGEST_DURATION_S: Final = 30 * 86_400
"""Of a quality and of a watch."""
NO_NEWS: Final = frozenset({"NO_ANSWER", "NO_NEWS", "DEFECT"})
"""Reasons of the service's own, which tell nothing of the network: it has not said what became of a request, or the
service failed."""

Owner: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Ipv4: TypeAlias = Annotated[
    str, Meta(pattern=r"^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])$")
]
Gpsi: TypeAlias = Annotated[str, Meta(pattern=r"^(msisdn|extid)-[A-Za-z0-9._@-]+$")]
"""It becomes a part of a path, and comes from the network."""

T = TypeVar("T")


class Reason(msgspec.Struct, frozen=True):
    """Why the network did what it did."""

    code: str
    text: str = ""
    status: int | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered otherwise later on."""
        status = self.status
        return self.code in NO_NEWS or (status is not None and (status >= 500 or status in RETRIED_STATUSES))


class ManagedDevice(msgspec.Struct, frozen=True):
    """A device that the service knows."""

    gpsi: Gpsi
    name: str


class DevicePage(msgspec.Struct, frozen=True):
    """Devices, and where the next page begins."""

    devices: list[ManagedDevice]
    after: str | None = None


class Operation(msgspec.Struct, frozen=True):
    """What becomes of a change that was asked for."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$")]
    state: Literal["running", "succeeded", "partly", "failed"]
    reason: Reason | None = None


class Refusal(msgspec.Struct, frozen=True):
    """What an answer with an error says of the network, and of the operation that failed."""

    network: Reason | None = None
    operation: Operation | None = None


def device_path(gpsi: str, part: str) -> str:
    """
    >>> device_path("extid-pmu7@grid.example", "qos")
    '/api/v1/devices/extid-pmu7%40grid.example/qos'
    """
    return f"{DEVICES_PATH}/{quote(gpsi, safe='')}/{part}"


def read_answer(answer: Answer, kind: type[T]) -> T:
    """Raises BadMessageError for what is no such answer."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"not what the device management answers: {error}"
        raise BadMessageError(text, reason="bad_answer", payload=answer.body) from error


def refusal_in(answer: Answer) -> Refusal:
    """What an error says, if the answer tells it."""
    try:
        return msgspec.json.decode(answer.body, type=Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Refusal()
