from __future__ import annotations

import gc
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from broker import HOST, Amqtt, BrokerProcess, Listener, Mosquitto, MosquittoWithRights, cut, free_port, wait_until
from certificates import Authority

from edgeflex_connectors import mqtt, mqtt_broker, mqtt_session
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_session import MqttSession
from edgeflex_flow import __version__
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.node import OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

FAST = {"reconnect_min": 0.02, "reconnect_max": 0.05}


@contextmanager
def session(make_context: ContextMaker, **fields: Any) -> Iterator[MqttSession]:
    """A started session, for the connection 'databus' with these fields."""
    config = MqttConfig(**{**FAST, **fields})
    context = make_context(connections={"bus": OpenConnection("databus", mqtt.NODE, config)})
    opened = mqtt.NODE.open(config, context)
    try:
        opened.start()
        yield opened
    finally:
        opened.close()


def connected(opened: MqttSession) -> Callable[[], bool]:
    return opened.client.is_connected


def failure_of(make_context: ContextMaker, **fields: Any) -> str:
    """The text of the FatalError with which a session ends."""
    with session(make_context, **fields):
        wait_until(lambda: make_context.failures)
    (failure,) = make_context.failures
    assert isinstance(failure, FatalError)
    return str(failure)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"url": "tcp://bus"}, "must begin with mqtt:// or mqtts://; got 'tcp'"),
        ({"url": "bus.example:1883"}, "must begin with mqtt:// or mqtts://"),
        ({"url": "mqtt://"}, "names no host"),
        ({"url": "mqtt://bus:70000"}, "from 1 to 65535"),
        ({"url": "mqtt://bus:0"}, "from 1 to 65535"),
        ({"url": "mqtt://bus/topic"}, "ends after the port"),
        ({"url": "mqtt://bus", "ca": "ca.pem"}, "mqtts://"),
        ({"url": "mqtts://bus", "certificate": "me.pem"}, "given together"),
        ({"url": "mqtt://bus", "password": "x"}, "needs a `username`"),
        ({"url": "mqtt://bus", "reconnect_min": 5, "reconnect_max": 1}, "must not be less"),
        ({"url": "mqtt://bus", "client_id": "a b"}, "matching regex"),
    ],
)
def test_config_refuses_what_cannot_work(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(fields, MqttConfig)


def test_user_in_the_url_is_refused_without_showing_it() -> None:
    with pytest.raises(msgspec.ValidationError, match="must not hold a user") as caught:
        msgspec.convert({"url": "mqtt://grid:hunter2@bus"}, MqttConfig)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "port"), [("mqtt://bus", 1883), ("mqtts://bus", 8883), ("mqtt://bus:7", 7), ("mqtt://[::1]:7", 7)]
)
def test_port_follows_the_scheme_unless_given(make_context: ContextMaker, url: str, port: int) -> None:
    opened = mqtt.NODE.open(MqttConfig(url=url), make_context())
    assert opened.broker.port == port


def test_password_shows_in_no_text_of_the_connection(make_context: ContextMaker) -> None:
    config = MqttConfig(url="mqtt://bus", username="grid", password="hunter2")
    opened = mqtt.NODE.open(config, make_context())
    texts = [repr(config), str(config), repr(opened.broker), str(opened.broker), repr(config.__rich_repr__())]
    assert not any("hunter2" in text for text in texts)


def test_client_id_stays_the_same_from_run_to_run(make_context: ContextMaker) -> None:
    config = MqttConfig(url="mqtt://bus", client_id="north")
    ids = [mqtt.NODE.open(config, make_context("pmu")).broker.client_id for _ in range(2)]
    assert ids == ["north-site-flow-pmu"] * 2


