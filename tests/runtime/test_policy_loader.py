from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from broker import wait_until
from http_service import Reply, Request, json_reply
from policy_flows import running
from policy_server import GROUP, PolicyServer

from edgeflex_connectors.policy_system import EFFECTS_PATH
from edgeflex_flow.messages import Crossing
from edgeflex_flow.runtime.policies import apply_policies


def test_a_policy_holds_from_the_first_message_on(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path) as flow:
        wait_until(lambda: flow.out.messages)
        first = flow.out.of_type(Crossing)[0]
        assert (first.limit, first.policies["trigger.onset"]) == (0.1, "1")
        assert first.policies["timing.hold"] == "default"
    assert set(server.requests[0].query) == {"policy_group", "policy_id"}
    assert len(server.requests[0].query["policy_id"]) == 2


def test_what_is_saved_is_in_effect_with_the_next_question(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, refresh=1.0) as flow:
        for wanted in (0.2, 0.3):
            server.save("trigger", onset=f"{wanted} Hz/s")
            asked = len(server.asked_s)
            wait_until(lambda wanted=wanted: flow.onset == wanted)  # type: ignore[misc]
            assert len(server.asked_s) - asked <= 1


def test_nothing_is_sent_again_while_nothing_changed(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, refresh=0.1) as flow:
        wait_until(lambda: flow.count("not_modified") >= 3)
        assert flow.onset == 0.1
        assert flow.run.counters["bound"].get("policy_changes") == 1


def test_flows_that_start_together_spread_their_later_questions(server: PolicyServer, tmp_path: Path) -> None:
    second: list[float] = []
    for number in range(6):
        server.asked_s.clear()
        with running(server, tmp_path, refresh=0.4, name=f"flow_{number}"):
            wait_until(lambda: len(server.asked_s) >= 2)
            second.append(server.asked_s[1] - server.asked_s[0])
    assert max(second) - min(second) > 0.02


