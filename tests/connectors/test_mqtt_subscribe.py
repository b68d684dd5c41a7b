from __future__ import annotations

import json
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import Amqtt, BrokerProcess, Listener, Mosquitto, cut, free_port, wait_until

from edgeflex_connectors import mqtt, mqtt_subscribe
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_client import Incoming
from edgeflex_connectors.mqtt_subscribe import MqttSubscribe, MqttSubscribeConfig
from edgeflex_flow.messages import Alarm, Samples, encode_message
from edgeflex_flow.node import Context, OpenConnection, WireMessage

if TYPE_CHECKING:
    from conftest import ContextMaker

ALARM = Alarm(source="s", severity="info", text="x", time_ns=5)
each_broker = pytest.mark.parametrize("kind", [pytest.param(Mosquitto, marks=pytest.mark.needs("mosquitto")), Amqtt])


def row(number: int, **more: object) -> dict[str, object]:
    return {"created": number, "device": "G1", "frequency_hz": 50.0 + number, **more}


def payload(*rows: dict[str, object]) -> bytes:
    return json.dumps(rows).encode()


@contextmanager
def source(
    make_context: ContextMaker,
    broker: BrokerProcess,
    connection: dict[str, Any] | None = None,
    *,
    holds: bool = False,
    **fields: Any,
) -> Iterator[tuple[MqttSubscribe, Context, list[bool]]]:
    """An open source, its context, and the a list that grows when a subscription is answered."""
    config = MqttConfig(**{"url": broker.url, "reconnect_min": 0.02, "reconnect_max": 0.05, **(connection or {})})
    context = make_context("in", connections={"bus": OpenConnection("databus", mqtt.NODE, config)})
    session = mqtt.NODE.open(config, context)
    answered = session.client.on_subscribe
    subscribed: list[bool] = []

    def note(*arguments: Any) -> None:
        answered(*arguments)
        subscribed.append(True)

    session.client.on_subscribe = note
    wanted = {"bus": "databus", "topics": ("pmu/#",), "columns": ("frequency_hz",), **fields}
    opened = MqttSubscribe(MqttSubscribeConfig(**wanted), context, session)
    opened.holds_acknowledgements = holds
    try:
        opened.open()
        yield opened, context, subscribed
    finally:
        opened.close()


def gather(opened: MqttSubscribe, count: int) -> list[WireMessage]:
    """Poll when the descriptor says so until `count` rows and messages have come."""
    given: list[WireMessage] = []
    while sum(item.rows if isinstance(item, Samples) else 1 for item in given) < count:
        descriptor = opened.fileno()
        assert descriptor is not None
        readable, _, _ = select.select([descriptor], [], [], 10.0)
        assert readable, f"nothing came after {given}"
        given.extend(opened.poll())
    return given


