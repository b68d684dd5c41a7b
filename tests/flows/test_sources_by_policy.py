"""Sources whose topics, paths and hosts a policy changes while the flow runs, against real brokers and services."""

from __future__ import annotations

import itertools
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from broker import HOST, Listener, Mosquitto, MosquittoWithRights, free_port, wait_until
from flow_files import RunningFlow
from http_service import HttpService, Reply, json_reply
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_flow.messages import Crossing, Samples, encode_message
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_services.broker import hang_up

RATE_HZ = 1000.0
TOPICS = """\
flow: followed
nodes:
  measured:
    kind: mqtt_subscribe
    bus: databus
    topics: {policy: data, field: topics, default: [grid/north/pmu], allowed: ["grid/*/pmu"]}
    messages: [crossing]
  history: {kind: store_write, from: measured, store: history}
"""
SITE = """\
site: yard
connections:
  databus: {{kind: mqtt, url: "{url}"}}
  history: {{kind: sqlite, path: history.db}}
"""


class Flow(RunningFlow):
    """A flow and a site by their texts."""

    def __init__(self, folder: Path, flow: str, site: str) -> None:
        (folder / "flow.yaml").write_text(flow, encoding="utf-8")
        (folder / "site.yaml").write_text(site, encoding="utf-8")
        super().__init__(folder / "flow.yaml", folder / "site.yaml")


