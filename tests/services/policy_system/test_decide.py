from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_services.policy_system.decide import DAYS, Decision, Measured, Question, decide
from edgeflex_services.policy_system.documents import AnyDocument, RunService

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)  # a Thursday
BERLIN = ZoneInfo("Europe/Berlin")


def decided(*rules: dict[str, Any], validity: dict[str, Any] | None = None, **changes: Any) -> Decision:
    named = [{"name": f"rule_{at}", "effect": "permit", **rule} for at, rule in enumerate(rules)]
    # As one that is kept: what versions from before may say is decided too.
    document = msgspec.convert({"kind": "sharing", "rules": named, **(validity or {})}, AnyDocument)
    asked: dict[str, Any] = {"action": "read_data", "user": "vpp", "groups": frozenset({"traders"}), "now": NOON}
    return decide(document, Question(**{**asked, **changes}))


def when(**conditions: Any) -> dict[str, Any]:
    return {"when": conditions}


def rocof(**limits: Any) -> dict[str, Any]:
    return when(state=[{"quantity": "rocof_hz_per_s", **limits}])


def test_the_first_rule_that_holds_decides_and_says_so() -> None:
    decision = decided({**when(users=["other"]), "effect": "deny"}, when(groups=["traders"]), {"effect": "deny"})
    assert (decision.effect, decision.rule) == ("permit", "rule_1")
    assert decision.why == "rule 'rule_1': who asks is in traders"


def test_what_no_rule_permits_is_decided_by_none_and_told_why() -> None:
    decision = decided(when(users=["other"]), when(assets=["pv_*"]), asset="wind_1")
    assert decision.effect == "none"
    assert "user 'vpp' is not among other" in decision.why
    assert "asset 'wind_1' is not among pv_*" in decision.why


@pytest.mark.parametrize(
    ("pattern", "asset", "holds"),
    [
        ("pv_*", "pv_12", True),
        ("pv_*", "wind", False),
        ("*", "", True),
        ("pv[1]", "pv1", False),
        ("pv[1]", "pv[1]", True),
        ("p?", "pv", False),
        ("PV", "pv", False),
    ],
)
def test_only_a_star_stands_for_other_characters(pattern: str, asset: str, *, holds: bool) -> None:
    assert (decided(when(assets=[pattern]), asset=asset).effect == "permit") is holds


@pytest.mark.parametrize(
    ("measured", "limits", "effect"),
    [
        (0.03, {"above": "20 mHz/s"}, "permit"),
        (0.02, {"above": "20 mHz/s"}, "none"),
        (-0.03, {"above": "20 mHz/s"}, "none"),
        (-0.03, {"above": "20 mHz/s", "magnitude": True}, "permit"),
        (0.03, {"above": "20 mHz/s", "below": "25 mHz/s"}, "none"),
        (-1.0, {"below": "0 Hz/s"}, "permit"),
    ],
)
def test_limits_of_the_measured_state_are_compared_in_its_unit(
    measured: float, limits: dict[str, Any], effect: str
) -> None:
    assert decided(rocof(**limits), state={"rocof_hz_per_s": Measured(measured, 1.0)}).effect == effect


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"rocof_hz_per_s": Measured(float("nan"), 0.0)},
        {"rocof_hz_per_s": Measured(1.0, 10.001)},
        {"rocof_hz_per_s": Measured(1.0, -0.001)},
    ],
)
def test_what_is_not_known_permits_nothing_and_denies_what_it_can(state: dict[str, Measured]) -> None:
    condition = rocof(above="20 mHz/s")
    assert decided(condition, state=state).effect == "none"
    assert decided({**condition, "effect": "deny"}, state=state).effect == "deny"
    acts = {**condition, "effect": "act", "then": {"do": "run_service", "service": "inertia"}}
    assert decided(acts, state=state).effect == "none"


def test_nothing_is_taken_away_for_what_is_not_known() -> None:
    rule = {**rocof(above="20 mHz/s"), "effect": "deny", "then": {"do": "revoke_access"}}
    assert decided(rule).then is None
    assert decided(rule, state={"rocof_hz_per_s": Measured(1.0, 0.0)}).then is not None


