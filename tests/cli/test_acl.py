"""`edgeflex acl`: a real mosquitto with its files allows what the flow needs and refuses everything else."""

from __future__ import annotations

import itertools
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker import HOST, Mosquitto, free_port, wait_until
from certificates import Authority
from click.testing import CliRunner, Result
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from served_policies import GROUP, ServedPolicies

from edgeflex_flow.cli.acl import acl, password_entry
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_services.broker import hang_up

FLOW = """\
flow: limits
nodes:
  measured: {kind: mqtt_subscribe, bus: databus, topics: ["${site}/measured/+"], columns: [frequency_hz]}
  limit: {kind: threshold, from: measured, column: frequency_hz, below: 49.8}
  tell: {kind: mqtt_publish, from: [limit, dead_letters], bus: databus, topic: "${site}/{type}/{device}"}
"""
PASSWORD = "hunter2 $7$ ü"


def site_with(port: int) -> str:
    return f"""\
site: yard
flows: [limits]
connections:
  databus: {{kind: mqtt, url: "mqtts://{HOST}:{port}", username: grid, password: "${{PASSWORD}}", ca: authority.pem}}
"""


def write_site(folder: Path, port: int, flow: str = FLOW) -> Path:
    (folder / "sites").mkdir(exist_ok=True)
    (folder / "limits.yaml").write_text(flow)
    site = folder / "sites" / "yard.yaml"
    site.write_text(site_with(port))
    return site


def told(site: Path, *options: str, password: str | None = PASSWORD) -> Result:
    environment = {"PASSWORD": password}
    return CliRunner().invoke(acl, [str(site), *options], obj=shipped_registry(), env=environment)


def printed(site: Path, *options: str, password: str | None = PASSWORD) -> str:
    result = told(site, *options, password=password)
    assert result.exit_code == 0, result.output
    return result.stdout


