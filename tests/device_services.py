"""A simulated network and the device service beside it, each the program that it is, over real HTTP and TLS.

with DeviceSite(tmp_path, "camara") as site:
    site.onboard("pmu0")
"""

from __future__ import annotations

import hmac
import json
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
from broker import wait_until
from certificates import Authority, KeyPair

from edgeflex_services.broker import free_tcp_port

Standard = Literal["camara", "nef"]
SERVER = "198.51.100.10"
OWNER = "substation_12"
DOMAIN = "grid.example"
START_S = 60.0
TOKEN = "of the network"


class Program:
    """A program that tells lines of JSON; its log is a file."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=file, text=True
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: self._events("started") or self.process.poll() is not None, START_S)
        assert self._events("started"), log.read_text()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def _events(self, name: str) -> list[dict[str, Any]]:
        return [each for each in list(self.lines) if each["event"] == name]

    @property
    def url(self) -> str:
        return str(self._events("started")[0]["url"])

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(30.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(10.0)
            assert self.process.stdout is not None
            self.process.stdout.close()


class DeviceSite:
    """`network` is a client of the simulation, `api` one of the service. Device `pmuN` has the GPSI `gpsi("pmuN")`; one
    more, the `gateway`, is in every 5GLAN group."""

    def __init__(
        self,
        folder: Path,
        standard: Standard = "camara",
        *,
        devices: int = 4,
        options: Sequence[str] = ("--anyone",),
        patience_s: float = 20.0,
        compare_s: float = 2.0,
        tls: bool = True,
        request_timeout_s: float = 20.0,
    ) -> None:
        self.folder = folder
        self.standard = standard
        self._devices, self._options = devices, options
        self._patience_s, self._compare_s, self._tls = patience_s, compare_s, tls
        self._request_timeout_s = request_timeout_s
        self.port = free_tcp_port()
        self._authority = Authority(folder)
        self._pair: KeyPair = self._authority.issue("service")
        self.simulator: Program | None = None
        self.service: Program | None = None

    # Programs -------------------------------------------------------------------------------------------------------

    def start_network(self) -> None:
        arguments = ["--port", "0", "--json", "--devices", str(self._devices + 1), "--token", TOKEN, "--seed", "1"]
        self.simulator = Program(
            "edgeflex_services.network_simulator",
            [*arguments, "--ca", str(self._authority.certificate)],
            self.folder / "network.log",
        )
        self.network = httpx.Client(base_url=self.simulator.url, timeout=30.0)
        *devices, gateway = self.simulation()["devices"]
        self.known = {f"pmu{number}": each for number, each in enumerate(devices)}
        self.gateway = f"msisdn-{gateway['msisdn']}"

    def start_service(self) -> None:
        file = self.folder / "network.yaml"
        file.write_text(json.dumps(self.network_file()))
        arguments = [
            *("--port", str(self.port), "--network", str(file), "--data", str(self.folder / "devices.db")),
            *("--callback-url", self.url, "--patience", str(self._patience_s)),
            *("--compare-every", str(self._compare_s), *self._options),
        ]
        if self._tls:
            arguments += ["--certificate", str(self._pair.certificate), "--key", str(self._pair.key)]
        self.service = Program("edgeflex_services.devices", arguments, self.folder / "service.log")
        self.api = self.client()

    def client(self, token: str | None = None) -> httpx.Client:
        trust = ssl.create_default_context(cafile=self._authority.certificate)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", verify=trust, headers=headers, timeout=60.0)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def network_file(self) -> dict[str, Any]:
        """What the service is told of the network."""
        assert self.simulator is not None
        api: dict[str, Any] = {"url": self.simulator.url, "auth": {"kind": "bearer", "token": TOKEN}}
        api["request_timeout_s"] = self._request_timeout_s
        if self.standard == "nef":
            lan = {"domain": DOMAIN, "dnn": "grid", "snssai": {"sst": 1}, "gateway": self.gateway}
            applications = {"97a498e3-fc92-5c94-8986-0333d06e4e47": ["pmu"]}
            return {"standard": "nef", "api": api, "af_id": "edgeflex", "lan": {**lan, "applications": applications}}
        told = self.simulation()
        profiles = {each["name"]: each["application_profile_id"] for each in told["profiles"]}
        return {
            "standard": "camara",
            "api": api,
            "network_id": told["network_id"],
            "application_profiles": profiles,
        }

    def kill_service(self) -> None:
        assert self.service is not None
        self.api.close()
        self.service.end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start_network()
        self.start_service()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.api.close()
        self.network.close()
        for program in (self.service, self.simulator):
            if program is not None:
                program.end()

    # The network ----------------------------------------------------------------------------------------------------

    def simulation(self) -> dict[str, Any]:
        """What the network really has."""
        told: dict[str, Any] = self.network.get("/simulation").raise_for_status().json()
        return told

    def behave(self, **behaviour: Any) -> None:
        """How the network is to behave from now on."""
        self.network.put("/simulation/behaviour", json=behaviour).raise_for_status()

    def link(self, name: str, **link: Any) -> None:
        """What a device's link gives from now on."""
        self.network.patch(f"/simulation/devices/{self.gpsi(name)}", json={"link": link}).raise_for_status()

    def advance(self, seconds: float) -> None:
        """Let the network's time jump."""
        self.network.post("/simulation/advance", json={"seconds": seconds}).raise_for_status()

    def groups(self) -> dict[str, set[str]]:
        """Of the network: who is in each, by its id there."""
        return {each["id"]: set(each["members"]) - {self.gateway} for each in self.simulation()["groups"]}

    def gpsi(self, name: str) -> str:
        device = self.known[name]
        return f"msisdn-{device['msisdn']}"

    def remove_group(self, ref: str) -> None:
        """Take a group away behind the service's back."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        path = f"/dedicated-network-accesses/v0.2rc1/accesses/{ref}"
        if self.standard == "nef":
            path = f"/3gpp-5glan-pp/v1/edgeflex/subscriptions/{ref}"
        self.network.delete(path, headers=headers).raise_for_status()

    def lose_watch(self, watch: str) -> None:
        """Take a watch away behind the service's back, which is told nothing."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        paths = [f"/3gpp-monitoring-event/v1/edgeflex/subscriptions/{watch}"]
        if self.standard == "camara":
            apis = ("device-reachability-status-subscriptions/v0.9rc1", "connectivity-insights-subscriptions/v0.7rc1")
            paths = [f"/{api}/subscriptions/{watch}" for api in apis]
        self.behave(notify={"lose_share": 1.0})
        assert any(self.network.delete(path, headers=headers).is_success for path in paths)
        self.behave()

    def callback_of(self, name: str) -> str:
        """Where the network tells of the session of a device."""
        with closing(sqlite3.connect(f"file:{self.folder / 'devices.db'}?mode=ro", uri=True)) as book:
            [[entry]] = book.execute("SELECT entry FROM entries WHERE kind = 'qos' AND key = ?", (self.gpsi(name),))
        return str(json.loads(entry)["callback"])

    def tell(self, name: str, what: Literal["qos", "watch"], body: Mapping[str, Any]) -> httpx.Response:
        """Call the service back as the network does, about the session or the watch of a device."""
        with closing(sqlite3.connect(f"file:{self.folder / 'devices.db'}?mode=ro", uri=True)) as book:
            [[entry]] = book.execute("SELECT entry FROM entries WHERE kind = ? AND key = ?", (what, self.gpsi(name)))
            [[secret]] = book.execute("SELECT value FROM secrets WHERE name = 'callbacks'")
        callback = str(json.loads(entry)["callback"])
        token = hmac.new(secret, callback.encode(), "sha256").hexdigest()
        kind = "application/cloudevents+json" if self.standard == "camara" else "application/json"
        content = json.dumps(body).encode()
        return self.api.post(f"/callbacks/{callback}/{token}", content=content, headers={"Content-Type": kind})

    def counts(self) -> dict[str, int]:
        """What the service counted."""
        told = self.api.get(f"{self.url}/health/ready").raise_for_status().json()
        return dict(told["counts"])

    def sessions(self) -> list[dict[str, Any]]:
        """Of the network, those that are not over."""
        return [each for each in self.simulation()["sessions"] if each["state"] != "ended"]

    def watches(self, name: str) -> list[dict[str, Any]]:
        """Of the network, those of a device that are not over."""
        every = self.simulation()["watches"]
        return [each for each in every if each["gpsi"] == self.gpsi(name) and each["state"] != "ended"]

    # The service ----------------------------------------------------------------------------------------------------

    def onboard(self, *names: str, owner: str = OWNER) -> dict[str, Any]:
        return self.onboard_as({name: name for name in names}, owner=owner)

    def onboard_as(self, names: Mapping[str, str], *, owner: str) -> dict[str, Any]:
        """Devices under other names, which flows have for them."""
        new = [
            {
                "gpsi": self.gpsi(device),
                "name": name,
                "owner": owner,
                "ipv4_address": self.known[device]["ipv4_address"],
            }
            for device, name in names.items()
        ]
        return self.done(self.api.post("/devices/many", json={"devices": new}, params={"wait_s": 30}))

    def set_qos(
        self, name: str, profile: str = "QOS_L", *, duration_s: int = 3600, wait_s: float = 30.0
    ) -> httpx.Response:
        wanted = {"profile": profile, "server_ipv4": SERVER, "server_ports": [4713], "duration_s": duration_s}
        return self.api.put(f"/devices/{self.gpsi(name)}/qos", json=wanted, params={"wait_s": wait_s})

    def qos(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self.api.get(f"/devices/{self.gpsi(name)}/qos").raise_for_status().json()
        return told

    def device(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self.api.get(f"/devices/{self.gpsi(name)}").raise_for_status().json()
        return told

    def done(self, answer: httpx.Response) -> dict[str, Any]:
        """The operation that went well."""
        assert answer.status_code == 200, answer.text
        operation: dict[str, Any] = answer.json()
        assert operation["state"] == "succeeded", operation
        return operation
