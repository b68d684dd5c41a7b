from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from broker import HOST, Amqtt, BrokerProcess, Listener, Mosquitto, alarm, cut, free_port, numbers, wait_until
from certificates import Authority
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgeflex_connectors import mqtt, mqtt_publish
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_publish import MqttPublish, MqttPublishConfig, payloads, topic_level
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_flow.messages import (
    Alarm,
    Crossing,
    FrequencyEvent,
    Message,
    Setpoints,
    decode_message,
    samples_from_rows,
)
from edgeflex_flow.node import Context, OpenConnection, WireMessage
from edgeflex_services.broker import hang_up

if TYPE_CHECKING:
    from conftest import ContextMaker

EVENT = FrequencyEvent(
    id="G1@1633791645123456789",
    state="started",
    device="G1",
    onset_time_ns=1633791645123456789,
    detected_time_ns=1633791645623456789,
    rocof_hz_per_s=-0.03,
    frequency_before_hz=50.0,
    frequency_extreme_hz=49.98,
    quality=16,
)
ROWS = samples_from_rows(
    [
        (1_000_000_000, "G1", {"frequency_hz": 49.98, "rocof_hz_per_s": float("nan")}),
        (1_020_000_001, "G2", {"frequency_hz": 50.01, "rocof_hz_per_s": 0.25}),
    ],
    quality=6,
)

each_broker = pytest.mark.parametrize("kind", [pytest.param(Mosquitto, marks=pytest.mark.needs("mosquitto")), Amqtt])


def encoded(config: MqttPublishConfig, message: WireMessage) -> list[tuple[str, bytes]]:
    made = payloads(config, message, PayloadEncoder(config.format))
    return [(topic, payload) for topic, payload in made if isinstance(payload, bytes)]


@contextmanager
def sink(
    make_context: ContextMaker, broker: BrokerProcess, connection: dict[str, Any] | None = None, **fields: Any
) -> Iterator[tuple[MqttPublish, Context]]:
    config = MqttConfig(**{"url": broker.url, "reconnect_min": 0.02, "reconnect_max": 0.05, **(connection or {})})
    context = make_context("out", connections={"bus": OpenConnection("databus", mqtt.NODE, config)})
    opened = mqtt_publish.NODE.open(MqttPublishConfig(**{"bus": "databus", "topic": "t", **fields}), context)
    assert isinstance(opened, MqttPublish)
    try:
        opened.open()
        yield opened, context
    finally:
        opened.close()


@each_broker
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_reach_a_subscriber_in_order(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess], qos: int
) -> None:
    with kind(tmp_path) as broker, Listener(broker, qos=qos) as listener, sink(make_context, broker, qos=qos) as opened:
        publish, context = opened
        publish.write([alarm(0), EVENT])
        publish.write([alarm(1)])
        assert publish.flush(10.0)
        first, second, third = listener.wait_for(3)
        assert [decode_message(each[1], [Alarm, FrequencyEvent]) for each in (first, second, third)] == [
            alarm(0),
            EVENT,
            alarm(1),
        ]
        counters = context.counters.snapshot()
        assert counters.get("published") == 3
        assert counters.get("acknowledged", 0) == (3 if qos else 0)
        assert counters.get("bytes") == sum(len(payload) for _, payload in listener.received)


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_burst_that_the_socket_cannot_take_at_once_arrives_whole_and_in_order(
    tmp_path: Path, make_context: ContextMaker, qos: int
) -> None:
    count = 5_000
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, qos=qos) as listener,
        sink(make_context, broker, qos=qos) as (publish, context),
    ):
        publish.write([alarm(number) for number in range(count)])
        assert publish.flush(30.0)
        assert numbers(listener.wait_for(count)) == list(range(count))
        assert context.counters.get("overflow") == 0


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("tls", [False, True])
def test_payload_larger_than_the_buffers_of_the_socket_is_acknowledged(
    tmp_path: Path, make_context: ContextMaker, tls: bool
) -> None:
    text = "ROCOF " * 2_000_000
    authority = Authority(tmp_path)
    broker = Mosquitto(tmp_path, tls=authority.issue("broker") if tls else None)
    config = {"ca": "authority.pem"} if tls else {}
    with broker, sink(make_context, broker, config) as (publish, context):
        publish.write([Alarm(source="s", severity="info", text=text, time_ns=1), alarm(2)])
        assert publish.flush(30.0)
        assert context.counters.get("acknowledged") == 2
        assert context.counters.get("reconnects") == 0


def test_samples_become_an_array_of_flat_objects() -> None:
    ((topic, payload),) = encoded(MqttPublishConfig(bus="b", topic="edge/{type}"), ROWS)
    assert topic == "edge/samples"
    assert json.loads(payload) == [
        {
            "created": 1000,
            "device": "G1",
            "time_ns": 1_000_000_000,
            "quality": 6,
            "frequency_hz": 49.98,
            "rocof_hz_per_s": None,
        },
        {
            "created": 1020,
            "device": "G2",
            "time_ns": 1_020_000_001,
            "quality": 6,
            "frequency_hz": 50.01,
            "rocof_hz_per_s": 0.25,
        },
    ]


