"""The databus over a network that is cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import Listener, Mosquitto, alarm, numbers, wait_until
from networks import TwoHosts, namespaces_allowed, two_hosts

from edgeflex_connectors import mqtt, mqtt_publish
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_publish import MqttPublish, MqttPublishConfig
from edgeflex_flow.node import OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

PORT = 1883
CUT_S = 30.0
VALID_S = 2.0


def run_on(hosts: TwoHosts, host: int, work: Callable[[], object]) -> None:
    """Do it on a host; threads and processes that it starts stay there."""
    hosts.on(host, work).join()


@pytest.mark.long
@pytest.mark.needs("mosquitto", "ip")
@pytest.mark.skipif(not namespaces_allowed(), reason="network namespaces are not allowed here")
def test_nothing_is_lost_and_no_set_point_comes_late_when_the_network_is_cut_for_30_s(
    tmp_path: Path, make_context: ContextMaker
) -> None:
    with two_hosts() as hosts:
        broker = Mosquitto(tmp_path, more=[f"listener {PORT} {hosts.addresses[0]}"])
        listeners: list[Listener] = []
        sinks = [
            sink_to(hosts.addresses[0], make_context, topic="telemetry"),
            sink_to(hosts.addresses[0], make_context, topic="set_points", expires=VALID_S),
        ]
        run_on(hosts, 0, broker.start)
        try:
            run_on(hosts, 0, lambda: listeners.append(Listener(broker)))
            for each in sinks:
                run_on(hosts, 1, each.open)
            cut_ns, mended_ns, last_ns = publish_through_a_cut(hosts, sinks)
            wait_until(lambda: last_ns in came(listeners[0], "telemetry"), 60.0)
            assert all(each.flush(30.0) for each in sinks)
            telemetry, set_points = (came(listeners[0], topic) for topic in ("telemetry", "set_points"))
        finally:
            for opened in sinks:
                opened.close()
            for listener in listeners:
                listener.__exit__(None, None, None)
            broker.stop()
    first = list(dict.fromkeys(telemetry))
    assert first == sorted(first)
    assert len(first) == sinks[0]._outbox.put_to
    assert len(telemetry) - len(first) <= 100  # what QoS 1 may double: all that was under way
    late = [each for each in set_points if cut_ns + 1e9 < each < mended_ns - 1e9 * (VALID_S + 0.5)]
    assert late == []
    assert all(after > before for before, after in pairwise(dict.fromkeys(set_points)))
    assert set_points[0] < cut_ns < mended_ns < set_points[-1]


def sink_to(address: str, make_context: ContextMaker, **fields: Any) -> MqttPublish:
    config = MqttConfig(url=f"mqtt://{address}:{PORT}", keepalive=5, reconnect_max=2.0)
    context = make_context(fields["topic"], connections={"bus": OpenConnection("databus", mqtt.NODE, config)})
    sink = mqtt_publish.NODE.open(MqttPublishConfig(bus="databus", **fields), context)
    assert isinstance(sink, MqttPublish)
    return sink


def publish_through_a_cut(hosts: TwoHosts, sinks: list[MqttPublish]) -> tuple[int, int, int]:
    """Messages that tell the time in ns at which they were written; when the cut began and ended, and the last one."""
    over = threading.Event()
    sent: list[int] = []

    def publish() -> None:
        while not over.wait(0.01):
            sent.append(time.time_ns())
            for each in sinks:
                each.write([alarm(sent[-1])])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        time.sleep(2.0)
        hosts.cut()
        cut_ns = time.time_ns()
        time.sleep(CUT_S)
        mended_ns = time.time_ns()
        hosts.mend()
        time.sleep(10.0)
    finally:
        over.set()
        thread.join()
    return cut_ns, mended_ns, sent[-1]


def came(listener: Listener, topic: str) -> list[int]:
    return numbers([each for each in listener.received if each[0] == topic])
