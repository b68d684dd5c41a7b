"""paho's client with what it does not offer: acknowledging when told to, and publishing many messages at once.

paho acknowledges by hand with QoS 1 only: with QoS 2 it says PUBREC at once, after which the broker never sends the
message again. Here PUBREC waits as PUBACK does.

paho reads each packet in four calls of the operating system, and writes each acknowledgement in one; here it reads from
a buffer, and acknowledgements go out together. Messages of QoS 0 and 1 that stand whole in the buffer are taken out of
it without paho, which spends three times as long on each as all the rest that is done with it.

What paho keeps of sent messages it sends again on every connection, whether they have expired or not, and it writes
each by itself. `packet_of` and `write_packets` publish with QoS 0 and 1 without that: who calls them keeps the
messages, and `on_answer` tells which have arrived.

This uses internals of paho 2, whose behaviour `tests/connectors/test_mqtt_client.py` holds against a real broker.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MessageState, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

PUBLISH, PUBACK = 0x30, 0x40
KIND_BITS, QOS_BITS, DUP_BIT = 0xF0, 0x06, 0x08
QOS_2 = 2 << 1
LONGEST_LENGTH_BYTES = 4
READ_BYTES = 64 << 10
FAILURE = 0x80
"""Reason codes from here on are failures."""


def new_properties(packet_type: int) -> Properties:
    """Properties of a packet of MQTT 5, none set."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def _variable_length(length: int) -> bytes:
    """A length as MQTT writes it: seven bits a byte, the lowest first.

    >>> _variable_length(321).hex()
    'c102'
    """
    digits = []
    while length > 127:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*digits, length])


def _length_at(data: bytes, place: int) -> tuple[int, int]:
    """A length as MQTT writes it, and where it ends. The end is 0 if `data` holds no whole one.

    >>> _length_at(bytes.fromhex("ffc102"), 1), _length_at(bytes.fromhex("ffc1"), 1)
    ((321, 3), (0, 0))
    """
    length = 0
    for count, digit in enumerate(data[place : place + LONGEST_LENGTH_BYTES]):
        length |= (digit & 0x7F) << 7 * count
        if digit < 0x80:
            return length, place + count + 1
    return 0, 0


class Incoming(NamedTuple):
    """A message from the broker."""

    topic: bytes
    payload: bytes
    qos: int
    mid: int
    dup: bool
    """The broker may have sent it before."""


def _ignore(_message: Incoming) -> None:
    return None


