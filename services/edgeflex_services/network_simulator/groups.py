"""Dedicated networks, groups of devices that may use one, and who is in a group."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.model import NETWORK_NAME, id_of
from edgeflex_services.network_simulator.world import Subscriber, UnknownError, World

NetworkStatus: TypeAlias = Literal["REQUESTED", "RESERVED", "ACTIVATED", "TERMINATED"]
MemberStatus: TypeAlias = Literal["REQUESTED", "GRANTED", "DENIED"]
MemberReason: TypeAlias = Literal["REQUEST_APPROVED", "REQUEST_REJECTED", "REQUEST_FAILED", "ACCESS_REVOKED"]
MOST_IN_EVENT: Final = 100
"""Devices that are told of at once, as in CAMARA's Dedicated Networks."""
YEARS_10_NS: Final = 10 * 365 * 86_400 * NS_PER_S


class MemberError(Exception):
    """The device is in the group, or about to be."""


class NamedError(Exception):
    """There is a group of this name."""


class QuotaError(Exception):
    """The dedicated network takes no more devices."""


class EndedError(Exception):
    """The dedicated network has ended."""


@dataclass(eq=False)
class Network:
    """A dedicated network."""

    id: str
    starts_ns: int
    ends_ns: int
    tell: Callable[[Network], None]
    about: object = None
    """What the API by which it was made keeps of it."""
    status: NetworkStatus = "REQUESTED"
    groups: dict[str, Group] = field(default_factory=dict)
    members: int = 0
    """Of its groups, without those that are denied."""


@dataclass(eq=False)
class Member:
    """A device in a group."""

    subscriber: Subscriber
    status: MemberStatus = "REQUESTED"
    reason: MemberReason | None = None

    @property
    def gpsi(self) -> str:
        return self.subscriber.device.gpsi


@dataclass(eq=False)
class Group:
    """Devices that may use a network."""

    id: str
    network: Network | None
    """None: no dedicated one."""
    tell: Callable[[Group, Sequence[Member]], None]
    about: object = None
    """What the API by which it was made keeps of it."""
    name: str | None = None
    """Of which there is one at most; None: it has none."""
    members: dict[str, Member] = field(default_factory=dict)
    """By GPSI."""
    counts: Counter[MemberStatus] = field(default_factory=Counter)


