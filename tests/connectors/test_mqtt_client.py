from __future__ import annotations

import select
import socket
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from broker import HOST, BrokerProcess, Listener, Mosquitto
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.mqtt_client import Incoming, MqttClient

each_version = pytest.mark.parametrize("is_v5", [False, True], ids=["3.1.1", "5"])


def turn(client: MqttClient) -> None:
    """Process what comes within 10 ms."""
    connection: Any = client.socket()
    if connection is not None and (client.has_read or select.select([connection], [], [], 0.01)[0]):
        client.read_packets(100)
    client.loop_misc()


class Held:
    """A client that acknowledges nothing by itself, in a session that the broker keeps."""

    def __init__(self, broker: BrokerProcess, *, is_v5: bool, qos: int, clean: bool) -> None:
        self.messages: list[Incoming] = []
        self.subscribed = False
        self.session_present: bool | None = None
        self.client = MqttClient("held", is_v5=is_v5)
        self.client.hold_acknowledgements()
        self.client.aim_at(HOST, broker.port, 30, clean=clean, keep_session_s=60, receive_most=100)
        self.client.on_incoming = self.messages.append
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.on_connect = lambda _client, _userdata, flags, _reason, _properties: setattr(
            self, "session_present", flags.session_present
        )
        self.client.reconnect()
        self.run_until(lambda: self.session_present is not None)
        self.client.subscribe("t", qos)
        self.run_until(lambda: self.subscribed)

    def run_until(self, condition: object, timeout_s: float = 10.0) -> None:
        assert callable(condition)
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s
            turn(self.client)

    def run_for(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            turn(self.client)

    def drop(self) -> None:
        """End the connection as a crash would."""
        connection = self.client.socket()
        assert connection is not None
        connection.close()


@pytest.mark.needs("mosquitto")
@each_version
@pytest.mark.parametrize("qos", [1, 2])
def test_what_is_not_acknowledged_comes_again_to_the_next_run(tmp_path: Path, *, is_v5: bool, qos: int) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker, "other") as other:
        first = Held(broker, is_v5=is_v5, qos=qos, clean=False)
        for number in range(4):
            other.publish("t", str(number).encode(), qos)
        first.run_until(lambda: len(first.messages) == 4)
        for message in first.messages[:2]:
            first.client.acknowledge(message.mid, qos)
        first.run_for(0.2)
        first.drop()
        again = Held(broker, is_v5=is_v5, qos=qos, clean=False)
        assert again.session_present
        again.run_until(lambda: len(again.messages) == 2)
        again.run_for(0.1)
        assert [message.payload for message in again.messages] == [b"2", b"3"]
        again.drop()


@pytest.mark.needs("mosquitto")
@each_version
def test_released_ids_of_qos_2_can_be_used_again(tmp_path: Path, *, is_v5: bool) -> None:
    released: list[int] = []
    with Mosquitto(tmp_path) as broker, Listener(broker, "other") as other:
        held = Held(broker, is_v5=is_v5, qos=2, clean=False)
        held.client.released = released.append  # type: ignore[method-assign,assignment]
        for number in range(50):
            other.publish("t", str(number).encode(), 2)
            held.run_until(lambda number=number: len(held.messages) == number + 1)
            held.client.acknowledge(held.messages[-1].mid, 2)
        held.run_until(lambda: len(released) == 50)
        assert released == [message.mid for message in held.messages]
        held.drop()


@pytest.mark.needs("mosquitto")
@each_version
def test_clean_beginning_forgets_the_session_of_an_earlier_run(tmp_path: Path, *, is_v5: bool) -> None:
    with Mosquitto(tmp_path) as broker:
        Held(broker, is_v5=is_v5, qos=1, clean=False).drop()
        assert Held(broker, is_v5=is_v5, qos=1, clean=True).session_present is False


@pytest.mark.needs("mosquitto")
def test_forgotten_message_is_not_sent_again(tmp_path: Path) -> None:
    client = MqttClient("out", is_v5=False)
    with Mosquitto(tmp_path) as broker, Listener(broker, "t") as listener:
        client.aim_at(HOST, broker.port, 30, clean=True, keep_session_s=0, receive_most=None)
        mids = [client.publish("t", payload, 1).mid for payload in (b"1", b"2")]
        client.forget(mids[:1])
        client.reconnect()
        deadline_s = time.monotonic() + 10.0
        while not listener.received and time.monotonic() < deadline_s:
            turn(client)
        assert listener.received == [("t", b"2")]
        client.disconnect()


@pytest.mark.needs("mosquitto")
def test_broker_is_told_what_may_be_under_way(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, more=["max_inflight_messages 0"]) as broker, Listener(broker, "other") as other:
        held = Held(broker, is_v5=True, qos=1, clean=True)  # asks for 100
        for number in range(150):
            other.publish("t", str(number).encode(), 1)
        held.run_for(0.5)
        assert len(held.messages) == 100
        held.drop()


