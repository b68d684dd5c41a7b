"""paho's client with what it does not offer: acknowledging when told to, and forgetting what it sent.

paho acknowledges by hand with QoS 1 only: with QoS 2 it says PUBREC at once, after which the broker never sends the
message again. Here PUBREC waits as PUBACK does. What paho keeps of sent messages it sends again on every connection;
who keeps them himself, because they expire or because late ones are marked, has it forget them instead.

This uses internals of paho 2, whose behaviour `tests/connectors/test_mqtt_client.py` holds against a real broker.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

FAILURE = 0x80
"""Reason codes from here on are failures."""


def new_properties(packet_type: int) -> Properties:
    """Properties of a packet of MQTT 5, none set."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


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

    # What was sent --------------------------------------------------------------------------------------------------

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
        reason = ReasonCode(PacketTypes.PUBREC, identifier=packet[2])
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, reason, new_properties(PacketTypes.PUBREC))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _message_id(self) -> int:
        (mid,) = struct.unpack_from("!H", self._in_packet["packet"])
        return int(mid)