@each_broker
def test_samples_and_messages_come_in_order_with_runs_of_samples_joined(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    with kind(tmp_path) as broker, source(make_context, broker, messages=("alarm",)) as (opened, context, subscribed):
        wait_until(lambda: subscribed)
        with Listener(broker) as other:
            other.publish("pmu/a", payload(row(1), row(2, quality=4)))
            other.publish("pmu/b", payload(row(3, device="G2")))
            other.publish("pmu/alarm", encode_message(ALARM))
            other.publish("pmu/a", payload(row(4)))
            wait_until(lambda: len(opened._inbox) == 4)
        first, alarm, last = opened.poll()
        assert isinstance(first, Samples)
        assert isinstance(last, Samples)
        assert first.time_ns.tolist() == [1_000_000, 2_000_000, 3_000_000]
        assert first.columns["frequency_hz"].tolist() == [51.0, 52.0, 53.0]
        assert [first.devices[code] for code in first.device] == ["G1", "G1", "G2"]
        assert first.quality.tolist() == [0, 4, 0]
        assert alarm == ALARM
        assert last.devices is first.devices
        assert context.counters.get("received") == 4


@pytest.mark.needs("mosquitto")
def test_descriptor_wakes_for_each_arrival_and_rests_after_poll(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        source(make_context, broker) as (opened, _, subscribed),
        Listener(broker) as other,
    ):
        wait_until(lambda: subscribed)
        for number in range(50):
            other.publish("pmu/a", payload(row(number)))
            (samples,) = gather(opened, 1)
            assert isinstance(samples, Samples)
            assert samples.time_ns.tolist() == [number * 1_000_000]
            descriptor = opened.fileno()
            assert descriptor is not None
            assert select.select([descriptor], [], [], 0.0)[0] == []


@pytest.mark.needs("mosquitto")
def test_bad_row_is_a_dead_letter_and_the_rest_goes_on(tmp_path: Path, make_context: ContextMaker) -> None:
    bad = payload(row(1), row(2, frequency_hz="fast"))
    with Mosquitto(tmp_path) as broker, source(make_context, broker) as (opened, context, subscribed):
        wait_until(lambda: subscribed)
        with Listener(broker) as other:
            other.publish("pmu/a", bad)
            other.publish("pmu/a", b"{nonsense")
            other.publish("pmu/a", payload(row(3)))
        batches = [each for each in gather(opened, 2) if isinstance(each, Samples)]
        assert [time_ns for samples in batches for time_ns in samples.time_ns.tolist()] == [1_000_000, 3_000_000]
        assert context.counters.get("bad_payload") == 2
        assert context.counters.get("bad_rows") == 1
    reason, text, kept = make_context.dead_letters[0]
    assert (reason, kept) == ("bad_payload", json.dumps(row(2, frequency_hz="fast")).encode())
    assert text.startswith("topic 'pmu/a': 1 of 2 rows cannot be used, first: Expected `int | float")
    assert text.endswith("got `str` - at `$[1].frequency_hz`")


@pytest.mark.needs("mosquitto")
def test_well_made_message_of_another_type_is_counted_only(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker, source(make_context, broker) as (opened, context, subscribed):
        wait_until(lambda: subscribed)
        with Listener(broker) as other:
            other.publish("pmu/a", encode_message(ALARM))
            other.publish("pmu/a", payload(row(3)))
        gather(opened, 1)
        assert context.counters.get("not_accepted") == 1
    assert make_context.dead_letters == []


@pytest.mark.needs("mosquitto")
def test_overflow_drops_the_oldest_and_counts_them(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker, source(make_context, broker, queue=3) as (opened, context, subscribed):
        wait_until(lambda: subscribed)
        with Listener(broker, "pmu/#") as other:
            for number in range(10):
                other.publish("pmu/a", payload(row(number)))
            wait_until(lambda: context.counters.get("overflow") == 7)
        (samples,) = opened.poll()
        assert isinstance(samples, Samples)
        assert samples.time_ns.tolist() == [7_000_000, 8_000_000, 9_000_000]


@each_broker
def test_subscription_survives_a_restart_of_the_broker(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    with kind(tmp_path) as broker, source(make_context, broker) as (opened, context, subscribed):
        wait_until(lambda: subscribed)
        broker.kill()
        broker.start()
        wait_until(lambda: len(subscribed) == 2)
        with Listener(broker) as other:
            other.publish("pmu/a", payload(row(1)))
        gather(opened, 1)
        assert context.counters.get("reconnects") == 1


@pytest.mark.needs("mosquitto")
def test_source_opens_before_its_broker_starts(tmp_path: Path, make_context: ContextMaker) -> None:
    broker = Mosquitto(tmp_path)
    broker.port = free_port()
    with source(make_context, broker) as (opened, _, subscribed):
        assert opened.poll() == ()
        with broker:
            wait_until(lambda: subscribed)
            with Listener(broker) as other:
                other.publish("pmu/a", payload(row(1)))
            gather(opened, 1)


@pytest.mark.needs("mosquitto")
def test_device_comes_from_the_topic_when_asked(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        source(make_context, broker, device="pmu/{device}/+") as (opened, _, subscribed),
    ):
        wait_until(lambda: subscribed)
        with Listener(broker) as other:
            other.publish("pmu/G7/data", payload({"created": 1, "frequency_hz": 50.0}))
        (samples,) = gather(opened, 1)
        assert isinstance(samples, Samples)
        assert samples.devices == ("G7",)


def test_output_is_what_the_fields_promise() -> None:
    config = MqttSubscribeConfig(bus="b", topics=("a",), columns=("frequency_hz",), messages=("alarm",))
    wire = mqtt_subscribe.NODE.output(config, {})
    assert wire.messages == {Samples, Alarm}
    assert wire.columns == {"frequency_hz"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"columns": []}, "give `columns`, `messages` or columns in `format`"),
        ({"columns": ["frequency"]}, "'frequency' does not end in a unit"),
        ({"columns": ["a_hz", "a_hz"]}, "names something twice"),
        ({"messages": ["alram"]}, "no message type 'alram'; known: .*did you mean 'alarm'"),
        ({"topics": []}, "length >= 1"),
        ({"topics": ["a/#/b"]}, "'#' must be the last level"),
        ({"topics": ["a+/b"]}, "a level of its own"),
        ({"topics": [""]}, "must not be empty"),
        ({"device": ""}, "must not be empty"),
        ({"device": "pmu/{devic}"}, r"a pattern of topics holds \{device\}, once"),
        ({"device": "{device}/{device}"}, r"a pattern of topics holds \{device\}, once"),
        ({"device": "#/{device}"}, "'#' the last one"),
        ({"format": {"type": "villas.json", "signals": [{"column": "a_v"}]}}, "fields of villas.json have no names"),
        (
            {"columns": [], "format": {"type": "villas.json", "signals": [{"column": "a_v"}]}},
            "not name their device",
        ),
        ({"format": {"type": "json.edgeflex", "fields": {"f": {"column": "frequency_hz"}}}}, "comes from `format` too"),
        (
            {"format": {"type": "json", "time": "frequency_hz.t", "time_unit": "s", "device": "d"}},
            "'frequency_hz' is another field of `format`",
        ),
        ({"format": {"type": "json.edgeflx"}}, "Invalid value 'json.edgeflx'"),
        ({"qos": 0, "keep_session": 60}, "`keep_session` needs `qos` 1 or 2"),
        ({"group": "a/b"}, "matching regex"),
    ],
)
def test_config_refuses_what_cannot_work(fields: dict[str, object], complaint: str) -> None:
    good: dict[str, object] = {"bus": "b", "topics": ["a"], "columns": ["frequency_hz"]}
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({**good, **fields}, MqttSubscribeConfig)


each_version = pytest.mark.parametrize("version", ["3.1.1", "5"])


def times_ms(given: list[WireMessage]) -> list[int]:
    return [time_ns // 1_000_000 for item in given if isinstance(item, Samples) for time_ns in item.time_ns.tolist()]


def crash(opened: MqttSubscribe) -> None:
    """End the connection without a word, as a killed program does."""
    assert opened._session is not None
    cut(opened._session)
    opened._session._stop.set()


@pytest.mark.needs("mosquitto")
@each_version
def test_kept_session_brings_what_came_while_the_client_was_away(
    tmp_path: Path, make_context: ContextMaker, version: str
) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker, "other") as other:
        with source(make_context, broker, {"version": version}, keep_session=60) as (opened, _, subscribed):
            wait_until(lambda: subscribed)
            assert opened.poll() == ()
        for number in range(20):
            other.publish("pmu/a", payload(row(number)))
        with source(make_context, broker, {"version": version}, keep_session=60) as (opened, _, _):
            assert times_ms(gather(opened, 20)) == list(range(20))


@pytest.mark.needs("mosquitto")
def test_session_that_is_not_kept_ends_with_the_connection(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker, "other") as other:
        with source(make_context, broker) as (_, _, subscribed):
            wait_until(lambda: subscribed)
        other.publish("pmu/a", payload(row(1)))
        with source(make_context, broker) as (opened, _, subscribed):
            wait_until(lambda: subscribed)
            other.publish("pmu/a", payload(row(2)))
            assert times_ms(gather(opened, 1)) == [2]


@pytest.mark.needs("mosquitto")
def test_payloads_that_are_too_large_are_not_held_but_told(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {}, largest_payload=1000) as (opened, _, subscribed),
    ):
        wait_until(lambda: subscribed)
        for _ in range(3):
            other.publish("pmu/a", b"x" * 100_000)
        other.publish("pmu/a", payload(row(0)))
        wait_until(lambda: len(opened._inbox) == 4)
        assert opened._held_bytes() < 10_000
        assert times_ms(gather(opened, 1)) == [0]
        assert opened._held_bytes() == 0
    letters = make_context.dead_letters
    assert [(reason, text) for reason, text, _ in letters] == [
        ("bad_payload", "topic 'pmu/a': 100000 bytes, at most 1000 are taken")
    ] * 3