def test_device_in_the_topic_splits_samples_by_device() -> None:
    made = dict(encoded(MqttPublishConfig(bus="b", topic="pmu/{device}"), ROWS))
    assert [json.loads(payload)[0]["device"] for payload in made.values()] == ["G1", "G2"]
    assert list(made) == ["pmu/G1", "pmu/G2"]


@pytest.mark.parametrize(
    ("message", "topic"),
    [
        (EVENT, "a/G1/frequency_event"),
        (alarm(1), "a/_/alarm"),
        (Crossing(device="G/2", column="x_v", state="above", time_ns=1, value=1, limit=1), "a/G_2/crossing"),
    ],
)
def test_topic_is_filled_in_from_the_message(message: FrequencyEvent | Alarm | Crossing, topic: str) -> None:
    config = MqttPublishConfig(bus="b", topic="a/{device}/{type}")
    assert [made for made, _ in encoded(config, message)] == [topic]


@pytest.mark.parametrize(
    ("device", "level"),
    [
        ("a/b", "a_b"),
        ("../G1", ".._G1"),
        ("+", "_"),
        ("G#", "G_"),
        ("$SYS", "_SYS"),
        ("G$", "G$"),
        ("a\0b\n\x7f\ufffe", "a_b___"),
        ("\ud800", "_"),
        ("", "_"),
        ("Zürich 1", "Zürich 1"),
    ],
)
def test_device_chooses_no_other_topic(device: str, level: str) -> None:
    assert topic_level(device) == level
    message = msgspec.structs.replace(EVENT, device=device)
    if device != "\ud800":  # which JSON cannot hold
        ((topic, payload),) = encoded(MqttPublishConfig(bus="b", topic="{device}/x"), message)
        assert (topic, json.loads(payload)["device"]) == (f"{level}/x", device)


def test_samples_of_a_device_choose_no_other_topic() -> None:
    batch = samples_from_rows([(1, "$SYS/#", {"x_v": 1.0})])
    ((topic, payload),) = encoded(MqttPublishConfig(bus="b", topic="{device}"), batch)
    assert (topic, json.loads(payload)[0]["device"]) == ("_SYS__", "$SYS/#")


def test_empty_batch_is_not_published() -> None:
    assert encoded(MqttPublishConfig(bus="b", topic="a"), samples_from_rows([])) == []


@pytest.mark.parametrize(
    ("topic", "complaint"),
    [
        ("a/+", "must not hold '\\+'"),
        ("a/#", "must not hold '#'"),
        ("a/{node}", r"no placeholder '\{node\}'; known: \{device\}, \{type\}"),
        ("a/{device", "expected '}'"),
        ("a/{device!r}", "placeholders are plain"),
        ("a/{device:>9}", "placeholders are plain"),
        ("a" * 70_000, "at most 65535 bytes"),
        ("", "length >= 1"),
    ],
)
def test_topic_that_cannot_be_published_to_is_refused(topic: str, complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"bus": "b", "topic": topic}, MqttPublishConfig)


@pytest.mark.needs("mosquitto")
def test_device_that_makes_a_bad_topic_is_a_dead_letter_and_the_rest_goes_out(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    bad = msgspec.structs.replace(EVENT, device="G" * 70_000)
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker) as listener,
        sink(make_context, broker, topic="e/{device}") as (publish, context),
    ):
        publish.write([bad, EVENT])
        assert [topic for topic, _ in listener.wait_for(1)] == ["e/G1"]
        assert context.counters.get("bad_topic") == 1
    assert "at most 65535 bytes" in make_context.dead_letters[0][1]


@pytest.mark.needs("mosquitto")
def test_message_that_json_cannot_hold_is_a_dead_letter_and_the_rest_goes_out(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker) as listener,
        sink(make_context, broker) as (publish, _),
    ):
        publish.write([Alarm(source="\ud800", severity="info", text="", time_ns=1), alarm(2)])
        assert numbers(listener.wait_for(1)) == [2]
    assert [reason for reason, _, _ in make_context.dead_letters] == ["not_encodable"]


@pytest.mark.needs("mosquitto")
def test_retained_message_awaits_later_subscribers(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        with sink(make_context, broker, retain=True) as (publish, _):
            publish.write([alarm(7)])
            assert publish.flush(10.0)
        with Listener(broker) as late:
            assert numbers(late.wait_for(1)) == [7]


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [0, 1])
def test_messages_wait_for_a_broker_that_starts_later(tmp_path: Path, make_context: ContextMaker, qos: int) -> None:
    broker = Mosquitto(tmp_path, persistent=True)
    with broker, Listener(broker, session="keeper"):
        pass  # from now on the broker keeps QoS 1 for this session
    with sink(make_context, broker, qos=qos) as (publish, _):
        for number in range(300):
            publish.write([alarm(number)])
        assert not publish.flush(0.0)
        with broker:
            assert publish.flush(10.0)
            if qos == 1:
                with Listener(broker, session="keeper") as listener:
                    assert numbers(listener.wait_for(300)) == list(range(300))