class Publisher:
    """Publishes numbered messages of a device on a topic each, at a rate, with QoS 1."""

    def __init__(self, port: int, topics: dict[str, str]) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(0)
        self._client.connect(HOST, port)
        self._client.loop_start()
        self._topics = topics
        self.sent = -1
        """The last number that was handed over on all topics."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        began_s = time.monotonic()
        for number in itertools.count():
            if self._stop.wait(max(0.0, began_s + number / RATE_HZ - time.monotonic())):
                return
            for topic, device in self._topics.items():
                self._client.publish(topic, encode_message(crossing(device, number)), 1)
            self.sent = number

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        hang_up(self._client)


def crossing(device: str, number: int) -> Crossing:
    return Crossing(device=device, column="a_hz", state="above", time_ns=number, value=float(number), limit=0.0)


def numbers_of(given: list[WireMessage], device: str) -> list[int]:
    return [each.time_ns for each in list(given) if isinstance(each, Crossing) and each.device == device]


@contextmanager
def acknowledgements_seen(store: Path) -> Iterator[list[tuple[int, int]]]:
    """Each acknowledgement up to a number of a message, and how many messages were in the store by then."""
    seen: list[tuple[int, int]] = []
    acknowledge = MqttSession.acknowledge

    def spy(session: MqttSession, receipt: int) -> None:
        with closing(sqlite3.connect(store)) as opened:
            (rows,) = opened.execute("SELECT count(*) FROM messages").fetchone()
        seen.append((receipt, rows))
        acknowledge(session, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MqttSession, "acknowledge", spy)
        yield seen


@pytest.mark.needs("mosquitto")
def test_no_message_is_lost_when_a_topic_changes_by_policy(tmp_path: Path) -> None:
    topics = {"grid/north/pmu": "north", "grid/south/pmu": "south"}
    with (
        Mosquitto(tmp_path, more=["max_inflight_messages 0", "max_queued_messages 0"]) as broker,
        acknowledgements_seen(tmp_path / "history.db") as acknowledged,
        Flow(tmp_path, TOPICS, SITE.format(url=broker.url)) as flow,
        Publisher(broker.port, topics) as publisher,
    ):
        got = flow.given["measured"]
        wait_until(lambda: len(got) > 300)
        for version, where in enumerate(("south", "north", "south", "north"), start=1):
            apply_policies(flow.run, {"data": {"topics": [f"grid/{where}/pmu"], "version": version}})
            wait_until(lambda version=version: flow.count("measured", "resubscribed") == version)  # type: ignore[misc]
            first = publisher.sent + 1
            wait_until(lambda where=where, first=first: first + 500 in numbers_of(got[-200:], where))  # type: ignore[misc]
            after = sorted({number for number in numbers_of(got, where) if number >= first})
            assert after == list(range(first, after[-1] + 1))
        publisher.stop()
    assert flow.error is None
    assert flow.count("measured", "reconnects") == flow.count("measured", "overflow") == 0
    assert len(acknowledged) > 10
    assert [each for each in acknowledged if each[0] > each[1]] == []


@pytest.mark.needs("mosquitto")
def test_a_topic_that_is_not_allowed_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Mosquitto(tmp_path) as broker, Flow(tmp_path, TOPICS, SITE.format(url=broker.url)) as flow:
        for topic in ("#", "grid/+/pmu", "grid/../pmu", "grid/a/b/pmu", "grid//pmu", "$SYS/#"):
            caplog.clear()
            apply_policies(flow.run, {"data": {"topics": [topic], "version": topic}})
            assert f"'{topic}' is not among what is allowed: grid/*/pmu; [grid/north/pmu] stays" in caplog.text
        assert flow.count("measured", "policy_refused") == 6
        with Listener(broker) as client:
            client.publish("grid/north/pmu", encode_message(crossing("north", 1)))
            wait_until(lambda: numbers_of(flow.given["measured"], "north"))


@pytest.mark.needs("mosquitto", "mosquitto_ctrl")
def test_a_policy_that_has_worked_holds_after_a_later_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeflex_flow.runtime.inputs.PROVEN_AFTER_S", 0.0)
    with MosquittoWithRights(tmp_path) as broker:
        for topic in ("grid/north/#", "grid/south/#", "rows"):
            broker.control("addRoleACL", "all", "subscribePattern", topic, "allow", "1")
        broker.revoke("subscribePattern")
        site = SITE.replace("}}\n  history", ", username: grid, password: secret}}\n  history")
        with Flow(tmp_path, TOPICS, site.format(url=broker.url)) as flow:
            apply_policies(flow.run, {"data": {"topics": ["grid/south/pmu"], "version": 1}})

            def comes(number: int) -> None:
                with Listener(broker, "none", user=("grid", "secret")) as client:

                    def told() -> bool:
                        client.publish("grid/south/pmu", encode_message(crossing("south", number)))
                        return number in numbers_of(flow.given["measured"], "south")

                    wait_until(told)

            comes(1)
            broker.control("removeRoleACL", "all", "subscribePattern", "grid/south/#")
            broker.stop()
            broker.start()
            wait_until(lambda: "it has worked as the policy wants: trying again" in caplog.text)
            assert flow.run.in_force["measured"].policies == {"data.topics": "1"}
            broker.control("addRoleACL", "all", "subscribePattern", "grid/south/#", "allow", "1")
            comes(2)
            assert flow.count("measured", "policy_refused") == 0
        assert flow.error is None


def test_what_was_taken_back_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeflex_flow.runtime.policies.FIRST_WAIT_S", 0.5)
    site = "site: yard\nconnections: {history: {kind: sqlite, path: history.db}}\n"
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as me, socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
        with Flow(tmp_path, SOCKETS.replace("PORT", str(free_port())), site) as flow:
            began_s = time.monotonic()
            apply_policies(flow.run, {"data": {"port": port, "version": 1}})
            wait_until(lambda: flow.count("meters", "policy_refused") == 3)
            assert time.monotonic() - began_s > 0.5 + 1.0, "the second wait is twice the first"
            taken.close()

            def came() -> bool:
                me.sendto(b'[{"created": 1, "device": "G1", "frequency_hz": 50.0}]', (HOST, port))
                return bool(flow.given["meters"])

            wait_until(came)
            assert flow.run.in_force["meters"].policies == {"data.port": "1"}
        assert flow.error is None


@pytest.mark.needs("mosquitto", "mosquitto_ctrl")
def test_a_topic_that_the_broker_refuses_does_not_end_the_flow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MosquittoWithRights(tmp_path) as broker:
        broker.control("addRoleACL", "all", "subscribePattern", "grid/north/#", "allow", "1")
        broker.control("addRoleACL", "all", "subscribePattern", "rows", "allow", "1")
        broker.revoke("subscribePattern")
        site = SITE.replace("}}\n  history", ", username: grid, password: secret}}\n  history")
        with Flow(tmp_path, TOPICS, site.format(url=broker.url)) as flow:
            wait_until(lambda: "connected" in caplog.text or flow.run.started.is_set())
            apply_policies(flow.run, {"data": {"topics": ["grid/south/pmu"], "version": 1}})
            wait_until(lambda: flow.count("measured", "policy_refused"))
            assert "refused user 'grid' the subscription to 'grid/south/pmu'" in caplog.text
            assert flow.run.in_force["measured"].policies == {"data.topics": "default"}
            apply_policies(flow.run, {"data": {"topics": ["grid/south/pmu"], "version": 1}})
            with Listener(broker, "none", user=("grid", "secret")) as client:

                def told() -> bool:
                    client.publish("grid/north/pmu", encode_message(crossing("north", 1)))
                    return bool(numbers_of(flow.given["measured"], "north"))

                wait_until(told)
        assert flow.error is None


POLLED = """\
flow: polled
nodes:
  meters:
    kind: rest_poll
    api: grid
    path: {policy: data, field: path, default: /north, allowed: ["/*"]}
    rows: {policy: data, field: rows, default: data, allowed: [data, rows]}
    period: {policy: data, field: period, default: 50 ms, min: 50 ms, max: 1 h}
    columns: [active_power_w]
    device: M1
  out: {kind: store_write, from: meters, store: history}
