"""What the APIs of the Network Exposure Function share: subscriptions as resources, and problems.

A subscription is called by the last part of its URI, as answers and notifications give it.

Source: 3GPP TS 29.122 and TS 29.522, V17.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec

from edgeflex_services.devices.network import NetworkMissingError, Reason
from edgeflex_services.devices.network_http import Answer, NetworkHttp, bad_answer

MERGE_PATCH: Final = "application/merge-patch+json"

_T = TypeVar("_T")


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What every subscription tells of itself."""

    link: str = msgspec.field(name="self", default="")


class NefApi:
    """The subscriptions of an application function at one API."""

    def __init__(self, http: NetworkHttp, path: str, af_id: str) -> None:
        self._http = http
        self._path = f"{path}/{quote(af_id, safe='')}/subscriptions"

    async def make(self, body: Mapping[str, Any]) -> Answer:
        """POST a subscription; `ref_of` tells how the network calls it."""
        return await self._http.request("POST", self._path, body=body)

    async def get(self, ref: str, shape: type[_T]) -> _T:
        answer = await self._http.request("GET", self._one(ref))
        return answer.read(shape)

    async def all(self, shape: type[_T], query: Sequence[tuple[str, str]] = ()) -> list[_T]:
        answer = await self._http.request("GET", self._path, query=query)
        return answer.read(list[shape])  # type: ignore[valid-type]

    async def patch(self, ref: str, body: Mapping[str, Any]) -> None:
        """The answer may hold the resource, or nothing."""
        await self._http.request("PATCH", self._one(ref), body=body, media=MERGE_PATCH)

    async def delete(self, ref: str) -> None:
        """The answer may hold a last report, or nothing; what is not there any more is no error."""
        try:
            await self._http.request("DELETE", self._one(ref))
        except NetworkMissingError:
            return

    async def has(self, ref: str) -> bool:
        try:
            await self._http.request("GET", self._one(ref))
        except NetworkMissingError:
            return False
        return True

    def _one(self, ref: str) -> str:
        return f"{self._path}/{quote(ref, safe='')}"


def ref_of(answer: Answer) -> str:
    """How the network calls what it made. Raises NetworkAwayError if it does not say."""
    link = answer.headers.get("location") or answer.read(Resource).link
    ref = ref_in(link)
    if not ref:
        raise bad_answer(answer.status, "the network does not say where the subscription is that it made")
    return ref


def ref_in(link: str) -> str:
    """How a subscription is called, by its URI.

    >>> ref_in("https://nef.example/3gpp-as-session-with-qos/v1/edgeflex/subscriptions/17")
    '17'
    """
    try:
        return unquote(urlsplit(link).path.rstrip("/").rpartition("/")[2])
    except ValueError:
        return ""


def problem_reason(status: int, body: Mapping[str, Any] | None) -> Reason:
    """What a problem says: its cause, and the parameters that it is about.

    >>> problem_reason(403, {"cause": "QOS_NOT_ALLOWED", "detail": "not for this device"})
    Reason(code='QOS_NOT_ALLOWED', text='not for this device', status=403)
    """
    told = body or {}
    texts = [str(told[name]) for name in ("detail", "title") if told.get(name)][:1]
    invalid = told.get("invalidParams")
    for each in invalid if isinstance(invalid, list) else []:
        if isinstance(each, dict) and not (each.get("reason") and str(each["reason"]) in "; ".join(texts)):
            texts.append(": ".join(str(each[name]) for name in ("param", "reason") if each.get(name)))
    return Reason(code=str(told.get("cause") or f"HTTP_{status}"), text="; ".join(texts)[:400], status=status)