class Groups:
    """All networks and groups."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.networks: dict[str, Network] = {}
        self._groups: dict[str, Group] = {}
        self._named: dict[str, Group] = {}
        self._of_device: dict[str, dict[str, Group]] = {}
        world.gone.append(self._lose)
        begins_ns = world.now_ns
        network_id = id_of("network", NETWORK_NAME)
        self.first = Network(network_id, begins_ns, begins_ns + YEARS_10_NS, lambda _: None, status="ACTIVATED")
        """The one that is there from the beginning."""
        self.networks[network_id] = self.first

    # Networks -------------------------------------------------------------------------------------------------------

    def network(self, network_id: str) -> Network:
        """Raises UnknownError."""
        if (found := self.networks.get(network_id)) is None:
            raise UnknownError(f"there is no network '{network_id}'")
        return found

    def create_network(
        self, starts_ns: int, ends_ns: int, tell: Callable[[Network], None], about: object = None
    ) -> Network:
        """Ask for a network; `tell` is called whenever its status has changed."""
        network = Network(str(uuid.uuid4()), starts_ns, ends_ns, tell, about)
        self.networks[network.id] = network
        self._world.grant_later(lambda: self._reserve(network))
        return network

    def delete_network(self, network: Network) -> None:
        """Take it away with its groups."""
        for each in list(network.groups.values()):
            self.delete(each)
        del self.networks[network.id]
        network.status = "TERMINATED"

    def _reserve(self, network: Network) -> None:
        if network.status != "REQUESTED":
            return
        if self._world.is_unwilling():
            self._terminate(network)
            return
        self._world.plan(network.ends_ns, lambda: self._terminate(network))
        if self._world.now_ns >= network.starts_ns:
            self._activate(network)
            return
        self._set_network(network, "RESERVED")
        self._world.plan(network.starts_ns, lambda: self._activate(network))

    def _activate(self, network: Network) -> None:
        if network.status in ("REQUESTED", "RESERVED"):
            self._set_network(network, "ACTIVATED")

    def _terminate(self, network: Network) -> None:
        if network.status == "TERMINATED":
            return
        self._set_network(network, "TERMINATED")
        for group in network.groups.values():
            self._deny(group, list(group.members.values()))

    def _set_network(self, network: Network, status: NetworkStatus) -> None:
        network.status = status
        self._world.observe({"event": "network", "id": network.id, "status": status})
        network.tell(network)

    # Groups ---------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def group(self, group_id: str) -> Group:
        """Raises UnknownError."""
        if (found := self._groups.get(group_id)) is None:
            raise UnknownError(f"there is no group '{group_id}'")
        return found

    def of_device(self, subscriber: Subscriber) -> Sequence[Group]:
        """In which a device is, or is to be."""
        return list(self._of_device.get(subscriber.device.gpsi, {}).values())

    def create(
        self,
        network: Network | None,
        tell: Callable[[Group, Sequence[Member]], None],
        about: object = None,
        name: str | None = None,
    ) -> Group:
        """An empty group; `tell` is called with members whose status has changed. Raises EndedError or NamedError."""
        if name is not None and name in self._named:
            raise NamedError(f"there is a group '{name}' already")
        if network is not None:
            _check_is_there(network)
        group = Group(str(uuid.uuid4()), network, tell, about, name)
        self._groups[group.id] = group
        if name is not None:
            self._named[name] = group
        if network is not None:
            network.groups[group.id] = group
        return group

    def delete(self, group: Group) -> None:
        """Take it away with its memberships."""
        for each in list(group.members):
            self.remove(group, each)
        del self._groups[group.id]
        if group.name is not None:
            del self._named[group.name]
        if group.network is not None:
            del group.network.groups[group.id]

    def add(self, group: Group, subscriber: Subscriber) -> Member:
        """Put a device on the list, for which `ask` is to ask. Raises MemberError, QuotaError or EndedError."""
        gpsi = subscriber.device.gpsi
        known = group.members.get(gpsi)
        if known is not None and known.status != "DENIED":
            raise MemberError(f"'{gpsi}' is in the group '{group.id}' already")
        if group.network is not None:
            _check_is_there(group.network)
            if group.network.members >= self._world.most_members:
                raise QuotaError(f"the network takes {self._world.most_members} devices and has them")
        if known is not None:
            self.remove(group, gpsi)
        member = group.members[gpsi] = Member(subscriber)
        self._of_device.setdefault(gpsi, {})[group.id] = group
        self._count(group, member, 1)
        return member

    def ask(self, group: Group, members: Sequence[Member]) -> None:
        """Have the network decide on devices that are on the list."""
        self._world.grant_later(lambda: self._decide(group, members))

    def grant(self, group: Group, member: Member) -> None:
        """Let a device in at once, which nobody is told of."""
        self._set(group, member, "GRANTED", "REQUEST_APPROVED")

    def remove(self, group: Group, gpsi: str) -> None:
        """Take a device out. Raises UnknownError."""
        member = group.members.pop(gpsi, None)
        if member is None:
            raise UnknownError(f"'{gpsi}' is not in the group '{group.id}'")
        self._count(group, member, -1)
        mine = self._of_device[gpsi]
        del mine[group.id]
        if not mine:
            del self._of_device[gpsi]

    def _decide(self, group: Group, members: Iterable[Member]) -> None:
        asked = [each for each in members if each.status == "REQUESTED" and group.members.get(each.gpsi) is each]
        for each in asked:
            if self._world.is_unwilling():
                self._set(group, each, "DENIED", "REQUEST_REJECTED")
            else:
                self._set(group, each, "GRANTED", "REQUEST_APPROVED")
        self._tell(group, asked)

    def _deny(self, group: Group, members: Iterable[Member]) -> None:
        denied = [each for each in members if each.status != "DENIED"]
        for each in denied:
            self._set(group, each, "DENIED", "ACCESS_REVOKED" if each.status == "GRANTED" else "REQUEST_FAILED")
        self._tell(group, denied)

    def _tell(self, group: Group, members: Sequence[Member]) -> None:
        for first in range(0, len(members), MOST_IN_EVENT):
            portion = members[first : first + MOST_IN_EVENT]
            told = {each.gpsi: each.status for each in portion}
            self._world.observe({"event": "members", "group": group.id, "members": told})
            group.tell(group, portion)

    def _set(self, group: Group, member: Member, status: MemberStatus, reason: MemberReason) -> None:
        self._count(group, member, -1)
        member.status, member.reason = status, reason
        self._count(group, member, 1)

    def _count(self, group: Group, member: Member, step: int) -> None:
        group.counts[member.status] += step
        if group.network is not None and member.status != "DENIED":
            group.network.members += step

    def _lose(self, subscriber: Subscriber) -> None:
        for group in self.of_device(subscriber):
            self._deny(group, [group.members[subscriber.device.gpsi]])


def _check_is_there(network: Network) -> None:
    if network.status == "TERMINATED":
        raise EndedError(f"the network '{network.id}' has ended")