"""
POLLED_SITE = """\
site: yard
connections:
  grid: {{kind: rest, url: {url}}}
  history: {{kind: sqlite, path: history.db}}
"""


def meter(power_w: float, place: str = "data") -> Reply:
    return json_reply({place: [{"time_ns": 1, "active_power_w": power_w}]})


def powers(flow: Flow) -> list[float]:
    return [
        float(value)
        for each in list(flow.given["meters"])
        if isinstance(each, Samples)
        for value in each.columns["active_power_w"]
    ]


def test_path_place_and_period_of_a_service_change_by_policy(tmp_path: Path) -> None:
    with HttpService() as service:
        service.answers("/north", meter(1.0))
        service.answers("/south", meter(2.0, "rows"))
        with Flow(tmp_path, POLLED, POLLED_SITE.format(url=f'"{service.url}"')) as flow:
            wait_until(lambda: powers(flow))
            fields = {"path": "/south", "rows": "rows", "period": "100 ms"}
            apply_policies(flow.run, {"data": {**fields, "version": 1}}, written=True)
            wait_until(lambda: powers(flow)[-1] == 2.0)
            assert flow.count("meters", "policy_changes") == 3
            asked = len(service.of("/north"))
            wait_until(lambda: len(service.of("/south")) > 5)
            assert len(service.of("/north")) == asked
            apply_policies(flow.run, {"data": {**fields, "path": "/../south", "version": 2}}, written=True)
            apply_policies(flow.run, {"data": {**fields, "path": "/south?token=1", "version": 3}}, written=True)
            assert flow.count("meters", "policy_refused") == 2
            apply_policies(flow.run, {})
            wait_until(lambda: powers(flow)[-1] == 1.0)


def test_an_address_changes_by_policy(tmp_path: Path) -> None:
    with HttpService() as first, HttpService() as second:
        first.answers("/north", meter(1.0))
        second.answers("/north", meter(2.0))
        bound = f"{{policy: data, field: url, default: {first.url!r}, allowed: [{first.url!r}, {second.url!r}]}}"
        with Flow(tmp_path, POLLED, POLLED_SITE.format(url=bound)) as flow:
            wait_until(lambda: powers(flow))
            apply_policies(flow.run, {"data": {"url": second.url, "version": 1}})
            wait_until(lambda: powers(flow)[-1] == 2.0)
            apply_policies(flow.run, {"data": {"url": "http://127.0.0.1:1", "version": 2}})
            assert flow.count("meters", "policy_refused") == 1
            assert "http://127.0.0.1:1' is not among" in flow.run.refusals["connection grid"]["url"].text
            second.stop()
            apply_policies(flow.run, {})
            wait_until(lambda: powers(flow)[-1] == 1.0)
        assert flow.error is None


MOVED = """\
flow: moved
nodes:
  measured: {kind: mqtt_subscribe, bus: inward, topics: [a], messages: [crossing]}
  history: {kind: store_write, from: measured, store: history}