def test_overflow_drops_the_oldest_and_counts_them(tmp_path: Path, make_context: ContextMaker) -> None:
    broker = Amqtt(tmp_path)
    broker.port = free_port()
    with sink(make_context, broker, queue=10) as (publish, context):
        for number in range(25):
            publish.write([alarm(number)])
        assert context.counters.get("overflow") == 15
        with broker, Listener(broker) as listener:
            # The listener may come after the sink, so only what it did not miss is compared.
            assert publish.flush(10.0)
            publish.write([alarm(99)])
            wait_until(lambda: 99 in numbers(listener.received))
            assert set(numbers(listener.received)) <= {*range(15, 25), 99}
        assert context.counters.get("published") == 11


@pytest.mark.needs("mosquitto")
def test_restart_of_the_broker_loses_nothing_with_qos_1(tmp_path: Path, make_context: ContextMaker) -> None:
    count = 3000
    with (
        Mosquitto(tmp_path, persistent=True) as broker,
        Listener(broker, session="keeper") as listener,
        sink(make_context, broker) as (publish, context),
    ):
        for number in range(count):
            publish.write([alarm(number)])
            if number in {count // 3, 2 * count // 3}:
                wait_until(lambda: context.counters.get("acknowledged"))
                broker.stop()
            if number in {count // 2, count - 1}:
                broker.start()
        assert publish.flush(20.0)
        wait_until(lambda: len(set(numbers(listener.received))) == count)
        assert set(numbers(listener.received)) == set(range(count))
        assert context.counters.get("overflow") == context.counters.get("lost") == 0
        assert context.counters.get("acknowledged") == count
        assert context.counters.get("reconnects") >= 1


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [1, 2])
def test_killed_broker_gets_again_what_it_did_not_acknowledge(
    tmp_path: Path, make_context: ContextMaker, qos: int
) -> None:
    with Mosquitto(tmp_path) as broker, sink(make_context, broker, qos=qos) as (publish, context):
        wait_until(lambda: publish._session is not None and publish._session.client.is_connected())
        for number in range(1000):
            publish.write([alarm(number)])
            if number == 500:
                broker.kill()
        broker.start()
        assert publish.flush(20.0)
        assert context.counters.get("acknowledged") == 1000
        assert context.counters.get("overflow") == context.counters.get("lost") == 0


def test_what_no_broker_took_is_counted_as_lost_at_the_end(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Amqtt(tmp_path)
    broker.port = free_port()
    with sink(make_context, broker) as (publish, context):
        publish.write([alarm(1), alarm(2)])
        assert not publish.flush(0.05)
    assert context.counters.get("lost") == 2
    assert "2 payloads were never taken by the broker and are lost" in caplog.messages


def test_write_does_not_wait_for_a_connection_that_is_being_made(tmp_path: Path, make_context: ContextMaker) -> None:
    Authority(tmp_path)
    broker = Amqtt(tmp_path)
    with socket.create_server((HOST, 0)) as silent:
        broker.scheme, broker.port = "mqtts", silent.getsockname()[1]
        with sink(make_context, broker, {"ca": "authority.pem", "connect_timeout": 60}) as (publish, _):
            connection, _ = silent.accept()  # the client now holds its lock and awaits a handshake
            with connection:
                writing = threading.Thread(target=publish.write, args=([alarm(1)],))
                writing.start()
                writing.join(10.0)
                assert not writing.is_alive()


def late_ones(received: Sequence[tuple[str, bytes]]) -> list[int]:
    return [json.loads(payload)["time_ns"] for _, payload in received if json.loads(payload).get("late")]


@pytest.fixture
def keeper(tmp_path: Path) -> Mosquitto:
    """A broker, not running, that keeps everything on `t` for the session `keeper`."""
    broker = Mosquitto(tmp_path, persistent=True)
    with broker, Listener(broker, session="keeper"):
        pass
    return broker


def kept_by(broker: BrokerProcess, count: int) -> list[tuple[str, bytes]]:
    with Listener(broker, session="keeper") as listener:
        return list(listener.wait_for(count))


@pytest.mark.needs("mosquitto")
def test_what_no_broker_took_is_kept_on_disk_and_sent_by_the_next_run_as_late(
    keeper: Mosquitto, make_context: ContextMaker
) -> None:
    box = {"outbox": "outbox"}
    with sink(make_context, keeper, box) as (publish, context):
        publish.write([alarm(number) for number in range(300)])
        assert publish.flush(2.0), "saved to disk"
    assert context.counters.get("lost") == 0
    with sink(make_context, keeper, box, late_after=0.01) as (publish, context):
        publish.write([alarm(number) for number in range(300, 310)])
        assert context.counters.get("recovered") == 300
        with keeper:
            assert publish.flush(10.0)
            received = kept_by(keeper, 310)
    assert numbers(received) == list(range(310))
    assert late_ones(received)[:300] == list(range(300))
    assert context.counters.get("late") >= 300
    assert list((keeper.folder / "outbox").rglob("*.segment")) == []


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(
    ("qos", "on_disk", "kept"), [(0, None, False), (0, True, True), (1, None, True), (1, False, False)]
)
def test_outbox_on_disk_is_for_qos_1_unless_said_otherwise(
    keeper: Mosquitto, make_context: ContextMaker, *, qos: int, on_disk: bool | None, kept: bool
) -> None:
    with sink(make_context, keeper, {"outbox": "outbox"}, qos=qos, on_disk=on_disk) as (publish, context):
        publish.write([alarm(1)])
        assert publish.flush(10.0 if kept else 0.2) == kept
    assert context.counters.get("lost") == (0 if kept else 1)


@pytest.mark.needs("mosquitto")
def test_late_samples_carry_the_flag(keeper: Mosquitto, make_context: ContextMaker) -> None:
    with sink(make_context, keeper, late_after=0.01) as (publish, _):
        publish.write([ROWS])
        time.sleep(0.05)
        with keeper:
            assert publish.flush(10.0)
            ((_, payload),) = kept_by(keeper, 1)
    assert [each["quality"] for each in json.loads(payload)] == [6 + 256, 6 + 256]


@pytest.mark.needs("mosquitto")
def test_late_messages_carry_a_user_property_in_mqtt_5(tmp_path: Path, make_context: ContextMaker) -> None:
    broker = Mosquitto(tmp_path)
    broker.port = free_port()
    with sink(make_context, broker, {"version": "5"}, late_after=0.01, retain=True) as (
        publish,
        _,
    ):
        publish.write([alarm(1)])
        time.sleep(0.05)
        with broker:
            assert publish.flush(10.0)
            properties = [each.properties.UserProperty for each in receive_v5(broker, 1)]
    assert properties == [[("late", "true")]]


def receive_v5(broker: BrokerProcess, count: int) -> list[Any]:
    """What a subscriber of MQTT 5 gets, retained messages first, with its properties."""
    received: list[Any] = []

    def subscribe(each: Client, *_: Any) -> None:
        each.subscribe("#", 1)

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = lambda _client, _userdata, message: received.append(message)
    client.on_connect = subscribe
    client.connect(HOST, broker.port)
    client.loop_start()
    try:
        wait_until(lambda: len(received) >= count)
    finally:
        hang_up(client)
    return received


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("box", [{}, {"outbox": "outbox"}])
def test_set_points_expire_while_the_broker_is_away(
    keeper: Mosquitto, make_context: ContextMaker, qos: int, box: dict[str, str]
) -> None:
    with sink(make_context, keeper, box, qos=qos, expires=0.3) as (publish, context):
        publish.write([alarm(1), alarm(2)])
        time.sleep(0.4)
        with keeper, Listener(keeper) as listener:
            wait_until(lambda: context.counters.get("expired") == 2)
            publish.write([alarm(3)])
            listener.wait_for(1)
            assert publish.flush(10.0)
            assert numbers(listener.received) == [3]


def noting(publish: Callable[..., Any], levels: list[int]) -> Callable[..., Any]:
    """The same, noting the QoS of each call."""

    def noted(topic: str, payload: bytes, qos: int, *rest: Any, **named: Any) -> Any:
        levels.append(qos)
        return publish(topic, payload, qos, *rest, **named)

    return noted


class Setpoint(Message, frozen=True, kw_only=True, tag="test_setpoint"):
    valid_for_s: ClassVar[float | None] = 0.3
    time_ns: int


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [1, 2])
def test_type_of_message_says_how_long_it_is_valid(keeper: Mosquitto, make_context: ContextMaker, qos: int) -> None:
    with sink(make_context, keeper, qos=qos) as (publish, context):
        publish.write([Setpoint(time_ns=time.time_ns()), alarm(2)])
        time.sleep(0.4)
        with keeper:
            assert publish.flush(10.0)
            assert numbers(kept_by(keeper, 1)) == [2]
    assert context.counters.get("expired") == 1


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [1, 2])
def test_message_that_expires_goes_out_with_qos_1_at_most(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    with Mosquitto(tmp_path) as broker, sink(make_context, broker, qos=qos, retain=True) as (publish, _):
        publish.write([msgspec.structs.replace(alarm(0), device="a")])
        assert publish.flush(10.0)
        assert publish._session is not None
        [message] = receive_v5(broker, 1)
        assert message.qos == 1  # as was subscribed
        sent: list[int] = []
        for name in ("packet_of", "publish"):
            monkeypatch.setattr(publish._session.client, name, noting(getattr(publish._session.client, name), sent))
        publish.write([Setpoint(time_ns=time.time_ns()), alarm(2)])
        assert publish.flush(10.0)
    assert sent == [1, qos]


def setpoints(time_ns: int, valid_for_s: float) -> Setpoints:
    return Setpoints(
        controller="c",
        time_ns=time_ns,
        quantity="active_power_w",
        values={"a": 1.0},
        valid_for_s=valid_for_s,
        status="ok",
    )


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("expires", [None, 60.0])
def test_set_point_that_was_decided_too_long_ago_is_not_sent(
    tmp_path: Path, make_context: ContextMaker, expires: float | None
) -> None:
    fields: dict[str, Any] = {} if expires is None else {"expires": expires}
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, **fields) as (publish, context),
    ):
        now_ns = time.time_ns()
        publish.write([setpoints(now_ns - 3_600_000_000_000, 1.0), setpoints(now_ns, 30.0)])
        listener.wait_for(1)
        assert publish.flush(10.0)
    assert [each.time_ns for each in told(listener)] == [now_ns]
    assert context.counters.get("expired") == 1