def test_a_policy_system_that_is_away_does_not_delay_the_start(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    server.stop()
    with running(server, tmp_path) as flow:
        wait_until(lambda: flow.out.messages)
        assert time.monotonic() - flow.began_s < 1.5
        assert flow.onset == 0.02
        assert "; defaults hold; trying again" in caplog.text
        server.start()
        wait_until(lambda: flow.onset == 0.1)
    assert "answers again after" in caplog.text or flow.count("failures") >= 1


def test_a_policy_system_that_hangs_delays_the_start_by_two_seconds(server: PolicyServer, tmp_path: Path) -> None:
    server.fault = lambda _request: Reply(hangs=True)
    with running(server, tmp_path, read_timeout=30.0, request_timeout=30.0) as flow:
        assert 1.5 < time.monotonic() - flow.began_s < 4.0
        assert flow.onset == 0.02


@pytest.mark.parametrize(
    ("fault", "counter"),
    [
        (Reply(401, b""), "not_admitted"),
        (Reply(403, b""), "not_admitted"),
        (Reply(500, b"oops"), "failures"),
        (Reply(200, b"<html>"), "failures"),
        (Reply(200, b'{"policies": 3}'), "failures"),
        (Reply(200, b'{"policies": [' + b"[" * 100_000), "failures"),
        (Reply(200, b" " * 3_000_000), "failures"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), "failures"),
        (Reply(200, b"{}", cut_after=1), "failures"),
        (Reply(200, b"{}" * 100, drips_s=0.1), "failures"),
    ],
    ids=["401", "403", "500", "html", "number", "deep", "huge", "redirect", "cut", "drips"],
)
def test_what_was_said_last_holds_whatever_the_policy_system_does(
    server: PolicyServer, tmp_path: Path, fault: Reply, counter: str
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, answer_limit=1_000_000) as flow:
        server.fault = lambda _request: fault
        wait_until(lambda: flow.count(counter) >= 2)
        assert flow.onset == 0.1
        server.fault = None
        server.save("trigger", onset="0.3 Hz/s")
        wait_until(lambda: flow.onset == 0.3)
        assert flow.run.failure is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Reply(401, b""), "the token says issuer 'substation_12', user 'substation_12', audience 'edgeflex-policy'"),
        (Reply(403, b""), "look at the rights of user 'substation_12' there (group 'substation_12')"),
        (Reply(404, b""), "is `url` that of a policy system?"),
    ],
    ids=["401", "403", "404"],
)
def test_a_refusal_raises_one_alarm_that_says_what_to_look_at(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Reply, said: str
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    server.save("timing", hold="3 s")
    with running(server, tmp_path) as flow:
        server.fault = lambda _request: fault
        wait_until(lambda: flow.count("failures") >= 3 and flow.alarms())
        server.fault = None
        server.save("trigger", onset="0.3 Hz/s")
        wait_until(lambda: flow.onset == 0.3)
        server.fault = lambda _request: fault
        wait_until(lambda: len(flow.alarms()) == 2)
    assert all(said in each for each in flow.alarms())
    assert said in caplog.text
    assert "Bearer" not in caplog.text


def test_retry_after_is_heeded(server: PolicyServer, tmp_path: Path) -> None:
    with running(server, tmp_path, refresh=0.1) as flow:
        server.fault = lambda _request: Reply(429, b"", {"Retry-After": "2"})
        wait_until(lambda: flow.count("failures") == 1)
        asked = len(server.asked_s)
        wait_until(lambda: len(server.asked_s) > asked)
        assert server.asked_s[asked] - server.asked_s[asked - 1] >= 2.0


def test_a_policy_that_is_withdrawn_leaves_the_default(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path) as flow:
        assert flow.onset == 0.1
        server.withdraw("trigger")
        wait_until(lambda: flow.onset == 0.02)
        assert flow.count("withdrawn") == 1
        wait_until(lambda: len(server.effects) == 2)
        wait_until(flow.alarms)
        assert flow.alarms() == ["policies: 'trigger': withdrawn, or not for this site any more; defaults hold"]
    assert "'trigger' is withdrawn" in caplog.text
    assert (server.effects[1]["version"], server.effects[1]["after"]) == (1, "0.02 Hz/s, the flow's own default")


def test_a_policy_that_cannot_be_read_costs_no_other(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    server.save("timing", hold="5 s")
    with running(server, tmp_path) as flow:
        server.save("timing", version="seven", hold="6 s")
        server.save("trigger", onset="0.2 Hz/s")
        wait_until(lambda: flow.onset == 0.2)
        assert flow.config.hold == 5.0
        assert flow.count("unreadable") >= 1


def test_a_policy_of_another_group_says_nothing(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    server.fault = lambda _request: Reply(
        200,
        json.dumps(
            {
                "policies": [
                    {
                        "type": "policy",
                        "policy_id": "trigger",
                        "policy_group": "other",
                        "policy_kind": "trigger",
                        "version": 1,
                        "fields": {"onset": "0.5 Hz/s"},
                    }
                ]
            }
        ).encode(),
    )
    with running(server, tmp_path) as flow:
        wait_until(lambda: flow.count("requests") >= 2)
        assert flow.onset == 0.02


def test_a_value_that_is_refused_is_told_by_an_alarm_and_reported(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path) as flow:
        server.save("trigger", onset="30 Hz/s")
        wait_until(flow.alarms)
        assert flow.onset == 0.1
        wait_until(lambda: len(server.effects) == 2)
    changed, refused = server.effects
    assert (
        changed.items()
        >= {
            "policy_group": GROUP,
            "policy_id": "trigger",
            "version": 1,
            "site": "test",
            "flow": "toy",
            "node": "bound",
            "setting": "onset",
            "before": "0.02 Hz/s",
            "after": "0.1 Hz/s",
            "refused": None,
        }.items()
    )
    assert (refused["version"], refused["before"], refused["after"]) == (2, "0.1 Hz/s", "30 Hz/s")
    assert "outside 0.01 to 1 Hz/s" in refused["refused"]


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        "1e999 Hz/s",
        "nan Hz/s",
        "-inf Hz/s",
        True,
        [["0.1 Hz/s"]],
        {"a": {"b": 1}},
        "0.1 Hz/s\n",
        "x" * 100_000,
    ],
    ids=["large", "infinite", "nan", "negative", "flag", "list", "mapping", "line", "long"],
)
def test_whatever_a_policy_says_the_flow_goes_on(server: PolicyServer, tmp_path: Path, value: object) -> None:
    with running(server, tmp_path) as flow:
        server.save("trigger", onset=value)
        wait_until(lambda: len(server.effects) == 1 or flow.onset == 0.1)
        assert flow.onset in (0.02, 0.1)
        server.save("trigger", onset="0.3 Hz/s")
        wait_until(lambda: flow.onset == 0.3)
        assert flow.count("not_applied") == flow.count("failures") == 0
        assert flow.run.failure is None


def test_a_field_that_looks_misspelt_is_told(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.save("trigger", onsett="0.1 Hz/s")
    with running(server, tmp_path):
        assert "policy 'trigger' says nothing in field 'onset': the default holds; it says 'onsett'" in caplog.text
        wait_until(lambda: server.effects)
    [effect] = server.effects
    assert (effect["policy_id"], effect["version"], effect["node"], effect["setting"]) == (
        "trigger",
        1,
        "bound",
        "onset",
    )
    assert (effect["before"], effect["after"]) == ("0.02 Hz/s", "0.1 Hz/s")
    assert "nothing in field 'onset', but in 'onsett', which nothing reads" in effect["refused"]


def test_a_field_that_nothing_reads_is_told_once(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.save("trigger", onset="0.1 Hz/s", colour="red")
    with running(server, tmp_path) as flow:
        server.save("trigger", onset="0.2 Hz/s", colour="red")
        wait_until(lambda: flow.onset == 0.2)
    assert caplog.text.count("policy 'trigger': nothing in this flow reads field 'colour'") == 1
    assert all(each["refused"] is None for each in server.effects)


def test_effects_are_reported_later_when_the_policy_system_is_away(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, refresh=60.0) as flow:
        assert flow.onset == 0.1
        wait_until(lambda: server.effects)
        server.fault = lambda _request: Reply(503)
        apply_policies(flow.run, {"trigger": {"onset": 0.3, "version": 2}})
        reports = len(server.of(EFFECTS_PATH))
        wait_until(lambda: len(server.of(EFFECTS_PATH)) > reports)
        server.fault = None
        wait_until(lambda: flow.count("effects_sent") == 2)
    assert [each["after"] for each in server.effects] == ["0.1 Hz/s", "0.3 Hz/s"]


def test_an_effect_that_is_refused_costs_no_other_and_is_told(
    server: PolicyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_timing(request: Request) -> Reply:
        effects = request.json["effects"]
        refused = [at for at, each in enumerate(effects) if each["policy_id"] == "timing"]
        server.effects.extend(each for each in effects if each["policy_id"] != "timing")
        return json_reply({"kept": 1, "refused": [{"at": at, "why": "not yours"} for at in refused]})

    server.script(EFFECTS_PATH, refuse_timing)
    server.save("trigger", onset="0.1 Hz/s")
    server.save("timing", hold="5 s")
    with running(server, tmp_path) as flow:
        wait_until(lambda: flow.count("effects_lost") == flow.count("effects_sent") == 1)
    assert [each["policy_id"] for each in server.effects] == ["trigger"]
    assert "changes are not kept by the policy system: not yours" in caplog.text


def test_a_refusal_that_is_over_is_reported_though_nothing_changed(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path) as flow:
        for onset in ("9 Hz/s", "0.1 Hz/s"):
            told = len(server.effects)
            server.save("trigger", onset=onset)
            wait_until(lambda told=told: len(server.effects) > told)  # type: ignore[misc]
        assert flow.onset == 0.1
    refused, over = server.effects[-2:]
    assert (refused["version"], over["version"]) == (2, 3)
    assert "outside 0.01 to 1" in refused["refused"]
    assert (over["before"], over["after"], over["refused"]) == ("0.1 Hz/s", "0.1 Hz/s", None)


def test_a_refusal_is_over_too_when_the_policy_says_nothing_more(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="9 Hz/s")
    with running(server, tmp_path):
        wait_until(lambda: server.effects)
        server.save("trigger", other="1")
        wait_until(lambda: len(server.effects) == 2)
    assert [(each["version"], each["after"]) for each in server.effects][1] == (1, "0.02 Hz/s")


def test_effects_that_are_not_reported_are_counted_as_lost(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    server.script(EFFECTS_PATH, lambda _request: Reply(hangs=True))
    with running(server, tmp_path) as flow:
        wait_until(lambda: server.of(EFFECTS_PATH))
        ends_s = time.monotonic()
    assert time.monotonic() - ends_s < 4.0
    assert flow.count("effects_lost") == 1


# Times ----------------------------------------------------------------------------------------------------------------


def test_a_policy_begins_and_ends_between_two_questions(server: PolicyServer, tmp_path: Path) -> None:
    now_ns = time.time_ns()
    server.save(
        "trigger", onset="0.1 Hz/s", valid_from_ns=now_ns + 1_500_000_000, valid_until_ns=now_ns + 3_300_000_000
    )
    with running(server, tmp_path, refresh=60.0) as flow:
        assert flow.onset == 0.02
        wait_until(lambda: flow.onset == 0.1)
        assert abs(time.time_ns() - (now_ns + 1_500_000_000)) < 1_000_000_000
        wait_until(lambda: flow.onset == 0.02)
        assert abs(time.time_ns() - (now_ns + 3_300_000_000)) < 1_000_000_000


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_clock_that_is_set_is_noticed_within_a_second(server: PolicyServer, tmp_path: Path, jump_s: int) -> None:
    middle_ns = time.time_ns() + jump_s * 1_000_000_000
    server.save(
        "trigger",
        onset="0.1 Hz/s",
        valid_from_ns=middle_ns - 60_000_000_000,
        valid_until_ns=middle_ns + 60_000_000_000,
    )
    with running(server, tmp_path, refresh=60.0, max_age=7200.0) as flow:
        assert flow.onset == 0.02
        flow.clock.jump_ns = jump_s * 1_000_000_000
        wait_until(lambda: flow.onset == 0.1, timeout_s=2.0)


def test_a_clock_that_is_set_makes_nothing_old(server: PolicyServer, tmp_path: Path) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, refresh=0.1, max_age=60.0) as flow:
        server.fault = lambda _request: Reply(500)
        flow.clock.jump_ns = 3600 * 1_000_000_000
        wait_until(lambda: flow.count("failures") >= 3)
        assert flow.onset == 0.1


def test_without_the_policy_system_for_too_long_the_default_holds_and_an_alarm_tells(
    server: PolicyServer, tmp_path: Path
) -> None:
    server.save("trigger", onset="0.1 Hz/s")
    with running(server, tmp_path, refresh=0.1, max_age=1.0) as flow:
        server.stop()
        wait_until(flow.alarms)
        assert flow.onset == 0.02
        assert "no contact with the policy system since" in flow.alarms()[0]
        assert "longer than 1 s: defaults hold" in flow.alarms()[0]
        server.start()
        wait_until(lambda: flow.onset == 0.1)
        assert len(flow.alarms()) == 1