def test_an_action_is_given_with_the_decision() -> None:
    rule = {"effect": "act", "then": {"do": "run_service", "service": "inertia", "hold_off": "5 min"}}
    decision = decided(rule)
    assert isinstance(decision.then, RunService)
    assert decision.then.hold_off_s == 300.0


def test_outside_of_its_validity_a_policy_says_nothing() -> None:
    span = {"valid_from": "2026-11-26T12:00:00Z", "valid_until": "2026-11-26T13:00:00Z"}
    for minutes, effect in ((-1, "none"), (0, "permit"), (59, "permit"), (60, "none")):
        assert decided({}, validity=span, now=NOON + timedelta(minutes=minutes)).effect == effect


@given(
    st.datetimes(NOON.replace(tzinfo=None), NOON.replace(tzinfo=None) + timedelta(days=366)),
    st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda pair: pair[0] != pair[1]),
    st.sets(st.sampled_from(DAYS)),
)
def test_daily_times_hold_as_a_walk_over_the_minutes_says(
    moment: datetime, span: tuple[int, int], days: set[str]
) -> None:
    now = moment.replace(tzinfo=UTC)
    since, until = (f"{minute // 60:02}:{minute % 60:02}" for minute in span)
    found = decided(when(since=since, until=until, timezone="Europe/Berlin", days=sorted(days)), now=now).effect

    local = now.astimezone(BERLIN)
    minute = local.hour * 60 + local.minute
    # Walk on from the beginning of the span, over midnight if need be, and see whether this minute is passed.
    length = (span[1] - span[0]) % 1440
    passed = (minute - span[0]) % 1440
    began_yesterday = passed > minute
    day = (local.weekday() - began_yesterday) % 7
    holds = passed < length and (not days or DAYS[day] in days)
    assert found == ("permit" if holds else "none")


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-11-26T21:59", False),  # a Thursday
        ("2026-11-26T22:00", True),
        ("2026-11-26T23:59", True),
        ("2026-11-27T00:00", True),  # Friday, but the night of Thursday
        ("2026-11-27T05:59", True),
        ("2026-11-27T06:00", False),
        ("2026-11-27T22:00", False),  # the night of Friday
        ("2026-11-28T00:00", False),
        ("2026-11-26T00:00", False),  # the night of Wednesday
        ("2026-11-26T05:59", False),
        ("2026-11-22T22:00", True),  # a Sunday
        ("2026-11-23T05:59", True),  # Monday, over the end of the week
        ("2026-11-23T22:00", False),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_began(moment: str, *, holds: bool) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    night = when(since="22:00", until="06:00", days=["thu", "sun"])
    assert (decided(night, now=now).effect == "permit") is holds


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-03-28T22:59", False),  # 23:59 CET
        ("2026-03-28T23:00", True),  # midnight of Sunday in Berlin, on which clocks go forward
        ("2026-03-29T00:59", True),  # 01:59 CET
        ("2026-03-29T01:00", False),  # 03:00 CEST
        ("2026-10-24T22:00", True),  # midnight CEST of Sunday, on which clocks go back
        ("2026-10-25T00:59", False),  # 02:59 CEST
        ("2026-10-25T01:29", False),  # 02:29 CET, told a second time
    ],
)
def test_clock_times_are_those_of_the_place_when_its_clocks_change(moment: str, *, holds: bool) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    early = when(since="00:00", until="02:00", days=["sun"], timezone="Europe/Berlin")
    assert (decided(early, now=now).effect == "permit") is holds


def test_days_alone_are_by_the_calendar_of_the_place() -> None:
    late = datetime(2026, 11, 26, 23, 30, tzinfo=UTC)  # Friday already in Berlin
    assert decided(when(days=["fri"], timezone="Europe/Berlin"), now=late).effect == "permit"
    assert decided(when(days=["thu"]), now=late).effect == "permit"
    assert decided(when(days=["fri"]), now=late).effect == "none"
