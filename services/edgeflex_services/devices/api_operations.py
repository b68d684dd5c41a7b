"""REST interface: what became of requests, who did what, which qualities there are, and what the network tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, get, post
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.params import QueryParameter
from litestar.status_codes import HTTP_204_NO_CONTENT, HTTP_404_NOT_FOUND, HTTP_410_GONE

from edgeflex_services.devices import LOG
from edgeflex_services.devices.answering import AnyRequest, Limit, OfState, WaitS, desk_of, user_of
from edgeflex_services.devices.model import Operation
from edgeflex_services.devices.network import BadNotificationError
from edgeflex_services.devices.shown import (
    ASKING,
    READING,
    AuditList,
    OperationList,
    ProfileList,
    ShownOperation,
    shown_operation,
)
from edgeflex_services.devices.who import User

_Before = Annotated[int | None, QueryParameter(ge=1, le=2**63 - 1, description="Older than this entry.")]


class OperationApi(Controller):
    """Requests that were made."""

    path = "/operations"
    tags: Sequence[str] | None = ["operations"]

    @get(summary="Operations", responses=READING)
    async def list(self, request: AnyRequest, of_state: OfState = None, limit: Limit = 100) -> OperationList:
        """The newest first, of those that the user may see."""
        user, waits = await user_of(request), desk_of(request).waits
        found = [
            each
            for each in reversed(desk_of(request).book.operations.values())
            if _may_see(user, each) and of_state in (None, each.state)
        ]
        return OperationList(operations=[shown_operation(each, waits.get(each.id)) for each in found[:limit]])

    @get("/{operation_id:str}", summary="What became of a request", responses=READING)
    async def look(self, request: AnyRequest, operation_id: str, wait_s: WaitS = 0.0) -> ShownOperation:
        """With what became of each device. Waits for its end, at most `wait_s`."""
        user = await user_of(request)
        desk = desk_of(request)
        operation = desk.book.operations.get(operation_id)
        if operation is None or not _may_see(user, operation):
            raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail="there is no such operation, or it is not yours")
        return shown_operation(await desk.over(operation, wait_s), desk.waits.get(operation_id))


class RecordApi(Controller):
    """What else there is to know."""

    tags: Sequence[str] | None = ["records"]

    @get("/audit", summary="Who did what", responses=READING)
    async def audit(self, request: AnyRequest, before: _Before = None, limit: Limit = 100) -> AuditList:
        """The newest first. Administrators."""
        user = await user_of(request)
        if not user.is_admin:
            raise PermissionDeniedException("administrators may read this alone")
        return AuditList(audit=desk_of(request).book.audit(limit, before))

    @get("/profiles", summary="Which qualities the network has", responses=ASKING)
    async def profiles(self, request: AnyRequest) -> ProfileList:
        """With what each promises, as far as the network says."""
        await user_of(request)
        desk = desk_of(request)
        return ProfileList(profiles=[dict(each) for each in await desk.asking.once(desk.network.profiles)])


class CallbackApi(Controller):
    """What the network tells by itself."""

    path = "/callbacks"

    @post("/{callback:str}/{token:str}", status_code=HTTP_204_NO_CONTENT, include_in_schema=False)
    async def told(self, request: AnyRequest, callback: str, token: str) -> None:
        """404 for who does not know the token, 410 where nobody waits for it any more, 400 for what is none."""
        desk = desk_of(request)
        if not desk.is_from_network(callback, token):
            desk.counts["notifications_refused"] += 1
            raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail="there is nothing here")
        content_type = request.headers.get("content-type", "")
        try:
            desk.notified(callback, content_type, await request.body())
        except BadNotificationError as error:
            desk.counts["notifications_bad"] += 1
            LOG.warning("callback %s: %s", callback, error)
            raise HTTPException(status_code=400, detail=str(error)) from error
        except LookupError as error:
            raise HTTPException(status_code=HTTP_410_GONE, detail="nobody waits for this any more") from error


def _may_see(user: User, operation: Operation) -> bool:
    return user.name == operation.requested_by or user.may("reader", operation.owner)
