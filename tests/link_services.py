"""A device management for tests: real HTTP, answers of the shapes of `edgeflex serve devices`, scripted by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from http_service import HttpService, Reply, Request, json_reply

BASE = "/api/v1"
Network = Callable[[str, "dict[str, Any] | None"], "dict[str, Any] | None"]
"""Says for a GPSI and the quality that it is to have (None: none) why that is refused; None: it is not."""


def takes_all(_gpsi: str, _wanted: dict[str, Any] | None) -> None:
    return None


class LinkService(HttpService):
    """Devices, their links and qualities. Each change of a link counts up `seq` and ends the waits of those who ask."""

    def __init__(self, *names: str, owner: str = "yard") -> None:
        super().__init__()
        self.owner = owner
        self.links: dict[str, dict[str, Any]] = {}
        """By GPSI; those of all devices, also of which nothing is known yet (`seq` 0)."""
        self.qos: dict[str, dict[str, Any]] = {}
        self.watches: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.seq = 0
        self.network: Network = takes_all
        self.slow = False
        """Whether operations are not over when they are answered, until `finish`."""
        self.page = 1000
        self._waiting: list[tuple[dict[str, Any], str, str, dict[str, Any] | None]] = []
        self._changed = threading.Condition()
        for name in names:
            self.add(name)

    def add(self, name: str) -> str:
        gpsi = gpsi_of(name)
        self.links[gpsi] = {"gpsi": gpsi, "name": name, "owner": self.owner, "seq": 0, "readings": {}, "watched": []}
        return gpsi

    def tell(self, name: str, **readings: Any) -> None:
        """The network says this of a link: `latency=0.2`, or a whole reading."""
        units = {"latency": "s", "jitter": "s", "loss": "1", "downlink": "bit/s", "uplink": "bit/s", "signal": "dBm"}
        whole = {
            key: value if isinstance(value, dict) else {"value": value, "unit": units.get(key, "")}
            for key, value in readings.items()
        }
        link = self.links[gpsi_of(name)]
        link["readings"] = {**link["readings"], **whole}
        link["time_ns"] = time.time_ns()
        self._count(link)

    def set_qos(self, name: str, profile: str, state: str, **more: Any) -> None:
        """The quality of a link is in this state now."""
        self._set_qos(gpsi_of(name), profile, state, **more)

    def _set_qos(self, gpsi: str, profile: str, state: str, **more: Any) -> None:
        self.qos[gpsi] = {
            "profile": profile,
            "server_ipv4": "198.51.100.10",
            "server_ports": [],
            "state": state,
            "started_ns": None,
            "expires_ns": None,
            "confirmed_ns": time.time_ns(),
            **more,
        }
        link = self.links[gpsi]
        link.setdefault("time_ns", time.time_ns())
        self._count(link)

    def _count(self, link: dict[str, Any]) -> None:
        with self._changed:
            self.seq += 1
            link["seq"] = self.seq
            self._changed.notify_all()

    def changes(self) -> list[tuple[str, str, Any]]:
        """What was asked to be changed: method, path without its base, body."""
        return [
            (each.method, unquote(each.path.removeprefix(BASE)), each.json if each.body else None)
            for each in list(self.requests)
            if each.method != "GET"
        ]

    def reply_to(self, request: Request) -> Reply:
        path = unquote(request.path.removeprefix(BASE))
        if request.path in self._scripts or self._replies.get(request.path):
            return super().reply_to(request)
        self.requests.append(request)
        parts = path.strip("/").split("/")
        if path == "/links":
            return self._links(request)
        if path == "/devices":
            return self._devices(request)
        if parts[0] == "operations" and parts[-1] in self.operations:
            return json_reply(self.operations[parts[-1]])
        if len(parts) == 3 and parts[0] == "devices" and parts[1] in self.links:
            return self._change(request, parts[1], parts[2])
        return json_reply({"title": "Not Found", "status": 404, "detail": "there is no such thing"}, 404)

    def _links(self, request: Request) -> Reply:
        [since], [owner], [wait] = (request.query[name] for name in ("since", "owner", "wait_s"))
        assert owner == self.owner

        def found() -> list[dict[str, Any]]:
            return [self._told(each) for each in self.links.values() if each["seq"] > int(since)]

        with self._changed:
            self._changed.wait_for(lambda: self.stopping.is_set() or found(), float(wait))
            return json_reply({"seq": self.seq, "links": sorted(found(), key=lambda each: each["seq"])})

    def stop(self) -> None:
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()
        super().stop()

    def _told(self, link: dict[str, Any]) -> dict[str, Any]:
        qos = self.qos.get(link["gpsi"])
        return link if qos is None else {**link, "qos": qos}

    def _devices(self, request: Request) -> Reply:
        [name], [after] = (request.query.get(key, [""]) for key in ("name", "after"))
        found = [
            {"gpsi": each["gpsi"], "name": each["name"], "owner": self.owner, "state": "onboarded", "updated_ns": 1}
            for each in sorted(self.links.values(), key=lambda each: each["gpsi"])
            if name in ("", each["name"]) and each["gpsi"] > after
        ]
        more = found[self.page - 1]["gpsi"] if len(found) > self.page else None
        return json_reply({"devices": found[: self.page], "after": more})

    def _change(self, request: Request, gpsi: str, what: str) -> Reply:
        wanted = request.json if request.method == "PUT" else None
        number = f"{len(self.operations):08x}"
        operation = {
            "id": number,
            "kind": f"{'set' if wanted else 'end'}_{what}",
            "target": gpsi,
            "owner": self.owner,
            "requested_by": "site",
            "state": "running",
            "created_ns": 1,
            "results": [],
        }
        self.operations[number] = operation
        if not self.slow:
            self._carry_out(operation, gpsi, what, wanted)
            return self._answer(operation)
        self._waiting.append((operation, gpsi, what, wanted))
        return json_reply(operation, 202, Location=f"{BASE}/operations/{number}")

    def finish(self) -> None:
        """Bring to an end what goes on."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._carry_out(*each)

    def _carry_out(self, operation: dict[str, Any], gpsi: str, what: str, wanted: dict[str, Any] | None) -> None:
        reason = self.network(gpsi, wanted) if what == "qos" else None
        if reason is not None:
            operation.update(state="failed", reason=reason, results=[{"gpsi": gpsi, "state": "refused"}])
            return
        operation.update(state="succeeded", results=[{"gpsi": gpsi, "state": "available"}])
        if what == "watch":
            self.watches[gpsi] = wanted or {}
        elif wanted is not None:
            self._set_qos(gpsi, wanted["profile"], "available")
        elif gpsi in self.qos:
            self._set_qos(gpsi, self.qos[gpsi]["profile"], "ended", reason={"code": "DELETE_REQUESTED", "text": ""})

    @staticmethod
    def _answer(operation: dict[str, Any]) -> Reply:
        if operation["state"] == "succeeded":
            return json_reply(operation)
        reason = operation["reason"]
        status = 504 if reason["code"] in ("NO_ANSWER", "NO_NEWS") else 422
        problem = {"title": "", "status": status, "detail": "the network refused it", "network": reason}
        return json_reply({**problem, "operation": operation}, status)


def gpsi_of(name: str) -> str:
    return f"extid-{name.lower().replace(' ', '-')}@grid.example"
