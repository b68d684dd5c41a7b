"""What connectors tell of their queues, connections and certificates, against real services."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import Mosquitto, alarm, free_port, wait_until
from certificates import Authority, KeyPair
from cryptography import x509
from databases import Influxdb
from http_service import HttpService, json_reply
from policy_server import PolicyServer

from edgeflex_connectors import (
    influxdb,
    mqtt,
    mqtt_publish,
    mqtt_subscribe,
    pmu_client,
    pmu_send,
    policy_read,
    rest,
    rest_poll,
    rest_post,
    sqlite,
    store_write,
)
from edgeflex_flow.messages import samples_from_rows
from edgeflex_flow.node import ConnectionNode, Context, NodeConfig, OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker


def ends(pair: KeyPair) -> float:
    """When a certificate ends, seconds since 1970."""
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc.timestamp()


@contextmanager
def opened(
    make_context: ContextMaker, kind: Any, config: dict[str, Any], field: str = "", to: Any = None
) -> Iterator[tuple[Any, Context]]:
    """A node, open, whose `field` names a connection: (its kind, its config)."""
    connections = {}
    if to is not None:
        node, there = to
        assert isinstance(node, ConnectionNode)
        assert isinstance(there, NodeConfig)
        connections[field] = OpenConnection("there", node, there)
        config = {field: "there", **config}
    context = make_context(kind.NODE.kind, connections=connections)
    made = kind.NODE.open(kind.NODE.config(**config), context)
    try:
        made.open()
        yield made, context
    finally:
        made.close()


def waits_for(context: Context, **expected: float) -> None:
    wait_until(lambda: {name: context.gauges.read().get(name) for name in expected} == expected)


@pytest.mark.needs("mosquitto")
def test_a_broker_that_goes_and_comes_back(tmp_path: Path, make_context: ContextMaker) -> None:
    pair = Authority(tmp_path).issue("broker")
    with Mosquitto(tmp_path, tls=pair) as broker:
        config = mqtt.MqttConfig(
            url=broker.url, ca="authority.pem", outbox="outbox", reconnect_min=0.01, reconnect_max=0.05
        )
        with opened(make_context, mqtt_publish, {"topic": "t"}, "bus", (mqtt.NODE, config)) as (sink, context):
            waits_for(context, connected=1, certificate_until_s=ends(pair), outbox_messages=0)
            broker.stop()
            waits_for(context, connected=0, certificate_until_s=ends(pair))
            sink.write([alarm(number) for number in range(5)])
            assert context.gauges.read()["outbox_messages"] == 5
            wait_until(lambda: context.gauges.read()["outbox_disk_bytes"] > 0)
            broker.start()
            waits_for(context, connected=1, outbox_messages=0)


@pytest.mark.needs("mosquitto")
def test_what_waits_in_the_inbox_of_a_subscriber(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        to = (mqtt.NODE, mqtt.MqttConfig(url=broker.url))
        taking = {"topics": ("t",), "messages": ("alarm",)}
        with (
            opened(make_context, mqtt_subscribe, taking, "bus", to) as (source, context),
            opened(make_context, mqtt_publish, {"topic": "t"}, "bus", to) as (sink, _),
        ):
            waits_for(context, connected=1)
            # What is published before the broker has heard of the subscription goes to nobody.
            wait_until(lambda: sink.write([alarm(1)]) or context.gauges.read()["queue_messages"])
            assert context.gauges.read()["queue_bytes"] > 0
            assert sink.flush(10.0)
            wait_until(lambda: source.poll() and not context.gauges.read()["queue_messages"])
            assert context.gauges.read()["queue_bytes"] == 0


def test_a_service_over_https(tmp_path: Path, make_context: ContextMaker) -> None:
    pair = Authority(tmp_path).issue("service")
    service = HttpService(tls=pair)
    service.answers("/m", json_reply([]))
    asking = {"path": "/m", "period": 0.02, "retry_min": 0.01, "retry_max": 0.02, "messages": ("alarm",)}
    with service:
        to = (rest.NODE, rest.RestConfig(url=service.url, ca="authority.pem"))
        with opened(make_context, rest_poll, asking, "api", to) as (_, context):
            waits_for(context, connected=1, certificate_until_s=ends(pair), queue_messages=0)
            service.stop()
            waits_for(context, connected=0)
            service.start()
            waits_for(context, connected=1)


def test_what_is_posted_tells_nothing_before_there_was_something_to_send(make_context: ContextMaker) -> None:
    with HttpService() as service:
        service.answers("/m", json_reply({}))
        to = (rest.NODE, rest.RestConfig(url=service.url))
        posting = {"path": "/m", "retry_min": 0.01, "retry_max": 0.02, "idempotency_key": True}
        with opened(make_context, rest_post, posting, "api", to) as (sink, context):
            assert "connected" not in context.gauges.read()
            sink.write([alarm(1)])
            waits_for(context, connected=1, queue_messages=0)
            service.stop()
            sink.write([alarm(2)])
            waits_for(context, connected=0, queue_messages=1)
            service.start()
            waits_for(context, connected=1, queue_messages=0)


@pytest.mark.needs("influxd")
def test_a_store_that_is_away_and_what_waits_for_it(tmp_path: Path, make_context: ContextMaker) -> None:
    pair = Authority(tmp_path).issue("store")
    rows = samples_from_rows([(second * 10**9, "G1", {"frequency_hz": 50.0}) for second in range(4)])
    with Influxdb(tmp_path, tls=pair) as server:
        to = (influxdb.NODE, server.config("test", ca="authority.pem"))
        with opened(make_context, store_write, {"commit_every": 0.01}, "store", to) as (sink, context):
            waits_for(context, connected=1, queue_rows=0, certificate_until_s=ends(pair))
            server.stop()
            sink.write([rows])
            waits_for(context, connected=0, queue_rows=4)
            server.start()
            waits_for(context, connected=1, queue_rows=0)


def test_a_store_in_a_file_has_no_certificate(tmp_path: Path, make_context: ContextMaker) -> None:
    to = (sqlite.NODE, sqlite.SqliteConfig(path="history.db"))
    with opened(make_context, store_write, {}, "store", to) as (_, context):
        assert context.gauges.read() == {"connected": 1, "queue_rows": 0}


def test_a_device_that_is_not_there(make_context: ContextMaker) -> None:
    asking = {"host": "127.0.0.1", "port": free_port(), "idcode": 1}
    with opened(make_context, pmu_client, asking) as (source, context):
        source.poll()
        assert context.gauges.read() == {"connected": 0, "queue_messages": 0}


def test_clients_of_a_stream(make_context: ContextMaker) -> None:
    sending = {"host": "127.0.0.1", "port": 0, "idcode": 9, "transport": "tcp", "devices": {"G1": 1}}
    with (
        opened(make_context, pmu_send, sending) as (sink, context),
        socket.create_connection(("127.0.0.1", sink.port)),
    ):
        waits_for(context, clients=1, queue_messages=0)


def test_a_policy_system_and_how_old_its_last_answer_is(tmp_path: Path, make_context: ContextMaker) -> None:
    with PolicyServer(tmp_path) as server:
        server.save("p", fields={"onset": "0.1 Hz/s"})
        to = (server.connection().node, server.config())
        with opened(make_context, policy_read, {"ids": ("p",)}, "policies", to) as (_, context):
            waits_for(context, connected=1)
            assert 0 <= context.gauges.read()["policy_age_s"] < 10
            server.stop()
            waits_for(context, connected=0)
