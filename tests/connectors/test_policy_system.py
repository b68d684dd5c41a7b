from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import free_port, wait_until
from http_service import Reply
from hypothesis import given
from hypothesis import strategies as st
from policy_server import GROUP, PolicyServer, decoded

from edgeflex_connectors import policy_read, policy_system
from edgeflex_connectors.policy_read import PolicyRead, PolicyReadConfig
from edgeflex_connectors.policy_system import POLICIES_PATH, encoded, read_answer
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.messages import Policy
from edgeflex_flow.policy import PolicyEffect, PolicySystemError

if TYPE_CHECKING:
    from conftest import ContextMaker


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PolicyServer]:
    with PolicyServer(tmp_path) as made:
        yield made


@given(st.text())
def test_ids_come_back_from_the_wire(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    assert decoded(encoded(text)) == text
    assert not set(encoded(text)) & set("+/=")


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["policies", "policy_id", "fields", "version", "type"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_an_answer_is_read_or_refused_and_nothing_else(body: bytes) -> None:
    try:
        assert read_answer(body, "", GROUP).policies == ()
    except PolicySystemError:
        return


def test_the_newest_of_one_policy_counts(server: PolicyServer) -> None:
    policy = {"type": "policy", "policy_id": "a", "policy_group": GROUP, "policy_kind": "trigger", "fields": {}}
    body = json.dumps({"policies": [{**policy, "version": version} for version in (2, 3, 1)]}).encode()
    (found,) = read_answer(body, "", GROUP).policies
    assert found.version == 3


def test_trying_it_says_how_many_policies_there_are(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("a")
    server.save("b")
    found = policy_system.probe(server.config(), make_context("policies"))
    assert found.peer == f"2 policies of group '{GROUP}'"


def test_trying_it_says_what_is_wrong(server: PolicyServer, make_context: ContextMaker) -> None:
    server.fault = lambda _request: Reply(401)
    with pytest.raises(FatalError, match="401"):
        policy_system.probe(server.config(), make_context("policies"))
    server.fault = lambda _request: Reply(500)
    with pytest.raises(RetryableError, match="500"):
        policy_system.probe(server.config(), make_context("policies"))
    server.port = free_port()
    with pytest.raises(RetryableError, match="connection refused"):
        policy_system.probe(server.config(), make_context("policies"))


def test_more_ids_than_an_url_holds_are_asked_for_by_their_group(
    server: PolicyServer, make_context: ContextMaker
) -> None:
    server.save("a")
    system = policy_system.open_system(server.config(), make_context("policies"))
    try:
        answer = system.ask([f"policy_{number}" for number in range(400)], "")
    finally:
        system.close()
    assert answer is not None
    assert [each.policy_id for each in answer.policies] == ["a"]
    assert set(server.requests[0].query) == {"policy_group"}


def test_a_report_that_is_refused_for_good_is_told_apart(server: PolicyServer, make_context: ContextMaker) -> None:
    effect = PolicyEffect(
        policy_group=GROUP,
        policy_id="a",
        version=1,
        site="s",
        flow="f",
        node="n",
        setting="x",
        before="1",
        after="2",
        refused=None,
        time_ns=0,
    )
    system = policy_system.open_system(server.config(), make_context("policies"))
    try:
        for status, is_final in ((400, True), (403, True), (413, True), (401, False), (429, False), (503, False)):
            server.fault = lambda _request, status=status: Reply(status)
            with pytest.raises(PolicySystemError) as refused:
                system.report([effect])
            assert refused.value.is_final == is_final
    finally:
        system.close()


# policy_read ----------------------------------------------------------------------------------------------------------


class Reading:
    """An open `policy_read`, and all that it gave."""

    def __init__(self, server: PolicyServer, make_context: ContextMaker, ids: Sequence[str] = (), **more: Any) -> None:
        context = make_context("in", connections={"policies": server.connection(**more)})
        source = policy_read.NODE.open(PolicyReadConfig(policies="policies", ids=tuple(ids)), context)
        assert isinstance(source, PolicyRead)
        self.source, self.context = source, context
        self.given: list[Policy] = []

    def newest(self, name: str) -> Policy | None:
        self.given.extend(each for each in self.source.poll() if isinstance(each, Policy))
        return next((each for each in reversed(self.given) if each.policy_id == name), None)

    def wait_for(self, name: str, **fields: Any) -> Policy:
        wait_until(lambda: (found := self.newest(name)) is not None and found.fields == fields)
        found = self.newest(name)
        assert found is not None
        return found

    def __enter__(self) -> Reading:
        self.source.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()


def test_policies_come_at_start_and_when_their_version_changes(
    server: PolicyServer, make_context: ContextMaker
) -> None:
    server.save("a", x=1)
    server.save("b", x=2)
    with Reading(server, make_context) as reading:
        assert reading.wait_for("a", x=1).version == 1
        reading.wait_for("b", x=2)
        server.save("a", x=3)
        assert reading.wait_for("a", x=3).version == 2
        wait_until(lambda: server.not_modified >= 2)
        reading.newest("a")
        assert [(each.policy_id, each.version) for each in reading.given] == [("a", 1), ("b", 1), ("a", 2)]


def test_only_the_policies_that_are_named_come(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("a", x=1)
    server.save("b", x=2)
    with Reading(server, make_context, ["b"]) as reading:
        reading.wait_for("b", x=2)
        assert {each.policy_id for each in reading.given} == {"b"}


def test_a_withdrawn_policy_comes_once_more_without_fields(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("a", x=1)
    with Reading(server, make_context) as reading:
        reading.wait_for("a", x=1)
        server.withdraw("a")
        gone = reading.wait_for("a")
        assert gone.valid_until_ns is not None
        assert abs(gone.valid_until_ns - SystemClock().now_ns()) < 5e9
        server.save("a", x=1)
        reading.wait_for("a", x=1)


def test_a_policy_comes_when_its_time_begins_and_goes_when_it_ends(
    server: PolicyServer, make_context: ContextMaker
) -> None:
    now_ns = SystemClock().now_ns()
    server.save("a", x=1, valid_from_ns=now_ns + 1_500_000_000, valid_until_ns=now_ns + 2_500_000_000)
    with Reading(server, make_context, refresh=60.0) as reading:
        wait_until(lambda: server.asked_s)
        assert reading.newest("a") is None
        reading.wait_for("a", x=1)
        reading.wait_for("a")


def test_what_comes_from_disk_says_so_until_the_policy_system_answers(
    server: PolicyServer, make_context: ContextMaker
) -> None:
    server.save("a", x=1)
    with Reading(server, make_context, keep="keep") as reading:
        assert reading.wait_for("a", x=1).last_contact_ns is None
    server.stop()
    with Reading(server, make_context, keep="keep") as reading:
        kept = reading.wait_for("a", x=1)
        assert kept.last_contact_ns is not None
        server.start()
        wait_until(lambda: (found := reading.newest("a")) is not None and found.last_contact_ns is None)
        assert [each.fields for each in reading.given] == [{"x": 1}, {"x": 1}]


def test_policies_that_are_too_old_go(server: PolicyServer, make_context: ContextMaker) -> None:
    server.save("a", x=1)
    with Reading(server, make_context, max_age=1.0) as reading:
        reading.wait_for("a", x=1)
        server.stop()
        reading.wait_for("a")


def test_closing_does_not_wait_for_a_policy_system_that_hangs(server: PolicyServer, make_context: ContextMaker) -> None:
    server.fault = lambda _request: Reply(hangs=True)
    with Reading(server, make_context, read_timeout=30.0, request_timeout=30.0) as reading:
        wait_until(lambda: server.of(POLICIES_PATH))
        began_s = SystemClock().monotonic_ns()
        reading.source.close()
        assert SystemClock().monotonic_ns() - began_s < 1.5e9