@pytest.mark.needs("mosquitto")
def test_inbox_holds_no_more_bytes_than_it_may(
    tmp_path: Path, make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_subscribe, "MOST_HELD_BYTES", 10_000)
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {}) as (opened, context, subscribed),
    ):
        wait_until(lambda: subscribed)
        for number in range(6):
            other.publish("pmu/a", payload(row(number)) + b" " * 3000)
        wait_until(lambda: opened._bytes_in > 18_000)
        assert times_ms(gather(opened, 3)) == [3, 4, 5]
        assert context.counters.get("overflow") == 3


@pytest.mark.needs("mosquitto")
@each_version
@pytest.mark.parametrize("qos", [1, 2])
def test_only_what_is_durable_is_acknowledged(
    tmp_path: Path, make_context: ContextMaker, version: str, qos: int
) -> None:
    fields: dict[str, Any] = {"keep_session": 60, "qos": qos, "holds": True}
    with Mosquitto(tmp_path) as broker, Listener(broker, "other") as other:
        with source(make_context, broker, {"version": version}, **fields) as (opened, _, subscribed):
            wait_until(lambda: subscribed)
            numbers: list[int] = []
            for number in range(6):
                other.publish("pmu/a", payload(row(number)), qos)
                gather(opened, 1)
                numbers.append(opened.poll_number())
            assert numbers == sorted(set(numbers))
            opened.acknowledge(numbers[3])
            session = opened._session
            assert session is not None
            wait_until(lambda: len(session._unacknowledged) == len(session._known) == 2)
            wait_until(lambda: not session.client.want_write())  # what is on the way when it crashes is lost
            crash(opened)
        with source(make_context, broker, {"version": version}, **fields) as (opened, _, _):
            assert times_ms(gather(opened, 2)) == [4, 5]
            opened.acknowledge(opened.poll_number())
            wait_until(lambda: opened._session is not None and not opened._session._unacknowledged)


