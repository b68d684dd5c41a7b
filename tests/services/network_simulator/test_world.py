"""The network without HTTP, on a clock that the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from simulated_network import gpsi, some_devices

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.network_simulator.groups import (
    EndedError,
    Group,
    Groups,
    Member,
    MemberError,
    NamedError,
    Network,
    QuotaError,
)
from edgeflex_services.network_simulator.model import Behaviour, Device, Link, Setup, made_up_devices, quality_of
from edgeflex_services.network_simulator.sessions import ConflictError, NotAvailableError, Sessions
from edgeflex_services.network_simulator.watches import EndReason, Wanted, Watch, Watches
from edgeflex_services.network_simulator.world import KEEP_S, MovedClock, Subscriber, TakenError, UnknownError, World

START_NS = 1_800_000_000 * NS_PER_S


class Quiet:
    """A network, and what it told."""

    def __init__(self, *, most_members: int = 1000, **behaviour: Any) -> None:
        self.clock = VirtualClock(START_NS)
        self.world = World(self.clock, Setup(devices=some_devices(), most_members=most_members), seed=1)
        self.world.behaviour = Behaviour(**{"grant_delay_s": 1.0, **behaviour})
        self.sessions = Sessions(self.world)
        self.groups = Groups(self.world)
        self.watches = Watches(self.world)
        self.told: list[tuple[str, float]] = []

    def go(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_ns() + round(seconds * NS_PER_S))
        self.world.go_on()

    def tell(self, _: object, news: str) -> None:
        self.told.append((news, (self.world.now_ns - START_NS) / NS_PER_S))

    def device(self, number: int = 1) -> Subscriber:
        return self.world.subscriber(gpsi(number))

    def session(self, profile: str = "QOS_E", duration_s: int | None = 60, flow: str | None = None) -> Any:
        return self.sessions.create(self.device(), self.world.profiles[profile], duration_s, self.tell, flow=flow)

    def watch(self, **wanted: Any) -> Watch:
        what = Wanted(look=lambda each: each.link.covered, matters=lambda covered: not covered, **wanted)
        return self.watches.create(self.device(), what, self.tell)


# Devices ------------------------------------------------------------------------------------------------------------


def test_a_device_is_known_by_each_of_its_numbers_and_its_address() -> None:
    quiet = Quiet()
    assert quiet.device() is quiet.world.subscriber("extid-pmu1@grid.example") is quiet.world.at_address("10.0.0.1")
    assert [each.device.gpsi for each in quiet.world.subscribers()] == [gpsi(number) for number in (1, 2, 3, 4)]


def test_no_two_devices_have_the_same_number_id_or_address() -> None:
    quiet = Quiet()
    for taken in (
        Device(msisdn="4915550000001"),
        Device(external_id="pmu1@grid.example"),
        Device(msisdn="491700000001", ipv4_address="10.0.0.1"),
    ):
        with pytest.raises(TakenError):
            quiet.world.add(taken)


def test_a_device_that_is_removed_may_come_back() -> None:
    quiet = Quiet()
    device = quiet.device().device
    quiet.world.remove(gpsi(1))
    with pytest.raises(UnknownError):
        quiet.device()
    with pytest.raises(UnknownError):
        quiet.world.at_address("10.0.0.1")
    assert quiet.world.add(device) is quiet.device()


def test_a_device_needs_a_number_or_an_id() -> None:
    with pytest.raises(ValueError, match="`msisdn`"):
        Device(ipv4_address="10.0.0.1")


def test_made_up_devices_are_the_same_for_the_same_seed() -> None:
    assert made_up_devices(20, 7) == made_up_devices(20, 7) != made_up_devices(20, 8)
    World(VirtualClock(), Setup(devices=made_up_devices(1000, 7)))


def test_a_link_changes_for_a_while() -> None:
    quiet = Quiet()
    quiet.world.change_link(quiet.device(), {"covered": False}, for_s=10.0)
    quiet.go(9.0)
    assert not quiet.device().link.covered
    quiet.go(1.0)
    assert quiet.device().link.covered


def test_a_link_that_changed_again_meanwhile_does_not_change_back() -> None:
    quiet = Quiet()
    quiet.world.change_link(quiet.device(), {"latency_s": 1.0}, for_s=10.0)
    quiet.world.change_link(quiet.device(), {"latency_s": 2.0})
    quiet.go(20.0)
    assert quiet.device().link.latency_s == 2.0


def test_quality_is_the_better_of_the_link_and_what_is_promised() -> None:
    profiles = Quiet().world.profiles
    link = Link(latency_s=0.005, jitter_s=0.02, loss=0.01, uplink_bit_per_s=100)
    given = quality_of(link, [profiles["QOS_L"], profiles["QOS_M"]])
    assert given is not None
    assert (given.latency_s, given.jitter_s, given.loss, given.uplink_bit_per_s) == (0.005, 0.01, 1e-4, 5_000_000)
    assert quality_of(Link(covered=False), [profiles["QOS_L"]]) is None
    assert quality_of(Link(sms_only=True), [profiles["QOS_L"]]) is None
    assert quality_of(Link(holds_profiles=False), [profiles["QOS_E"]]) == quality_of(Link(), [])


# Time ---------------------------------------------------------------------------------------------------------------


def test_what_is_due_happens_at_its_time_even_if_the_clock_jumps() -> None:
    quiet = Quiet()
    quiet.session(duration_s=60)
    quiet.go(1000.0)
    assert quiet.told == [("granted", 1.0), ("ended", 61.0)]


def test_a_mistake_in_what_is_due_does_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    quiet = Quiet()
    quiet.world.plan_in(1.0, lambda: quiet.world.remove("msisdn-11111"))
    quiet.session()
    quiet.go(2.0)
    assert quiet.told == [("granted", 1.0)]
    assert "cannot be done" in caplog.text


def test_a_clock_is_moved_ahead_of_another() -> None:
    clock = MovedClock(VirtualClock(START_NS))
    clock.move(2.5)
    assert (clock.now_ns() - START_NS, clock.monotonic_ns() - START_NS) == (2_500_000_000, 2_500_000_000)


def test_whoever_waits_for_what_is_due_is_woken_by_what_comes_before() -> None:
    quiet = Quiet()
    woken: list[int | None] = []
    quiet.world.wake = lambda: woken.append(quiet.world.next_due_ns)
    for wait_s in (5.0, 9.0, 1.0):
        quiet.world.plan_in(wait_s, lambda: None)
    assert woken == [START_NS + 5 * NS_PER_S, START_NS + NS_PER_S]


# Sessions -----------------------------------------------------------------------------------------------------------


def test_a_session_gives_the_link_its_quality_from_grant_to_end() -> None:
    quiet = Quiet()
    session = quiet.session("QOS_E", 60)
    assert quiet.device().quality == quality_of(quiet.device().link, [])
    quiet.go(1.0)
    assert (session.state, session.started_ns) == ("available", START_NS + NS_PER_S)
    assert quiet.device().quality == quality_of(quiet.device().link, [quiet.world.profiles["QOS_E"]])
    quiet.go(60.0)
    assert (session.state, session.reason, session.duration_s) == ("ended", "DURATION_EXPIRED", 60)
    assert quiet.device().quality == quality_of(quiet.device().link, [])


def test_a_session_may_be_granted_at_once() -> None:
    quiet = Quiet(grant_delay_s=0)
    assert quiet.session().state == "available"
    assert quiet.told == [("granted", 0.0)]


def test_a_session_may_be_taken_and_then_not_granted() -> None:
    quiet = Quiet(refuse_share=1.0)
    session = quiet.session()
    quiet.go(1.0)
    assert (session.state, session.reason, session.started_ns) == ("ended", "NETWORK_TERMINATED", None)
    assert quiet.told == [("refused", 1.0)]


def test_chance_is_the_same_for_the_same_seed() -> None:
    def outcome() -> list[str]:
        quiet = Quiet(refuse_share=0.5, grant_delay_s=0, seed=11)
        for _ in range(50):
            quiet.session()
        return [news for news, _ in quiet.told]

    assert outcome() == outcome()
    assert set(outcome()) == {"granted", "refused"}


def test_a_session_that_is_made_longer_ends_later_but_not_after_what_its_profile_allows() -> None:
    quiet = Quiet()
    session = quiet.session(duration_s=60)
    with pytest.raises(NotAvailableError):
        quiet.sessions.extend(session, 60)
    quiet.go(1.0)
    quiet.sessions.extend(session, 60)
    quiet.go(119.0)
    assert session.state == "available"
    quiet.sessions.extend(session, 10**6)
    assert session.duration_s == 86_400
    quiet.go(86_400.0)
    assert (session.state, quiet.told[-1]) == ("ended", ("ended", 86_401.0))


def test_a_device_has_one_session_for_a_flow() -> None:
    quiet = Quiet()
    first = quiet.session(flow="server")
    with pytest.raises(ConflictError, match=first.id):
        quiet.session(flow="server")
    quiet.session(flow="another")
    quiet.sessions.delete(first)
    quiet.session(flow="server")


def test_a_session_that_the_network_ended_is_in_the_way_until_it_is_deleted() -> None:
    quiet = Quiet()
    session = quiet.session(flow="server")
    quiet.go(1.0)
    quiet.sessions.terminate(session)
    quiet.sessions.terminate(session)
    assert quiet.told == [("granted", 1.0), ("ended", 1.0)]
    quiet.go(KEEP_S - 1.0)
    assert quiet.sessions.session(session.id) is session
    with pytest.raises(ConflictError):
        quiet.session(flow="server")
    quiet.sessions.delete(session)
    quiet.session(flow="server")


def test_an_ended_session_can_be_looked_at_for_a_while() -> None:
    quiet = Quiet()
    session = quiet.session(duration_s=10, flow="server")
    quiet.go(11.0)
    quiet.session(flow="server")
    assert quiet.sessions.session(session.id).state == "ended"
    quiet.go(KEEP_S)
    with pytest.raises(UnknownError):
        quiet.sessions.session(session.id)


def test_a_session_is_told_of_when_its_quality_is_not_held() -> None:
    quiet = Quiet()
    quiet.session()
    quiet.go(1.0)
    for covered in (False, False, True):
        quiet.world.change_link(quiet.device(), {"covered": covered})
    quiet.world.change_link(quiet.device(), {"holds_profiles": False})
    assert [news for news, _ in quiet.told] == ["granted", "not_guaranteed", "guaranteed", "not_guaranteed"]


def test_a_session_may_get_another_quality() -> None:
    quiet = Quiet()
    session = quiet.session("QOS_M", None)
    quiet.go(1.0)
    quiet.sessions.change(session, quiet.world.profiles["QOS_E"])
    assert session.state == "requested"
    quiet.go(1.0)
    assert [each.name for each in quiet.device().promises.values()] == ["QOS_E"]
    quiet.sessions.terminate(session)
    with pytest.raises(NotAvailableError):
        quiet.sessions.change(session, quiet.world.profiles["QOS_M"])


def test_only_the_last_request_for_a_quality_counts() -> None:
    quiet = Quiet()
    session = quiet.session("QOS_M", None)
    quiet.go(0.5)
    quiet.sessions.change(session, quiet.world.profiles["QOS_E"])
    quiet.go(0.5)
    assert session.state == "requested"
    quiet.go(0.5)
    assert quiet.told == [("granted", 1.5)]


def test_sessions_of_a_device_that_is_gone_end() -> None:
    quiet = Quiet()
    session = quiet.session()
    quiet.world.remove(gpsi(1))
    quiet.go(5.0)
    assert (session.state, session.reason) == ("ended", "NETWORK_TERMINATED")


# Groups -------------------------------------------------------------------------------------------------------------


def test_members_are_granted_together_after_a_while() -> None:
    quiet = Quiet()
    told: list[list[tuple[str, str | None]]] = []

    def tell(_: Group, members: Sequence[Member]) -> None:
        told.append([(each.status, each.reason) for each in members])

    group = quiet.groups.create(quiet.groups.first, tell)
    members = [quiet.groups.add(group, quiet.device(number)) for number in (1, 2)]
    quiet.groups.ask(group, members)
    assert group.counts["REQUESTED"] == quiet.groups.first.members == 2
    quiet.go(1.0)
    assert told == [[("GRANTED", "REQUEST_APPROVED")] * 2]
    quiet.world.remove(gpsi(2))
    assert told[1:] == [[("DENIED", "ACCESS_REVOKED")]]
    assert (group.counts["GRANTED"], group.counts["DENIED"], quiet.groups.first.members) == (1, 1, 1)


def test_a_device_is_in_a_group_once_and_may_be_asked_for_again_after_it_was_denied() -> None:
    quiet = Quiet(refuse_share=1.0)
    group = quiet.groups.create(quiet.groups.first, lambda *_: None)
    quiet.groups.ask(group, [quiet.groups.add(group, quiet.device())])
    with pytest.raises(MemberError):
        quiet.groups.add(group, quiet.device())
    quiet.go(1.0)
    assert group.members[gpsi(1)].reason == "REQUEST_REJECTED"
    assert quiet.groups.add(group, quiet.device()).status == "REQUESTED"


def test_a_device_that_is_taken_out_before_it_was_granted_stays_out() -> None:
    quiet = Quiet()
    told: list[int] = []
    group = quiet.groups.create(quiet.groups.first, lambda _, members: told.append(len(members)))
    quiet.groups.ask(group, [quiet.groups.add(group, quiet.device())])
    quiet.groups.remove(group, gpsi(1))
    quiet.go(1.0)
    assert not told
    assert not group.members
    with pytest.raises(UnknownError):
        quiet.groups.remove(group, gpsi(1))


def test_a_network_takes_so_many_devices() -> None:
    quiet = Quiet(most_members=1)
    group = quiet.groups.create(quiet.groups.first, lambda *_: None)
    quiet.groups.add(group, quiet.device(1))
    with pytest.raises(QuotaError):
        quiet.groups.add(group, quiet.device(2))
    quiet.groups.delete(group)
    quiet.groups.add(quiet.groups.create(quiet.groups.first, lambda *_: None), quiet.device(2))


def test_a_network_lives_as_long_as_its_service_time() -> None:
    quiet = Quiet()
    told: list[tuple[str, int]] = []

    def tell(changed: Network) -> None:
        told.append((changed.status, (quiet.world.now_ns - START_NS) // NS_PER_S))

    network = quiet.groups.create_network(START_NS + 10 * NS_PER_S, START_NS + 20 * NS_PER_S, tell)
    group = quiet.groups.create(network, lambda *_: None)
    quiet.groups.ask(group, [quiet.groups.add(group, quiet.device())])
    quiet.go(30.0)
    assert told == [("RESERVED", 1), ("ACTIVATED", 10), ("TERMINATED", 20)]
    assert group.members[gpsi(1)].status == "DENIED"
    with pytest.raises(EndedError):
        quiet.groups.add(group, quiet.device(2))
    with pytest.raises(EndedError):
        quiet.groups.create(network, lambda *_: None)
    quiet.groups.delete_network(network)
    with pytest.raises(UnknownError):
        quiet.groups.group(group.id)


def test_names_of_groups_are_given_once() -> None:
    quiet = Quiet()
    group = quiet.groups.create(None, lambda *_: None, name="pmus@grid.example")
    with pytest.raises(NamedError):
        quiet.groups.create(None, lambda *_: None, name="pmus@grid.example")
    quiet.groups.delete(group)
    quiet.groups.create(None, lambda *_: None, name="pmus@grid.example")


# Watches ------------------------------------------------------------------------------------------------------------


def test_a_watch_tells_what_matters_until_it_has_told_often_enough() -> None:
    quiet = Quiet()
    watch = quiet.watch(most_events=2)
    quiet.world.change_link(quiet.device(), {"covered": False})
    quiet.world.change_link(quiet.device(), {"covered": True})
    quiet.go(1.0)
    for covered in (False, True, False, True, False):
        quiet.world.change_link(quiet.device(), {"covered": covered})
    assert [news for news, _ in quiet.told] == ["started", "seen", "seen", "ended"]
    assert watch.reason == "MAX_EVENTS_REACHED"
    quiet.go(KEEP_S)
    with pytest.raises(UnknownError):
        quiet.watches.watch(watch.id)


def test_a_watch_may_tell_at_once_what_it_sees() -> None:
    quiet = Quiet(grant_delay_s=0)
    quiet.world.change_link(quiet.device(), {"covered": False})
    quiet.watch(at_once=True)
    assert [news for news, _ in quiet.told] == ["started", "seen"]


def test_a_watch_ends_at_the_first_of_its_ends() -> None:
    quiet = Quiet()
    ends: tuple[tuple[int, EndReason], ...] = (
        (START_NS + 30 * NS_PER_S, "SUBSCRIPTION_EXPIRED"),
        (START_NS + 20 * NS_PER_S, "ACCESS_TOKEN_EXPIRED"),
    )
    watch = quiet.watch(ends=ends)
    quiet.go(100.0)
    assert (watch.reason, quiet.told) == ("ACCESS_TOKEN_EXPIRED", [("started", 1.0), ("ended", 20.0)])


@pytest.mark.parametrize("wait_s", [0.0, 2.0])
def test_watches_of_a_device_that_is_gone_end(wait_s: float) -> None:
    quiet = Quiet()
    watch = quiet.watch()
    quiet.go(wait_s)
    quiet.world.remove(gpsi(1))
    quiet.go(2.0)
    assert (watch.state, watch.reason, quiet.told[-1][0]) == ("ended", "NETWORK_TERMINATED", "ended")


def test_one_watch_may_come_in_place_of_another() -> None:
    quiet = Quiet()
    old = quiet.watch()
    quiet.watches.delete(old)
    what = Wanted(look=lambda each: each.link.covered, matters=lambda _: True)
    new = quiet.watches.create(quiet.device(), what, quiet.tell, waits=False, watch_id=old.id)
    quiet.go(2 * KEEP_S)
    assert quiet.watches.watch(old.id) is new


# Anything -----------------------------------------------------------------------------------------------------------

_NUMBERS = st.integers(1, 4)


class AnythingHappens(RuleBasedStateMachine):
    """Whatever is asked for and happens, in whatever order, the network's parts agree on it."""

    sessions = Bundle("sessions")
    groups = Bundle("groups")
    watches = Bundle("watches")

    def __init__(self) -> None:
        super().__init__()
        self.quiet = Quiet(most_members=5)

    def _subscriber(self, number: int) -> Subscriber | None:
        try:
            return self.quiet.device(number)
        except UnknownError:
            return None

    @rule(delay_s=st.sampled_from([0.0, 0.5, 5.0]), share=st.sampled_from([0.0, 0.5, 1.0]))
    def behave(self, delay_s: float, share: float) -> None:
        self.quiet.world.behaviour = Behaviour(grant_delay_s=delay_s, refuse_share=share)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.quiet.go(seconds)

    @rule(number=_NUMBERS, covered=st.booleans(), for_s=st.sampled_from([None, 3.0]))
    def change_link(self, number: int, covered: bool, for_s: float | None) -> None:
        if (subscriber := self._subscriber(number)) is not None:
            self.quiet.world.change_link(subscriber, {"covered": covered}, for_s)

    @rule(number=_NUMBERS)
    def leave(self, number: int) -> None:
        if self._subscriber(number) is not None:
            self.quiet.world.remove(gpsi(number))

    @rule(number=_NUMBERS)
    def come_back(self, number: int) -> None:
        if self._subscriber(number) is None:
            self.quiet.world.add(some_devices()[number - 1])

    @rule(
        target=sessions,
        number=_NUMBERS,
        profile=st.sampled_from(["QOS_E", "QOS_M"]),
        duration_s=st.sampled_from([None, 1, 20]),
        flow=st.sampled_from([None, "a", "b"]),
    )
    def create_session(self, number: int, profile: str, duration_s: int | None, flow: str | None) -> Any:
        if (subscriber := self._subscriber(number)) is None:
            return None
        try:
            return self.quiet.sessions.create(
                subscriber, self.quiet.world.profiles[profile], duration_s, lambda *_: None, flow=flow
            )
        except ConflictError:
            return None

    @rule(session=sessions, how=st.sampled_from(["extend", "delete", "terminate", "change"]))
    def deal_with_session(self, session: Any, how: str) -> None:
        if session is None:
            return
        change = self.quiet.world.profiles["QOS_L"]
        more = {"extend": (15,), "change": (change,)}.get(how, ())
        try:
            getattr(self.quiet.sessions, how)(session, *more)
        except NotAvailableError:
            assert session.state != "available" or session.duration_s is None

    @rule(target=groups)
    def create_group(self) -> Any:
        return self.quiet.groups.create(self.quiet.groups.first, lambda *_: None)

    @rule(group=groups, number=_NUMBERS)
    def add_member(self, group: Group, number: int) -> None:
        subscriber = self._subscriber(number)
        if subscriber is None or group not in list(self.quiet.groups):
            return
        try:
            self.quiet.groups.ask(group, [self.quiet.groups.add(group, subscriber)])
        except (MemberError, QuotaError):
            return

    @rule(group=groups, number=_NUMBERS)
    def remove_member(self, group: Group, number: int) -> None:
        if gpsi(number) in group.members:
            self.quiet.groups.remove(group, gpsi(number))

    @rule(group=groups)
    def delete_group(self, group: Group) -> None:
        if group in list(self.quiet.groups):
            self.quiet.groups.delete(group)

    @rule(target=watches, number=_NUMBERS, most=st.sampled_from([None, 1, 2]), at_once=st.booleans())
    def create_watch(self, number: int, most: int | None, at_once: bool) -> Any:
        if (subscriber := self._subscriber(number)) is None:
            return None
        end_ns = self.quiet.world.now_ns + 30 * NS_PER_S
        wanted = Wanted(
            look=lambda each: each.link.covered,
            matters=lambda covered: not covered,
            at_once=at_once,
            most_events=most,
            ends=((end_ns, "SUBSCRIPTION_EXPIRED"),),
        )
        return self.quiet.watches.create(subscriber, wanted, lambda *_: None)

    @rule(watch=watches)
    def delete_watch(self, watch: Watch | None) -> None:
        if watch is not None:
            self.quiet.watches.delete(watch)

    @invariant()
    def profiles_are_in_force_while_their_sessions_are_there(self) -> None:
        available = {each.id: each for each in self.quiet.sessions if each.state == "available"}
        for each in available.values():
            assert each.subscriber.promises[each.id] is each.profile
            assert each.expires_ns is None or each.expires_ns > self.quiet.world.now_ns
            assert not each.subscriber.is_gone
        in_force = {name for each in self.quiet.world.subscribers() for name in each.promises}
        assert in_force == set(available)

    @invariant()
    def no_two_sessions_are_there_for_a_flow(self) -> None:
        flows = [(each.subscriber, each.flow) for each in self.quiet.sessions if each.flow and each.state != "ended"]
        assert len(flows) == len(set(flows))

    @invariant()
    def sessions_are_found_by_their_device(self) -> None:
        for each in self.quiet.sessions:
            assert each in self.quiet.sessions.of_device(each.subscriber)

    @invariant()
    def members_are_counted(self) -> None:
        counted = 0
        for group in self.quiet.groups:
            statuses = Counter(each.status for each in group.members.values())
            assert +group.counts == statuses
            counted += len(group.members) - statuses["DENIED"]
            for member in group.members.values():
                assert group in self.quiet.groups.of_device(member.subscriber)
                assert member.status == "DENIED" or not member.subscriber.is_gone
        assert self.quiet.groups.first.members == counted <= 5

    @invariant()
    def only_active_watches_look(self) -> None:
        active = {each.id for each in self.quiet.watches if each.state == "active"}
        sessions = {each.id for each in self.quiet.sessions if each.state == "available"}
        assert {name for each in self.quiet.world.subscribers() for name in each.lookers} == active | sessions


AnythingHappens.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnythingHappens = AnythingHappens.TestCase
