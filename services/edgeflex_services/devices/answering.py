"""What all parts of the interface share: who asks, what an operation is answered with, and requests that come twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeAlias, cast

import msgspec
from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.params import HeaderParameter, QueryParameter
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_202_ACCEPTED,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_503_SERVICE_UNAVAILABLE,
)

from edgeflex_flow.web import problem
from edgeflex_services.devices.desk import CANNOT_WRITE, DEFECT, NAME_TAKEN, NOT_OF_GROUP, Desk
from edgeflex_services.devices.grouping import NOT_TOLD
from edgeflex_services.devices.model import DeviceEntry, Operation, OperationKind, Remembered
from edgeflex_services.devices.network import NetworkError, Reason
from edgeflex_services.devices.network_http import BAD_ANSWER, BAD_CERTIFICATE, NO_ANSWER, NO_TOKEN
from edgeflex_services.devices.shown import ShownOperation, shown_operation
from edgeflex_services.devices.store import Entry
from edgeflex_services.devices.who import Door, Role, User

AnyRequest: TypeAlias = Request[Any, Any, Any]
RETRY_S: Final = 5
LONGEST_KEY: Final = 128
LONGEST_WAIT_S: Final = 30.0
USUAL_WAIT_S: Final = 2.0
MOST_LISTED: Final = 1000
PATH: Final = "/api/v1"
OWN_REASONS: Final = {
    NO_ANSWER: (504, "the network did not answer"),
    BAD_ANSWER: (502, "the network's answer cannot be read"),
    BAD_CERTIFICATE: (502, "the network's certificate is refused (see api.ca in the file of --network)"),
    NO_TOKEN: (502, "the network's authorisation server gives no token"),
    NOT_TOLD.code: (504, "the network did not say in time what became of it"),
    CANNOT_WRITE: (503, "the service cannot write now"),
    DEFECT: (500, "an error of the service, which its log tells"),
    NAME_TAKEN: (409, "the name is taken"),
    NOT_OF_GROUP: (409, "the groups of the device do not have this quality"),
}
"""Status and words for reasons that are not the network's."""

WaitS = Annotated[
    float,
    QueryParameter(name="wait_s", ge=0, le=LONGEST_WAIT_S, description="How long to wait for the end, in seconds."),
]
Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=LONGEST_KEY,
        description="Of your choice: the same request with the same key is carried out once.",
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=MOST_LISTED, description="How many at most.")]
OfState = Annotated[str | None, QueryParameter(name="state", max_length=20, description="Only those in it.")]
Named = Annotated[str | None, QueryParameter(max_length=200, description="Only these.")]


class State(Protocol):
    """What the application keeps."""

    desk: Desk
    door: Door


class HowAsked(NamedTuple):
    """How a change is asked for."""

    wait_s: float
    key: str | None


async def how_asked(wait_s: WaitS = USUAL_WAIT_S, key: Key = None) -> HowAsked:
    """What all requests for a change may say beside what they want."""
    return HowAsked(wait_s, key)


How = NamedDependency[HowAsked]
"""How a change is asked for."""


class Asked(NamedTuple):
    """A request that is to be carried out."""

    kind: OperationKind
    target: str
    owner: str
    with_: Mapping[str, Any]
    entries: Iterable[Entry] = ()


def desk_of(request: AnyRequest) -> Desk:
    return cast("State", request.app.state).desk


async def user_of(request: AnyRequest) -> User:
    """Who asks. Raises NotAuthorizedException."""
    user = await cast("State", request.app.state).door.user(request.headers.get("authorization", ""))
    request.state.user = user
    return user


def device_for(request: AnyRequest, user: User, role: Role, gpsi: str, *, may_be_leaving: bool = False) -> DeviceEntry:
    """The device, which a user may know of.

    Raises 404 also for those that the user may not see, 403 for too few rights, and 409 where one is to be changed that
    is about to be removed.
    """
    device = desk_of(request).book.devices.get(gpsi)
    if device is None or not user.may("reader", device.owner):
        raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=f"there is no device '{gpsi}', or it is not yours")
    user.need(role, device.owner)
    if role != "reader" and device.state == "removing" and not may_be_leaving:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=f"device '{gpsi}' is about to be removed")
    return device


async def carried_out(
    request: AnyRequest, how: HowAsked, asked_by: Callable[[User], Asked]
) -> Response[ShownOperation]:
    """Begin an operation, and answer with what became of it so far; for a request that comes again with the same
    Idempotency-Key with what became of that one, whatever has changed since.

    `asked_by` says what is asked, or raises for who may not. Raises 409 where the key was used for something else.
    """
    user = await user_of(request)
    desk, key = desk_of(request), await _key_of(request, how.key, user)
    # From here to the beginning nothing is waited for: the same request cannot come between.
    operation = None if key is None else _known(desk, key)
    if operation is None:
        asked = asked_by(user)
        operation = desk.begin(
            asked.kind, asked.target, asked.owner, user.name, asked.with_, entries=asked.entries, key=key
        )
    return answer_of(desk, await desk.over(operation, how.wait_s))


def _known(desk: Desk, key: Remembered) -> Operation | None:
    """What a request with this key began before."""
    known = desk.book.keys.get(key.key)
    if known is None:
        return None
    if known.digest != key.digest:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail="this Idempotency-Key was used for another request")
    operation = desk.book.operations.get(known.operation)
    if operation is None:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail="what this key began is long over")
    return operation


async def _key_of(request: AnyRequest, shown: str | None, user: User) -> Remembered | None:
    if shown is None:
        return None
    if not 0 < len(shown) <= LONGEST_KEY or not shown.isprintable():
        detail = f"Idempotency-Key: 1 to {LONGEST_KEY} printable characters"
        raise HTTPException(status_code=400, detail=detail)
    said = [request.method.encode(), request.url.path.encode(), await request.body()]
    digest = hashlib.sha256(b"\n".join(said)).hexdigest()
    now_ns = desk_of(request).book.clock.now_ns()
    # No key holds the end of a line: it cannot pass for another user's.
    return Remembered(key=f"{user.name}\n{shown}", digest=digest, operation="", time_ns=now_ns)


def answer_of(desk: Desk, operation: Operation) -> Response[Any]:
    """200 for what ended well, 202 for what goes on, 422 for what the network refused, 504 where it did not answer."""
    told = msgspec.to_builtins(shown_operation(operation, desk.waits.get(operation.id)))
    where = {"Location": f"{PATH}/operations/{operation.id}"}
    if operation.state == "running":
        return Response(told, status_code=HTTP_202_ACCEPTED, headers=where)
    if operation.state != "failed":
        return Response(told, status_code=HTTP_200_OK, headers=where)
    answer = refusal(operation.reason or Reason(code="UNKNOWN"), operation=told)
    answer.headers.update(where)
    if answer.status_code == HTTP_503_SERVICE_UNAVAILABLE:
        answer.headers.update({"Retry-After": str(RETRY_S)})
    return answer


def refusal(reason: Reason, **more: Any) -> Response[Any]:
    """What the network said no with."""
    is_failure = reason.status is not None and reason.status >= 500
    usual = (502, "the network failed") if is_failure else (422, "the network refused it")
    status, words = OWN_REASONS.get(reason.code, usual)
    told = (
        reason.text if reason.code in OWN_REASONS else f"{reason.code}: {reason.text}" if reason.text else reason.code
    )
    return problem(status, f"{words}: {told}" if told else words, network=msgspec.to_builtins(reason), **more)


def network_problem(_: AnyRequest, error: NetworkError) -> Response[Any]:
    """For requests that ask the network at once."""
    return refusal(error.reason)