@pytest.mark.needs("mosquitto")
@each_version
@pytest.mark.parametrize("qos", [1, 2])
def test_message_is_acknowledged_only_on_the_connection_on_which_it_came(
    tmp_path: Path, make_context: ContextMaker, version: str, qos: int
) -> None:
    fields: dict[str, Any] = {"keep_session": 60, "qos": qos, "holds": True}
    told: list[tuple[int, bool]] = []
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {"version": version}, **fields) as (opened, context, subscribed),
    ):
        wait_until(lambda: subscribed)
        other.publish("pmu/a", payload(row(0)), qos)
        gather(opened, 1)
        session = opened._session
        assert session is not None
        acknowledge, came = session.client.acknowledge, session.client.on_incoming

        def note(mid: int, qos: int) -> None:
            told.append((mid, context.counters.get("redelivered") > 0))
            acknowledge(mid, qos)

        def durable_first(message: Incoming) -> None:
            # It becomes durable between the new connection and the message's coming again.
            session._durable_to = max(session._durable_to, 1)
            session._send_acknowledgements()
            came(message)

        session.client.acknowledge = note  # type: ignore[method-assign]
        session.client.on_incoming = durable_first
        cut(session)
        wait_until(lambda: told)
        wait_until(lambda: len(subscribed) == 2)
    assert told == [(told[0][0], True)]


