"""What the APIs of 3GPP's Network Exposure Function have in common: problems, patches and notifications."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap
from msgspec import Meta

from edgeflex_flow.web import PROBLEM_JSON, title_of
from edgeflex_services.network_simulator import LOG
from edgeflex_services.network_simulator.door import retry_headers, shows_token
from edgeflex_services.network_simulator.notify import Notification
from edgeflex_services.network_simulator.simulation import AnyRequest, Simulation, simulation_of

JSON: Final = "application/json"
CAUSES: Final = {
    400: "INVALID_MSG_FORMAT",
    403: "REQUESTED_SERVICE_NOT_AUTHORIZED",
    404: "RESOURCE_URI_STRUCTURE_NOT_FOUND",
    429: "NF_CONGESTION_RISK",
    500: "SYSTEM_FAILURE",
    503: "NF_CONGESTION",
}
"""Of TS 29.500, where a status has one."""
_PLACE: Final = re.compile(r" - at `\$\.?([^`]*)`")

Moment = Annotated[datetime, Meta(tz=True)]
Unsigned = Annotated[int, Meta(ge=0)]
Features = Annotated[str, Meta(pattern=r"^[A-Fa-f0-9]*$")]
_T = TypeVar("_T")


class NefBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of a request. What is not known is left out of what becomes of it, as TS 29.500 demands."""


class Snssai(NefBody, frozen=True, kw_only=True):
    """A slice of the network."""

    sst: Annotated[int, Meta(ge=0, le=255)]
    sd: Annotated[str, Meta(pattern=r"^[A-Fa-f0-9]{6}$")] | msgspec.UnsetType = msgspec.UNSET


class NefError(Exception):
    """An answer with an error. `param`: what of the request is wrong, as JSON pointer."""

    def __init__(self, status: int, cause: str | None, detail: str, param: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.told: dict[str, Any] = {"title": title_of(status), "status": status, "detail": detail}
        if cause is not None:
            self.told["cause"] = cause
        if param is not None:
            self.told["invalidParams"] = [{"param": param, "reason": detail}]


def missing(param: str) -> NefError:
    return NefError(400, "MANDATORY_IE_MISSING", f"`{param}` is needed", param)


def incorrect(param: str, detail: str) -> NefError:
    return NefError(400, "OPTIONAL_IE_INCORRECT", detail, param)


async def read(request: AnyRequest, model: type[_T]) -> _T:
    """The body. Raises NefError."""
    try:
        return msgspec.json.decode(await request.body(), type=model)
    except msgspec.ValidationError as error:
        raise _wrong(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NefError(400, "INVALID_MSG_FORMAT", str(error)) from error


def convert(given: object, model: type[_T]) -> _T:
    """What became of a document. Raises NefError."""
    try:
        return msgspec.convert(given, type=model)
    except msgspec.ValidationError as error:
        raise _wrong(error) from error


def _wrong(error: msgspec.ValidationError) -> NefError:
    found = _PLACE.search(str(error))
    param = "/" if found is None else f"/{found[1]}".replace(".", "/").replace("[", "/").replace("]", "")
    is_missing = "missing required field" in str(error)
    return NefError(400, "MANDATORY_IE_MISSING" if is_missing else "OPTIONAL_IE_INCORRECT", str(error), param)


def merged(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A document after a merge patch (RFC 7396).

    >>> merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None}, "d": 4})
    {'a': {'c': 2}, 'd': 4}
    """
    result = dict(document)
    for name, value in patch.items():
        before = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[name] = value
    return result


def negotiated(asked: str | msgspec.UnsetType, known: int) -> dict[str, str]:
    """Of the features that a request names those that the API has here, as answers tell them (TS 29.500).

    >>> negotiated("3f", 0x62), negotiated(msgspec.UNSET, 0x62)
    ({'supportedFeatures': '22'}, {})
    """
    return {} if asked is msgspec.UNSET else {"supportedFeatures": f"{int(asked or '0', 16) & known:x}"}


def tell(simulation: Simulation, url: str, told: Mapping[str, Any]) -> None:
    """Send a notification."""
    simulation.notifier.send(Notification(url, JSON, msgspec.json.encode(told)))


# The door -----------------------------------------------------------------------------------------------------------


async def enter(request: AnyRequest) -> None:
    """Before each request: what is due is done, and who may not come in is told so. Raises NefError."""
    simulation = simulation_of(request)
    if (status := simulation.world.behaviour.fail_status) is not None:
        raise NefError(status, CAUSES.get(status), "the network was told to fail")
    if not shows_token(request):
        raise NefError(401, None, "a valid token is needed")
    simulation.world.go_on()


def _answer(_: AnyRequest, error: NefError) -> Response[Any]:
    headers = retry_headers(error.status)
    return Response(error.told, status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def _http_error(request: AnyRequest, error: HTTPException) -> Response[Any]:
    return _answer(request, NefError(error.status_code, CAUSES.get(error.status_code), error.detail))


def _unforeseen(request: AnyRequest, error: Exception) -> Response[Any]:
    LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    return _answer(request, NefError(500, "SYSTEM_FAILURE", "an error of the network, which its log tells"))


ERRORS: Final = cast("ExceptionHandlersMap", {NefError: _answer, HTTPException: _http_error, Exception: _unforeseen})
