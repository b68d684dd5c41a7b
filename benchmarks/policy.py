"""The policy system under load, and how soon a policy takes effect: `python -m benchmarks.policy`.

The service, the load and the flow are processes of their own. Where the machine has two cores or more, the service has
one of them for itself and the load another.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import jwt
import numpy as np
import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks.children import cpu_percent, memory_mb
from benchmarks.control_latency import draw, listening
from benchmarks.mqtt import running_broker
from benchmarks.report import Report
from edgeflex_connectors.policy_system import encoded

GROUP, USER, POLICY = "bench", "bench_site", "bench_limit"
PASSWORD = secrets.token_urlsafe(12)
POLICIES = 50
CLIENTS = 100
LOAD_S = 10.0
FLOWS = 1000
FLOWS_PERIOD_S = 10.0
FLOWS_S = 30.0
SAVES = 40
REFRESH_S = 1.0
VALUES_PERIOD_S = 0.005
GRACE_MS = 50.0
FLOW_FOLDER = Path(__file__).parent / "flows"


class Service:
    """A policy system with a group of policies and one client that signs its tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = Ed25519PrivateKey.generate()
        command = [
            sys.executable,
            "-m",
            "edgeflex_services.policy_system",
            "--port",
            "0",
            "--data",
            str(folder / "data"),
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "EDGEFLEX_POLICY_ADMIN_PASSWORD": PASSWORD},
        )
        assert self.process.stdout is not None
        told = map(json.loads, self.process.stdout)
        self.url = next(str(each["url"]) for each in told if each["event"] == "started")
        self.port = int(self.url.rpartition(":")[2])
        self.admin = httpx.Client(base_url=self.url, timeout=30.0)
        self.renew()
        self._prepare()

    def renew(self) -> None:
        """A new token of the administrator's: granted ones live for five minutes."""
        form = {"grant_type": "client_credentials"}
        granted = httpx.post(f"{self.url}/token", data=form, auth=("admin", PASSWORD), timeout=30.0)
        self.admin.headers["Authorization"] = f"Bearer {granted.json()['access_token']}"

    def _prepare(self) -> None:
        private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        (self.folder / "site.pem").write_bytes(self.key.private_bytes(*private))
        pem = self.key.public_key().public_bytes(*public).decode()
        self._put(f"/api/v1/groups/{GROUP}", {})
        self._put(f"/api/v1/users/{USER}", {"public_key": pem})
        self._put(f"/api/v1/groups/{GROUP}/members/{USER}", {"role": "reader"})
        for number in range(POLICIES):
            self.save(f"policy_{number}", {"onset": "0.02 Hz/s", "power": "5 kW"}, based_on=0)

    def _put(self, path: str, body: Any) -> None:
        self.admin.put(path, json=body).raise_for_status()

    def save(self, policy: str, fields: dict[str, Any], based_on: int) -> None:
        document = {"kind": "operational_bounds", "fields": fields}
        self._put(f"/api/v1/policies/{encoded(GROUP)}/{encoded(policy)}", {"document": document, "based_on": based_on})

    def token(self) -> str:
        now_s = int(time.time())
        claims = {"iss": USER, "sub": USER, "aud": "edgeflex-policy", "iat": now_s, "exp": now_s + 3600}
        return jwt.encode({**claims, "jti": secrets.token_hex(8)}, self.key, algorithm="EdDSA")

    def request(self, token: str, *policies: str, etag: str = "") -> str:
        ids = "".join(f"&policy_id={encoded(each)}" for each in policies)
        known = f"If-None-Match: {etag}\r\n" if etag else ""
        path = f"/api/v1/policies?policy_group={encoded(GROUP)}{ids}"
        return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{known}\r\n"

    def etag(self, *policies: str) -> str:
        ids = {"policy_group": encoded(GROUP), "policy_id": [encoded(each) for each in policies]}
        return str(self.admin.get("/api/v1/policies", params=ids).headers["etag"])

    def close(self) -> None:
        self.admin.close()
        self.process.terminate()
        self.process.wait(30.0)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        try:
            yield service
        finally:
            service.close()