def told(listener: Listener) -> list[Setpoints]:
    return [msgspec.json.decode(payload, type=Setpoints) for _, payload in listener.received]


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("valid_s", [0.5, 4e-10])
def test_what_the_sink_allows_does_not_lengthen_the_validity_of_a_set_point(
    keeper: Mosquitto, make_context: ContextMaker, valid_s: float
) -> None:
    with sink(make_context, keeper, expires=60.0) as (publish, context):
        publish.write([setpoints(time.time_ns(), valid_s), alarm(2)])
        time.sleep(0.6)
        with keeper:
            assert publish.flush(10.0)
            assert numbers(kept_by(keeper, 1)) == [2]
    assert context.counters.get("expired") == 1


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("box", [{}, {"outbox": "outbox"}])
def test_set_point_that_is_valid_for_ages_goes_out_like_any_other(
    keeper: Mosquitto, make_context: ContextMaker, box: dict[str, str]
) -> None:
    with sink(make_context, keeper, box) as (publish, _):
        publish.write([setpoints(time.time_ns(), 1e12), alarm(2)])
        with keeper:
            assert publish.flush(10.0)
            assert len(kept_by(keeper, 2)) == 2
    assert make_context.failures == []


@pytest.mark.needs("mosquitto")
def test_no_more_set_points_go_out_while_a_broker_that_hangs_has_not_answered_one_in_time(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, expires=0.3) as (publish, context),
    ):
        publish.write([alarm(0)])
        listener.wait_for(1)
        assert broker._process is not None
        broker._process.send_signal(signal.SIGSTOP)
        try:
            for number in range(1, 11):
                publish.write([alarm(number)])
                time.sleep(0.2)
        finally:
            broker._process.send_signal(signal.SIGCONT)
        wait_until(lambda: context.counters.get("acknowledged") + context.counters.get("expired") == 11)
        # What it had got before it was found to hang, it passes on; no more.
        assert context.counters.get("expired") >= 7
        assert len(listener.received) <= 4