class Person:
    """A client that keeps what it receives and which of its publications the broker took."""

    def __init__(self, broker: Mosquitto, user: str | None, password: str | None, ca: Path) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.answers: list[str] = []
        self.connected: list[str] = []
        self.subscriptions = 0
        self._client = client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if user is not None:
            client.username_pw_set(user, password)
        client.tls_set_context(ssl.create_default_context(cafile=str(ca)))
        client.on_connect = self._connected
        client.on_message = self._came
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.connect(HOST, broker.port)
        client.loop_start()
        wait_until(lambda: self.connected)

    def _connected(self, _client: Client, _userdata: Any, _flags: Any, reason: ReasonCode, _more: Any) -> None:
        self.connected.append(reason.getName())

    def _came(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))

    def _published(
        self, _client: Client, _userdata: Any, _mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self.answers.append(reason.getName())

    def _subscribed(self, *_: Any) -> None:
        self.subscriptions += 1

    def subscribe(self, topic: str) -> None:
        before = self.subscriptions
        self._client.subscribe(topic, 1)
        wait_until(lambda: self.subscriptions > before)

    def publish(self, topic: str, payload: bytes, token: str | None = None) -> str:
        """What the broker answered."""
        before = len(self.answers)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if token is not None:
            properties.UserProperty = [("authorization", f"Bearer {token}")]
        self._client.publish(topic, payload, 1, properties=properties)
        wait_until(lambda: len(self.answers) > before)
        return self.answers[-1]

    def close(self) -> None:
        hang_up(self._client)


@contextmanager
def person(broker: Mosquitto, user: str | None, password: str | None, ca: Path) -> Iterator[Person]:
    made = Person(broker, user, password, ca)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def running(run: FlowRun) -> Iterator[None]:
    thread = threading.Thread(target=run_inline, args=(run,))
    thread.start()
    try:
        assert run.started.wait(60.0)
        yield
    finally:
        run.stop()
        thread.join(60.0)
    assert not thread.is_alive()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto with TLS and the printed files, beside the rights of a person `boss` who may do everything."""
    port = free_port()
    site = write_site(tmp_path, port)
    authority = Authority(site.parent)
    passwords, access = tmp_path / "passwords", tmp_path / "acl"
    entry = password_entry("boss", "boss") + "\n" + password_entry("stranger", "s") + "\n"
    passwords.write_text(printed(site, "--only", "passwords") + entry)
    access.write_text(printed(site, "--only", "acl") + "\nuser boss\ntopic readwrite #\n")
    for file in (passwords, access):
        file.chmod(0o600)
    broker = Mosquitto(tmp_path, tls=authority.issue("broker"), password_file=passwords, acl_file=access)
    broker.port = port
    with broker:
        yield broker


def row(device: str, second: int, frequency_hz: float) -> bytes:
    return json.dumps(
        [{"created": 1_700_000_000_000 + second * 1000, "device": device, "frequency_hz": frequency_hz}]
    ).encode()


@pytest.mark.needs("mosquitto")
def test_the_flow_does_all_it_has_to(tmp_path: Path, guarded: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", PASSWORD)
    site = tmp_path / "sites" / "yard.yaml"
    run = FlowRun(load_flow(tmp_path / "limits.yaml", shipped_registry(), site=site))
    with person(guarded, "boss", "boss", tmp_path / "sites" / "authority.pem") as boss, running(run):
        boss.subscribe("yard/crossing/+")
        boss.subscribe("yard/dead_letter/+")

        seconds = itertools.count()

        def is_heard() -> bool:
            boss.publish("yard/measured/T1", row("T1", next(seconds), 50.0))
            return run.counters["measured"].get("received") > 0

        wait_until(is_heard)
        boss.publish("yard/measured/T1", row("T1", next(seconds), 49.5))
        boss.publish("yard/measured/T1", b"no json")
        wait_until(lambda: len(boss.received) >= 2)
    assert sorted(topic for topic, _ in boss.received) == ["yard/crossing/T1", "yard/dead_letter/_"]


@pytest.mark.needs("mosquitto")
def test_user_of_the_flow_publishes_on_no_other_topics(tmp_path: Path, guarded: Mosquitto) -> None:
    ca = tmp_path / "sites" / "authority.pem"
    refused = ("yard/measured/T1", "yard/alarm/T1", "yard/crossing", "yard/crossing/T1/x", "other/crossing/T1", "x")
    with person(guarded, "boss", "boss", ca) as boss:
        boss.subscribe("#")
        for topic in refused:
            # A client for each: mosquitto 2.0.11 ends the connection after it has refused a message.
            with person(guarded, "grid", PASSWORD, ca) as grid:
                assert grid.publish(topic, b"refused") == "Not authorized"
        with person(guarded, "grid", PASSWORD, ca) as grid:
            assert grid.publish("yard/crossing/T1", b"taken") == "Success"
        wait_until(lambda: boss.received)
    assert boss.received == [("yard/crossing/T1", b"taken")]


@pytest.mark.needs("mosquitto")
def test_user_of_the_flow_receives_no_other_topics(tmp_path: Path, guarded: Mosquitto) -> None:
    ca = tmp_path / "sites" / "authority.pem"
    with person(guarded, "grid", PASSWORD, ca) as grid, person(guarded, "boss", "boss", ca) as boss:
        for topic in ("#", "+/+/+", "yard/orders", "yard/crossing/+", "yard/measured/+"):
            grid.subscribe(topic)
        for topic in ("other", "yard/orders", "yard/crossing/T1", "yard/measured/a/b", "yard/measured/T1"):
            boss.publish(topic, b"x")
        wait_until(lambda: grid.received)
    assert {topic for topic, _ in grid.received} == {"yard/measured/T1"}


USERS = ("vpp", "pmu")
PERMIT = {
    "name": "all",
    "effect": "permit",
    "when": {"users": ["vpp"]},
    "then": {"do": "return_data", "quantities": ["rocof_*"]},
}
EXCITED = {
    "name": "excited",
    "effect": "act",
    "when": {"state": [{"quantity": "rocof_hz_per_s", "above": "20 mHz/s"}]},
    "then": {"do": "run_service", "service": "inertia_estimation", "hold_off": "0 s"},
}
REPORTS, SERVICE = f"edgeflex/{GROUP}/reports", f"edgeflex/{GROUP}/service/inertia_estimation"


@pytest.mark.needs("mosquitto")
def test_the_policy_system_works_with_its_rights_and_nobody_else_hears_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, port = write_site(tmp_path, free_port()), free_port()
    authority = Authority(site.parent)
    options = ["--policy-user", "policy", "--listen", f"{GROUP}={REPORTS}/+"]
    access, passwords = tmp_path / "acl", tmp_path / "passwords"
    rights = [f"user {name}\ntopic write {REPORTS}/{name}\ntopic read edgeflex/{GROUP}/answer/{name}" for name in USERS]
    watching = f"user watcher\ntopic read {SERVICE}"
    access.write_text("\n".join([printed(site, "--only", "acl", *options), *rights, watching, ""]))
    names = ("policy", "watcher", *USERS)
    passwords.write_text("".join(f"{password_entry(name, name, 100)}\n" for name in names))
    broker = Mosquitto(tmp_path, tls=authority.issue("broker"), password_file=passwords, acl_file=access)
    broker.port = port
    monkeypatch.setenv("EDGEFLEX_POLICY_BUS_USER", "policy")
    monkeypatch.setenv("EDGEFLEX_POLICY_BUS_PASSWORD", "policy")
    ca = authority.certificate
    serve = ("--bus", f"mqtts://{HOST}:{port}", "--ca", str(ca), "--listen", f"{GROUP}={REPORTS}/+")
    with (
        broker,
        ServedPolicies(tmp_path / "policy", *serve) as served,
        person(broker, "vpp", "vpp", ca) as vpp,
        person(broker, "pmu", "pmu", ca) as pmu,
        person(broker, "watcher", "watcher", ca) as watcher,
    ):
        served.make_group()
        keys = {name: served.make_service(name, "reporter") for name in USERS}
        served.save("share", {"kind": "sharing", "rules": [PERMIT]})
        served.save("excitation", {"kind": "trigger", "rules": [EXCITED]})
        for each in (vpp, pmu, watcher):
            each.subscribe("#")
        measured = json.dumps([{"time_ns": time.time_ns(), "device": "G1", "rocof_hz_per_s": 0.5}]).encode()

        def is_heard() -> bool:
            pmu.publish(f"{REPORTS}/pmu", measured, keys["pmu"].bus_token("pmu"))
            return bool(watcher.received)

        wait_until(is_heard)
        ask = json.dumps({"type": "data_request", "asset": "G1", "id": "7"}).encode()
        vpp.publish(f"{REPORTS}/vpp", ask, keys["vpp"].bus_token("vpp"))
        wait_until(lambda: vpp.received)
        [(topic, answer)] = vpp.received
        assert topic == f"edgeflex/{GROUP}/answer/vpp"
        assert json.loads(answer)["values"]["rocof_hz_per_s"]["value"] == 0.5
        assert {topic for topic, _ in watcher.received} == {SERVICE}
        assert pmu.received == []
    # A client for each: mosquitto 2.0.11 ends the connection after it has refused a message.
    with broker:
        for topic in (f"{REPORTS}/pmu", f"edgeflex/{GROUP}/policy/x", "edgeflex/other/service/x", SERVICE + "/x"):
            with person(broker, "policy", "policy", ca) as policy:
                assert policy.publish(topic, b"refused") == "Not authorized"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy-user", "policy"], "go together"),
        (["--listen", "south=a"], "go together"),
        (["--policy-user", "policy", "--listen", "a/b"], "GROUP=FILTER"),
        (["--policy-user", "policy", "--listen", "+=a/b"], "GROUP=FILTER"),
        (["--policy-user", "grid", "--listen", "south=a"], "flows log in as 'grid' too"),
        (["--policy-user", "pol:icy", "--listen", "south=a"], "cannot stand in a file of passwords"),
    ],
)
def test_rights_of_the_policy_system_that_cannot_be_told_are_refused(
    tmp_path: Path, options: list[str], said: str
) -> None:
    result = told(write_site(tmp_path, free_port()), *options)
    assert result.exit_code != 0
    assert said in result.output


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(("user", "password"), [("grid", "wrong"), ("nobody", PASSWORD), (None, None)])
def test_others_are_not_let_in(tmp_path: Path, guarded: Mosquitto, user: str | None, password: str | None) -> None:
    with person(guarded, user, password, tmp_path / "sites" / "authority.pem") as other:
        assert other.connected[0] == "Not authorized"


@pytest.mark.needs("mosquitto")
def test_user_whom_no_flow_names_may_do_nothing(tmp_path: Path, guarded: Mosquitto) -> None:
    with person(guarded, "stranger", "s", tmp_path / "sites" / "authority.pem") as stranger:
        assert stranger.publish("yard/crossing/T1", b"x") == "Not authorized"


@pytest.mark.needs("mosquitto_passwd")
def test_entries_have_the_form_of_mosquitto_passwd(tmp_path: Path, program: Callable[[str], str]) -> None:
    file = tmp_path / "passwords"
    subprocess.run([program("mosquitto_passwd"), "-c", "-b", str(file), "grid", "x"], check=True, capture_output=True)
    theirs, ours = file.read_text().strip().split("$"), password_entry("grid", "x").split("$")
    assert [len(part) for part in ours[3:]] == [len(part) for part in theirs[3:]]
    assert ours[:2] == theirs[:2]


def test_each_entry_has_a_salt_of_its_own() -> None:
    assert password_entry("grid", "x") != password_entry("grid", "x")


def test_both_files_are_printed_with_the_topics_of_the_flow(tmp_path: Path) -> None:
    access, _, passwords = printed(write_site(tmp_path, 8883)).rpartition("\n\n")
    assert access.splitlines() == [
        "# acl_file of mosquitto for the flows limits of site yard",
        "",
        f"# databus mqtts://{HOST}:8883",
        "user grid",
        "topic write yard/crossing/+",
        "topic write yard/dead_letter/+",
        "topic read yard/measured/+",
    ]
    assert passwords.startswith("grid:$7$10000$")
    assert "hunter2" not in access + passwords


def test_each_client_may_tell_of_itself_on_its_status_topic(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883)
    site.write_text(site.read_text().replace("ca: authority", 'status_topic: "up/{site}/{flow}/{node}", ca: authority'))
    lines = printed(site, "--only", "acl").splitlines()
    assert [line for line in lines if "up/" in line] == [
        "topic write up/yard/limits/measured",
        "topic write up/yard/limits/tell",
    ]


def test_topics_of_single_devices_that_the_broker_calls_otherwise_are_allowed(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883)
    renamed = "topics: {yard/crossing/T1: north/t1, yard/measured: field, yard/measured/T1: t1}, ca: authority.pem"
    site.write_text(site.read_text().replace("ca: authority.pem", renamed))
    assert [line for line in printed(site).splitlines() if line.startswith("topic")] == [
        "topic read field/+",
        "topic write north/t1",
        "topic read t1",
        "topic write yard/crossing/+",
        "topic write yard/dead_letter/+",
    ]


def test_password_that_is_not_there_is_left_out_with_a_note(tmp_path: Path) -> None:
    result = told(write_site(tmp_path, 8883), "--only", "passwords", password=None)
    assert result.stderr == "note: grid: its password is not there; add it: mosquitto_passwd FILE 'grid'\n"
    assert result.stdout.strip() == ""


def test_mosquittos_own_tool_adds_users_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(printed(write_site(tmp_path, 8883), "--only", "passwords"))
    subprocess.run(["mosquitto_passwd", "-b", str(file), "other", "secret"], check=True)
    assert [line.partition(":")[0] for line in file.read_text().splitlines()] == ["grid", "other"]


def test_json_holds_the_same(tmp_path: Path) -> None:
    result = json.loads(printed(write_site(tmp_path, 8883), "--json", "--iterations", "77"))
    (user,) = result.pop("users")
    assert result == {"site": "yard", "flows": ["limits"]}
    assert user.pop("password_entry").startswith("grid:$7$77$")
    assert user == {
        "connection": "databus",
        "url": f"mqtts://{HOST}:8883",
        "user": "grid",
        "publish": ["yard/crossing/+", "yard/dead_letter/+"],
        "subscribe": ["yard/measured/+"],
    }


def test_clients_without_a_name_are_told_before_the_users(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883, FLOW + "  open: {kind: mqtt_publish, from: limit, bus: open, topic: x}\n")
    site.write_text(site.read_text() + '  open: {kind: mqtt, url: "mqtt://open.example"}\n')
    lines = printed(site).splitlines()
    assert lines.index("# clients without a user name (allow_anonymous true)") < lines.index("user grid")
    several = told(site, "--only", "acl")
    assert several.exit_code == 2
    assert "several brokers: choose one by --connection; known: databus, open" in several.output
    assert "user grid" not in printed(site, "--only", "acl", "--connection", "open")
    assert "known: databus, open" in told(site, "--connection", "history").output


@pytest.mark.parametrize("text", ["a\\ntopic readwrite #", " a", "a\\t"])
def test_text_that_would_become_another_line_is_refused(tmp_path: Path, text: str) -> None:
    site = write_site(tmp_path, 8883, FLOW.replace('"${site}/{type}/{device}"', f'"{text}"'.replace("#", "x")))
    result = told(site)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot stand in a line of an access list" in result.output


def test_user_that_would_become_another_entry_is_refused(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883)
    site.write_text(site.read_text().replace("username: grid", 'username: "grid:x"'))
    assert "cannot stand in a file of passwords" in told(site).output


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("flows: [limits]", "flows: []"), "lists no flows under 'flows'"),
        (("flows: [limits]", "flows: [limit]"), "known: limits; did you mean 'limits'?"),
        (("site: yard", "sit: yard"), "is no site file"),
        (("kind: mqtt,", "kind: mqt,"), "unknown kind of connection"),
    ],
)
def test_site_that_cannot_be_read_is_told(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    site = write_site(tmp_path, 8883)
    site.write_text(site.read_text().replace(*change))
    result = told(site)
    assert result.exit_code in (1, 2)
    assert complaint in result.output


def test_a_flow_is_found_by_its_name_whatever_its_file_is_called(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883)
    (tmp_path / "limits.yaml").rename(tmp_path / "01-limits.yaml")
    assert "user grid" in printed(site)


def test_files_may_be_named_in_place_of_those_that_the_site_lists(tmp_path: Path) -> None:
    site = write_site(tmp_path, 8883)
    site.write_text(site.read_text().replace("flows: [limits]", "flows: []"))
    assert "user grid" in printed(site, str(tmp_path / "limits.yaml"))
