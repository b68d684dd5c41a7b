"""Qualities of links that are asked for and given back, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from broker import free_port, wait_until
from http_service import Reply, json_reply
from link_services import BASE, LinkService, gpsi_of

from edgeflex_connectors import link_qos, rest
from edgeflex_connectors.link_qos import LinkQos, LinkQosConfig
from edgeflex_connectors.rest import RestConfig
from edgeflex_connectors.rest_auth import Bearer
from edgeflex_flow.messages import Alarm, LinkQosRequest
from edgeflex_flow.node import Context, OpenConnection
from edgeflex_flow.units import NS_PER_S

if TYPE_CHECKING:
    from conftest import ContextMaker

FULL = {"code": "CONFLICT", "text": "the cell is full", "status": 409}


def wish(action: Any = "raise", device: str = "A", profile: str | None = "QOS_S", age_s: float = 0.0) -> LinkQosRequest:
    return LinkQosRequest(
        device=device,
        action=action,
        profile=profile if action == "raise" else None,
        reason="latency 350 ms, budget 200 ms",
        time_ns=time.time_ns() - round(age_s * NS_PER_S),
        valid_for_s=30.0,
    )


@contextmanager
def sink(
    make_context: ContextMaker, url: str, connection: dict[str, Any] | None = None, **fields: Any
) -> Iterator[tuple[LinkQos, Context]]:
    config = RestConfig(url=url, **{"connect_timeout": 2.0, "read_timeout": 2.0, **(connection or {})})
    context = make_context("qos", connections={"api": OpenConnection("devices", rest.NODE, config)})
    settings = {
        "api": "devices",
        "owner": "yard",
        "server_ipv4": "198.51.100.10",
        "server_ports": (4713,),
        "retry_min": 0.01,
        "retry_max": 0.02,
        **fields,
    }
    opened = link_qos.NODE.open(LinkQosConfig(**settings), context)
    assert isinstance(opened, LinkQos)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


def put(device: str = "A", profile: str = "QOS_S", duration_s: int = 3600) -> tuple[str, str, Any]:
    body = {"profile": profile, "server_ipv4": "198.51.100.10", "server_ports": [4713], "duration_s": duration_s}
    return "PUT", f"/devices/{gpsi_of(device)}/qos", body


DELETED = ("DELETE", f"/devices/{gpsi_of('A')}/qos", None)


def test_a_quality_is_asked_for_by_the_name_of_the_device_and_given_back(make_context: ContextMaker) -> None:
    with LinkService("A", "B") as service, sink(make_context, service.url) as (send, context):
        send.write(
            [wish(), Alarm(source="guard", severity="info", text="x", time_ns=1), wish(device="B", profile="QOS_M")]
        )
        assert send.flush(10.0)
        send.write([wish("release")])
        assert send.flush(10.0)
        assert service.changes() == [put(), put("B", "QOS_M"), DELETED]
        assert context.counters.get("sent") == 3
        assert {name: each["state"] for name, each in service.qos.items()} == {
            gpsi_of("A"): "ended",
            gpsi_of("B"): "available",
        }
        lookups = [each.query for each in service.of(f"{BASE}/devices")]
        assert lookups == [{"owner": ["yard"], "name": [name]} for name in ("A", "B")]
        keys = [each.headers["idempotency-key"] for each in service.requests if each.method != "GET"]
        assert len(set(keys)) == 3
    assert make_context.dead_letters == []


def test_a_request_is_tried_again_under_the_same_key_until_it_is_answered(make_context: ContextMaker) -> None:
    path = f"{BASE}/devices/extid-a%40grid.example/qos"
    with LinkService("A") as service, sink(make_context, service.url, {"read_timeout": 0.2}) as (send, context):
        service.answers(
            path, Reply(503), Reply(cut_after=1, body=b"xxxx"), Reply(hangs=True), Reply(429), Reply(409), Reply(503)
        )
        send.write([wish()])
        wait_until(lambda: len(service.of(path)) >= 6)
        service._replies.clear()
        assert send.flush(10.0)
        assert context.counters.get("sent") == 1
        assert len({each.headers["idempotency-key"] for each in service.of(path)}) == 1


def test_what_the_network_did_not_answer_is_asked_again_under_another_key(make_context: ContextMaker) -> None:
    reasons = [{"code": "NO_ANSWER", "text": "timed out", "status": None}] * 2
    with LinkService("A") as service, sink(make_context, service.url) as (send, context):
        service.network = lambda _gpsi, _wanted: reasons.pop() if reasons else None
        send.write([wish()])
        assert send.flush(10.0)
        keys = [each.headers["idempotency-key"] for each in service.requests if each.method == "PUT"]
        assert (len(keys), len(set(keys))) == (3, 3)
        assert context.counters.get("retries") == 2
    assert make_context.dead_letters == []


def test_a_refusal_is_a_dead_letter_with_the_reason_of_the_network(make_context: ContextMaker) -> None:
    with LinkService("A") as service, sink(make_context, service.url) as (send, _):
        service.network = lambda _gpsi, _wanted: FULL
        send.write([wish()])
        assert send.flush(10.0)
        assert len(service.changes()) == 1
    [(reason, text, payload)] = make_context.dead_letters
    assert (reason, text) == ("refused", "devices: raise 'A' to QOS_S: the network refuses: CONFLICT: the cell is full")
    assert json.loads(payload)["type"] == "link_qos_request"


def test_what_goes_on_is_followed_to_its_end_while_others_are_asked_for(make_context: ContextMaker) -> None:
    with LinkService("A", "B", "C") as service, sink(make_context, service.url) as (send, context):
        service.slow = True
        send.write([wish(), wish(device="B")])
        wait_until(lambda: len(service.operations) == 2)
        service.slow = False
        send.write([wish(device="C")])
        wait_until(lambda: context.counters.get("sent") == 1)
        assert not send.flush(0.05)
        service.network = lambda gpsi, _wanted: FULL if gpsi == gpsi_of("B") else None
        service.finish()
        assert send.flush(10.0)
        assert context.counters.get("sent") == 2
        assert len(service.changes()) == 3
    assert [each[0] for each in make_context.dead_letters] == ["refused"]


def test_an_operation_that_the_service_has_lost_is_asked_for_again(make_context: ContextMaker) -> None:
    with LinkService("A") as service, sink(make_context, service.url) as (send, context):
        service.slow = True
        send.write([wish()])
        wait_until(lambda: service.operations)
        service.slow = False
        service.operations.clear()
        assert send.flush(10.0)
        assert context.counters.get("sent") == 1


def test_a_request_is_never_sent_late(make_context: ContextMaker) -> None:
    service = LinkService("A", "B")
    service.port = free_port()
    with sink(make_context, service.url) as (send, context):
        send.write([wish(age_s=31.0)])
        assert context.counters.get("expired") == 1
        send.write([wish(age_s=29.7)])
        wait_until(lambda: context.counters.get("expired") == 2)
        with service:
            send.write([wish(device="B")])
            assert send.flush(10.0)
            assert service.changes() == [put("B")]
    assert make_context.failures == []


def test_the_newest_request_for_a_device_counts(make_context: ContextMaker) -> None:
    service = LinkService("A")
    service.port = free_port()
    with sink(make_context, service.url) as (send, context):
        send.write([wish(), wish(profile="QOS_M")])
        wait_until(lambda: context.counters.get("retries") >= 1)
        send.write([wish("release")])
        with service:
            assert send.flush(10.0)
            assert service.changes()[-1] == DELETED
            assert [each for each in service.changes() if each[0] == "PUT"] == []
        assert context.counters.get("superseded") == 2


def test_the_oldest_requests_drop_first(make_context: ContextMaker) -> None:
    with sink(make_context, f"http://127.0.0.1:{free_port()}", queue=2) as (send, context):
        send.write([wish(device=name) for name in "ABCD"])
        assert context.counters.get("overflow") == 2
        assert list(send._jobs) == ["C", "D"]
        send.close()
        assert context.counters.get("lost") == 2


def test_what_runs_is_made_longer_until_it_is_given_back(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_qos, "RENEWED_AFTER", 0.02)
    with LinkService("A", "B") as service, sink(make_context, service.url, duration=10.0) as (send, context):
        send.write([wish(), wish(device="B")])
        wait_until(lambda: context.counters.get("renewed") >= 4)
        send.write([wish("release"), wish(device="B", profile="QOS_M")])
        assert send.flush(10.0)
        renewed = context.counters.get("renewed")
        wait_until(lambda: context.counters.get("renewed") >= renewed + 3)
        changes = service.changes()
        assert put(duration_s=10) not in changes[changes.index(DELETED) :]
        assert put("B", duration_s=10) not in changes[changes.index(put("B", "QOS_M", 10)) :]
        assert service.qos[gpsi_of("B")]["profile"] == "QOS_M"
    assert make_context.dead_letters == []


def test_what_is_refused_leaves_what_runs_and_goes_on_to_make_it_longer(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_qos, "RENEWED_AFTER", 0.02)
    with LinkService("A") as service, sink(make_context, service.url, duration=10.0) as (send, context):
        service.network = lambda _gpsi, wanted: FULL if wanted and wanted["profile"] == "QOS_M" else None
        send.write([wish()])
        assert send.flush(10.0)
        send.write([wish(profile="QOS_M")])
        assert send.flush(10.0)
        renewed = context.counters.get("renewed")
        wait_until(lambda: context.counters.get("renewed") >= renewed + 2)
        assert service.changes()[-1] == put(duration_s=10)


def test_what_is_not_made_longer_is_told(
    make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link_qos, "RENEWED_AFTER", 0.01)
    with LinkService("A", "B") as service, sink(make_context, service.url, duration=10.0) as (send, context):
        send.write([wish(), wish(device="B")])
        assert send.flush(10.0)
        service.network = lambda gpsi, _wanted: FULL if gpsi == gpsi_of("A") else None
        wait_until(lambda: context.counters.get("refused") == 1)
        for job in send._renewals.values():
            job.until_s = time.monotonic() - 1.0
        wait_until(lambda: context.counters.get("lapsed") == 1)
        assert send._renewals == {}
    assert "QOS_S of 'B' could not be made longer in time" in caplog.text
    assert make_context.dead_letters[0][1].endswith("the network refuses: CONFLICT: the cell is full")


def test_a_device_that_nobody_knows_is_a_dead_letter_and_one_that_got_another_number_is_found(
    make_context: ContextMaker,
) -> None:
    with LinkService("A") as service, sink(make_context, service.url) as (send, context):
        send.write([wish(), wish(device="stranger")])
        assert send.flush(10.0)
        assert [each[0] for each in make_context.dead_letters] == ["unknown_device"]
        assert "group 'yard' has no device of that name" in make_context.dead_letters[0][1]
        link = service.links.pop(gpsi_of("A"))
        service.links["msisdn-491700000"] = {**link, "gpsi": "msisdn-491700000"}
        send.write([wish(profile="QOS_M")])
        assert send.flush(10.0)
        assert service.changes()[-1][1] == "/devices/msisdn-491700000/qos"
        assert context.counters.get("sent") == 2


def test_a_number_that_is_no_gpsi_becomes_no_path(make_context: ContextMaker) -> None:
    with LinkService("A") as service, sink(make_context, service.url) as (send, _):
        service.answers(
            f"{BASE}/devices", json_reply({"devices": [{"gpsi": "extid-../../policies", "name": "A"}], "after": None})
        )
        send.write([wish()])
        assert send.flush(10.0)
        assert service.changes() == []
    assert make_context.dead_letters[0][0] == "unclear"


def test_no_rights_are_waited_for_while_the_request_is_valid(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{BASE}/devices/extid-a%40grid.example/qos"
    with LinkService("A") as service:
        service.answers(path, Reply(401), Reply(403, b"for hunter22"), Reply(403))
        with sink(make_context, service.url, {"auth": Bearer(token="hunter22")}) as (send, context):
            send.write([wish()])
            wait_until(lambda: context.counters.get("retries") >= 3)
            service._replies.clear()
            assert send.flush(10.0)
            assert context.counters.get("sent") == 1
    assert "was it taken back, or is it for another service?" in caplog.messages[0]
    assert "hunter22" not in caplog.text


def test_answers_that_cannot_be_read_are_told(make_context: ContextMaker) -> None:
    path = f"{BASE}/devices/extid-a%40grid.example/qos"
    with LinkService("A") as service, sink(make_context, service.url) as (send, _):
        service.answers(path, Reply(body=b"<html>"))
        send.write([wish()])
        assert send.flush(10.0)
        service.answers(path, Reply(400, b"what?"))
        send.write([wish()])
        assert send.flush(10.0)
    unclear, refused = make_context.dead_letters
    assert unclear[0] == "unclear"
    assert "not what the device management answers" in unclear[1]
    assert refused[:2] == ("refused", "devices: raise 'A' to QOS_S: 400 Bad Request: what?")


def test_a_service_that_is_away_holds_up_nothing(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    with sink(make_context, f"http://127.0.0.1:{free_port()}") as (send, context):
        began_s = time.monotonic()
        send.write([wish(device=f"D{number}") for number in range(1000)])
        assert time.monotonic() - began_s < 1.0
        wait_until(lambda: context.counters.get("retries") >= 10)
        assert context.gauges.read() == {"connected": 0.0, "queue_messages": 1000.0}
    assert len(caplog.messages) < 20
    assert make_context.failures == []


def test_closing_does_not_wait_for_an_answer(make_context: ContextMaker) -> None:
    with LinkService("A") as service:
        service.answers(f"{BASE}/devices", Reply(hangs=True))
        with sink(make_context, service.url, {"read_timeout": 600.0, "request_timeout": 3600.0}) as (send, context):
            send.write([wish()])
            wait_until(lambda: service.of(f"{BASE}/devices"))
            closing_s = time.monotonic()
            send.close()
            assert time.monotonic() - closing_s < 1.5
            assert context.counters.get("lost") == 1
        assert "rest qos" not in {each.name for each in threading.enumerate()}