@pytest.mark.needs("mosquitto")
def test_a_payload_that_is_never_answered_does_not_hold_the_others_back_for_ever(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_publish, "HANGS_AT_MOST_NS", 500_000_000)
    with (
        Mosquitto(tmp_path) as broker,
        sink(make_context, broker, expires=0.3) as (publish, context),
    ):
        publish.write([alarm(0)])
        assert publish.flush(10.0)
        monkeypatch.setattr(publish._session.client if publish._session else None, "on_answer", lambda *_: True)
        publish.write([alarm(1)])
        wait_until(lambda: context.counters.get("published") == 2)
        time.sleep(0.4)
        publish.write([alarm(2)])
        time.sleep(0.2)
        assert context.counters.get("published") == 2
        time.sleep(0.3)
        publish.write([alarm(3)])
        wait_until(lambda: context.counters.get("published") >= 3)


@pytest.mark.needs("mosquitto")
def test_set_point_that_was_under_way_does_not_come_late_after_a_reconnect(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    class Deaf:
        """A broker that accepts and never acknowledges, then ends the connection."""

        def __init__(self, server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x02\x00\x00")
                self.got = connection.recv(4096)
                time.sleep(0.4)

    with socket.create_server((HOST, 0)) as server:
        broker = Mosquitto(tmp_path)
        broker.port = server.getsockname()[1]
        with sink(make_context, broker, expires=0.3) as (publish, context):
            publish.write([alarm(1)])
            deaf = Deaf(server)
            server.close()
            assert b'"time_ns":1' in deaf.got
            with broker, Listener(broker) as listener:
                wait_until(lambda: context.counters.get("expired") == 1)
                publish.write([alarm(2)])
                listener.wait_for(1)
                assert numbers(listener.received) == [2]


@pytest.mark.needs("mosquitto")
def test_broker_is_told_how_long_it_may_pass_a_set_point_on(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        sink(make_context, broker, {"version": "5"}, expires=30, retain=True) as (publish, _),
    ):
        publish.write([alarm(1)])
        assert publish.flush(10.0)
        (message,) = receive_v5(broker, 1)
        assert 28 <= message.properties.MessageExpiryInterval <= 30
        connection = publish._session.client.socket() if publish._session else None
        assert isinstance(connection, socket.socket)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_set_points_of_qos_2_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="`expires` needs `qos` 0 or 1"):
        msgspec.convert({"bus": "b", "topic": "a", "qos": 2, "expires": 5}, MqttPublishConfig)


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("qos", [1, 2])
def test_revoked_right_to_publish_is_a_dead_letter_that_says_so(
    tmp_path: Path, make_context: ContextMaker, qos: int
) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic readwrite #\n")
    broker = Mosquitto(tmp_path, more=[f"acl_file {rights}"])
    with broker, sink(make_context, broker, {"version": "5"}, qos=qos) as (publish, context):
        publish.write([alarm(1)])
        assert publish.flush(10.0)
        rights.write_text("topic read #\n")
        broker.reload()
        publish.write([alarm(2)])
        wait_until(lambda: context.counters.get("refused") or context.counters.get("acknowledged") > 1)
        assert publish.flush(10.0)
        assert context.counters.get("acknowledged") == 1
    ((reason, text, payload),) = make_context.dead_letters
    assert reason == "refused"
    assert text.endswith("the broker refused to take 't': not authorized")
    assert json.loads(payload)["time_ns"] == 2


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [1, 2])
def test_lost_connections_duplicate_nothing_beyond_what_the_qos_allows(
    tmp_path: Path, make_context: ContextMaker, version: str, qos: int
) -> None:
    count = 2000
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, qos=qos) as listener,
        sink(make_context, broker, {"version": version}, qos=qos) as (publish, context),
    ):
        for number in range(count):
            publish.write([alarm(number)])
            if number % 400 == 399 and publish._session is not None:
                wait_until(lambda: publish._session is not None and publish._session.is_up)
                cut(publish._session)
        assert publish.flush(20.0)
        wait_until(lambda: len(set(numbers(listener.received))) == count)
        assert context.counters.get("reconnects") >= 1
        got = numbers(listener.received)
        assert list(dict.fromkeys(got)) == list(range(count)), "lost, or out of order"
        if qos == 2:
            assert len(got) == count, "duplicated"