def test_broker_that_is_away_is_warned_about_at_growing_intervals(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"mqtt://{HOST}:{free_port()}"
    with session(make_context, url=url) as opened:
        wait_until(lambda: opened._backoff.failures > 8)
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings[0] == f"databus {url}: connection refused; trying again"
    assert 4 <= len(warnings) <= 6  # after attempts 1, 2, 4, 8 (and 16, if it came so far)
    assert make_context.failures == []


def test_unknown_host_is_tried_again(make_context: ContextMaker, caplog: pytest.LogCaptureFixture) -> None:
    with session(make_context, url="mqtt://no-such-host.invalid"):
        wait_until(lambda: caplog.messages)
    assert "host 'no-such-host.invalid' cannot be resolved" in caplog.messages[0]
    assert make_context.failures == []


@pytest.mark.needs("mosquitto")
def test_session_connects_once_the_broker_starts(tmp_path: Path, make_context: ContextMaker) -> None:
    broker = Mosquitto(tmp_path)
    broker.port = free_port()
    with session(make_context, url=broker.url) as opened:
        wait_until(lambda: opened._backoff.failures)
        with broker:
            wait_until(connected(opened))


@pytest.mark.needs("mosquitto")
def test_closing_leaves_no_thread_and_no_descriptor(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
        with session(make_context, url=broker.url) as opened:
            wait_until(connected(opened))
        del opened
        assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_closing_does_not_wait_for_an_attempt_to_connect_that_hangs(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_session, "LONGEST_CLOSE_S", 0.05)
    connecting, answered = threading.Event(), threading.Event()

    def hang() -> None:
        connecting.set()
        answered.wait(30.0)
        raise ssl.SSLError(1, "not TLS")  # fatal, had the flow not ended before

    gc.collect()  # what other tests have left must not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with session(make_context, url=f"mqtt://{HOST}:1") as opened:
        monkeypatch.setattr(opened.client, "reconnect", hang)
        wait_until(connecting.is_set)
        thread = opened._thread
        assert thread is not None
    assert thread.is_alive()
    assert "closed during an attempt to connect" in caplog.messages[-1]
    answered.set()
    thread.join(10.0)
    assert not thread.is_alive()
    assert len(os.listdir("/proc/self/fd")) == before
    assert make_context.failures == []


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
def test_right_password_connects(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path, users={"grid": "hunter2"}) as broker,
        session(make_context, url=broker.url, username="grid", password="hunter2") as opened,
    ):
        wait_until(connected(opened))


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
def test_wrong_password_is_fatal_and_named_by_user_only(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with Mosquitto(tmp_path, users={"grid": "right"}) as broker:
        text = failure_of(make_context, url=broker.url, username="grid", password="hunter2")
        assert text.startswith(f"databus {broker.url}: the broker refused user 'grid': ")
    assert text in caplog.messages
    assert "hunter2" not in caplog.text + text


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
def test_missing_user_is_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path, users={"grid": "right"}) as broker:
        assert "refused a client without user name" in failure_of(make_context, url=broker.url)


def test_refused_subscription_is_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    with Amqtt(tmp_path, taboo=True) as broker, session(make_context, url=broker.url) as opened:
        wait_until(connected(opened))
        opened.on_up = lambda: opened.subscribe(["prohibited"], 1)
        cut(opened)
        wait_until(lambda: make_context.failures)
    assert "refused a client without user name the subscription to 'prohibited'" in str(make_context.failures[0])


@pytest.mark.needs("mosquitto")
def test_tls_connects_with_the_right_authority(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with (
        Mosquitto(tmp_path, tls=authority.issue("broker")) as broker,
        session(make_context, url=broker.url, ca="authority.pem") as opened,
    ):
        wait_until(connected(opened))


@pytest.mark.needs("mosquitto")
def test_certificate_of_an_unknown_authority_is_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    stranger = Authority(tmp_path, "stranger")
    with Mosquitto(tmp_path, tls=Authority(tmp_path).issue("broker")) as broker:
        text = failure_of(make_context, url=broker.url, ca=str(stranger.certificate))
    assert text.startswith(f"databus {broker.url}: the broker's certificate is refused: unable to get local issuer")
    assert text.endswith(f"checked against '{stranger.certificate}'")


@pytest.mark.needs("mosquitto")
def test_expired_certificate_is_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    expired = Authority(tmp_path).issue("broker", valid_from=timedelta(days=-3), valid_to=timedelta(days=-2))
    with Mosquitto(tmp_path, tls=expired) as broker:
        assert "certificate has expired" in failure_of(make_context, url=broker.url, ca="authority.pem")


@pytest.mark.needs("mosquitto")
def test_certificate_for_another_host_is_fatal_and_names_the_host(tmp_path: Path, make_context: ContextMaker) -> None:
    other = Authority(tmp_path).issue("broker", host="other.example", address=None)
    with Mosquitto(tmp_path, tls=other) as broker:
        text = failure_of(make_context, url=broker.url, ca="authority.pem")
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in text


@pytest.mark.needs("mosquitto")
def test_certificate_that_is_not_valid_yet_is_tried_again(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    early = Authority(tmp_path).issue("broker", valid_from=timedelta(days=2), valid_to=timedelta(days=3))
    with Mosquitto(tmp_path, tls=early) as broker, session(make_context, url=broker.url, ca="authority.pem") as opened:
        wait_until(lambda: opened._backoff.failures > 1)
    assert "is this computer's clock right?" in caplog.messages[0]
    assert make_context.failures == []


@pytest.mark.needs("mosquitto")
def test_client_certificate_is_shown_to_the_broker(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    authority.issue("me")
    with (
        Mosquitto(tmp_path, tls=authority.issue("broker"), client_ca=authority.certificate) as broker,
        session(make_context, url=broker.url, ca="authority.pem", certificate="me.pem", key="me.key") as opened,
    ):
        wait_until(connected(opened))


@pytest.mark.needs("mosquitto")
def test_missing_client_certificate_is_fatal(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with Mosquitto(tmp_path, tls=authority.issue("broker"), client_ca=authority.certificate) as broker:
        text = failure_of(make_context, url=broker.url, ca="authority.pem")
    assert "the broker wants a client certificate: set `certificate` and `key`" in text


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("wrong", ["expired", "of a stranger"])
def test_client_certificate_that_the_broker_refuses_is_fatal_and_named(
    tmp_path: Path, make_context: ContextMaker, wrong: str
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    if wrong == "expired":
        authority.issue("me", valid_from=timedelta(days=-3), valid_to=timedelta(days=-2))
    else:
        stranger.issue("me")
    with Mosquitto(tmp_path, tls=authority.issue("broker"), client_ca=authority.certificate) as broker:
        text = failure_of(make_context, url=broker.url, ca="authority.pem", certificate="me.pem", key="me.key")
    assert f"the broker refused this client's certificate '{tmp_path}/me.pem'" in text


@pytest.mark.needs("mosquitto")
def test_server_name_takes_the_place_of_the_urls_host(tmp_path: Path, make_context: ContextMaker) -> None:
    other = Authority(tmp_path).issue("broker", host="bus.example", address=None)
    with (
        Mosquitto(tmp_path, tls=other) as broker,
        session(make_context, url=broker.url, ca="authority.pem", server_name="bus.example") as opened,
    ):
        wait_until(connected(opened))


def test_broker_that_speaks_only_an_older_tls_than_wanted_is_refused(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    pair = Authority(tmp_path).issue("broker")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(pair.certificate, pair.key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                old.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"mqtts://{HOST}:{server.getsockname()[1]}"
        text = failure_of(make_context, url=url, ca="authority.pem", tls_minimum="1.3")
        thread.join()
    assert "TLS failed: TLSV1_ALERT_PROTOCOL_VERSION" in text


@pytest.mark.needs("mosquitto")
def test_broker_that_closes_during_the_handshake_is_tried_again(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    Authority(tmp_path)
    with Mosquitto(tmp_path) as broker:
        url = broker.url.replace("mqtt://", "mqtts://")
        with session(make_context, url=url, ca="authority.pem"):
            wait_until(lambda: caplog.messages)
    assert f"databus {url}: " in caplog.messages[0]
    assert make_context.failures == []


def test_authority_that_cannot_be_read_is_named(tmp_path: Path, make_context: ContextMaker) -> None:
    with pytest.raises(FatalError, match=r"ca '.*/gone.pem' cannot be read: No such file"):
        mqtt.NODE.open(MqttConfig(url="mqtts://bus", ca="gone.pem"), make_context())


def test_certificate_and_key_that_do_not_match_are_named(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    authority.issue("one")
    authority.issue("two")
    config = MqttConfig(url="mqtts://bus", ca="authority.pem", certificate="one.pem", key="two.key")
    with pytest.raises(FatalError, match=r"certificate '.*one.pem' with key '.*two.key' cannot be used"):
        mqtt.NODE.open(config, make_context())


def test_broker_that_accepts_but_never_answers_is_given_up(
    make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        url = f"mqtt://{HOST}:{silent.getsockname()[1]}"
        with session(make_context, url=url, connect_timeout=0.1):
            wait_until(lambda: caplog.messages)
    assert f"databus {url}: no answer within 0.1 s; trying again" == caplog.messages[0]


@pytest.mark.needs("mosquitto")
def test_lost_connection_is_made_again_and_counted(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker, session(make_context, url=broker.url) as opened:
        wait_until(connected(opened))
        broker.kill()
        wait_until(lambda: not opened.client.is_connected())
        broker.start()
        wait_until(connected(opened))
        wait_until(lambda: opened._context.counters.get("reconnects") == 1)


@pytest.mark.parametrize("kind", [pytest.param(Mosquitto, marks=pytest.mark.needs("mosquitto")), Amqtt])
def test_connection_is_tested_while_it_is_silent(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    # Brokers close a connection after 1.5 times its keep-alive without a word.
    with kind(tmp_path) as broker, session(make_context, url=broker.url, keepalive=1) as opened:
        wait_until(connected(opened))
        time.sleep(2.5)
        assert opened.client.is_connected()
        assert opened._context.counters.get("reconnects") == 0


each_version = pytest.mark.parametrize("version", ["3.1.1", "5", 5])


@pytest.mark.needs("mosquitto")
@each_version
def test_both_versions_of_mqtt_connect(tmp_path: Path, make_context: ContextMaker, version: str | int) -> None:
    with Mosquitto(tmp_path) as broker, session(make_context, url=broker.url, version=version) as opened:
        wait_until(connected(opened))
        assert opened.client.is_v5 == (version != "3.1.1")


def test_broker_that_does_not_speak_mqtt_5_is_told(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with Amqtt(tmp_path) as broker, session(make_context, url=broker.url, version="5", connect_timeout=0.5):
        wait_until(lambda: [each for each in caplog.messages if "set `version: 3.1.1`" in each])


@pytest.mark.needs("mosquitto", "mosquitto_passwd")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_wrong_password_is_fatal_in_both_versions(tmp_path: Path, make_context: ContextMaker, version: str) -> None:
    with Mosquitto(tmp_path, users={"grid": "right"}) as broker:
        text = failure_of(make_context, url=broker.url, username="grid", password="wrong", version=version)
    assert "the broker refused user 'grid': " in text


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Server busy", RetryableError),
        ("Quota exceeded", RetryableError),
        ("Banned", FatalError),
        ("Client identifier not valid", FatalError),
        ("Unsupported protocol version", FatalError),
    ],
)
def test_refusal_is_tried_again_only_where_that_helps(reason: str, kind: type[Exception]) -> None:
    broker = mqtt_broker.Broker(name="databus", url="mqtt://bus", host="bus", port=1883, client_id="me")
    assert isinstance(mqtt_broker.refusal(reason, broker), kind)


@pytest.mark.needs("mosquitto")
def test_second_client_with_the_same_id_is_guessed(
    tmp_path: Path, make_context: ContextMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        session(make_context, url=broker.url),
        session(make_context, url=broker.url),
    ):
        wait_until(lambda: "another client with the id 'edgeflex-site-flow-node', a second run of this" in caplog.text)
    assert make_context.failures == []


STATUS = {"status_topic": "state/{site}/{flow}/{node}"}


def states(listener: Listener) -> list[str]:
    return [json.loads(payload)["state"] for _, payload in listener.received]


@pytest.mark.parametrize("kind", [pytest.param(Mosquitto, marks=pytest.mark.needs("mosquitto")), Amqtt])
def test_client_tells_that_it_is_there_and_that_it_stopped(
    tmp_path: Path, make_context: ContextMaker, kind: Callable[[Path], BrokerProcess]
) -> None:
    with kind(tmp_path) as broker, Listener(broker, "state/#") as listener:
        with session(make_context, url=broker.url, **STATUS):
            ((topic, payload),) = listener.wait_for(1)
        listener.wait_for(2)
        assert states(listener) == ["online", "stopped"]
    assert topic == "state/site/flow/node"
    assert json.loads(payload) == {
        "type": "status",
        "state": "online",
        "site": "site",
        "flow": "flow",
        "node": "node",
        "version": __version__,
    }


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_broker_tells_of_a_client_that_went_without_a_word(
    tmp_path: Path, make_context: ContextMaker, version: str
) -> None:
    with Mosquitto(tmp_path) as broker, Listener(broker, "state/#") as listener:
        with session(make_context, url=broker.url, version=version, **STATUS) as opened:
            wait_until(connected(opened))
            cut(opened)
            wait_until(lambda: states(listener) == ["online", "lost", "online"])
        with Listener(broker, "state/#") as late:
            late.wait_for(1)
            assert states(late) == ["stopped"]  # the broker keeps the last one


@pytest.mark.parametrize(
    ("topic", "complaint"),
    [
        ("state", "needs \\{flow\\} and \\{node\\}"),
        ("state/{flow}", "each node is a client of its own"),
        ("{flow}/{node}/{device}", "no placeholder '\\{device\\}'"),
        ("{flow}/{node}/#", "holds no wildcards"),
        ("{flow", "expected '}'"),
    ],
)
def test_status_topic_that_cannot_work_is_refused(topic: str, complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert({"url": "mqtt://bus", "status_topic": topic}, MqttConfig)


@pytest.mark.needs("mosquitto", "mosquitto_ctrl")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_right_to_subscribe_that_is_revoked_is_fatal_and_told(
    tmp_path: Path, make_context: ContextMaker, version: str
) -> None:
    who = {"username": "grid", "password": "secret", "version": version}
    with MosquittoWithRights(tmp_path) as broker, session(make_context, url=broker.url, **who) as opened:
        opened.on_up = lambda: opened.subscribe(["pmu/+", "event"], 1)
        wait_until(connected(opened))
        broker.revoke("subscribePattern")  # which ends the connections of this user
        wait_until(lambda: make_context.failures)
    assert "the broker refused user 'grid' the subscription to 'pmu/+', 'event'" in str(make_context.failures[0])


@pytest.mark.needs("mosquitto")
def test_client_of_a_broker_with_other_topics_has_its_status_there(tmp_path: Path, make_context: ContextMaker) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Listener(broker, "utility/#") as listener,
        session(make_context, url=broker.url, topic_prefix="utility/", **STATUS),
    ):
        listener.wait_for(1)
    assert listener.received[0][0] == "utility/state/site/flow/node"
