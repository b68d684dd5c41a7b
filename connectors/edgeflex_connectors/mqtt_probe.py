"""Tries a broker: connects, logs in, and leaves again."""

from __future__ import annotations

import time
from typing import Any

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgeflex_connectors.certificate_end import certificate_until_s
from edgeflex_connectors.mqtt_broker import Broker, connect_problem, refusal
from edgeflex_flow.errors import RetryableError
from edgeflex_flow.node import Probe

LOOP_S = 0.05


def try_broker(broker: Broker) -> Probe:
    """The time from logging in to the broker's answer, and when its certificate ends. EdgeflexError if it fails."""
    client = Client(
        CallbackAPIVersion.VERSION2, f"{broker.client_id}-probe", protocol=MQTTv5 if broker.is_v5 else MQTTv311
    )
    client.connect_timeout = broker.connect_timeout_s
    answers: list[ReasonCode] = []

    def answered(_client: Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        answers.append(reason)

    client.on_connect = answered
    if broker.username is not None:
        client.username_pw_set(broker.username, broker.password)
    if broker.tls is not None:
        client.tls_set_context(broker.tls)
    try:
        client.connect(broker.host, broker.port, keepalive=round(broker.keepalive_s))
        latency_s = _wait(client, answers, broker)
        if answers[0].is_failure:
            raise refusal(answers[0].getName(), broker)
        return Probe(latency_s, f"MQTT {'5' if broker.is_v5 else '3.1.1'}", certificate_until_s(client.socket()))
    except (OSError, UnicodeError) as error:
        raise connect_problem(error, broker) from error
    finally:
        client.disconnect()


def _wait(client: Client, answers: list[ReasonCode], broker: Broker) -> float:
    began_s = time.monotonic()
    while not answers:
        client.loop(LOOP_S)
        waited_s = time.monotonic() - began_s
        if not answers and client.socket() is None:
            hint = "; does it want a client certificate?" if broker.tls is not None and not broker.certificate else ""
            raise RetryableError(f"{broker}: the broker closed the connection before accepting it{hint}")
        if waited_s > broker.connect_timeout_s:
            raise RetryableError(f"{broker}: no answer within {broker.connect_timeout_s:g} s")
    return time.monotonic() - began_s
