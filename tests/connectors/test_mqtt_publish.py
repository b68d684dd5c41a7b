from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import HOST, Amqtt, BrokerProcess, Listener, Mosquitto, free_port, wait_until
from certificates import Authority

from edgeflex_connectors import mqtt, mqtt_publish
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_publish import MqttPublish, MqttPublishConfig, payloads, topic_level
from edgeflex_connectors.payloads import PayloadEncoder
from edgeflex_flow.messages import Alarm, Crossing, FrequencyEvent, decode_message, samples_from_rows
from edgeflex_flow.node import Context, OpenConnection, WireMessage

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


def alarm(number: int) -> Alarm:
    return Alarm(source="test", severity="info", text=str(number), time_ns=number)


def numbers(received: Sequence[tuple[str, bytes]]) -> list[int]:
    return [json.loads(payload)["time_ns"] for _, payload in received]


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
