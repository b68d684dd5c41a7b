from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Listener, Mosquitto, wait_until
from served_grids import GRID, running

from edgeflex_services.powerflow_plant import Plant
from edgeflex_services.powerflow_service import PowerflowService, ServiceReport, Settings, main
from edgeflex_services.service_bus import LARGEST_PAYLOAD, Bus

pytestmark = pytest.mark.needs("mosquitto")

VOLTAGE = "/voltage_control/measuremnts/voltage"
PV = "/voltage_control/measuremnts/pv"
SOC = "/voltage_control/measuremnts/soc"
REACTIVE = "/voltage_control/control/reactive_power"
ACTIVE = "/voltage_control/control/active_power"
STORAGE = "/voltage_control/control/active_power_ESS"
LAST = "node_26"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


def values(listener: Listener, topic: str) -> list[dict[str, float]]:
    return [next(iter(json.loads(payload).values())) for where, payload in list(listener.received) if where == topic]


def test_measurements_come_on_the_topics_and_in_the_payloads_of_covee(broker: Mosquitto) -> None:
    with Listener(broker) as listener, running(broker.url):
        received = dict(listener.wait_for(4))
    assert set(received) == {VOLTAGE, PV}
    voltage = json.loads(received[VOLTAGE])
    assert list(voltage) == ["voltage_measurements"]
    assert list(voltage["voltage_measurements"]) == [f"node_{number}" for number in range(2, 31)]
    assert max(voltage["voltage_measurements"].values()) == pytest.approx(1.1189, abs=1e-4)
    assert json.loads(received[PV]) == {
        "pv_input_measurements": {f"node_{number}": pytest.approx(0.22) for number in range(4, 31, 2)}
    }


def test_the_extension_tells_time_and_state_of_charge(broker: Mosquitto) -> None:
    before_ns = time.time_ns()
    with Listener(broker) as listener, running(broker.url, extension=True):
        received = dict(listener.wait_for(6))
    assert set(received) == {VOLTAGE, PV, SOC}
    for payload in received.values():
        assert before_ns < json.loads(payload)["time_ns"] <= time.time_ns()
    assert json.loads(received[SOC])["soc_measurements"][LAST] == 50.0


def test_a_prefix_stands_before_all_topics(broker: Mosquitto) -> None:
    with Listener(broker, "north/#") as listener, running(broker.url, prefix="north") as service:
        listener.wait_for(2)
        listener.publish("north" + REACTIVE, b'{"reactive_power":{"node_26":-0.05}}')
        wait_until(lambda: service.service.report.applied)
    assert {topic for topic, _ in listener.received} >= {"north" + VOLTAGE, "north" + PV}


@pytest.mark.parametrize(
    ("topic", "payload", "lowers"),
    [
        (ACTIVE, b'{"active_power":{"node_26":-0.1}}', True),
        (REACTIVE, b'{"reactive_power":{"node_26":-0.05}}', True),
        (REACTIVE, b'{"reactive_power":{"node_26":0.05}}', False),
        (STORAGE, b'{"active_power_ESS":{"node_26":-0.04}}', True),
        (STORAGE, b'{"active_power_ESS":{"node_26":0.04}}', False),
    ],
)
def test_set_points_move_the_voltage_that_is_measured(
    broker: Mosquitto, topic: str, payload: bytes, *, lowers: bool
) -> None:
    with Listener(broker) as listener, running(broker.url) as service:
        listener.wait_for(2)
        before_pu = values(listener, VOLTAGE)[0][LAST]
        listener.publish(topic, payload)
        wait_until(lambda: service.service.report.applied)
        wait_until(lambda: abs(values(listener, VOLTAGE)[-1][LAST] - before_pu) > 1e-4)
        assert (values(listener, VOLTAGE)[-1][LAST] < before_pu) is lowers


