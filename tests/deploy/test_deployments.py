"""The deployments work with the files that are in their folders: broker, rights, history, flows."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker import Listener, Mosquitto, wait_until
from databases import PASSWORD as HISTORY_PASSWORD
from databases import Postgres
from deployed import DEPLOY, PASSWORD, WATCHER, ConfiguredBus, Deployed

from edgeflex_services.broker import free_udp_port

LONGEST_S = 60.0
Count = Callable[[str], int]
ROWS, EVENTS = "SELECT count(*) FROM {}samples", "SELECT count(*) FROM {}messages WHERE type = 'frequency_event'"


@contextmanager
def disturbed_pmus(port: int) -> Iterator[None]:
    """Ten PMUs of a grid in which a load steps up."""
    command = [sys.executable, "-m", "edgeflex_flow", "serve", "pmu", "--port", str(port)]
    sending = subprocess.Popen(
        [*command, "--event-at", "2", "--speed", "4", "--loop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        sending.terminate()
        sending.wait()


def count_in_file(file: Path) -> Count:
    def count(query: str) -> int:
        if not file.exists():
            return 0
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
                found: int = store.execute(query.format("")).fetchone()[0]
                return found
        except sqlite3.OperationalError:
            return 0  # it is being made

    return count


def keeps_and_tells(deployed: Deployed, environment: dict[str, str], count: Count) -> None:
    """The flows run, keep what PMUs measure, and find the event."""
    port = free_udp_port()
    with deployed.up(environment, "-D", f"pmu_port={port}"):
        wait_until(lambda: "flow 'frequency_events' runs" in deployed.log, LONGEST_S)
        with disturbed_pmus(port):
            wait_until(lambda: count(EVENTS) >= 10 and count(ROWS) > 1000, LONGEST_S)
    assert "refused" not in deployed.log


@pytest.mark.long
@pytest.mark.needs("mosquitto", "postgres")
def test_the_centre_keeps_events_in_postgresql_and_tells_them_over_tls(tmp_path: Path) -> None:
    deployed = Deployed("centralised", tmp_path)
    deployed.secret("history_password", HISTORY_PASSWORD)
    with Postgres() as server:
        server.make_database("grid")
        environment = {"STATE": str(tmp_path / "state"), "HISTORY_URL": f"{server.url}/grid"}
        deployed.grant(environment)
        with ConfiguredBus(deployed) as bus:

            def count(query: str) -> int:
                with server.connect("grid") as database:
                    if database.execute("SELECT to_regclass('edgeflex.messages')").fetchone() == (None,):
                        return 0
                    [found] = database.execute(query.format("edgeflex.").encode()).fetchone() or (0,)
                    return int(found)

            keeps_and_tells(deployed, {**environment, "BUS_URL": bus.url}, count)
        assert "not authori" not in bus.log


@pytest.mark.long
@pytest.mark.needs("mosquitto")
def test_a_raspberry_pi_works_on_the_databus_that_is_there(tmp_path: Path) -> None:
    deployed = Deployed("decentralised", tmp_path)
    environment = {"STATE": str(tmp_path / "state"), "BUS_USER": "edgeflex", "BUS_URL": "mqtts://127.0.0.1:1"}
    deployed.grant(environment)
    there = Mosquitto(
        tmp_path,
        tls=deployed.certificate,
        acl_file=deployed.secrets / "bus.acl",
        password_file=deployed.secrets / "bus.passwords",
    )
    with there:
        count = count_in_file(tmp_path / "state" / "history.db")
        keeps_and_tells(deployed, {**environment, "BUS_URL": there.url}, count)


@pytest.mark.long
@pytest.mark.needs("mosquitto")
def test_the_edge_tells_the_centre_and_goes_on_without_it(tmp_path: Path) -> None:
    (tmp_path / "centre").mkdir()
    (tmp_path / "edge").mkdir()
    deployed = Deployed("hybrid-edge", tmp_path / "edge")
    environment = {"STATE": str(tmp_path / "state")}
    deployed.grant(environment)
    centre = Mosquitto(tmp_path / "centre", users={"edge": PASSWORD, WATCHER[0]: WATCHER[1]})
    centre.start()
    example = (DEPLOY / "hybrid-edge" / "bridge.conf.example").read_text()
    bridge = example.replace("centre.example:8883", f"127.0.0.1:{centre.port}").replace("CHANGE-ME", PASSWORD)
    lines = [line for line in bridge.splitlines() if not line.startswith("bridge_cafile")]
    deployed.secret(
        "bridge.d/centre.conf", "\n".join(lines).replace("restart_timeout 5 30", "restart_timeout 1") + "\n"
    )
    centre.stop()
    count = count_in_file(tmp_path / "state" / "history.db")
    with ConfiguredBus(deployed) as bus:
        keeps_and_tells(deployed, {**environment, "BUS_URL": bus.url}, count)  # the centre is away
        with centre, Listener(centre, "edgeflex/edge/#", user=WATCHER) as listener:
            wait_until(lambda: len(listener.received) >= 10, LONGEST_S)
    told = {
        json.loads(payload)["device"]
        for topic, payload in listener.received
        if topic == "edgeflex/edge/event/frequency"
    }
    assert len(told) == 10
