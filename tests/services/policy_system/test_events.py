from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from served_policies import GROUP

from edgeflex_flow.clock import VirtualClock
from edgeflex_flow.limits import RateLimit
from edgeflex_flow.messages import ServiceRequest
from edgeflex_services.policy_system import events
from edgeflex_services.policy_system.accounts import NewUser, User
from edgeflex_services.policy_system.api_events import seen_by
from edgeflex_services.policy_system.app import make_app
from edgeflex_services.policy_system.decide import decide
from edgeflex_services.policy_system.documents import read_document
from edgeflex_services.policy_system.enforce import Door, write_down_failure
from edgeflex_services.policy_system.events import (
    Answer,
    Ask,
    BadReportError,
    EventService,
    GivenValue,
    MayNotAskError,
    Ran,
    Report,
    TooManyRequestsError,
)
from edgeflex_services.policy_system.queries import Wanted, is_wanted
from edgeflex_services.policy_system.repository import Grant, UnknownError
from edgeflex_services.policy_system.system import PolicySystem

NS = 1_000_000_000
START_NS = 1_800_000_000 * NS


class Bench:
    """An event service with what it asked services for."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(START_NS)
        self.system = PolicySystem(f"sqlite:///{folder / 'policy.db'}", folder, clock=self.clock)
        self.system.start(admin_password="a long enough password")
        self.asked: list[tuple[str, ServiceRequest]] = []
        self.is_bus_away = False
        self.service = EventService(self.system, self._run)
        for group in (GROUP, "traders"):
            self.system.accounts.put_group("admin", group, "")
        for name, group, role in (("device", GROUP, "reporter"), ("vpp", "traders", "reader")):
            self.system.accounts.put_user("admin", name, NewUser())
            self.system.accounts.set_role("admin", group, name, role)  # type: ignore[arg-type]
        self.save("guests", {"kind": "operational_bounds", "fields": {"droop": "25 MW/Hz"}})
        self.system.repository.set_grants("admin", GROUP, "guests", [Grant("group", "traders", "read")])

    def _run(self, group: str, request: ServiceRequest) -> Ran:
        if self.is_bus_away:
            return Ran("the databus is away", has_gone=False)
        self.asked.append((group, request))
        return Ran(f"asked for {request.service}", has_gone=True)

    def save(self, policy_id: str, document: dict[str, Any], group: str = GROUP) -> None:
        self.system.repository.save("admin", group, policy_id, read_document(document), based_on=0)
        self.system.changed()

    def user(self, name: str) -> User:
        found = self.system.tokens.user(name)
        assert found is not None
        return found

    def report(self, asset: str = "G1", group: str = GROUP, **values: float) -> list[str]:
        report = Report(group=group, asset=asset, values=values, time_ns=self.clock.now_ns())
        return [each.did for each in self.service.report(self.user("device"), report, "rest")]

    def ask(self, asset: str = "G1", user: str = "vpp", group: str = GROUP, action: str = "read_data") -> Answer:
        self.system.traffic.count(user)
        return self.service.ask(self.user(user), Ask(group=group, asset=asset, action=action), "rest")

    def later(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_ns() + round(seconds * NS))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.system.close()


def trigger(**more: Any) -> dict[str, Any]:
    state = [{"quantity": "rocof_hz_per_s", "above": "20 mHz/s", "magnitude": True}]
    then = {"do": "run_service", "service": "inertia_estimation", "hold_off": "1 h"}
    return {
        "kind": "trigger",
        "rules": [{"name": "excited", "effect": "act", "when": {"state": state}, "then": then}],
        **more,
    }


def sharing(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "sharing", "rules": [{"name": f"r{at}", **rule} for at, rule in enumerate(rules)], **more}


GIVE_VOLTAGES = {
    "effect": "permit",
    "when": {"groups": ["traders"]},
    "then": {"do": "return_data", "quantities": ["voltage_*"]},
}


def test_a_state_beyond_its_limit_has_a_service_run_once(bench: Bench) -> None:
    bench.save("excitation", trigger())
    assert bench.report(rocof_hz_per_s=0.01) == []
    assert bench.report(rocof_hz_per_s=-0.03) == ["asked for inertia_estimation"]
    assert bench.report(rocof_hz_per_s=-0.04) == []  # held off
    ((group, request),) = bench.asked
    assert group == GROUP
    assert (request.service, request.policy, request.version, request.rule) == (
        "inertia_estimation", f"{GROUP}/excitation", 1, "excited",
    )  # fmt: skip
    assert request.values == {"rocof_hz_per_s": -0.03}
    assert request.reason == "rule 'excited': |rocof_hz_per_s| = 0.03 is above 20 mHz/s"


def test_what_could_not_be_asked_for_is_asked_for_again_soon_and_then_held_off(bench: Bench) -> None:
    bench.save("excitation", trigger())
    bench.is_bus_away = True
    assert bench.report(rocof_hz_per_s=0.1) == ["the databus is away"]
    assert bench.report(rocof_hz_per_s=0.1) == []  # not with each report
    bench.later(1.0)
    assert bench.report(rocof_hz_per_s=0.1) == ["the databus is away"]
    bench.is_bus_away = False
    bench.later(1.0)
    assert bench.report(rocof_hz_per_s=0.1) == ["asked for inertia_estimation"]
    bench.later(3599.0)
    assert bench.report(rocof_hz_per_s=0.1) == []
    bench.later(1.0)
    assert bench.report(rocof_hz_per_s=0.1) == ["asked for inertia_estimation"]


def test_each_asset_is_held_off_by_itself(bench: Bench) -> None:
    bench.save("excitation", trigger())
    for asset in ("G1", "G2", "G1"):
        bench.report(asset, rocof_hz_per_s=0.1)
    assert [request.device for _, request in bench.asked] == ["G1", "G2"]


def test_a_policy_for_one_asset_heeds_no_other(bench: Bench) -> None:
    bench.save("excitation", trigger(asset_id="G2"))
    assert bench.report("G1", rocof_hz_per_s=0.1) == []
    assert bench.report("G2", rocof_hz_per_s=0.1)


def test_reports_of_one_group_move_no_policy_and_no_state_of_another(bench: Bench) -> None:
    bench.save("excitation", trigger(), group="traders")
    assert bench.report(rocof_hz_per_s=0.1) == []
    bench.save("share", sharing({"effect": "permit", "then": {"do": "return_data", "quantities": ["*"]}}), "traders")
    assert bench.ask(group="traders").values == {}


def test_a_withdrawn_policy_starts_nothing(bench: Bench) -> None:
    bench.save("excitation", trigger())
    document = read_document(trigger())
    bench.system.repository.save("admin", GROUP, "excitation", document, based_on=1, withdrawn=True)
    bench.system.changed()
    assert bench.report(rocof_hz_per_s=0.1) == []


def test_an_old_value_is_no_state_and_does_not_replace_a_newer_one(bench: Bench) -> None:
    bench.save("excitation", trigger())
    device = bench.user("device")
    old = Report(group=GROUP, asset="G1", values={"rocof_hz_per_s": 1.0}, time_ns=START_NS - 11 * NS)
    assert bench.service.report(device, old, "rest") == []
    bench.report(rocof_hz_per_s=0.0)
    bench.later(1.0)
    between = Report(group=GROUP, asset="G1", values={"rocof_hz_per_s": 1.0}, time_ns=START_NS - NS)
    assert bench.service.report(device, between, "rest") == []


@pytest.mark.parametrize("ahead_ns", [1, 50_000_000, 4 * NS])
def test_a_clock_that_is_a_little_ahead_costs_nothing(bench: Bench, ahead_ns: int) -> None:
    bench.save("excitation", trigger())
    report = Report(group=GROUP, asset="G1", values={"rocof_hz_per_s": 1.0}, time_ns=START_NS + ahead_ns)
    outcomes = bench.service.report(bench.user("device"), report, "rest")
    assert [each.did for each in outcomes] == ["asked for inertia_estimation"]
    (_, request) = bench.asked[0]
    assert request.time_ns == START_NS


def test_a_policy_that_cannot_be_decided_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.save("a_broken", sharing(GIVE_VOLTAGES))
    bench.save("excitation", trigger())

    def decide_some(document: Any, question: Any) -> Any:
        if document.kind == "sharing":
            raise OverflowError
        return decide(document, question)

    monkeypatch.setattr(events, "decide", decide_some)
    assert bench.report(rocof_hz_per_s=1.0)
    assert not bench.ask().permitted


@pytest.mark.parametrize("role", ["editor", "manager"])
def test_a_policy_cannot_block_those_who_could_take_it_back(bench: Bench, role: Any) -> None:
    bench.system.accounts.set_role("admin", GROUP, "vpp", role)
    bench.save("coup", sharing({"effect": "deny", "then": {"do": "revoke_access", "user": "vpp"}}))
    bench.ask(user="device")
    assert bench.user("vpp").roles[GROUP] == role


def test_who_is_blocked_is_denied_whatever_permits(bench: Bench) -> None:
    bench.save("share", sharing({"effect": "permit"}))
    assert bench.ask().permitted
    bench.system.accounts.block("admin", GROUP, "vpp", "misuse")
    with pytest.raises(MayNotAskError):
        bench.ask()


def test_entries_that_cannot_be_written_down_are_kept_for_the_next_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: Any) -> None:
        raise OSError

    bench.system.journal.keep()
    before = len(bench.system.journal.entries())
    with monkeypatch.context() as patch:
        patch.setattr(bench.system.journal, "_write_down", locked)
        bench.ask()
        with pytest.raises(OSError):  # noqa: PT011
            bench.system.journal.keep()
    bench.system.journal.keep()
    assert len(bench.system.journal.entries()) == before + 1


def test_a_value_from_the_future_is_refused(bench: Bench) -> None:
    late = Report(group=GROUP, asset="G1", values={"rocof_hz_per_s": 1.0}, time_ns=START_NS + 6 * NS)
    with pytest.raises(BadReportError, match="6 s in the future"):
        bench.service.report(bench.user("device"), late, "rest")


def test_after_a_clock_that_was_ahead_new_values_count_and_old_ones_do_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.save("excitation", trigger())
    bench.save("share", sharing(GIVE_VOLTAGES))

    def set_clock(time_ns: int) -> None:
        monkeypatch.setattr(bench.clock, "now_ns", lambda: time_ns)

    set_clock(START_NS + 3600 * NS)
    bench.report("G2", rocof_hz_per_s=0.1)
    bench.report("G1", voltage_pu=0.9, rocof_hz_per_s=0.0)
    set_clock(START_NS + 8 * NS)
    given = bench.ask("G1").values["voltage_pu"]
    assert (given.value, given.age_s, given.stale) == (0.9, -3592.0, True)
    bench.asked.clear()
    bench.report("G2", voltage_pu=1.0)
    assert bench.asked == []  # the ROCOF of G2 is from the future
    assert bench.report("G1", voltage_pu=1.01, rocof_hz_per_s=0.1)
    assert bench.ask("G1").values["voltage_pu"] == GivenValue(1.01, START_NS + 8 * NS, 0.0, stale=False)
    set_clock(START_NS + 6 * NS)  # a little back: neither old nor unknown
    assert bench.ask("G1").values["voltage_pu"] == GivenValue(1.01, START_NS + 8 * NS, 0.0, stale=False)
    bench.report("G1", voltage_pu=1.02)
    assert bench.ask("G1").values["voltage_pu"].value == 1.01


def test_data_is_given_to_those_with_whom_it_is_shared_and_no_more_than_that(bench: Bench) -> None:
    bench.save("share", sharing(GIVE_VOLTAGES))
    bench.report(voltage_pu=1.02, active_power_w=5e3)
    answer = bench.ask()
    assert answer.permitted
    assert answer.values == {"voltage_pu": GivenValue(1.02, START_NS, 0.0, stale=False)}
    assert answer.left_out == []
    assert not bench.ask(user="device").permitted


def test_an_old_value_is_given_as_what_it_is(bench: Bench) -> None:
    bench.save("share", sharing(GIVE_VOLTAGES))
    bench.report(voltage_pu=1.02)
    bench.later(8.0)
    bench.report(voltage_ll_pu=1.01)
    bench.later(3.0)
    assert bench.ask().values == {
        "voltage_pu": GivenValue(1.02, START_NS, 11.0, stale=True),
        "voltage_ll_pu": GivenValue(1.01, START_NS + 8 * NS, 3.0, stale=False),
    }


def test_variables_of_a_policy_bound_what_its_rules_give_out(bench: Bench) -> None:
    permit = {"effect": "permit", "then": {"do": "return_data", "quantities": ["voltage_*", "frequency_hz"]}}
    bench.save("a_share", sharing(permit, fields={"variables": ["voltage_?u", "frequency_*"]}))
    bench.report(voltage_pu=1.0, frequency_hz=50.0, active_power_w=1.0)
    answer = bench.ask()
    assert answer.permitted
    assert (list(answer.values), answer.left_out) == (["frequency_hz"], ["voltage_pu"])
    bench.system.journal.keep()
    assert (
        bench.system.journal.entries(*is_wanted(Wanted("request")))[0].did == "gave frequency_hz; left out voltage_pu"
    )
    bench.save("b_share", sharing({**permit, "when": {"users": ["vpp"]}}))  # of its own policy, without bounds
    answer = bench.ask()
    assert (list(answer.values), answer.left_out) == (["frequency_hz", "voltage_pu"], [])


def test_what_no_policy_permits_is_denied_and_nothing_is_told_of_policies(bench: Bench) -> None:
    bench.save("share", sharing({**GIVE_VOLTAGES, "when": {"groups": ["nobody"]}}))
    assert bench.ask() == Answer(permitted=False, why="denied")


def test_to_ask_needs_a_role_in_the_group_or_a_grant_there_and_else_nothing_is_written_down(bench: Bench) -> None:
    bench.save("share", sharing({"effect": "permit"}))
    assert bench.ask().permitted  # by the grant to its group
    for user, group in (("device", "traders"), ("vpp", "nowhere")):
        with pytest.raises(MayNotAskError, match="needs the role 'reader'"):
            bench.ask(user=user, group=group)
    bench.system.repository.set_grants("admin", GROUP, "guests", [Grant("user", "device", "read")])
    with pytest.raises(MayNotAskError):
        bench.ask()
    assert bench.ask(user="device").permitted
    bench.system.journal.keep()
    asked = [each.user for each in bench.system.journal.entries(*is_wanted(Wanted("request")))]
    assert asked == ["device", "vpp"]


def test_who_asks_too_often_waits_and_others_do_not(bench: Bench) -> None:
    bench.save("share", sharing({"effect": "permit"}))
    for _ in range(events.REQUESTS_PER_MIN):
        bench.ask()
    with pytest.raises(TooManyRequestsError) as raised:
        bench.ask()
    assert raised.value.wait_s == pytest.approx(0.1)
    assert bench.ask(user="device").permitted
    bench.later(0.11)
    assert bench.ask().permitted


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
def test_by_rest_a_request_without_a_right_is_forbidden_and_one_too_many_is_told_when_to_come(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REQUESTS_PER_MIN", 1)
    app = make_app(bench.system, EventService(bench.system, bench._run))
    headers = {"Authorization": f"Bearer {bench.system.tokens.grant('vpp')}"}
    with TestClient(app) as client:
        answers = [
            client.post("/api/v1/requests", json={"group": group, "asset": "G1"}, headers=headers)
            for group in ("nowhere", GROUP, GROUP)
        ]
    assert [each.status_code for each in answers] == [403, 200, 429]
    assert answers[2].headers["retry-after"] == "60"


def test_what_one_group_reports_makes_no_other_forget(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_ASSETS", 2)
    bench.save("excitation", trigger())
    bench.save("excitation", trigger(), group="traders")
    bench.system.accounts.set_role("admin", "traders", "device", "reporter")
    bench.report("G1", rocof_hz_per_s=0.1)
    for at in range(5):
        bench.report(f"T{at}", group="traders", rocof_hz_per_s=0.1)
    assert bench.report("G1", rocof_hz_per_s=0.1) == []  # still held off
    state = bench.service._state
    assert state.of(GROUP, "G1")["rocof_hz_per_s"].value == 0.1
    assert (state.of("traders", "T2"), set(state.of("traders", "T3"))) == ({}, {"rocof_hz_per_s"})
    assert state.forgotten == 3


def test_of_too_many_quantities_the_one_that_was_not_reported_for_longest_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_QUANTITIES", 2)
    bench.report(frequency_hz=50.0)
    bench.report(voltage_pu=1.0)
    bench.report(frequency_hz=50.0)
    bench.report(rocof_hz_per_s=0.1)
    assert set(bench.service._state.of(GROUP, "G1")) == {"frequency_hz", "rocof_hz_per_s"}
    assert bench.service._state.forgotten == 1


def test_entries_of_other_groups_hide_none_of_ones_own(bench: Bench) -> None:
    bench.system.accounts.put_group("admin", "crowd", "")
    bench.system.accounts.set_role("admin", "crowd", "device", "reader")
    bench.ask()
    for _ in range(20):
        bench.ask(user="device", group="crowd")
    bench.system.journal.keep()
    journal = bench.system.journal
    ours = is_wanted(Wanted("request", GROUP))
    assert [each.user for each in journal.entries(*ours, limit=5)] == ["vpp"]


def test_who_may_read_the_policy_is_told_why(bench: Bench) -> None:
    bench.save("share", sharing({"effect": "permit", "when": {"users": ["device"]}}))
    answer = bench.ask(user="device")
    assert (answer.policy, answer.version, answer.rule) == (f"{GROUP}/share", 1, "r0")
    assert answer.why == "rule 'r0': user 'device' is among device"


def test_a_denial_of_one_policy_outweighs_what_others_permit(bench: Bench) -> None:
    bench.save("a_share", sharing(GIVE_VOLTAGES))
    bench.save("b_stop", sharing({"effect": "deny", "when": {"assets": ["G1"]}}))
    bench.report(voltage_pu=1.0)
    assert bench.ask("G1") == Answer(permitted=False, why="denied")
    assert bench.ask("G2").permitted


def test_who_asks_too_often_is_blocked_in_the_group_until_a_person_allows_it(bench: Bench) -> None:
    flood = {"state": [{"quantity": "requests_count", "above": 3}]}
    rules = ({"effect": "deny", "when": flood, "then": {"do": "revoke_access"}}, GIVE_VOLTAGES)
    bench.save("share", sharing(*rules))
    assert [bench.ask().permitted for _ in range(4)] == [True, True, True, False]
    with pytest.raises(MayNotAskError):
        bench.ask()
    assert bench.user("vpp").roles == {"traders": "reader", GROUP: "blocked"}
    assert bench.user("vpp").may("reader", "traders")
    bench.system.accounts.set_role("admin", GROUP, "vpp", None)
    bench.system.changed()
    assert bench.user("vpp").roles == {"traders": "reader"}


def flood(above: int) -> dict[str, Any]:
    when = {"actions": ["traffic"], "state": [{"quantity": "requests_count", "above": above}]}
    return {"effect": "act", "when": when, "then": {"do": "revoke_access"}}


def test_traffic_beyond_what_a_policy_allows_takes_access_away(bench: Bench) -> None:
    bench.save("traffic", sharing(flood(above=5)))
    for _ in range(5):
        bench.system.traffic.count("device")
    bench.service.watch_traffic()
    assert bench.user("device").may("reporter", GROUP)
    bench.system.traffic.count("device")
    bench.service.watch_traffic()
    assert not bench.user("device").may("reader", GROUP)
    bench.system.journal.keep()
    entry = next(each for each in bench.system.journal.entries() if each.kind == "report")
    assert (entry.action, entry.user, entry.did) == ("traffic", "device", f"blocked 'device' in group '{GROUP}'")
    assert entry.values == {"requests_count": 6.0}


def test_traffic_of_those_outside_of_the_group_and_rules_about_other_things_are_let_alone(bench: Bench) -> None:
    bench.save("traffic", sharing(flood(above=5)))
    bench.save("other", sharing({"effect": "act", "then": {"do": "revoke_access"}}))
    for _ in range(9):
        bench.system.traffic.count("vpp")
    bench.service.watch_traffic()
    assert bench.user("vpp").roles == {"traders": "reader"}
    assert bench.user("device").may("reporter", GROUP)


@pytest.mark.parametrize("invented", [{"action": "traffic"}, {"values": {"requests_count": 1e6, "voltage_pu": 1.0}}])
def test_traffic_is_counted_and_cannot_be_reported(bench: Bench, invented: dict[str, Any]) -> None:
    bench.save("traffic", sharing({**flood(above=5), "when": {"actions": ["traffic", "measured"]}}))
    with pytest.raises(BadReportError, match="cannot be reported"):
        bench.service.report(bench.user("device"), Report(group=GROUP, asset="vpp", **invented), "rest")
    assert bench.user("device").may("reporter", GROUP)
    assert bench.service._state.of(GROUP, "vpp") == {}


def test_traffic_is_that_of_the_last_minute(bench: Bench) -> None:
    for _ in range(4):
        bench.system.traffic.count("vpp")
        bench.later(20.0)
    assert bench.system.traffic.of("vpp") == 2
    assert bench.system.traffic.users() == ["vpp"]
    bench.later(60.0)
    assert (bench.system.traffic.of("vpp"), bench.system.traffic.users()) == (0, [])


def test_a_policy_cannot_block_an_administrator(bench: Bench) -> None:
    rule = {"effect": "deny", "then": {"do": "revoke_access", "user": "admin"}}
    bench.save("coup", sharing(rule))
    bench.ask()
    assert bench.user("admin").may("manager", GROUP)
    bench.system.journal.keep()
    assert "an administrator" in bench.system.journal.entries()[0].did


def test_what_was_done_is_written_down_with_rule_and_reason(bench: Bench) -> None:
    bench.save("excitation", trigger())
    bench.report(rocof_hz_per_s=0.03)
    bench.ask()
    bench.system.journal.keep()
    request, report = [each for each in bench.system.journal.entries() if each.kind != "change"]
    assert (report.kind, report.user, report.effect, report.rule) == ("report", "device", "act", "excited")
    assert report.did == "asked for inertia_estimation"
    assert (request.kind, request.effect, request.why) == ("request", "none", "no rule permits it")


def test_of_a_report_only_what_the_rule_compared_is_written_down_and_shown_to_those_who_may_read_the_policy(
    bench: Bench,
) -> None:
    bench.save("excitation", trigger())
    bench.report(rocof_hz_per_s=0.03, active_power_w=5e3)
    bench.system.journal.keep()
    (entry,) = bench.system.journal.entries(*is_wanted(Wanted("report")))
    assert entry.values == {"rocof_hz_per_s": 0.03}
    assert seen_by(bench.system, bench.user("device"), entry).values == entry.values
    bench.system.repository.set_grants("admin", GROUP, "excitation", [Grant("user", "admin", "read")])
    hidden = seen_by(bench.system, bench.user("device"), entry)
    assert (hidden.asset, hidden.policy, hidden.values) == ("G1", "", {})


def test_what_is_done_with_policies_and_accounts_is_told_in_the_group_it_is_of(bench: Bench) -> None:
    bench.save("excitation", trigger())
    bench.system.accounts.set_role("admin", GROUP, "vpp", "editor", "new colleague")
    bench.system.accounts.new_secret("admin", "vpp")
    bench.system.journal.keep()
    changes = [each for each in bench.system.journal.entries() if each.kind == "change"]
    secret, role, saved = changes[:3]
    assert (saved.group, saved.policy, saved.version, saved.action) == (GROUP, f"{GROUP}/excitation", 1, "save_policy")
    assert (role.group, role.did) == (GROUP, "vpp, role editor, why new colleague")
    assert (secret.group, secret.did) == ("", "vpp")  # for administrators alone


def test_what_goes_wrong_is_not_told_as_done(bench: Bench) -> None:
    with pytest.raises(UnknownError):
        bench.system.accounts.disable("admin", "nobody", "x")
    bench.system.accounts.put_group("admin", "later", "")
    bench.system.journal.keep()
    assert "disable_user" not in {each.action for each in bench.system.journal.entries()}


def test_listeners_hear_entries_as_they_happen(bench: Bench) -> None:
    async def listen() -> list[str]:
        heard = bench.system.journal.subscribe()
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        await asyncio.to_thread(bench.ask, "G1")
        await asyncio.to_thread(bench.ask, "G2")
        assets = [(await first).asset, (await anext(heard)).asset]
        await heard.aclose()
        return assets

    assert asyncio.run(asyncio.wait_for(listen(), 10.0)) == ["G1", "G2"]
    assert bench.system.journal._listeners == set()


def test_the_head_of_the_audit_log_is_written_to_the_log_of_the_service_each_day(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeflex.policy")
    bench.later(86_400.0)
    for _ in range(2):
        bench.system.tell_head()
    assert caplog.messages == [f"audit log: head {bench.system.repository.head()}"]


class Knocking:
    """What is at the door of a service."""

    def __init__(self, bench: Bench) -> None:
        self.system, self.door = bench.system, Door(bench.clock)
        self.door.told = RateLimit(2, 60.0, bench.clock)


def test_sign_ins_in_vain_are_written_down_up_to_a_limit_and_then_counted(bench: Bench) -> None:
    state = Knocking(bench)
    for at in range(5):
        write_down_failure(state, "vpp", f"192.0.2.{at}", "/token")
    bench.later(60.0)
    write_down_failure(state, "vpp", "192.0.2.9", "/token")
    bench.system.journal.keep()
    told = bench.system.journal.entries(*is_wanted(Wanted("sign_in")))
    assert [each.source for each in told] == ["192.0.2.9", "192.0.2.1", "192.0.2.0"]
    assert told[0].did == "at /token; before it, 3 were not written down"
    assert {(each.user, each.why, each.group) for each in told} == {("vpp", "wrong password", "")}
