"""REST interface: devices, their qualities, and what the network says of their links."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.exceptions import HTTPException
from litestar.params import JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_409_CONFLICT
from msgspec.structs import replace

from edgeflex_services.devices.answering import (
    MOST_LISTED,
    AnyRequest,
    Asked,
    How,
    Limit,
    Named,
    OfState,
    WaitS,
    carried_out,
    desk_of,
    device_for,
    user_of,
)
from edgeflex_services.devices.book import ANY, Book
from edgeflex_services.devices.model import (
    DeviceEntry,
    Ipv4,
    LinkEntry,
    NewDevice,
    NewDevices,
    OperationKind,
    Profile,
    WantedQos,
    WantedWatch,
)
from edgeflex_services.devices.network import PARAMETERS, Parameter
from edgeflex_services.devices.shown import (
    ASKING,
    CHANGING,
    READING,
    DeviceList,
    LinkList,
    ShownDevice,
    ShownLink,
    ShownOperation,
    ShownQos,
    shown_device,
    shown_link,
    shown_qos,
)
from edgeflex_services.devices.who import User

TOGETHER_S: Final = 0.05
"""Changes that come within this time are told at once: each costs those who wait a look at all of them."""
_Parameters = Annotated[str, QueryParameter(max_length=100, description=f"Which, by commas: {', '.join(PARAMETERS)}.")]
_Server = Annotated[Ipv4 | None, QueryParameter(description="The far end, for what depends on it.")]
_Profile = Annotated[Profile | None, QueryParameter(description="The quality to compare with.")]
_Since = Annotated[int, QueryParameter(ge=0, description="Only those that changed after this `seq`.")]


class DeviceApi(Controller):
    """Requirement 1: devices come into the network, and leave it."""

    path = "/devices"
    tags: Sequence[str] | None = ["devices"]

    @post(status_code=HTTP_200_OK, summary="Bring a device into the network", responses=CHANGING)
    async def onboard(self, request: AnyRequest, data: JSONBody[NewDevice], how: How) -> Response[ShownOperation]:
        """Provision it and give it its default link. Managers of its owner."""
        return await carried_out(request, how, lambda user: self._asked(request, user, [data]))

    @post("/many", status_code=HTTP_200_OK, summary="Bring several devices into the network", responses=CHANGING)
    async def onboard_many(self, request: AnyRequest, data: JSONBody[NewDevices], how: How) -> Response[ShownOperation]:
        """One operation, with what became of each. Managers of all their owners."""
        return await carried_out(request, how, lambda user: self._asked(request, user, data.devices))

    @staticmethod
    def _asked(request: AnyRequest, user: User, new: Sequence[NewDevice]) -> Asked:
        book = desk_of(request).book
        for each in new:
            user.need("manager", each.owner)
        now_ns = book.clock.now_ns()
        entries = [_entry(book, each, now_ns) for each in new]
        gpsis = [each.gpsi for each in new]
        addresses = [each.ipv4_address for each in new if each.ipv4_address is not None]
        if any(len(set(each)) != len(each) for each in (gpsis, [one.name for one in new], addresses)):
            raise HTTPException(status_code=HTTP_409_CONFLICT, detail="a GPSI, name or address stands there twice")
        owners = sorted({each.owner for each in new})
        target = gpsis[0] if len(gpsis) == 1 else f"{len(gpsis)} devices"
        asked = {"gpsis": gpsis, "new": msgspec.to_builtins(new)}
        return Asked("onboard", target, owners[0] if len(owners) == 1 else "", asked, entries)

    @get(summary="Devices", responses=READING)
    async def list(
        self,
        request: AnyRequest,
        owner: Named = None,
        of_state: OfState = None,
        name: Named = None,
        after: Named = None,
        limit: Limit = MOST_LISTED,
    ) -> DeviceList:
        """Those that the user may see, by GPSI; `after` of the answer begins the next page."""
        user, book = await user_of(request), desk_of(request).book
        wanted = _wanted(book, user, owner=owner, state=of_state, name=name)
        found = list(islice((each for each in wanted if after is None or each.gpsi > after), limit + 1))
        after = found[limit - 1].gpsi if len(found) > limit else None
        return DeviceList(devices=[shown_device(book, each) for each in found[:limit]], after=after)

    @get("/{gpsi:str}", summary="A device", responses=READING)
    async def look(self, request: AnyRequest, gpsi: str) -> ShownDevice:
        """Its state, quality and groups."""
        user = await user_of(request)
        return shown_device(desk_of(request).book, device_for(request, user, "reader", gpsi))

    @delete("/{gpsi:str}", status_code=HTTP_200_OK, summary="Take a device out of the network", responses=CHANGING)
    async def remove(self, request: AnyRequest, gpsi: str, how: How) -> Response[ShownOperation]:
        """Its session and watch end, and it leaves all groups. Managers."""

        def asked_by(user: User) -> Asked:
            device = device_for(request, user, "manager", gpsi, may_be_leaving=True)
            leaving = replace(device, state="removing", updated_ns=desk_of(request).book.clock.now_ns())
            return Asked("remove", gpsi, device.owner, {"gpsis": [gpsi]}, [leaving])

        return await carried_out(request, how, asked_by)


class QosApi(Controller):
    """Requirement 2: qualities of links."""

    path = "/devices/{gpsi:str}/qos"
    tags: Sequence[str] | None = ["quality of service"]

    @get(summary="The quality of a link", responses=READING)
    async def look(self, request: AnyRequest, gpsi: str) -> ShownQos:
        """`confirmed_ns` is when the network last said so."""
        user = await user_of(request)
        device_for(request, user, "reader", gpsi)
        qos = desk_of(request).book.qos.get(gpsi)
        if qos is None:
            raise HTTPException(status_code=404, detail=f"device '{gpsi}' was given no quality")
        return shown_qos(qos)

    @put(summary="Change the quality of a link", responses=CHANGING)
    async def change(
        self, request: AnyRequest, gpsi: str, data: JSONBody[WantedQos], how: How
    ) -> Response[ShownOperation]:
        """Profile and server as before: it lasts at least `duration_s` from now. Else the new one takes the place of
        the old, which comes back if the network refuses it. Editors."""
        return await carried_out(request, how, _of_device(request, "set_qos", gpsi, wanted=msgspec.to_builtins(data)))

    @delete(status_code=HTTP_200_OK, summary="Give a quality back", responses=CHANGING)
    async def end(self, request: AnyRequest, gpsi: str, how: How) -> Response[ShownOperation]:
        """Editors."""
        return await carried_out(request, how, _of_device(request, "end_qos", gpsi))


class LinkApi(Controller):
    """Requirement 3: what the network says of links."""

    tags: Sequence[str] | None = ["links"]

    @get("/devices/{gpsi:str}/link", summary="Ask the network about a link", responses=ASKING)
    async def read(
        self,
        request: AnyRequest,
        gpsi: str,
        parameters: _Parameters = "reachability",
        server_ipv4: _Server = None,
        profile: _Profile = None,
    ) -> ShownLink:
        """What it says now of the parameters; `not_told` holds why it does not of the others."""
        user = await user_of(request)
        device = device_for(request, user, "reader", gpsi)
        if device.state != "onboarded":
            detail = f"device '{gpsi}' is not in the network: it is {device.state}"
            raise HTTPException(status_code=HTTP_409_CONFLICT, detail=detail)
        desk = desk_of(request)
        names = _parameters(parameters)
        link = await desk.watches.read(device, names, server_ipv4, profile)
        not_told = {name: each for name, each in link.not_told.items() if name in names}
        return shown_link(desk.book, device, replace(link, not_told=not_told))

    @put("/devices/{gpsi:str}/watch", summary="Have the network tell when a link changes", responses=CHANGING)
    async def watch(
        self, request: AnyRequest, gpsi: str, data: JSONBody[WantedWatch], how: How
    ) -> Response[ShownOperation]:
        """Renewed until it is taken back. Editors."""
        return await carried_out(request, how, _of_device(request, "watch", gpsi, wanted=msgspec.to_builtins(data)))

    @delete("/devices/{gpsi:str}/watch", status_code=HTTP_200_OK, summary="Have it tell no more", responses=CHANGING)
    async def end_watch(self, request: AnyRequest, gpsi: str, how: How) -> Response[ShownOperation]:
        """Editors."""
        return await carried_out(request, how, _of_device(request, "end_watch", gpsi))

    @get("/links", summary="What is known of links", responses=READING)
    async def links(self, request: AnyRequest, owner: Named = None, since: _Since = 0, wait_s: WaitS = 0.0) -> LinkList:
        """Those that changed after `since`; waits until one has, at most `wait_s`. Go on with `seq` of the answer. One
        with `removed` is of a device that is not in the network any more."""
        user, book = await user_of(request), desk_of(request).book
        found = _links(book, user, owner, since)
        end_s = time.monotonic() + wait_s
        while not found and time.monotonic() < end_s and not book.is_closing:
            await book.wait(LinkEntry, ANY, end_s - time.monotonic())
            await asyncio.sleep(TOGETHER_S)
            found = _links(book, user, owner, since)
        return LinkList(seq=book.seq, links=found)


def _of_device(request: AnyRequest, kind: OperationKind, gpsi: str, **more: Any) -> Callable[[User], Asked]:
    """What an editor asks of one device."""

    def asked_by(user: User) -> Asked:
        device = device_for(request, user, "editor", gpsi)
        return Asked(kind, gpsi, device.owner, {"gpsis": [gpsi], **more})

    return asked_by


def _entry(book: Book, new: NewDevice, now_ns: int) -> DeviceEntry:
    """Raises 409 where another device has the GPSI or name; one that was refused may be tried again."""
    known = book.devices.get(new.gpsi)
    if known is not None and (known.owner != new.owner or known.state == "removing"):
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=f"device '{new.gpsi}' is there already")
    namesake = book.gpsi_of(new.name)
    if namesake is not None and namesake != new.gpsi:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=f"another device has the name '{new.name}'")
    address = None if new.ipv4_address is None else book.gpsi_at(new.ipv4_address)
    if address is not None and address != new.gpsi:
        # A session is the network's for whoever has the address.
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=f"another device has '{new.ipv4_address}'")
    qos = book.qos.get(new.gpsi)
    if known is not None and known.ipv4_address != new.ipv4_address and qos is not None and qos.is_there:
        detail = f"the link of '{new.gpsi}' has a quality at its old address: give it back first"
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=detail)
    state = "onboarded" if known is not None and known.state == "onboarded" else "onboarding"
    return DeviceEntry(
        gpsi=new.gpsi,
        name=new.name,
        owner=new.owner,
        ipv4_address=new.ipv4_address,
        state=state,  # type: ignore[arg-type]
        updated_ns=now_ns,
    )


def _wanted(book: Book, user: User, *, owner: str | None, state: str | None, name: str | None) -> Iterator[DeviceEntry]:
    if name is not None:
        gpsi = book.gpsi_of(name)
        entries: Iterable[DeviceEntry] = [] if gpsi is None else [book.devices[gpsi]]
    else:
        entries = (book.devices[gpsi] for gpsi in sorted(book.devices))
    for each in entries:
        if owner in (None, each.owner) and state in (None, each.state) and user.may("reader", each.owner):
            yield each


def _parameters(text: str) -> list[Parameter]:
    """Raises 400 for one that nobody knows."""
    names = [each.strip() for each in text.split(",") if each.strip()]
    wrong = [each for each in names if each not in PARAMETERS]
    if wrong or not names:
        detail = f"parameters: got '{', '.join(wrong)}'; known: {', '.join(PARAMETERS)}"
        raise HTTPException(status_code=400, detail=detail)
    return names  # type: ignore[return-value]


def _links(book: Book, user: User, owner: str | None, since: int) -> list[ShownLink]:
    since = since if since <= book.seq else 0
    newest_first = takewhile(lambda each: each.seq > since, reversed(book.links.values()))
    found = [each for each in newest_first if each.gpsi in book.devices]
    devices = ((book.devices[each.gpsi], each) for each in reversed(found))
    told = [shown_link(book, device, link) for device, link in devices if _is_for(user, owner, device)]
    if since:  # who begins now never knew them
        left = ((seq, device) for seq, device in book.removed.values() if seq > since)
        gone = [(seq, device) for seq, device in left if _is_for(user, owner, device)]
        told += [
            replace(shown_link(book, device, None), seq=seq, time_ns=device.updated_ns, removed=True)
            for seq, device in gone
        ]
    return told


def _is_for(user: User, owner: str | None, device: DeviceEntry) -> bool:
    return owner in (None, device.owner) and user.may("reader", device.owner)
