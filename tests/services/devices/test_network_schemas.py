"""What checks the back ends is itself checked: a validator that finds nothing proves nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_service import HOST, Reply, Request, json_reply
from network_schemas import check_answer, check_notification, check_request

SESSION = "b69e5404-3871-448d-8f9f-11dc5d29a4c8"
QOD = "/quality-on-demand/v1/sessions"
LAN = "/3gpp-5glan-pp/v1/grid/subscriptions/1"
MERGE_PATCH = {"content-type": "application/merge-patch+json"}
CREDENTIAL = {
    "credentialType": "ACCESSTOKEN",
    "accessToken": "t",
    "accessTokenExpiresUtc": "2030-01-01T00:00:00Z",
    "accessTokenType": "bearer",
}
CREATE: dict[str, Any] = {
    "device": {"phoneNumber": "+491701234567"},
    "applicationServer": {"ipv4Address": "198.51.100.10"},
    "qosProfile": "QOS_L",
    "duration": 60,
    "sink": "https://dso.example/1",
    "sinkCredential": CREDENTIAL,
}
INFO = {**{name: CREATE[name] for name in ("applicationServer", "qosProfile", "duration")}, "sessionId": SESSION}


def asked(
    method: str,
    path: str,
    body: Any = None,
    *,
    query: dict[str, list[str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Request:
    usual = {"host": HOST} if body is None else {"host": HOST, "content-type": "application/json"}
    content = b"" if body is None else json.dumps(body).encode()
    return Request(method, path, query or {}, {**usual, **(headers or {})}, content)


def create(**changes: Any) -> Request:
    return asked("POST", QOD, {**CREATE, **changes})


def test_what_is_right_passes() -> None:
    check_request(create())
    check_answer(create(), json_reply({**INFO, "qosStatus": "REQUESTED"}, 201))
    check_answer(create(), json_reply({"status": 409, "code": "CONFLICT", "message": ""}, 409))
    check_request(asked("DELETE", f"{QOD}/{SESSION}"))
    check_answer(asked("DELETE", f"{QOD}/{SESSION}"), Reply(204))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (asked("POST", "/quality-on-demand/v2/sessions", CREATE), "no API has"),
        (asked("POST", f"{QOD}/a/b/c", CREATE), "has no path"),
        (asked("PUT", QOD, CREATE), "no PUT"),
        (asked("GET", f"{QOD}/no-uuid"), "path sessionId"),
        (asked("POST", QOD), "Content-Type"),
        (asked("DELETE", f"{QOD}/{SESSION}", {}), "a body where none belongs"),
        (asked("POST", QOD, CREATE, query={"page": ["1"]}), "unknown in query"),
        (asked("GET", "/dedicated-network-accesses/v0.2rc1/accesses", query={"perPage": ["500"]}), "query perPage"),
        (asked("GET", f"{QOD}/{SESSION}", headers={"x-correlator": "a b"}), "header x-correlator"),
        (asked("GET", f"{QOD}/{SESSION}", headers={"x-other": "a"}), "unknown in header"),
        (create(duration=0), "less than the minimum"),
        (create(sink="http://dso.example"), "does not match"),
        (create(qos="L"), r"\$\.qos: no schema has this property"),
        (create(device={"msisdn": "1"}), r"\$\.device\.msisdn: no schema"),
        (create(sinkCredential={"credentialType": "ACCESSTOKEN"}), "'accessToken' is a required property"),
        (create(sinkCredential={**CREDENTIAL, "accessTokenExpiresUtc": "2030-01-01"}), "is not a 'date-time'"),
        (create(sinkCredential={**CREDENTIAL, "refreshToken": "r"}), r"sinkCredential\.refreshToken: no schema"),
        (asked("PATCH", LAN, {"5gLanParams": {}}, headers=MERGE_PATCH), "5gLanParams: no schema"),
        (
            asked("PATCH", LAN, {"5gLanParamsPatch": {"gpsis": {"a": ""}}}, headers=MERGE_PATCH),
            "is not valid under any",
        ),
        (
            asked(
                "GET",
                "/3gpp-as-session-with-qos/v1/grid/subscriptions",
                query={"ip-addrs": ['[{"ipv4Addr": "10.0.0.256"}]']},
            ),
            "query ip-addrs",
        ),
    ],
)
def test_request_that_is_wrong_is_found(wrong: Request, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_request(wrong)


def test_null_takes_a_member_out_where_the_standard_lets_it() -> None:
    check_request(asked("PATCH", LAN, {"5gLanParamsPatch": {"gpsis": {"a": None}}}, headers=MERGE_PATCH))


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (json_reply(INFO, 201), "'qosStatus' is a required property"),
        (json_reply({**INFO, "qosStatus": "AVAILABLE"}, 200), "is no answer of it"),
        (json_reply({**INFO, "qosStatus": "AVAILABLE", "state": 1}, 201), "state: no schema"),
        (json_reply({"status": 409, "code": "ALREADY_THERE", "message": ""}, 409), "is not one of"),
        (Reply(201, b"{}", {"Content-Type": "text/html"}), "Content-Type 'text/html'"),
    ],
)
def test_answer_that_is_wrong_is_found(reply: Reply, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_answer(create(), reply)


def test_answer_without_a_header_that_it_must_have_is_found() -> None:
    access = {"id": SESSION, "networkId": SESSION, "stats": {"totalDevices": 0, "totalGranted": 0, "totalDenied": 0}}
    with pytest.raises(AssertionError, match="header Location: is missing"):
        check_answer(asked("POST", "/dedicated-network-accesses/v0.2rc1/accesses"), json_reply(access, 201))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": {"sessionId": SESSION, "qosStatus": "REQUESTED"}}, "is not one of"),
        ({"data": {"sessionId": SESSION, "qosStatus": "AVAILABLE", "why": 1}}, r"data\.why: no schema"),
        ({"type": "org.camaraproject.quality-on-demand.v2.qos-status-changed"}, "is not one of"),
    ],
)
def test_concrete_schema_of_a_notification_is_looked_at(changes: dict[str, Any], complaint: str) -> None:
    event = {
        "id": "1",
        "source": "https://network.example",
        "specversion": "1.0",
        "type": "org.camaraproject.quality-on-demand.v1.qos-status-changed",
        "time": "2026-01-01T12:00:00Z",
        "data": {"sessionId": SESSION, "qosStatus": "AVAILABLE"},
    }
    media = "application/cloudevents+json"
    check_notification("quality-on-demand.json", media, json.dumps(event).encode())
    with pytest.raises(AssertionError, match=complaint):
        check_notification("quality-on-demand.json", media, json.dumps({**event, **changes}).encode())
