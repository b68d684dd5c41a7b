"""A simulated network in a thread, over real HTTP, with the place where its notifications go.

with SimulatedNetwork(tmp_path) as network:
    session = network.post("/quality-on-demand/v1/sessions", {...}, 201)
    network.wait_for_event("qos-status-changed")

Every answer is checked against the published schemas as it comes, every notification at the end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
from broker import wait_until
from certificates import Authority
from http_service import HOST, HttpService, Reply, Request
from network_schemas import Node, check_answer, check_notification, check_request, problems

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.web import bind, serve, url_of
from edgeflex_services.network_simulator.app import make_app
from edgeflex_services.network_simulator.model import Device, Link, Setup
from edgeflex_services.network_simulator.simulation import Simulation

TOKEN = "of-the-network"
SINK_TOKEN = "of-the-sink"
SERVER = "198.51.100.10"
CORRELATOR = "b4333c46-49c0-4f62-80d7-f0ef930f1c46"
CREDENTIAL = {
    "credentialType": "ACCESSTOKEN",
    "accessToken": SINK_TOKEN,
    "accessTokenExpiresUtc": "2099-01-01T00:00:00Z",
    "accessTokenType": "bearer",
}


def some_devices(count: int = 4) -> list[Device]:
    """With numbers from 4915550000001, external ids from pmu1@grid.example and addresses from 10.0.0.1 on."""
    return [
        Device(
            msisdn=f"4915550{number:06d}",
            external_id=f"pmu{number}@grid.example",
            ipv4_address=f"10.0.0.{number}",
            link=Link(
                latency_s=0.04, jitter_s=0.02, loss=0.01, downlink_bit_per_s=2_000_000, uplink_bit_per_s=2_000_000
            ),
        )
        for number in range(1, count + 1)
    ]


def phone(number: int) -> dict[str, str]:
    """How CAMARA names a device of `some_devices`."""
    return {"phoneNumber": f"+4915550{number:06d}"}


def gpsi(number: int) -> str:
    return f"msisdn-4915550{number:06d}"


class Sink(HttpService):
    """Takes all notifications. `says`: what it answers, by path, one after the other; else 204."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.says: dict[str, list[int]] = {}

    def reply_to(self, request: Request) -> Reply:
        self.requests.append(request)
        waiting = self.says.get(request.path, [])
        return Reply(status=waiting.pop(0) if waiting else 204)