"""


@pytest.mark.needs("mosquitto")
def test_a_broker_changes_by_policy_and_what_it_sent_is_acknowledged_before(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with Mosquitto(folders[0]) as first, Mosquitto(folders[1]) as second:
        site = (
            "site: yard\nconnections:\n"
            f"  inward: {{kind: mqtt, url: {{policy: data, field: bus, default: '{first.url}', "
            f"allowed: ['{first.url}', '{second.url}']}}}}\n"
            "  history: {kind: sqlite, path: history.db}\n"
        )
        with (
            acknowledgements_seen(tmp_path / "history.db") as acknowledged,
            Flow(tmp_path, MOVED, site) as flow,
            Publisher(first.port, {"a": "north"}),
            Publisher(second.port, {"a": "south"}) as publisher,
        ):
            got = flow.given["measured"]
            wait_until(lambda: len(numbers_of(got, "north")) > 300)
            apply_policies(flow.run, {"data": {"bus": second.url, "version": 1}})
            wait_until(lambda: len(numbers_of(got, "south")) > 300)
            before = len(numbers_of(got, "north"))
            assert max(receipt for receipt, rows in acknowledged if rows <= before) >= before
            publisher.stop()
        assert flow.error is None
        south = numbers_of(got, "south")
        assert south == list(range(south[0], south[-1] + 1))


SOCKETS = """\
flow: sockets
nodes:
  meters:
    kind: samples_udp
    host: 127.0.0.1
    port: {policy: data, field: port, default: PORT, min: 1024, max: 65535}
    format: json.edgeflex
    columns: [frequency_hz]
  out: {kind: store_write, from: meters, store: history}
"""


def test_a_port_that_is_taken_leaves_the_last_good_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = "site: yard\nconnections: {history: {kind: sqlite, path: history.db}}\n"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
        closing(socket.socket(type=socket.SOCK_DGRAM)) as me,
    ):
        taken.bind((HOST, 0))
        one, other = free_port(), free_port()
        with Flow(tmp_path, SOCKETS.replace("PORT", str(one)), site) as flow:

            def comes_at(port: int) -> None:
                before = len(flow.given["meters"])

                def came() -> bool:
                    me.sendto(b'[{"created": 1, "device": "G1", "frequency_hz": 50.0}]', (HOST, port))
                    return len(flow.given["meters"]) > before

                wait_until(came)

            comes_at(one)
            apply_policies(flow.run, {"data": {"port": taken.getsockname()[1], "version": 1}})
            wait_until(lambda: flow.count("meters", "policy_refused"))
            comes_at(one)
            apply_policies(flow.run, {"data": {"port": other, "version": 2}})
            comes_at(other)
        assert flow.error is None
    assert "in use" in caplog.text


def test_a_flow_whose_policy_wants_what_cannot_be_opened_starts_with_its_own(tmp_path: Path) -> None:
    site = "site: yard\nconnections: {history: {kind: sqlite, path: history.db}}\n"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        flow = Flow(tmp_path, SOCKETS.replace("PORT", str(free_port())), site)
        apply_policies(flow.run, {"data": {"port": taken.getsockname()[1], "version": 1}})
        with flow:
            wait_until(lambda: flow.count("meters", "policy_refused"))
            assert flow.error is None
