"""A real site under `edgeflex up` with its live page: frames of a PMU simulator, and meters that send anything."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import faulty_kinds
import psutil
from broker import wait_until
from playwright.sync_api import Page
from policy_browser import Watched

from edgeflex_flow.passwords import Passwords
from edgeflex_flow.studio.users import User, write_users
from edgeflex_services.broker import free_tcp_port, free_udp_port

READER, OPERATOR = "rita", "otto"
PASSWORD = "correct-horse-battery-staple"
START_S = 60.0

EVENTS = """\
flow: events
about: Frequency events on the PMUs of a yard.
nodes:
  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {pmu_port}}}
  rocof: {{kind: rocof, from: pmu, window: 500ms}}
  event:
    kind: frequency_event
    from: rocof
    onset: {{policy: rocof_trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}}
  log: {{kind: file_write, from: [event], path: events.jsonl}}
  archive: {{kind: file_write, from: [rocof], path: samples.jsonl}}
"""
METERS = """\
flow: meters
about: Voltages of meters against their limits.
nodes:
  meter: {{kind: samples_udp, host: 127.0.0.1, port: {meter_port}, format: json.edgeflex, columns: [voltage_v]}}
  limits: {{kind: threshold, from: {limited}, column: voltage_v, above: 253}}
  log: {{kind: file_write, from: [meter, limits], path: meters.jsonl}}
"""
PICKY = "  picky: {{kind: faulty, from: meter, fault: refuse}}\n"
SITE = """\
site: yard
flows: [events, meters]
state: {{folder: state}}
connections:
  policies: {{kind: policy_system, url: "http://127.0.0.1:{policy_port}", group: yard}}
studio: {studio}
"""


class StudioSite:
    """A supervised site in a folder. `users`: whether there is a file of them; `picky`: meters have a node that refuses
    what comes while there is a file `refuse`."""

    def __init__(
        self, folder: Path, *, users: bool = True, simulator: bool = True, picky: bool = False, **studio: Any
    ) -> None:
        self.folder = folder
        self._simulates = simulator
        self.ports = {
            "pmu_port": free_udp_port(),
            "meter_port": free_udp_port(),
            "policy_port": free_tcp_port(),
        }
        settings = {"port": 0, **({"users": "users.json"} if users else {}), **studio}
        (folder / "sites").mkdir(parents=True)
        self.site.write_text(SITE.format(studio=json.dumps(settings), **self.ports))
        meters = METERS + (PICKY if picky else "")
        self._environment = faulty_kinds.install(folder / "installed") if picky else None
        for name, text in (("events", EVENTS), ("meters", meters)):
            limited = "picky" if picky else "meter"
            (folder / f"{name}.yaml").write_text(text.format(limited=limited, **self.ports))
        if users:
            known = Passwords().hash(PASSWORD)
            write_users(folder / "sites" / "users.json", {READER: User(known), OPERATOR: User(known, operate=True)})
        self.wants: tuple[str, ...] = ("events", "meters")
        """Flows that run once it has started."""
        self._lines: list[str] = []
        self._simulator: subprocess.Popen[bytes] | None = None

    @property
    def site(self) -> Path:
        return self.folder / "sites" / "yard.yaml"

    def __enter__(self) -> Self:
        self._lines.clear()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgeflex_flow", "up", str(self.site)],
            cwd=self.folder,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            for name in self.wants:
                self.wait_for(f"flow '{name}' runs")
            self.wait_for("the site is shown at")
            if self._simulates:
                self._simulate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _simulate(self) -> None:
        command = [sys.executable, "-m", "edgeflex_services.pmu_simulator", "--host", "127.0.0.1"]
        command += ["--port", str(self.ports["pmu_port"]), "--event-at", "6", "--json"]
        self._simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        for each in (self._simulator, self.process):
            if each is not None:
                each.send_signal(signal.SIGTERM)
        for each in (self._simulator, self.process):
            if each is not None:
                try:
                    each.wait(40.0)
                except subprocess.TimeoutExpired:
                    each.kill()
                    each.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._lines.extend(lines)

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> None:
        try:
            wait_until(lambda: len(re.findall(pattern, self.log)) >= times, START_S)
        except AssertionError:
            raise AssertionError(f"'{pattern}' did not come:\n{self.log}") from None

    @property
    def url(self) -> str:
        """Where it is shown, since its studio was started last."""
        return str(re.findall(r"the site is shown at (\S+)", self.log)[-1])

    def processes(self) -> dict[str, psutil.Process]:
        """Those of the flows by name, and `studio`."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                words = child.cmdline()
            except psutil.Error:  # it has just ended
                continue
            flow = re.fullmatch("edgeflex yard/(.*)", " ".join(words).strip())
            if flow is not None:
                found[flow[1]] = child
            elif "edgeflex_flow.studio" in words:
                found["studio"] = child
        return found

    def meter(self, voltage_v: float, device: str = "m1") -> None:
        """A meter sends a value."""
        now_ns = time.time_ns()
        row = {"created": now_ns // 1_000_000, "time_ns": now_ns, "device": device, "voltage_v": voltage_v}
        self.datagram(json.dumps([row]).encode())

    def datagram(self, payload: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(payload, ("127.0.0.1", self.ports["meter_port"]))


def sign_in(window: Watched, name: str) -> Page:
    page = window.go("/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{window.url}/")
    return page
