"""The same flow on three databuses: only the site file differs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from broker import Amqtt, BrokerProcess, Listener, Mosquitto, wait_until

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun

FLOW = shipped_flows() / "frequency_limits.yaml"
ROWS = [(0, 50.0, 110.0), (1, 49.7, 110.0), (2, 49.7, 116.0), (4, 50.0, 110.0), (6, 50.0, 110.0)]
"""Second, frequency in Hz, voltage in kV: both leave their band and come back."""

OWN_TOPICS = """
    version: 5
    username: grid
    password: "${BUS_PASSWORD}"
    status_topic: "edgeflex/{site}/status/{flow}/{node}"
    topics: {edgeflex/here: telemetry/substation_12}
    topic_prefix: utility/north/"""


def mosquitto(folder: Path) -> BrokerProcess:
    return Mosquitto(folder)


def amqtt(folder: Path) -> BrokerProcess:
    return Amqtt(folder)


def utility(folder: Path) -> BrokerProcess:
    """A broker that was there before, with users, MQTT 5 and topics of its own."""
    return Mosquitto(folder, users={"grid": "secret"})


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
@pytest.mark.parametrize(
    ("make", "settings", "begin"),
    [
        (mosquitto, "", "edgeflex/here"),
        (amqtt, "", "edgeflex/here"),
        (utility, OWN_TOPICS, "utility/north/telemetry/substation_12"),
    ],
)
def test_same_flow_gives_the_same_on_every_databus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], BrokerProcess],
    settings: str,
    begin: str,
) -> None:
    monkeypatch.setenv("BUS_PASSWORD", "secret")
    user = ("grid", "secret") if make is utility else None
    with make(tmp_path) as broker:
        site = tmp_path / "site.yaml"
        site.write_text(
            f'site: here\nconnections:\n  databus:\n    kind: mqtt\n    url: "{broker.url}"\n'
            f"    outbox: {tmp_path}/outbox{settings}\nparams: {{log_file: {tmp_path}/limits.jsonl}}\n"
        )
        run = FlowRun(load_flow(FLOW, shipped_registry(), site=site))
        thread = Thread(target=run_inline, args=(run,))
        with Listener(broker, f"{begin}/event/limit", user=user) as listener:
            thread.start()
            try:
                wait_until(lambda: publish(listener, begin, 0) or run.counters["measurements"].get("messages_out"))
                for row in ROWS:
                    publish(listener, begin, *row)
                listener.wait_for(4)
            finally:
                run.stop()
                thread.join()
        events = [json.loads(payload) for _, payload in listener.received]
    assert {topic for topic, _ in listener.received} == {f"{begin}/event/limit"}
    assert [(event["device"], event["column"], event["state"]) for event in events] == [
        ("T1", "frequency_hz", "below"),
        ("T1", "voltage_v", "above"),
        ("T1", "frequency_hz", "normal"),
        ("T1", "voltage_v", "normal"),
    ]


def publish(listener: Listener, begin: str, second: int, frequency_hz: float = 50.0, voltage_kv: float = 110.0) -> bool:
    """Publish a row; gives False, so that it can be done until something happens."""
    row = {
        "created": 1_700_000_000_000 + 1000 * second,
        "device": "T1",
        "frequency_hz": frequency_hz,
        "voltage_kv": voltage_kv,
    }
    listener.publish(f"{begin}/measurement/T1", json.dumps([row]).encode())
    time.sleep(0.05)
    return False