@pytest.mark.needs("mosquitto")
@each_version
@pytest.mark.parametrize("qos", [1, 2])
def test_what_is_redelivered_after_a_reconnect_is_given_once(
    tmp_path: Path, make_context: ContextMaker, version: str, qos: int
) -> None:
    fields: dict[str, Any] = {"keep_session": 60, "qos": qos, "holds": True}
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {"version": version}, **fields) as (opened, context, subscribed),
    ):
        wait_until(lambda: subscribed)
        for number in range(5):
            other.publish("pmu/a", payload(row(number)), qos)
        assert times_ms(gather(opened, 5)) == list(range(5))
        first = opened.poll_number()
        assert opened._session is not None
        cut(opened._session)
        wait_until(lambda: len(subscribed) == 2 and context.counters.get("redelivered") == 5)
        other.publish("pmu/a", payload(row(5)), qos)
        assert times_ms(gather(opened, 1)) == [5]
        opened.acknowledge(first)
        wait_until(lambda: opened._session is not None and len(opened._session._unacknowledged) == 1)
        opened.acknowledge(opened.poll_number())
        wait_until(lambda: opened._session is not None and not opened._session._unacknowledged)


@pytest.mark.needs("mosquitto")
def test_bad_payload_is_acknowledged_with_its_poll(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, holds=True) as (opened, _, subscribed),
    ):
        wait_until(lambda: subscribed)
        other.publish("pmu/a", b"{nonsense")
        wait_until(lambda: opened._inbox)
        before = opened.poll_number()
        assert list(opened.poll()) == []
        assert opened.poll_number() == before + 1
        opened.acknowledge(opened.poll_number())
        wait_until(lambda: opened._session is not None and not opened._session._unacknowledged)


@pytest.mark.needs("mosquitto")
def test_no_more_is_under_way_than_the_inbox_holds(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {"version": "5"}, queue=10, holds=True) as (opened, context, subscribed),
    ):
        wait_until(lambda: subscribed)
        for number in range(35):
            other.publish("pmu/a", payload(row(number)))
        wait_until(lambda: len(opened._inbox) == 10)
        time.sleep(0.1)
        assert times_ms(list(opened.poll())) == list(range(10))
        assert context.counters.get("overflow") == 0
        # What comes now is not counted: mosquitto 2.0.11 then sends more than it may.
        opened.acknowledge(opened.poll_number())
        gather(opened, 1)


@pytest.mark.needs("mosquitto")
@each_version
def test_group_shares_messages_out(tmp_path: Path, make_context: ContextMaker, version: str) -> None:
    count = 40
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, {"version": version, "client_id": "one"}, group="pair") as (one, _, first),
        source(make_context, broker, {"version": version, "client_id": "two"}, group="pair") as (two, _, second),
    ):
        wait_until(lambda: first and second)
        for number in range(count):
            other.publish("pmu/a", payload(row(number)))
        wait_until(lambda: len(one._inbox) + len(two._inbox) == count)
        shares = [times_ms(list(each.poll())) for each in (one, two)]
        assert sorted(shares[0] + shares[1]) == list(range(count))
        assert all(shares), "one of them got nothing"


@each_broker
def test_topics_of_another_broker_are_given_under_the_flows_names(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    there = {"topic_prefix": "utility/", "topics": {"pmu": "north/phasors"}}
    with (
        kind(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, there, device="pmu/{device}/data") as (opened, _, subscribed),
    ):
        wait_until(lambda: subscribed)
        other.publish("utility/north/phasors/G7/data", payload({"created": 1, "frequency_hz": 50.0}))
        (samples,) = gather(opened, 1)
        assert isinstance(samples, Samples)
        assert samples.devices == ("G7",)


@each_broker
def test_a_renamed_topic_comes_by_the_wildcard_that_covers_it(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    there = {"topic_prefix": "utility/", "topics": {"pmu/G1": "north/gen1"}}
    with (
        kind(tmp_path) as broker,
        Listener(broker, "other") as other,
        source(make_context, broker, there, topics=("pmu/+",), device="pmu/{device}") as (opened, _, subscribed),
    ):
        wait_until(lambda: subscribed)
        other.publish("utility/north/gen1", payload({"created": 1, "frequency_hz": 50.0}))
        other.publish("utility/pmu/G2", payload({"created": 2, "frequency_hz": 50.0}))
        given = [each for each in gather(opened, 2) if isinstance(each, Samples)]
    assert [each.devices[code] for each in given for code in each.device] == ["G1", "G2"]
