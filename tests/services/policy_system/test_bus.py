"""The event service on a real broker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from broker import Listener, Mosquitto, wait_until
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from served_policies import GROUP, KeyPair, ServedPolicies

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, Crossing, FrequencyEvent, ServiceRequest, decode_message, encode_message
from edgeflex_services.broker import hang_up
from edgeflex_services.policy_system.__main__ import main
from edgeflex_services.policy_system.bus import reports_in

STATE = {"quantity": "rocof_hz_per_s", "above": "20 mHz/s", "magnitude": True}
RULE = {
    "name": "excited",
    "effect": "act",
    "when": {"state": [STATE]},
    "then": {"do": "run_service", "service": "inertia_estimation", "hold_off": "0 s"},
}
TOPIC = f"edgeflex/{GROUP}/rocof"


def row(device: str = "G1", **values: float) -> bytes:
    now_ns = time.time_ns()
    return json.dumps([{"created": now_ns // 10**6, "time_ns": now_ns, "device": device, **values}]).encode()


class Publisher:
    """A device with MQTT 5, which can show a token."""

    def __init__(self, broker: Mosquitto) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, token: str | None = None, *, retain: bool = False) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if token is not None:
            properties.UserProperty = [("authorization", f"Bearer {token}")]
        self._client.publish(topic, payload, 1, retain, properties).wait_for_publish(10.0)

    def close(self) -> None:
        hang_up(self._client)


class Site:
    def __init__(self, broker: Mosquitto, served: ServedPolicies, device: Publisher, key: KeyPair, bus: Listener):
        self.broker = broker
        self.served = served
        self.device = device
        self.key = key
        self.bus = bus

    def requests(self) -> list[ServiceRequest]:
        found = [decode_message(payload, (ServiceRequest,)) for _, payload in self.bus.received]
        return [each for each in found if isinstance(each, ServiceRequest)]

    def log(self) -> str:
        return self.served.log.read_text()


@contextmanager
def site(tmp_path: Path, *arguments: str) -> Iterator[Site]:
    with Mosquitto(tmp_path) as broker:
        served = ServedPolicies(tmp_path / "policy", "--bus", broker.url, *arguments)
        with served, Listener(broker, f"edgeflex/{GROUP}/service/+") as bus:
            served.make_group()
            key = served.make_service("pmu", "reporter")
            served.save("excitation", {"kind": "trigger", "rules": [RULE]})
            device = Publisher(broker)
            try:
                yield Site(broker, served, device, key, bus)
            finally:
                device.close()


@pytest.mark.needs("mosquitto")
def test_a_message_acts_with_a_token_of_somebody_who_may_report_and_not_without(tmp_path: Path) -> None:
    with site(tmp_path, "--listen", f"{GROUP}={TOPIC}/+") as made:
        reader = made.served.make_service("reader", "reader")
        stranger = made.served.make_service("stranger", None)
        payload = row(rocof_hz_per_s=0.5)
        for token in (
            None,
            "x",
            KeyPair().bus_token("pmu"),
            reader.bus_token("reader"),
            stranger.bus_token("stranger"),
        ):
            made.device.publish(f"{TOPIC}/G1", payload, token)
        wait_until(lambda: made.log().count("shows no right to report") == 5)
        assert made.requests() == []
        token = made.key.bus_token("pmu")
        made.device.publish(f"{TOPIC}/G1", payload, token)
        wait_until(made.requests)
        (request,) = made.requests()
        assert (request.service, request.device, request.policy) == ("inertia_estimation", "G1", f"{GROUP}/excitation")
        made.served.admin.post("/api/v1/users/pmu/disable", json={"why": "stolen"})
        made.device.publish(f"{TOPIC}/G1", payload, token)
        wait_until(lambda: made.log().count("shows no right to report") == 6)
        assert len(made.requests()) == 1
        assert token not in made.log()


@pytest.mark.needs("mosquitto")
def test_a_trusted_topic_needs_no_token_but_a_wrong_one_is_refused_there_too(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}={TOPIC}/+") as made:
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5), KeyPair().bus_token("pmu"))
        wait_until(lambda: "shows no right to report" in made.log())
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.01))
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5))
        wait_until(made.requests)
        assert len(made.requests()) == 1
        made.device.publish(f"{TOPIC}/G1", b"{nonsense")
        wait_until(lambda: "malformed" in made.log())
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5))
        wait_until(lambda: len(made.requests()) == 2)


@pytest.mark.needs("mosquitto")
def test_a_token_that_others_hear_on_the_databus_is_no_good_by_rest_and_the_other_way_round(tmp_path: Path) -> None:
    with site(tmp_path, "--listen", f"{GROUP}={TOPIC}/+") as made:
        report = {"reports": [{"group": GROUP, "asset": "G1", "values": {"rocof_hz_per_s": 0.5}}]}
        with made.served.client(made.key.bus_token("pmu")) as client:
            assert client.post("/api/v1/events", json=report).status_code == 401
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5), made.key.token("pmu"))
        wait_until(lambda: "it is for 'edgeflex-policy', not for 'edgeflex-policy-databus'" in made.log())
        secret = made.served.admin.post("/api/v1/users/pmu/secret").json()["client_secret"]
        form = {"grant_type": "client_credentials", "scope": "databus"}
        granted = httpx.post(f"{made.served.url}/token", data=form, auth=("pmu", secret)).json()["access_token"]
        with made.served.client(granted) as client:
            assert client.post("/api/v1/events", json=report).status_code == 401
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5), granted)
        wait_until(made.requests)
        assert len(made.requests()) == 1


@pytest.mark.needs("mosquitto")
def test_what_the_broker_had_kept_starts_nothing_when_the_service_comes(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}={TOPIC}/+") as made:
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5), retain=True)
        wait_until(made.requests)
        made.served.stop()
        made.served.start()
        made.device.publish(f"{TOPIC}/G2", row("G2", rocof_hz_per_s=0.5))
        wait_until(lambda: len(made.requests()) == 2)
        assert [request.device for request in made.requests()] == ["G1", "G2"]


ASKING = {"stranger": None, "other": "reader", "vpp": "reader"}


@pytest.mark.needs("mosquitto")
def test_data_is_asked_for_on_the_databus_and_the_answer_goes_to_a_topic_of_the_asker(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}={TOPIC}/+", "--listen", f"{GROUP}=edgeflex/{GROUP}/ask") as made:
        permit = {
            "name": "vpp",
            "effect": "permit",
            "when": {"users": ["vpp"]},
            "then": {"do": "return_data", "quantities": ["rocof_*"]},
        }
        made.served.save("share", {"kind": "sharing", "rules": [permit]})
        keys = {name: made.served.make_service(name, role) for name, role in ASKING.items()}
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.001))
        with Listener(made.broker, f"edgeflex/{GROUP}/answer/+") as answers:
            ask = json.dumps({"type": "data_request", "asset": "G1", "id": "7"}).encode()
            for token in (None, *(keys[name].bus_token(name) for name in ASKING)):
                made.device.publish(f"edgeflex/{GROUP}/ask", ask, token)
            wait_until(lambda: len(answers.received) == 2)
            found = {topic.rpartition("/")[2]: json.loads(payload) for topic, payload in answers.received}
        assert found["other"] == {**found["other"], "permitted": False, "values": {}, "id": "7"}
        assert found["vpp"]["permitted"]
        assert found["vpp"]["values"]["rocof_hz_per_s"]["value"] == 0.001
        assert "shows no right" in made.log()
        assert "request of 'stranger' on" in made.log()


@pytest.mark.needs("mosquitto")
def test_a_service_that_cannot_be_asked_is_told_and_the_bus_is_found_again(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}={TOPIC}/+") as made:
        made.broker.stop()
        token = made.key.token("pmu")
        with made.served.client(token) as client:
            report = {"group": GROUP, "asset": "G1", "values": {"rocof_hz_per_s": 0.5}}
            wait_until(lambda: "databus is away" in client.post("/api/v1/events", json={"reports": [report]}).text)
            assert client.get("/health/ready").json()["counts"]["bus"]["is_connected"] == 0
        made.broker.start()
        with Listener(made.broker, f"edgeflex/{GROUP}/service/+") as bus:
            again = Publisher(made.broker)

            def asked() -> bool:
                again.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5))
                return bool(bus.received)

            wait_until(asked)
            again.close()
        assert made.served.admin.get("/health/ready").json()["counts"]["bus"]["is_connected"] == 1


@pytest.mark.needs("mosquitto")
def test_what_the_service_itself_sends_is_no_report(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}=edgeflex/{GROUP}/#") as made:
        made.device.publish(f"{TOPIC}/G1", row(rocof_hz_per_s=0.5))
        wait_until(made.requests)
        made.device.publish(f"{TOPIC}/G2", row("G2", rocof_hz_per_s=0.5))
        wait_until(lambda: len(made.requests()) == 2)
        assert [request.device for request in made.requests()] == ["G1", "G2"]


@pytest.mark.needs("mosquitto")
def test_a_message_that_is_too_large_is_let_alone_and_the_next_one_heard(tmp_path: Path) -> None:
    with site(tmp_path, "--trust", f"{GROUP}={TOPIC}/+") as made:
        made.device.publish(f"{TOPIC}/G1", b"[" + b" " * 300_000 + row(rocof_hz_per_s=0.5)[1:])
        made.device.publish(f"{TOPIC}/G2", row("G2", rocof_hz_per_s=0.5))
        wait_until(made.requests)
        assert [request.device for request in made.requests()] == ["G2"]


def test_filters_by_which_a_message_would_come_twice_are_refused(tmp_path: Path) -> None:
    arguments = ("--bus", "mqtt://127.0.0.1", "--trust", f"{GROUP}={TOPIC}/+", "--listen", "other=edgeflex/#")
    with pytest.raises(AssertionError, match="overlap"):
        ServedPolicies(tmp_path, *arguments).start()


def test_listening_needs_a_bus_and_a_group(tmp_path: Path) -> None:
    for arguments in (("--trust", f"{GROUP}=a"), ("--bus", "mqtt://127.0.0.1", "--listen", "no-group")):
        with pytest.raises(AssertionError, match=r"needs? a --bus|GROUP=FILTER"):
            ServedPolicies(tmp_path, *arguments).start()


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ("g=a/#/b", "'a/#/b': '#' must be the last level"),
        ("g=a+", "'a+': a wildcard must be a level of its own"),
        ("g=$share/x/a", "a shared subscription brings only a part"),
        ("+=a", "'+' is no name of a group"),
    ],
)
@pytest.mark.parametrize("option", ["--listen", "--trust"])
def test_a_filter_by_which_nothing_could_be_heard_is_wrong_usage(
    listen: str, told: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--bus", "mqtt://127.0.0.1", option, listen])
    assert ended.value.code == 2
    assert f"error: {option}: " in (said := capsys.readouterr().err)
    assert told in said


def test_a_group_that_is_not_there_is_wrong_usage_and_in_a_new_database_warned_of(tmp_path: Path) -> None:
    arguments = ("--bus", "mqtt://127.0.0.1:1", "--trust", "sout=a")
    with ServedPolicies(tmp_path, *arguments) as served:
        assert "there is no group yet" in next(each["text"] for each in served.told if each["event"] == "warning")
        served.make_group("south")
    with pytest.raises(AssertionError, match=r"ended with 2: (?s:.*)there is no group sout; known: south"):
        ServedPolicies(tmp_path, *arguments).start()


DEAF = """
import sys
from edgeflex_services.policy_system import __main__ as program
program.listen_problem = lambda listen: None
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.needs("mosquitto")
def test_who_cannot_listen_after_all_says_so_and_ends(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        arguments = ("--port", "0", "--data", str(tmp_path / "policy"), "--bus", broker.url, "--trust", "g=a+")
        ended = subprocess.run(
            [sys.executable, "-c", DEAF, *arguments], capture_output=True, text=True, timeout=30.0, check=False
        )
    assert ended.returncode == 3
    assert "cannot listen to a+: Invalid subscription filter" in ended.stderr
    assert '"event": "bus_failed"' in ended.stdout


# What payloads report ---------------------------------------------------------------------------------------------


def test_rows_become_reports_of_their_devices_without_what_has_no_unit() -> None:
    payload = [
        {"created": 5, "device": "G1", "frequency_hz": 50.0, "name": "x", "on": True, "switch": 3},
        {"time_ns": 7, "created": 0, "device": "G2", "rocof_hz_per_s": -1, "quality": 0},
    ]
    first, second = reports_in(json.dumps(payload).encode(), GROUP)
    assert (first.asset, first.time_ns, first.values) == ("G1", 5_000_000, {"frequency_hz": 50.0})
    assert (second.asset, second.time_ns, second.values) == ("G2", 7, {"rocof_hz_per_s": -1.0})


@pytest.mark.parametrize("quality", [1, 32, 64, 33])
def test_rows_that_are_bad_or_tests_or_recordings_report_nothing(quality: int) -> None:
    payload = [{"created": 5, "device": "G1", "frequency_hz": 50.0, "quality": quality}]
    assert reports_in(json.dumps(payload).encode(), GROUP) == []


def test_a_message_reports_what_it_is() -> None:
    event = FrequencyEvent(
        id="G1@1", state="started", device="G1", onset_time_ns=1, detected_time_ns=2, rocof_hz_per_s=-0.5,
        frequency_before_hz=50.0, frequency_extreme_hz=49.8,
    )  # fmt: skip
    (report,) = reports_in(encode_message(event), GROUP)
    assert (report.action, report.asset, report.time_ns) == ("frequency_event", "G1", 1)
    assert report.values["rocof_hz_per_s"] == -0.5
    crossing = Crossing(device="G2", column="voltage_pu", state="above", time_ns=3, value=1.2, limit=1.1)
    assert reports_in(encode_message(crossing), GROUP)[0].asset == "G2"
    alarm = Alarm(source="node", severity="info", text="x", time_ns=4)
    assert reports_in(encode_message(alarm), GROUP)[0].asset == "node"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[1]", b'[{"device":"G1","frequency_hz":1}]', b'[{"created":1,"frequency_hz":1}]', b"\xff",
     b'[{"created":1,"device":"a b","frequency_hz":1}]', b'[{"created":1,"device":7}]', b'{"type":"nothing"}',
     b"[" * 5000],
)  # fmt: skip
def test_what_is_no_report_is_refused_whatever_it_is(payload: Any) -> None:
    with pytest.raises(BadMessageError):
        reports_in(payload, GROUP)