def test_set_points_that_are_not_renewed_are_dropped(broker: Mosquitto) -> None:
    with Listener(broker) as listener, running(broker.url, setpoint_timeout_s=0.5, speed_up=60.0) as service:
        listener.wait_for(2)
        listener.publish(REACTIVE, b'{"reactive_power":{"node_26":-0.05,"node_24":-0.05}}')
        wait_until(lambda: service.service.report.applied == 2)
        begin_s = time.monotonic()
        wait_until(lambda: service.service.report.expired == 2)
        assert time.monotonic() - begin_s > 0.3
        seen = len(values(listener, VOLTAGE))
        wait_until(lambda: len(values(listener, VOLTAGE)) > seen + 1)
        assert values(listener, VOLTAGE)[-1][LAST] == pytest.approx(1.1189, abs=1e-4)
    assert service.events("expired") == [{"event": "expired", "setpoints": 2}]


def test_garbage_on_the_control_topics_is_counted_and_told(broker: Mosquitto) -> None:
    garbage = [b"", b"\xff\x00", b"[1]", b'{"reactive_power":{"node_26":NaN}}', b'{"reactive_power":{"node_26":1e999}}']
    with Listener(broker) as listener, running(broker.url) as service:
        listener.wait_for(2)
        for payload in garbage:
            listener.publish(REACTIVE, payload)
        listener.publish(REACTIVE, b" " * (LARGEST_PAYLOAD + 1))
        listener.publish(REACTIVE, b'{"reactive_power":{"node_99":-0.05}}')
        listener.publish(REACTIVE, b'{"reactive_power":{"node_26":-0.05}}')
        wait_until(lambda: service.service.report.applied == 1)
    assert service.error is None
    assert service.report is not None
    assert service.report.bad_payloads == len(garbage) + 1
    assert service.report.refused == 1
    told = [each["text"] for each in service.events("refused")]
    assert told[0].startswith("the payload of reactive_power: Input data was truncated")


def test_a_flood_of_garbage_is_not_told_line_by_line(broker: Mosquitto) -> None:
    with Listener(broker) as listener, running(broker.url) as service:
        listener.wait_for(2)
        for _ in range(200):
            listener.publish(ACTIVE, b"?", qos=0)
        wait_until(lambda: service.service.report.bad_payloads == 200)
    assert len(service.events("refused")) <= 5 * (1 + len(service.events("state")))


def test_set_points_that_the_broker_had_kept_are_refused(broker: Mosquitto) -> None:
    with Listener(broker) as listener:
        listener.publish(REACTIVE, b'{"reactive_power":{"node_26":-0.05}}', retain=True)
        with running(broker.url) as service:
            wait_until(lambda: service.service.report.bad_payloads)
    assert service.service.report.applied == 0
    assert service.events("refused")[0]["text"] == f"{REACTIVE}: a set-point that the broker had kept"


def test_a_broker_that_is_restarted_gets_measurements_and_gives_set_points_again(broker: Mosquitto) -> None:
    with running(broker.url) as service:
        wait_until(lambda: service.service.report.published)
        broker.kill()
        wait_until(lambda: service.service.report.not_sent > 5)
        broker.start()
        with Listener(broker) as listener:
            listener.wait_for(2)
            wait_until(lambda: len(service.events("connected")) == 2)

            def applied() -> int:
                listener.publish(REACTIVE, b'{"reactive_power":{"node_26":-0.05}}')
                return service.service.report.applied

            wait_until(applied)
            fresh = values(listener, VOLTAGE)
        assert service.events("disconnected")
    # What was measured meanwhile does not come late.
    assert service.report is not None
    assert len(fresh) < service.report.steps


def test_a_broker_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    with broker:
        pass
    with running(broker.url) as service:
        wait_until(lambda: service.events("away"))
        with broker, Listener(broker) as listener:
            listener.wait_for(2)


def test_a_wrong_password_ends_the_service(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, users={"grid": "secret"}) as broker, running(broker.url, user="grid") as service:
        wait_until(lambda: service.error)
        assert "the broker refused the user" in str(service.error)


class Recorder(Bus):
    """A bus without a broker that keeps what is published."""

    def __init__(self) -> None:
        super().__init__("mqtt://nowhere", [], tell=lambda *_, **__: None)
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes) -> bool:
        self.sent.append((topic, payload))
        return True


