"""What the interface answers with, as OpenAPI describes it."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, TypeAlias

import msgspec
from litestar.openapi.datastructures import ResponseSpec

from edgeflex_flow.web import PROBLEM_JSON
from edgeflex_services.devices.book import Book
from edgeflex_services.devices.grouping import BASE
from edgeflex_services.devices.model import (
    AuditEntry,
    DeviceEntry,
    DeviceState,
    GroupEntry,
    LinkEntry,
    Operation,
    OperationKind,
    OperationState,
    QosEntry,
    Result,
)
from edgeflex_services.devices.network import MemberState, Parameter, Reading, Reason, SessionState


class _Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has a default is left out where it is that."""


class ShownQos(_Shown, frozen=True, kw_only=True):
    """The quality of a link. `confirmed_ns` is when the network last said so."""

    profile: str
    server_ipv4: str
    server_ports: tuple[int, ...]
    state: SessionState
    started_ns: int | None
    expires_ns: int | None
    confirmed_ns: int
    reason: Reason | None = None


class ShownDevice(_Shown, frozen=True, kw_only=True):
    """A device, with why the network refused it and with the quality of its link."""

    gpsi: str
    name: str
    owner: str
    ipv4_address: str | None
    state: DeviceState
    updated_ns: int
    groups: list[str]
    reason: Reason | None = None
    qos: ShownQos | None = None


class DeviceList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of devices; `after` begins the next one, null after the last."""

    devices: list[ShownDevice]
    after: str | None


class ShownLink(_Shown, frozen=True, kw_only=True):
    """What is known of a link. `removed`: its device is not in the network any more."""

    gpsi: str
    name: str
    owner: str
    seq: int
    time_ns: int | None
    readings: dict[Parameter, Reading]
    watched: tuple[Parameter, ...]
    not_told: dict[Parameter, Reason] = {}
    qos: ShownQos | None = None
    removed: bool = False


class LinkList(msgspec.Struct, frozen=True, kw_only=True):
    """Links, and where to go on from."""

    seq: int
    links: list[ShownLink]


class ShownMember(_Shown, frozen=True, kw_only=True):
    """A device in a group."""

    gpsi: str
    name: str
    state: MemberState
    reason: Reason | None = None


class ShownGroup(_Shown, frozen=True, kw_only=True):
    """A group; `devices` counts its members by their state."""

    name: str
    owner: str
    profiles: tuple[str, ...]
    network_id: str | None
    devices: dict[MemberState, int]
    members: list[ShownMember] | None = None


class GroupList(msgspec.Struct, frozen=True, kw_only=True):
    """Groups."""

    groups: list[ShownGroup]


class ShownOperation(_Shown, frozen=True, kw_only=True):
    """What became of a request. `waiting_for`: why the network has not done it yet."""

    id: str
    kind: OperationKind
    target: str
    owner: str
    requested_by: str
    state: OperationState
    created_ns: int
    ended_ns: int | None
    reason: Reason | None
    results: tuple[Result, ...]
    waiting_for: Reason | None = None


class OperationList(msgspec.Struct, frozen=True, kw_only=True):
    """Operations."""

    operations: list[ShownOperation]


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the audit log."""

    audit: list[AuditEntry]


class ProfileList(msgspec.Struct, frozen=True, kw_only=True):
    """Qualities, each with its `name` and what the network promises of it."""

    profiles: list[dict[str, Any]]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not done (RFC 9457)."""

    title: str
    status: int
    detail: str


class NetworkProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why the network did not do it: its own reason, and the operation where there is one."""

    title: str
    status: int
    detail: str
    network: Reason
    operation: ShownOperation | None = None


def shown_qos(qos: QosEntry) -> ShownQos:
    return ShownQos(
        profile=qos.wanted.profile,
        server_ipv4=qos.wanted.server_ipv4,
        server_ports=qos.wanted.server_ports,
        state=qos.state,
        started_ns=qos.started_ns,
        expires_ns=qos.expires_ns,
        confirmed_ns=qos.confirmed_ns,
        reason=qos.reason,
    )


