"""`link_quality.yaml` with real frames over a link that loses them and a real service."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest
from broker import Amqtt, Listener, wait_until
from device_services import DeviceSite
from link_services import LinkService, gpsi_of
from shipped import RUNTIMES, flow_run, running

from edgeflex_flow.runtime.run import FlowRun
from edgeflex_services.broker import free_udp_port
from edgeflex_services.pmu_recording import Recording
from edgeflex_services.pmu_simulator import PmuSimulator

HOST = "127.0.0.1"
each_runtime = pytest.mark.parametrize("execute", RUNTIMES.values(), ids=RUNTIMES)


class LossyLink:
    """Passes datagrams on to a port, and loses one in so many of those that are long enough to be data."""

    def __init__(self, port: int) -> None:
        self._to = HOST, port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self._socket.settimeout(0.1)
        self.port: int = self._socket.getsockname()[1]
        self.lose_every = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)

    def _pass_on(self) -> None:
        count = 0
        while not self._over.is_set():
            try:
                frame = self._socket.recv(65_536)
            except TimeoutError:
                continue
            is_data = frame[1] >> 4 == 0
            count += is_data
            if not (is_data and self.lose_every and count % self.lose_every == 0):
                self._socket.sendto(frame, self._to)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


@pytest.mark.long
@each_runtime
def test_link_quality_asks_the_service_for_the_pmus_whose_frames_get_lost(
    tmp_path: Path, execute: Callable[[FlowRun], None]
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    port = free_udp_port()
    names = Recording.load().generators
    service = LinkService(*names, owner="local")
    with Amqtt(folder) as broker, service, LossyLink(port) as link:
        run = flow_run(
            "link_quality.yaml",
            pmu_port=port,
            mqtt_port=broker.port,
            devices_port=service.port,
            data_folder=tmp_path,
            server="198.51.100.10",
        )
        with Listener(broker, "edgeflex/local/link/#") as listener, running(run, execute):
            stop = threading.Event()
            sending = threading.Thread(target=PmuSimulator(HOST, link.port).run, args=(stop,))
            sending.start()
            try:
                wait_until(lambda: run.counters["pmu"].get("rows") > 1000, 30.0)
                assert [each for each in service.changes() if each[1].endswith("/qos")] == []
                link.lose_every = 7
                wait_until(lambda: len(service.qos) == len(names), 60.0)
                link.lose_every = 0
            finally:
                stop.set()
                sending.join()
            wait_until(lambda: len(told(listener, "link_status")) >= len(names), 30.0)
    assert {gpsi: each["profile"] for gpsi, each in service.qos.items()} == {gpsi_of(name): "QOS_S" for name in names}
    assert set(service.watches) == set(service.qos)
    asked = next(body for method, path, body in service.changes() if method == "PUT" and path.endswith("/qos"))
    assert (asked["server_ipv4"], asked["server_ports"], asked["duration_s"]) == ("198.51.100.10", [port], 3600)
    requested = told(listener, "link_qos_request")
    assert {each["device"] for each in requested} == set(names)
    assert {each["policies"]["link_quality.best_profile"] for each in requested} == {"default"}
    assert {each["severity"] for each in told(listener, "alarm")} <= {"warning", "critical"}
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        kept = dict(store.execute("SELECT type, count(*) FROM messages GROUP BY type").fetchall())
    assert kept["link_qos_request"] == len(requested)
    assert kept["alarm"] == len(told(listener, "alarm"))


@pytest.mark.long
def test_link_quality_has_a_network_make_links_better_through_the_service(tmp_path: Path) -> None:
    port, names = free_udp_port(), Recording.load().generators
    (tmp_path / "broker").mkdir()
    with (
        Amqtt(tmp_path / "broker") as broker,
        DeviceSite(tmp_path, "nef", devices=len(names), tls=False) as site,
        LossyLink(port) as link,
    ):
        site.onboard_as({f"pmu{number}": name for number, name in enumerate(names)}, owner="local")
        run = flow_run(
            "link_quality.yaml",
            pmu_port=port,
            mqtt_port=broker.port,
            devices_port=site.port,
            data_folder=tmp_path,
            server="198.51.100.10",
        )
        with Listener(broker, "edgeflex/local/link/#") as listener, running(run, RUNTIMES["bytewax"]):
            stop = threading.Event()
            sending = threading.Thread(target=PmuSimulator(HOST, link.port).run, args=(stop,))
            sending.start()
            try:
                wait_until(lambda: run.counters["pmu"].get("rows") > 1000, 30.0)
                link.lose_every = 7
                wait_until(lambda: len(in_force(site)) == len(names), 60.0)
                wait_until(lambda: known_to_flow(listener) == {"QOS_S available"}, 30.0)
            finally:
                stop.set()
                sending.join()


def in_force(site: DeviceSite) -> list[dict[str, Any]]:
    """Sessions that the network really gives."""
    return [each for each in site.sessions() if each["state"] == "available" and each["profile"] == "QOS_S"]


def known_to_flow(listener: Listener) -> set[str]:
    """What the flow was last told of each link."""
    last = {each["device"]: f"{each['profile']} {each['qos_state']}" for each in told(listener, "link_status")}
    return set(last.values())


def told(listener: Listener, kind: str) -> list[dict[str, Any]]:
    return [json.loads(payload) for topic, payload in list(listener.received) if topic.endswith(f"/{kind}")]