def load(service: Service, requests: Sequence[str], clients: int, seconds: float, period_s: float) -> list[float]:
    """Latencies of all answers in ms. Raises RuntimeError when one is neither 200 nor 304."""
    task = {"port": service.port, "requests": list(requests), "clients": clients, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http_load"],
        input=json.dumps({**task, "period_s": period_s}),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    if not found["statuses"].keys() <= {"200", "304"}:
        raise RuntimeError(f"answers by status: {found['statuses']}")
    return [float(each) for each in found["latencies_ms"]]


def tell_load(report: Report, section: str, name: str, latencies_ms: list[float], seconds: float) -> None:
    report.add(section, f"{name}: answers", "1/s", [len(latencies_ms) / seconds])
    for percent in (50, 99):
        report.add(section, f"{name}: p{percent}", "ms", [float(np.percentile(latencies_ms, percent))])


def measure_rest(report: Report, service: Service) -> None:
    section = "policy service"
    report.add(section, "memory at rest", "MB", [memory_mb(service.process.pid)])
    report.add(section, "processor at rest, share of a core", "%", [cpu_percent(service.process.pid, 10.0)])


def measure_reads(report: Report, service: Service) -> None:
    """Two policies a request, as a flow asks for those to which it binds."""
    section = f"reads by {CLIENTS} clients on one core, two policies each"
    wanted = ("policy_1", "policy_2")
    tokens = [service.token() for _ in range(CLIENTS)]
    known = [service.request(token, *wanted) for token in tokens]
    tell_load(report, section, "a token for each client", load(service, known, CLIENTS, LOAD_S, 0.0), LOAD_S)
    # More than can be sent in the time, so that each is verified once and none is known.
    fresh = [service.request(service.token(), *wanted) for _ in track(range(20_000), "signing tokens", transient=True)]
    # Only the first few hundred would come again.
    seconds = LOAD_S / 4.0
    tell_load(report, section, "a new token each time", load(service, fresh, CLIENTS, seconds, 0.0), seconds)
    etag = service.etag(*wanted)
    unchanged = [service.request(token, *wanted, etag=etag) for token in tokens]
    tell_load(report, section, "nothing new (304)", load(service, unchanged, CLIENTS, LOAD_S, 0.0), LOAD_S)


def measure_flows(report: Report, service: Service) -> None:
    """A thousand connections, each asking every ten seconds for what it has."""
    section = f"{FLOWS:,} flows that ask every {FLOWS_PERIOD_S:g} s"
    etag = service.etag("policy_1", "policy_2")
    requests = [service.request(service.token(), "policy_1", "policy_2", etag=etag) for _ in range(FLOWS)]
    busy: list[float] = []
    watch = threading.Thread(target=lambda: busy.append(cpu_percent(service.process.pid, FLOWS_S)))
    watch.start()
    latencies_ms = load(service, requests, FLOWS, FLOWS_S, FLOWS_PERIOD_S)
    watch.join()
    tell_load(report, section, "answers", latencies_ms, FLOWS_S)
    report.add(section, "processor, share of a core", "%", busy)
    report.add(section, "memory", "MB", [memory_mb(service.process.pid)])


def measure_effect(service: Service) -> list[float]:
    """From the answer to a save to the first message of a flow that could not be without it."""
    with running_broker() as broker, listening(broker.port, "bench/crossing") as (client, arrived):
        arguments = ["-m", "edgeflex_flow", "--log-level", "warning", "run", str(FLOW_FOLDER / "policy_follow.yaml")]
        site = ["--site", str(FLOW_FOLDER / "policy_site.yaml"), "-D", f"mqtt_port={broker.port}"]
        params = {"policy_port": service.port, "key": service.folder / "site.pem", "refresh": f"{REFRESH_S}s"}
        definitions = [word for name, value in params.items() for word in ("-D", f"{name}={value}")]
        flow = subprocess.Popen([sys.executable, *arguments, *site, *definitions])
        stop = threading.Event()
        publisher = threading.Thread(target=_publish_values, args=(client, stop))
        publisher.start()
        try:
            return _effects_ms(service, arrived)
        finally:
            stop.set()
            publisher.join()
            flow.terminate()
            flow.wait(30.0)


def _publish_values(client: Any, stop: threading.Event) -> None:
    """The value 1 pu, again and again."""
    while not stop.wait(VALUES_PERIOD_S):
        now_ns = time.time_ns()
        row = {"created": now_ns // 10**6, "time_ns": now_ns, "device": "meter", "voltage_pu": 1.0}
        client.publish("bench/values", json.dumps([row]))


def _effects_ms(service: Service, arrived: SimpleQueue[tuple[int, bytes]]) -> list[float]:
    """The limit goes below the value and above it in turn; each time the flow tells of a crossing."""
    found: list[float] = []
    service.save(POLICY, {"above": 0.5}, based_on=0)
    arrived.get(timeout=120.0)
    for number in track(range(SAVES), "saving policies", transient=True):
        # At any moment of the period of the flow.
        time.sleep(float(np.random.default_rng(number).uniform(0.0, REFRESH_S)))
        service.save(POLICY, {"above": 2.0 if number % 2 == 0 else 0.5}, based_on=number + 1)
        saved_ns = time.time_ns()
        came_ns, _ = arrived.get(timeout=30.0)
        found.append((came_ns - saved_ns) / 1e6)
    return found


def tell_effect(report: Report, latencies_ms: list[float]) -> None:
    section = f"from saving a policy to its first effect in a running flow, refresh {REFRESH_S:g} s"
    most_ms = 1e3 * REFRESH_S + GRACE_MS
    report.add(section, f"median of {len(latencies_ms)}", "ms", [float(np.median(latencies_ms))])
    report.add(
        section, "largest", "ms", [max(latencies_ms)], asked=f"<= {most_ms:g}", good=lambda value: value <= most_ms
    )


def main() -> None:
    report = Report("policy", command="make bench-policy")
    cores = sorted(psutil.Process().cpu_affinity() or ())
    with serving() as service:
        measure_rest(report, service)
        if len(cores) > 1:
            psutil.Process(service.process.pid).cpu_affinity(cores[:1])
            psutil.Process().cpu_affinity(cores[1:])  # the load's processes inherit it
        measure_reads(report, service)
        measure_flows(report, service)
        service.renew()
        psutil.Process().cpu_affinity(cores)
        psutil.Process(service.process.pid).cpu_affinity(cores)
        latencies_ms = measure_effect(service)
    tell_effect(report, latencies_ms)
    report.figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    panel = report.figure.subplots()
    draw(panel, {f"refresh {REFRESH_S:g} s": latencies_ms})
    panel.axvline(1e3 * REFRESH_S, color="0.6", linewidth=0.8)
    panel.set_xlabel("ms from the answer to a save until the flow's first message by the new policy")
    report.show(Console())
    report.save()


if __name__ == "__main__":
    main()