@pytest.mark.needs("mosquitto")
def test_full_disk_under_the_outbox_is_told_and_the_flow_goes_on(
    small_disk: Path, tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    broker = Mosquitto(tmp_path)
    broker.port = free_port()
    with sink(make_context, broker, {"outbox": "disk/outbox"}, queue=500) as (publish, context):
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_bsize))
        publish.write([alarm(number) for number in range(2000)])
        wait_until(lambda: context.counters.get("disk_errors"))
        assert not publish.flush(0.3)
        ballast.unlink()
        with broker, Listener(broker) as listener:
            publish.write([alarm(2000)])
            assert publish.flush(20.0)
            wait_until(lambda: 2000 in numbers(listener.received))
            assert numbers(listener.received) == sorted(numbers(listener.received))
        assert context.counters.get("published") + context.counters.get("overflow") >= 2001
        assert context.counters.get("lost") == 0
    assert sum("no space left on device; entries wait in memory" in each for each in caplog.messages) == 1


@pytest.mark.needs("mosquitto")
@pytest.mark.long
def test_killed_program_loses_nothing_that_was_saved(keeper: Mosquitto, make_context: ContextMaker) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, keeper.url, str(keeper.folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    saved = max(int(child.stdout.readline()) for _ in range(5))
    child.kill()
    child.wait()
    child.stdout.close()
    with sink(make_context, keeper, {"outbox": "outbox"}) as (publish, context):
        assert context.counters.get("recovered") >= saved
        with keeper:
            assert publish.flush(20.0)
            received = numbers(kept_by(keeper, saved))
    assert received[:saved] == list(range(saved))


CHILD = """
import logging, sys
from pathlib import Path
from edgeflex_connectors import mqtt, mqtt_publish
from edgeflex_flow.clock import SystemClock
from edgeflex_flow.messages import Alarm
from edgeflex_flow.node import Context, Counters, OpenConnection

config = mqtt.MqttConfig(url=sys.argv[1], outbox="outbox")
context = Context(
    flow="flow", site="site", node="out", clock=SystemClock(), counters=Counters(), log=logging.getLogger(),
    dead_letter=print, fail=print, folder=Path(sys.argv[2]),
    connections={"bus": OpenConnection("databus", mqtt.NODE, config)},
)
sink = mqtt_publish.NODE.open(mqtt_publish.MqttPublishConfig(bus="databus", topic="t"), context)
sink.open()
for begin in range(0, 100_000, 100):
    sink.write([Alarm(source="s", severity="info", text="", time_ns=number) for number in range(begin, begin + 100)])
    assert sink.flush(0.2)
    print(begin + 100, flush=True)
"""


@each_broker
def test_topics_of_another_broker_are_used(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    there = {"topic_prefix": "utility/", "topics": {"/voltage_control": "vc"}}
    with (
        kind(tmp_path) as broker,
        Listener(broker) as listener,
        sink(make_context, broker, there, topic="/voltage_control/measurements/{type}") as (publish, _),
    ):
        publish.write([alarm(1)])
        assert [topic for topic, _ in listener.wait_for(1)] == ["utility/vc/measurements/alarm"]


@pytest.mark.needs("mosquitto")
@pytest.mark.long
def test_broker_killed_and_restarted_under_way_loses_nothing_and_keeps_the_order(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    """For 60 s, at QoS 1, on four topics: the subscriber's session and the outbox bring every message."""
    # A killed mosquitto forgets what it has not written: that has to be the subscription alone.
    broker = Mosquitto(tmp_path, persistent=True, more=["autosave_interval 1", "max_inflight_messages 0"])
    with broker, Listener(broker, "t/#", session="keeper") as listener:
        time.sleep(1.5)
        with sink(make_context, broker, {"outbox": "outbox"}, topic="t/{device}", late_after=10) as (publish, context):
            ends_s = time.monotonic() + 60
            count = kills = 0
            while time.monotonic() < ends_s:
                publish.write([Alarm(source="s", severity="info", text="", time_ns=count, device=f"G{count % 4}")])
                count += 1
                time.sleep(0.002)
                if time.monotonic() > ends_s - 60 + 10 * (kills + 1) and kills < 5:
                    kills += 1
                    broker.kill()
                    time.sleep(0.5)
                    broker.start()
            assert publish.flush(30.0)
            wait_until(lambda: len(set(numbers(listener.received))) == count)
            assert context.counters.get("overflow") == context.counters.get("lost") == 0
            assert context.counters.get("reconnects") >= kills - 1
    for device in range(4):
        got = numbers([each for each in listener.received if each[0] == f"t/G{device}"])
        assert list(dict.fromkeys(got)) == list(range(device, count, 4))


@pytest.mark.needs("mosquitto")
def test_qos_0_sends_again_only_what_the_operating_system_did_not_take(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    """The far side takes nothing, then hangs up: of what was handed over, the part that its computer took is lost."""
    count, text = 2000, "x" * 10_000
    with socket.create_server((HOST, 0)) as server:
        broker = Mosquitto(tmp_path)
        broker.port = server.getsockname()[1]
        with sink(make_context, broker, qos=0) as (publish, context):
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x02\x00\x00")
                publish.write([Alarm(source="s", severity="info", text=text, time_ns=each) for each in range(count)])
                wait_until(lambda: context.counters.get("published") and publish._sizes)
                server.close()
                with broker, Listener(broker, qos=0) as listener:
                    time.sleep(0.1)
                    connection.shutdown(socket.SHUT_RDWR)
                    assert publish.flush(20.0)
                    wait_until(lambda: count - 1 in numbers(listener.received))
                    got = numbers(listener.received)
            assert got == list(range(got[0], count)), "a gap, or twice"
            assert got[0] > 0
            assert context.counters.get("lost") == 1
            assert context.counters.get("overflow") == 0


def test_what_the_broker_has_acknowledged_is_durable_and_what_waits_is_not(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with Mosquitto(tmp_path) as broker, sink(make_context, broker) as (opened, _):
        opened.write([alarm(0), alarm(1)])
        wait_until(lambda: opened.progress() == (2, 2))
        broker.stop()
        opened.write([alarm(2)])
        assert opened.progress() == (3, 2)
        broker.start()
        wait_until(lambda: opened.progress() == (3, 3))


def test_a_topic_that_only_the_prefix_makes_too_long_costs_its_own_message(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "#") as listener,
        sink(make_context, broker, {"topic_prefix": "utility/"}, topic="{device}") as (opened, _),
    ):
        opened.write([msgspec.structs.replace(alarm(0), device="x" * 65_530), alarm(1)])
        wait_until(lambda: numbers(listener.received) == [1])
    assert [reason for reason, _, _ in make_context.dead_letters] == ["bad_topic"]


def test_a_payload_that_the_broker_finds_too_large_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path, more=["message_size_limit 3000"]) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, {"version": "5"}) as (opened, _),
    ):
        opened.write([msgspec.structs.replace(alarm(0), text="x" * 5000), alarm(1)])
        wait_until(lambda: numbers(listener.received) == [1])
        wait_until(lambda: make_context.dead_letters)
    [(reason, text, _)] = make_context.dead_letters
    assert (reason, "too large" in text) == ("refused", True)
    assert make_context.failures == []


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_packet_larger_than_the_broker_takes_is_a_dead_letter(
    tmp_path: Path, make_context: ContextMaker, qos: int
) -> None:
    with (
        Mosquitto(tmp_path, more=["max_packet_size 3000"]) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, {"version": "5"}, qos=qos) as (opened, context),
    ):
        wait_until(lambda: opened._session is not None and opened._session.is_up)
        opened.write([msgspec.structs.replace(alarm(0), text="x" * 5000), alarm(1)])
        opened.write([alarm(2)])
        wait_until(lambda: numbers(listener.received) == [1, 2])
        assert context.counters.get("reconnects") == 0
        assert opened.flush(5.0)
    [(reason, text, _)] = make_context.dead_letters
    assert (reason, "the broker takes 3000" in text) == ("too_large", True)