class MqttClient(Client):
    """A client of MQTT 3.1.1 or, with `is_v5`, 5."""

    def __init__(self, client_id: str, *, is_v5: bool) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if is_v5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.is_v5 = is_v5
        self._holds = False
        self._read = b""
        self._read_to = 0
        self._gathers = False
        self._gathered = bytearray()
        self._mid_again: int | None = None
        self.on_incoming: Callable[[Incoming], None] = _ignore
        self.on_answer: Callable[[int, int], bool] | None = None
        """`on_answer(mid, code)`: the broker has answered a message of QoS 1; whether it was one of `packet_of`."""

    # Sessions -------------------------------------------------------------------------------------------------------

    def aim_at(
        self, host: str, port: int, keepalive_s: float, *, clean: bool, keep_session_s: float, receive_most: int | None
    ) -> None:
        """Where to connect to and with which session. `clean`: the first connection begins a new one; further ones
        always resume it where it is kept. MQTT 3.1.1 knows neither how long a session lasts nor how much to send."""
        keeps, keepalive = keep_session_s > 0, max(1, round(keepalive_s))
        if not self.is_v5:
            self._clean_session = clean or not keeps
            self.connect_async(host, port, keepalive)
            return
        properties = new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = round(keep_session_s)
        if receive_most is not None:
            properties.ReceiveMaximum = min(receive_most, 0xFFFF)
        start = MQTT_CLEAN_START_FIRST_ONLY if keeps and clean else not keeps
        self.connect_async(host, port, keepalive, clean_start=start, properties=properties)

    def resume_from_now_on(self) -> None:
        """MQTT 3.1.1: further connections resume the session that the next one begins."""
        self._clean_session = False

    # Reading --------------------------------------------------------------------------------------------------------

    @property
    def has_read(self) -> bool:
        """Whether there is something to process that was read already, so that the operating system no longer has
        it."""
        return self._read_to < len(self._read)

    def read_packets(self, most: int) -> None:
        """Process what has come, at most so many packets, and then acknowledge it."""
        with self.together():
            self.loop_read()
            for _ in range(most):
                if not self.has_read:
                    break
                if not self._take_message():
                    self.loop_read()

    def _take_message(self) -> bool:
        """Take a message of QoS 0 or 1 out of what was read; False if something else comes next, or a part of one."""
        data, place = self._read, self._read_to
        head = data[place]
        if self._in_packet["command"] or head & KIND_BITS != PUBLISH or head & QOS_BITS >= QOS_2:
            return False
        length, place = _length_at(data, place + 1)
        end, begin = place + length, place + 2
        if not place or end > len(data) or begin > end:
            return False  # not all of it is there, or it is malformed, which paho says
        middle = begin + (data[place] << 8 | data[place + 1])
        qos, mid, payload = (head & QOS_BITS) >> 1, 0, middle
        if qos and middle + 2 <= end:
            mid, payload = data[middle] << 8 | data[middle + 1], middle + 2
        if self.is_v5:
            length, payload = _length_at(data, payload)
            payload += length
        if not begin < middle <= payload <= end or (qos and not mid):
            return False
        self._read_to = end
        self.on_incoming(Incoming(data[begin:middle], data[payload:end], qos, mid, bool(head & DUP_BIT)))
        if qos and not self._holds:
            self._send_puback(mid)
        return True

    def _handle_on_message(self, message: MQTTMessage) -> None:
        # In place of paho's way through its callbacks: setting one here would tie the client to itself.
        self.on_incoming(Incoming(message._topic, bytes(message.payload), message.qos, message.mid, message.dup))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Acknowledgements of QoS 1 inside this block are written at its end, as one."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
            gathered, self._gathered = self._gathered, bytearray()
            if gathered and self._sock is not None:
                self._packet_queue(PUBACK, bytes(gathered), mid=0, qos=0)

    def _send_puback(self, mid: int) -> MQTTErrorCode:
        if not self._gathers:
            return super()._send_puback(mid)
        self._gathered += struct.pack("!BBH", PUBACK, 2, mid)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._read_to >= len(self._read):
            self._read, self._read_to = super()._sock_recv(READ_BYTES), 0
        data = self._read[self._read_to : self._read_to + bufsize]
        self._read_to += len(data)
        return data

    def _sock_close(self) -> None:
        self._read, self._read_to = b"", 0
        super()._sock_close()

    # Acknowledging --------------------------------------------------------------------------------------------------

    def hold_acknowledgements(self) -> None:
        """From now on nothing that comes in is acknowledged but by `acknowledge`."""
        self._holds = True
        self.manual_ack_set(True)

    def acknowledge(self, mid: int, qos: int) -> None:
        """Tell the broker that it need not send this message again."""
        if qos == 1:
            self._send_puback(mid)
        elif qos == 2:
            super()._send_pubrec(mid)

    def released(self, mid: int) -> None:
        """The broker has released a message of QoS 2: its id may come to mean another one."""

    def _send_pubrec(self, mid: int) -> MQTTErrorCode:
        return MQTTErrorCode.MQTT_ERR_SUCCESS if self._holds else super()._send_pubrec(mid)

    def _handle_publish(self) -> MQTTErrorCode:
        code = super()._handle_publish()
        while self._holds and self._in_messages:  # of QoS 2, which paho would give at PUBREL only
            self._handle_on_message(self._in_messages.popitem(last=False)[1])
        return code

    def _handle_pubrel(self) -> MQTTErrorCode:
        code = super()._handle_pubrel()
        if not self._holds:
            return code
        mid = self._message_id()
        self.released(mid)
        return self._send_pubcomp(mid)

    # Publishing --------------------------------------------------------------------------------------------------

    def packet_of(
        self, topic: str, payload: bytes, qos: int, *, retain: bool, properties: Properties | None = None
    ) -> tuple[bytes, int]:
        """A packet that publishes with QoS 0 or 1, and its id (0 with QoS 0)."""
        name = topic.encode()
        mid = self._mid_generate() if qos else 0
        middle = struct.pack("!H", mid) if qos else b""
        if self.is_v5:
            middle += b"\0" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
        length = 2 + len(name) + len(middle) + len(payload)
        head = bytes([PUBLISH | qos << 1 | retain, *_variable_length(length)]) + struct.pack("!H", len(name))
        return b"".join((head, name, middle, payload)), mid

    def write_packets(self, packets: bytes) -> bool:
        """Write packets to the broker, at once as far as the socket takes them; False where there is no connection."""
        if self._sock is None:
            return False
        self._packet_queue(PUBLISH, packets, mid=0, qos=1)  # with QoS 0 paho would tell when it is written
        return True

    def unwritten(self, packets: bytes) -> int:
        """How many bytes of these packets the operating system has not taken."""
        return sum(each["to_process"] for each in self._out_packet if each["packet"] is packets)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd == "PUBACK" and self.on_answer is not None and len(packet) >= 2:
            code = packet[2] if self.is_v5 and len(packet) > 2 else 0
            if self.on_answer(self._message_id(), code):
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_pubackcomp(cmd)

    def publish_again(
        self, mid: int, topic: str, payload: bytes, qos: int, *, retain: bool, properties: Properties | None
    ) -> int:
        """Publish what was published, and forgotten, under this id, which still tells the broker that it is the same:
        else it keeps what it got under the old one until the session ends, and ends connections when that is too much.
        """
        self._mid_again = mid if mid not in self._out_messages else None
        return self.publish(topic, payload, qos, retain, properties).mid

    def _mid_generate(self) -> int:
        again, self._mid_again = self._mid_again, None
        return super()._mid_generate() if again is None else again

    def has_arrived(self, mid: int) -> bool:
        """Whether the broker has confirmed that it got this message of QoS 2, which then is only to be released."""
        with self._out_message_mutex:
            message = self._out_messages.get(mid)
            return message is not None and message.state == MessageState.MQTT_MS_WAIT_FOR_PUBCOMP

    def forget(self, mids: Iterable[int]) -> None:
        """Do not send these again on the next connection."""
        with self._out_message_mutex:
            for mid in mids:
                self._out_messages.pop(mid, None)
            self._inflight_messages = len(self._out_messages)

    def _handle_pubrec(self) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if not self.is_v5 or len(packet) < 3 or packet[2] < FAILURE:
            return super()._handle_pubrec()
        # paho would go on with a message that the broker has refused, and learn nothing of why.
        mid = self._message_id()
        try:
            reason = ReasonCode(PacketTypes.PUBREC, identifier=packet[2])
        except ValueError:  # brokers use some that the standard does not name for this packet
            reason = ReasonCode(PacketTypes.PUBREC, identifier=FAILURE)
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, reason, new_properties(PacketTypes.PUBREC))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _message_id(self) -> int:
        (mid,) = struct.unpack_from("!H", self._in_packet["packet"])
        return int(mid)