class SimulatedNetwork:
    """`simulation` is what is served; look into it only while nothing happens."""

    def __init__(
        self, folder: Path, devices: Sequence[Device] | None = None, *, most_members: int = 1000, **behaviour: Any
    ) -> None:
        authority = Authority(folder)
        self.sink = Sink(tls=authority.issue("sink"))
        setup = Setup(devices=list(some_devices() if devices is None else devices), most_members=most_members)
        self.simulation = Simulation(SystemClock(), setup, seed=1, token=TOKEN, ca=authority.certificate)
        self._behaviour = {"grant_delay_s": 0.01, **behaviour}
        self._stop = threading.Event()

    # Requests -------------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str = "application/json",
        headers: Mapping[str, str] | None = None,
        is_right: bool = True,
        is_listed: bool = True,
    ) -> httpx.Response:
        """`is_right`: the request is as its API has it; `is_listed`: so is the answer's status."""
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        usual = {} if path.startswith("/3gpp-") else {"x-correlator": CORRELATOR}
        given = {**usual, **({} if content is None else {"Content-Type": media}), **(headers or {})}
        answer = self.http.request(method, path, content=content, headers=given)
        sent = answer.request
        split = urlsplit(str(sent.url))
        request = Request(
            method,
            split.path,
            parse_qs(split.query),
            {name.lower(): text for name, text in sent.headers.items()},
            sent.content,
        )
        if is_right:
            check_request(request)
        if is_listed:
            check_answer(request, Reply(answer.status_code, answer.content, dict(answer.headers)))
        else:
            assert set(answer.json()) >= {"status", "code", "message"}
        return answer

    def post(self, path: str, body: Any, status: int, **more: Any) -> Any:
        answer = self.ask("POST", path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def get(self, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.ask("GET", path, **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    def delete(self, path: str, status: int = 204) -> None:
        answer = self.ask("DELETE", path)
        assert answer.status_code == status, answer.text

    def refusal(self, path: str, body: Any, *, method: str = "POST", **more: Any) -> tuple[int, str]:
        """Status and code of an answer to what is asked in vain."""
        answer = self.ask(method, path, body, **more)
        told = answer.json()
        return answer.status_code, told.get("code") or told.get("cause")

    # What happens ---------------------------------------------------------------------------------------------------

    def behave(self, **behaviour: Any) -> None:
        """In place of how it behaved before."""
        self.http.put("/simulation/behaviour", json={"grant_delay_s": 0.01, **behaviour}).raise_for_status()

    def link(self, number: int, *, for_s: float | None = None, **link: Any) -> None:
        """Let a device's link change."""
        body = {"link": link, "for_s": for_s}
        self.http.patch(f"/simulation/devices/{gpsi(number)}", json=body).raise_for_status()

    def advance(self, seconds: float) -> None:
        self.http.post("/simulation/advance", json={"seconds": seconds}).raise_for_status()

    def everything(self) -> dict[str, Any]:
        told: dict[str, Any] = self.http.get("/simulation").raise_for_status().json()
        return told

    # Notifications --------------------------------------------------------------------------------------------------

    def events(self, kind: str = "", path: str | None = None) -> list[dict[str, Any]]:
        """CloudEvents of a type that ends so, and what they were told with, in the order in which they came."""
        bodies = [each.json for each in list(self.sink.requests) if path in (None, each.path)]
        return [each for each in bodies if str(each.get("type", "")).endswith(kind) and "type" in each]

    def wait_for_event(self, kind: str, count: int = 1, path: str | None = None) -> list[dict[str, Any]]:
        """Data of the events of a type, once there are so many."""
        wait_until(lambda: len(self.events(kind, path)) >= count)
        return [each["data"] for each in self.events(kind, path)]

    def reports(self, path: str) -> list[dict[str, Any]]:
        """Notifications of the Network Exposure Function to a path."""
        return [each.json for each in self.sink.of(path)]

    def wait_for_report(self, path: str, event: str) -> dict[str, Any]:
        """The first notification to a path that tells of an event."""
        wait_until(lambda: any(event in json.dumps(each) for each in self.reports(path)))
        return next(each for each in self.reports(path) if event in json.dumps(each))

    def is_quiet(self) -> bool:
        """Whether all that was to be told was told."""
        return bool(self.everything()["notifications"]["waiting"] == 0)

    def where(self, path: str) -> str:
        """The url of a path of the sink."""
        return f"{self.sink.url}{path}"

    # Life -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        listening = bind(HOST, 0)
        self.url = url_of(HOST, listening, None)
        started = threading.Event()
        self._thread = threading.Thread(
            target=serve, args=(make_app(self.simulation), listening, self._stop), kwargs={"on_start": started.set}
        )
        self._thread.start()
        assert started.wait(20.0)
        self.sink.start()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=20.0)
        self.behave(**self._behaviour)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.http.close()
        self._stop.set()
        self._thread.join(20.0)
        self.sink.stop()
        if kind is None:
            for each in self.sink.requests:
                check_told(each)


def check_told(request: Request) -> None:
    """That a notification is as its API has it."""
    told = request.json
    if str(told.get("type", "")).startswith("org.camaraproject."):
        file = f"{told['type'].split('.')[2]}.json"
        check_notification(file, request.headers["content-type"], request.body)
    elif set(told) == {"subscription"}:
        schema = Node("TS29122_CommonData.json", {"$ref": "#/components/schemas/TestNotification"})
        assert not problems(schema, told)
    else:
        file = "TS29122_AsSessionWithQoS.json" if "transaction" in told else "TS29122_MonitoringEvent.json"
        check_notification(file, request.headers["content-type"], request.body)
