"""The grid as a program: frames that are read as PMU streams, set-points from a broker, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from broker import Amqtt, BrokerProcess, Listener, wait_until

from edgeflex_connectors.pmu_udp import PmuUdpConfig, PmuUdpSource
from edgeflex_flow.messages import Setpoints, ShadowSetpoints, encode_message, join_samples
from edgeflex_services.broker import free_udp_port
from edgeflex_services.frequency_grid import FrequencyGridService, Inbox, main
from edgeflex_services.frequency_model import two_areas

if TYPE_CHECKING:
    from conftest import ContextMaker

CHANNELS = {"V1": "voltage_v", "I1": "current_a", "P": "active_power_w", "SOC": "state_of_charge_percent"}


@pytest.fixture
def any_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with Amqtt(tmp_path) as broker:
        yield broker


def test_frames_are_read_as_what_the_grid_measured(make_context: ContextMaker) -> None:
    port = free_udp_port()
    source = PmuUdpSource(PmuUdpConfig(port=port, channels=CHANNELS), make_context("reader"))
    source.open()
    try:
        report = FrequencyGridService("127.0.0.1", port, two_areas(100e6)).run(seconds=1.0)
        rows = join_samples(source.poll())
    finally:
        source.close()
    assert rows.devices[:2] == ("north", "south")
    assert set(rows.devices) == {"north", "south", "north_bess", "north_chp", "south_bess", "south_chp"}
    assert rows.rows == report.frames == 300
    north = rows.take(rows.device == rows.devices.index("north"))
    assert np.diff(north.time_ns).tolist() == [20_000_000] * 49
    assert north.columns["frequency_hz"] == pytest.approx(np.full(50, 50.0), abs=2e-3)
    assert north.columns["active_power_w"] == pytest.approx(np.full(50, 100e6), abs=1e5)
    assert "voltage_angle_rad" in north.columns
    storage = rows.take(rows.device == rows.devices.index("north_bess"))
    assert storage.columns["state_of_charge_percent"] == pytest.approx(np.full(50, 50.0), abs=0.01)
    assert np.isnan(north.columns["state_of_charge_percent"]).all()


def test_broker_that_is_away_is_told_once() -> None:
    told: list[str] = []
    with closing(Inbox("127.0.0.1", 1, "edgeflex/#", told.append)):
        wait_until(lambda: told)
        time.sleep(1.5)  # it has tried again by then
    assert told == ["broker 127.0.0.1:1: away"]


def test_inbox_gives_set_points_and_counts_what_is_none(any_broker: BrokerProcess) -> None:
    topic = "edgeflex/local/setpoints/units"
    fields = {"controller": "c", "time_ns": 1, "quantity": "active_power_w", "values": {"a": 1.0}, "valid_for_s": 2.0}
    told = Setpoints(**fields, status="ok")  # type: ignore[arg-type]
    got: list[Setpoints] = []
    with closing(Inbox("127.0.0.1", any_broker.port, topic)) as inbox, Listener(any_broker) as listener:
        while not got:
            listener.publish(topic, encode_message(told))
            got += inbox.take()
        listener.publish(topic, encode_message(ShadowSetpoints(**fields, status="ok")))  # type: ignore[arg-type]
        listener.publish(topic, b"no json")
        wait_until(lambda: got.extend(inbox.take()) or inbox.unreadable == 2)  # type: ignore[func-returns-value]
    assert set(map(str, got)) == {str(told)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--load-step", "north:much"], "a load step is AREA:MW; got 'north:much'"),
        (["--mqtt", "1883"], "an address is HOST:PORT; got '1883'"),
        (["--load-step", "west:5", "--seconds", "1"], "no area or machine 'west'; known: north, north_steam"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_ends_with_exit_code_0_on_a_signal(number: signal.Signals) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(20.0)
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", "edgeflex_services.frequency_grid", "--port", port, "--json"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parent)
        try:
            assert listener.recv(1000)[:2] == b"\xaa\x31"
            process.send_signal(number)
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    first, last = map(json.loads, output.splitlines())
    assert set(first) == {"start_ns"}
    assert last["late"] == 0