def test_sessions_are_asked_for_as_long_as_they_are_kept() -> None:
    client = MqttClient("x", is_v5=True)
    client.aim_at(HOST, 1, 30, clean=False, keep_session_s=90, receive_most=70_000)
    assert client._connect_properties is not None
    properties: Any = client._connect_properties
    assert (properties.SessionExpiryInterval, properties.ReceiveMaximum) == (90, 65535)


@pytest.mark.needs("mosquitto")
@each_version
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 100, 127, 200, 20_000, 3_000_000])
def test_packets_written_as_one_arrive_and_are_answered(tmp_path: Path, *, is_v5: bool, qos: int, size: int) -> None:
    answers: list[tuple[int, int]] = []

    def answered(mid: int, code: int) -> bool:
        answers.append((mid, code))
        return True

    client = MqttClient("out", is_v5=is_v5)
    client.on_answer = answered
    connected: list[bool] = []
    client.on_connect = lambda *_: connected.append(True)
    with Mosquitto(tmp_path) as broker, Listener(broker, "grüße/#") as listener:
        client.aim_at(HOST, broker.port, 30, clean=True, keep_session_s=0, receive_most=None)
        client.reconnect()
        while not connected:
            turn(client)
        made = [client.packet_of("grüße/a", bytes([number]) * size, qos, retain=False) for number in range(3)]
        assert client.write_packets(b"".join(packet for packet, _ in made))
        deadline_s = time.monotonic() + 10.0
        while (client.want_write() or len(answers) < 3 * qos) and time.monotonic() < deadline_s:
            client.loop_write()
            turn(client)
        assert [payload for _, payload in listener.wait_for(3)] == [bytes([number]) * size for number in range(3)]
        assert [mid for mid, _ in answers] == [mid for _, mid in made if mid]
        client.disconnect()


def test_packets_without_a_connection_are_not_taken() -> None:
    client = MqttClient("x", is_v5=False)
    packet, _ = client.packet_of("t", b"", 0, retain=False)
    assert not client.write_packets(packet)


def packet(qos: int, topic: bytes, payload: bytes, *, is_v5: bool, mid: int = 7, dup: bool = False) -> bytes:
    """A message as brokers send it."""
    body = struct.pack("!H", len(topic)) + topic + (struct.pack("!H", mid) if qos else b"")
    body += (b"\x05\x02\x00\x00\x00\x3c" if qos else b"\x00") if is_v5 else b""  # with and without a property
    body += payload
    length, rest = b"", len(body)
    while rest > 127:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([0x30 | dup << 3 | qos << 1]) + length + bytes([rest]) + body


def taken_from(pieces: list[bytes], *, is_v5: bool, by_paho: bool) -> tuple[list[Incoming], bool]:
    """What a client that holds acknowledgements gives of these pieces, and whether it keeps the connection."""
    client = MqttClient("x", is_v5=is_v5)
    client.hold_acknowledgements()
    taken: list[Incoming] = []
    client.on_incoming = taken.append
    if by_paho:
        client._take_message = lambda: False  # type: ignore[method-assign]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client._sock = cast("Any", ours)
        for piece in pieces:
            theirs.sendall(piece)
            while client.socket() is not None and (client.has_read or select.select([ours], [], [], 0)[0]):
                client.read_packets(100)
        kept = client.socket() is not None
        client._sock = None
    return taken, kept


messages = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([b"t", b"pmu/G1/\xc3\xa9"]), st.binary(max_size=300), st.booleans()),
    min_size=1,
    max_size=8,
)


@each_version
@given(messages=messages, cuts=st.lists(st.integers(0, 600), max_size=6))
def test_messages_come_as_paho_reads_them_wherever_the_stream_is_cut(
    messages: list[tuple[int, bytes, bytes, bool]], cuts: list[int], *, is_v5: bool
) -> None:
    stream = b"".join(
        packet(qos, topic, payload, is_v5=is_v5, mid=place + 1, dup=dup and qos > 0)
        for place, (qos, topic, payload, dup) in enumerate(messages)
    )
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in pairwise(edges) if begin < end]
    ours = taken_from(pieces, is_v5=is_v5, by_paho=False)
    assert ours == taken_from(pieces, is_v5=is_v5, by_paho=True)
    assert [(each.qos, each.topic, each.payload) for each in ours[0]] == [each[:3] for each in messages]


@each_version
@pytest.mark.parametrize(
    "broken",
    ["3000", "320100", "30020000", "30020009", "3203000174", "320400017400", "310400017480", "30ffffffff01"],
)
def test_malformed_message_ends_as_paho_has_it(broken: str, *, is_v5: bool) -> None:
    pieces = [packet(0, b"t", b"before", is_v5=is_v5) + bytes.fromhex(broken) + packet(0, b"t", b"x", is_v5=is_v5)]
    assert taken_from(pieces, is_v5=is_v5, by_paho=False) == taken_from(pieces, is_v5=is_v5, by_paho=True)