@pytest.mark.parametrize("qos", [1, 2])
def test_a_payload_at_which_a_broker_ends_the_connection_each_time_is_refused_and_the_others_arrive(
    tmp_path: Path, make_context: ContextMaker, qos: int
) -> None:
    with (
        Mosquitto(tmp_path, more=["max_packet_size 3000"]) as broker,
        Listener(broker, "t", qos=qos) as listener,
        sink(make_context, broker, {"reconnect_min": 0.02, "reconnect_max": 0.02}, qos=qos) as (opened, _),
    ):
        opened.write([alarm(number) for number in range(50)])
        opened.write([msgspec.structs.replace(alarm(50), text="x" * 5000)])
        opened.write([alarm(number) for number in range(51, 100)])
        wait_until(lambda: numbers(listener.received)[-1:] == [99], 60.0)
        arrived = numbers(listener.received)
        assert (arrived if qos == 2 else list(dict.fromkeys(arrived))) == [each for each in range(100) if each != 50]
        assert opened.flush(5.0)
    [(reason, text, _)] = make_context.dead_letters
    assert (reason, "ended the connection each time" in text) == ("refused", True)


@pytest.mark.parametrize("cuts", range(1, 9))
def test_a_payload_on_which_the_network_was_cut_some_times_is_not_given_up(
    tmp_path: Path, make_context: ContextMaker, cuts: int
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, {"reconnect_min": 0.02, "reconnect_max": 0.02}) as (opened, _),
    ):
        wait_until(lambda: opened._session is not None and opened._session.is_up)
        session = opened._session
        assert session is not None
        write, made = session.client.write_packets, 0

        def write_or_lose(packets: bytes) -> bool:
            nonlocal made
            made += 1
            if made <= cuts:
                cut(session)
                return True
            return write(packets)

        session.client.write_packets = write_or_lose  # type: ignore[method-assign]
        opened.write([alarm(number) for number in range(5)])
        wait_until(lambda: set(numbers(listener.received)) == set(range(5)))
    assert make_context.dead_letters == []