def run_recorded(**settings: Any) -> tuple[list[tuple[str, bytes]], ServiceReport]:
    """The messages of some steps."""
    bus = Recorder()
    service = PowerflowService(Plant(GRID), bus, Settings(period_s=1e-3, **settings), lambda *_, **__: None)
    return bus.sent, service.run(threading.Event(), seconds=0.5)


def test_loss_leaves_out_its_share() -> None:
    sent, report = run_recorded(loss=0.5)
    messages = 2 * report.steps
    assert len(sent) + report.lost == messages > 100
    assert 0.35 < report.lost / messages < 0.65


def test_the_same_seed_gives_the_same_noise_and_losses() -> None:
    one, other, another = (run_recorded(noise=0.01, loss=0.5, seed=seed)[0][:40] for seed in (3, 3, 4))
    assert one == other
    assert one != another


def test_delay_brings_measurements_late(broker: Mosquitto) -> None:
    late_s = []
    with Listener(broker, VOLTAGE) as listener, running(broker.url, delay_s=0.5, extension=True):
        for number in range(1, 6):
            _, payload = listener.wait_for(number)[number - 1]
            late_s.append((time.time_ns() - json.loads(payload)["time_ns"]) / 1e9)
    assert min(late_s) > 0.45
    assert np.median(late_s) < 2.0


def test_noise_is_on_what_is_measured_and_not_on_the_grid(broker: Mosquitto) -> None:
    with Listener(broker) as listener, running(broker.url, noise=0.01) as service:
        wait_until(lambda: len(values(listener, VOLTAGE)) >= 20)
    seen = np.array([each[LAST] for each in values(listener, VOLTAGE)])
    assert 0.004 < seen.std() / 1.1189 < 0.02
    assert service.report is not None
    assert service.report.max_voltage_pu == pytest.approx(1.1189, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--grid", "kerbr"], 3, "no grid is called 'kerbr'"),
        (["--url", "http://x"], 3, "`url` must begin with mqtt:// or mqtts://; got 'http'"),
        (["--url", "mqtts://x", "--ca", "/none"], 3, "--ca '/none' cannot be read: No such file or directory"),
        (["--profile", "simbench"], 3, "grid 'kerber' has no profiles of SimBench"),
        (["--loss", "1.5"], 2, "a share from 0 to 1; got '1.5'"),
        (["--period", "0"], 2, "a positive number; got '0'"),
        (["--speed-up", "inf"], 2, "a positive number; got 'inf'"),
        (["--noise", "-1"], 2, "a number not below 0; got '-1'"),
        (["--start", "25:00"], 2, "a time of day such as 06:30; got '25:00'"),
        (["--day", "0"], 2, "a day of the year is a number from 1 to 366; got '0'"),
    ],
)
def test_a_wrong_argument_is_told_in_words(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = main(arguments)
    except SystemExit as error:
        ended = int(error.code or 0)
    assert ended == code
    assert told in capsys.readouterr().err


def test_the_usage_names_the_command_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"], prog="edgeflex serve powerflow")
    assert capsys.readouterr().out.startswith("usage: edgeflex serve powerflow [")


def test_the_network_is_written_without_a_broker(tmp_path: Path) -> None:
    assert main(["--write-network", str(tmp_path / "kerber"), "--power-base", "10"]) == 0
    assert "power_base: 10 kVA" in (tmp_path / "kerber" / "inverters.yaml").read_text()


def test_a_run_of_some_seconds_ends_with_its_report(broker: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--url", broker.url, "--seconds", "0.6", "--period", "0.1", "--profile", "constant", "--json"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["event"] == "started"
    assert lines[0]["power_base_kva"] == 100.0
    report = lines[-1]
    assert report["event"] == "report"
    assert report["steps"] == pytest.approx(6, abs=1)
    assert report["max_voltage_pu"] == pytest.approx(1.1189, abs=1e-4)
    assert report["published"] > 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_in_order(broker: Mosquitto, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "edgeflex_flow", "serve", "powerflow", "--url", broker.url, "--period", "0.1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        with Listener(broker) as listener:
            wait_until(lambda: len(listener.received) > 3, timeout_s=120.0)
            process.send_signal(number)
            output, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert output.splitlines()[-1].startswith(b"report: steps ")
    assert said == b""