def shown_device(book: Book, device: DeviceEntry) -> ShownDevice:
    qos = book.qos.get(device.gpsi)
    return ShownDevice(
        gpsi=device.gpsi,
        name=device.name,
        owner=device.owner,
        ipv4_address=device.ipv4_address,
        state=device.state,
        updated_ns=device.updated_ns,
        groups=sorted(each.name for each in book.groups_of(device.gpsi) if each.name != BASE),
        reason=device.reason,
        qos=None if qos is None else shown_qos(qos),
    )


def shown_link(book: Book, device: DeviceEntry, link: LinkEntry | None) -> ShownLink:
    qos, watch = book.qos.get(device.gpsi), book.watches.get(device.gpsi)
    return ShownLink(
        gpsi=device.gpsi,
        name=device.name,
        owner=device.owner,
        seq=0 if link is None else link.seq,
        time_ns=None if link is None else link.time_ns,
        readings={} if link is None else link.readings,
        watched=() if watch is None else watch.parameters,
        not_told={} if link is None else link.not_told,
        qos=None if qos is None else shown_qos(qos),
    )


def shown_group(group: GroupEntry, members: list[ShownMember] | None = None) -> ShownGroup:
    states: Counter[MemberState] = Counter(each.state for each in group.members.values())
    return ShownGroup(
        name=group.name,
        owner=group.owner,
        profiles=group.profiles,
        network_id=group.ref,
        devices=dict(sorted(states.items())),
        members=members,
    )


def shown_members(book: Book, group: GroupEntry) -> list[ShownMember]:
    names = {gpsi: book.devices[gpsi].name for gpsi in group.members if gpsi in book.devices}
    return [
        ShownMember(gpsi=gpsi, name=names.get(gpsi, ""), state=each.state, reason=each.reason)
        for gpsi, each in sorted(group.members.items())
    ]


def shown_operation(operation: Operation, waiting_for: Reason | None = None) -> ShownOperation:
    return ShownOperation(
        id=operation.id,
        kind=operation.kind,
        target=operation.target,
        owner=operation.owner,
        requested_by=operation.requested_by,
        state=operation.state,
        created_ns=operation.created_ns,
        ended_ns=operation.ended_ns,
        reason=operation.reason,
        results=operation.results,
        waiting_for=None if operation.is_over else waiting_for,
    )


Answers: TypeAlias = dict[int, ResponseSpec]


def _problem(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, generate_examples=False, description=text, media_type=PROBLEM_JSON)


def _of_network(text: str) -> ResponseSpec:
    return ResponseSpec(NetworkProblem, generate_examples=False, description=text, media_type=PROBLEM_JSON)


_TOKEN: Final[Answers] = {
    400: _problem("Something in it is not as described; `errors` of the answer says what."),
    401: _problem("No token of the policy system, or one that is refused."),
    403: _problem("A role is missing in the group that owns it, which the answer names."),
}
READING: Final[Answers] = {
    **_TOKEN,
    404: _problem("It is not there, or not yours: there is no telling them apart."),
}
ASKING: Final[Answers] = {
    **READING,
    409: _problem("The device is not in the network."),
    422: _of_network("The network refused it, with its reason."),
    502: _of_network("The network failed, or its answer cannot be read."),
    504: _of_network("The network did not answer."),
}
CHANGING: Final[Answers] = {
    **ASKING,
    202: ResponseSpec(
        ShownOperation, generate_examples=False, description="Under way: `Location` tells where to look for its end."
    ),
    409: _problem("It does not go together with what is there, or the Idempotency-Key was used for something else."),
    503: _problem("The service cannot write now; `Retry-After` tells when to come again."),
}
"""What else than its result a request may be answered with."""