def test_no_payload_is_given_up_while_the_broker_takes_none(tmp_path: Path, make_context: ContextMaker) -> None:
    endings = 0
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, {"reconnect_min": 0.02, "reconnect_max": 0.02}) as (opened, _),
    ):
        wait_until(lambda: opened._session is not None and opened._session.is_up)
        session = opened._session
        assert session is not None
        write = session.client.write_packets

        def write_and_lose(packets: bytes) -> bool:
            nonlocal endings
            endings += 1
            cut(session)
            return True

        session.client.write_packets = write_and_lose  # type: ignore[method-assign]
        opened.write([alarm(0), alarm(1), alarm(2)])
        wait_until(lambda: endings >= 12)
        session.client.write_packets = write  # type: ignore[method-assign]
        wait_until(lambda: numbers(listener.received) == [0, 1, 2])
    assert make_context.dead_letters == []


def test_a_broker_of_3_1_1_is_not_asked_to_retain_what_expires(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        with sink(make_context, broker, expires=30, retain=True) as (opened, _):
            opened.write([alarm(0)])
            assert opened.flush(5.0)
        with sink(make_context, broker, retain=True) as (opened, _):
            opened.write([alarm(1)])
            assert opened.flush(5.0)
        with Listener(broker, "t") as listener:
            assert numbers(listener.wait_for(1)) == [1]


@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_is_under_way_than_the_broker_takes(tmp_path: Path, make_context: ContextMaker, qos: int) -> None:
    with (
        Mosquitto(tmp_path, more=["max_inflight_messages 3"]) as broker,
        Listener(broker, "t") as listener,
        sink(make_context, broker, {"version": "5"}, qos=qos) as (opened, context),
    ):
        wait_until(lambda: opened._session is not None and opened._session.is_up)
        opened.write([alarm(number) for number in range(300)])
        wait_until(lambda: numbers(listener.received) == list(range(300)))
        assert context.counters.get("reconnects") == 0


@pytest.mark.parametrize(("setting", "words"), [("max_qos 0", "`qos` up to 0"), ("retain_available false", "`retain`")])
def test_a_broker_that_cannot_do_what_is_asked_for_ends_the_flow(
    tmp_path: Path, make_context: ContextMaker, setting: str, words: str
) -> None:
    with (
        Mosquitto(tmp_path, more=[setting]) as broker,
        sink(make_context, broker, {"version": "5"}, qos=1, retain=True),
    ):
        wait_until(lambda: make_context.failures)
    assert words in str(make_context.failures[0])
