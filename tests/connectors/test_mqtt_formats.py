"""Each payload format over a real broker: from `mqtt_publish` to `mqtt_subscribe`, and from and to others."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from broker import BrokerProcess, Listener, Mosquitto, wait_until
from payload_cases import golden

from edgeflex_connectors import mqtt
from edgeflex_connectors.mqtt import MqttConfig
from edgeflex_connectors.mqtt_publish import MqttPublish, MqttPublishConfig
from edgeflex_connectors.mqtt_subscribe import MqttSubscribe, MqttSubscribeConfig
from edgeflex_connectors.payload_formats import (
    AnyFormat,
    Csv,
    JsonEdgeflex,
    JsonFields,
    Sogno,
    VillasBinary,
    VillasJson,
)
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_connectors.payload_formats.signals import Signal
from edgeflex_connectors.payload_formats.sogno import Reading
from edgeflex_flow.messages import Samples, join_samples, samples_from_rows
from edgeflex_flow.node import Context, OpenConnection

if TYPE_CHECKING:
    from conftest import ContextMaker

pytestmark = pytest.mark.needs("mosquitto")

FIELDS = {"f": Channel(column="frequency_hz"), "u": Channel(column="voltage_v", unit="kV")}
SIGNALS = (Signal(column="frequency_hz"), Signal(column="quality"), Signal(column="voltage_v"))
SOGNO = Sogno(
    readings=(
        Reading(column="frequency_hz", measurand="frequency"),
        Reading(column="voltage_v", measurand="voltmagnitude", phase="A"),
    )
)
EACH: tuple[AnyFormat, ...] = (
    JsonEdgeflex(fields=FIELDS),
    JsonFields(fields=FIELDS, time="t", time_unit="ns", quality="q"),
    SOGNO,
    VillasJson(signals=SIGNALS),
    VillasBinary(signals=SIGNALS),
    Csv(fields=FIELDS, time="t", time_unit="ns", quality="q"),
)
START_NS = 1633791645_000_000_001


def batch(rows: int) -> Samples:
    """Two devices, 20 ms apart; values that 32 bits hold."""
    return samples_from_rows(
        [
            (
                START_NS + row * 20_000_000,
                f"G{row % 2}",
                {"frequency_hz": 50.0 + row / 64, "voltage_v": 230.0 + row / 8},
            )
            for row in range(rows)
        ],
        quality=6,
    )


def connection(make_context: ContextMaker, broker: BrokerProcess, node: str) -> Context:
    config = MqttConfig(url=broker.url, reconnect_min=0.02, reconnect_max=0.05)
    return make_context(node, connections={"bus": OpenConnection("databus", mqtt.NODE, config)})


@contextmanager
def source(make_context: ContextMaker, broker: BrokerProcess, **fields: Any) -> Iterator[tuple[MqttSubscribe, Context]]:
    """A source whose subscription the broker has answered."""
    context = connection(make_context, broker, "in")
    bus = context.connections["bus"]
    session = mqtt.NODE.open(bus.config, context)  # type: ignore[arg-type]
    answered = session.client.on_subscribe
    subscribed: list[bool] = []

    def note(*arguments: Any) -> None:
        answered(*arguments)
        subscribed.append(True)

    session.client.on_subscribe = note
    opened = MqttSubscribe(MqttSubscribeConfig(bus="databus", **fields), context, session)
    try:
        opened.open()
        wait_until(lambda: subscribed)
        yield opened, context
    finally:
        opened.close()


def gather(opened: MqttSubscribe, rows: int) -> Samples:
    """Poll when the descriptor says so until so many rows have come."""
    batches: list[Samples] = []
    while sum(each.rows for each in batches) < rows:
        descriptor = opened.fileno()
        assert descriptor is not None
        assert select.select([descriptor], [], [], 10.0)[0], f"nothing came after {batches}"
        batches += [each for each in opened.poll() if isinstance(each, Samples)]
    return join_samples(batches)


@pytest.mark.parametrize("config", EACH, ids=lambda config: type(config).__name__)
def test_rows_come_out_as_they_went_in(tmp_path: Path, make_context: ContextMaker, config: AnyFormat) -> None:
    sent = batch(20)
    with (
        Mosquitto(tmp_path) as broker,
        source(make_context, broker, topics=("pmu/+",), format=config, device="pmu/{device}") as (opened, context),
    ):
        sink_context = connection(make_context, broker, "out")
        sink = MqttPublish(MqttPublishConfig(bus="databus", topic="pmu/{device}", format=config), sink_context)
        sink.open()
        try:
            sink.write([sent])
            assert sink.flush(10.0)
        finally:
            sink.close()
        got = gather(opened, sent.rows)
        assert context.counters.get("bad_payload") == 0
    order = np.lexsort((got.time_ns,))
    got = got.take(order)
    assert got.time_ns.tolist() == sent.time_ns.tolist()
    assert [got.devices[code] for code in got.device] == [sent.devices[code] for code in sent.device]
    assert got.quality.tolist() == sent.quality.tolist()
    for name in ("frequency_hz", "voltage_v"):
        np.testing.assert_allclose(got.columns[name], sent.columns[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "topic", "fields", "wanted"),
    [
        (
            "json.edgeflex.pmu.json",
            "/edgeflex/edgepmu0/ch0",
            {
                "topics": ("/edgeflex/+/ch0",),
                "device": "/edgeflex/{device}/ch0",
                "format": JsonEdgeflex(fields={"frequency": Channel(column="frequency_hz")}),
            },
            (1633791645_123_000_000, "edgepmu0", {"frequency_hz": 49.98}),
        ),
        (
            "sogno.nested.json",
            "/sogno/device1",
            {
                "topics": ("/sogno/#",),
                "format": Sogno(readings=(Reading(column="voltage_kv", measurand="voltmagnitude", component="BUS1"),)),
            },
            (1589970477_980_802_000, "device1", {"voltage_kv": 0.123}),
        ),
        (
            "sogno.flat.json",
            "/sogno/pmu",
            {"topics": ("/sogno/#",), "format": Sogno(readings=SOGNO.readings[1:])},
            (1633594272_123_124_100, "pmu-abc0", {"voltage_v": 123124.0}),
        ),
        (
            "villas.json",
            "villas/node1",
            {
                "topics": ("villas/+",),
                "device": "edgepmu1",
                "format": VillasJson(
                    signals=(
                        Signal(column="frequency_hz"),
                        Signal(),
                        Signal(),
                        Signal(column="current_a", angle_column="current_angle_rad"),
                    )
                ),
            },
            (1633791645_123_456_789, "edgepmu1", {"frequency_hz": 49.98, "current_a": 5.0}),
        ),
    ],
)
def test_payloads_of_others_become_samples(
    tmp_path: Path,
    make_context: ContextMaker,
    name: str,
    topic: str,
    fields: dict[str, Any],
    wanted: tuple[int, str, dict[str, float]],
) -> None:
    with Mosquitto(tmp_path) as broker, source(make_context, broker, **fields) as (opened, _):
        with Listener(broker) as other:
            other.publish(topic, golden(name))
        samples = gather(opened, 1)
    time_ns, device, values = wanted
    assert (samples.time_ns.tolist(), samples.devices) == ([time_ns], (device,))
    assert {column: samples.columns[column].item() for column in values} == values


def test_others_get_what_their_format_says_and_no_bad_rows(tmp_path: Path, make_context: ContextMaker) -> None:
    good = samples_from_rows([(1589970477_980_802_999, "G1", {"frequency_hz": 50.0, "voltage_v": 230.0})])
    bad = samples_from_rows([(2, "G1", {"frequency_hz": 0.0, "voltage_v": 0.0})], quality=1)
    with Mosquitto(tmp_path) as broker, Listener(broker) as other:
        context = connection(make_context, broker, "out")
        config = Sogno(readings=SOGNO.readings, extension=False)
        sink = MqttPublish(MqttPublishConfig(bus="databus", topic="sogno/{device}", format=config), context)
        sink.open()
        try:
            sink.write([bad, good])
            assert sink.flush(10.0)
        finally:
            sink.close()
        ((topic, payload),) = other.wait_for(1)
    assert topic == "sogno/G1"
    assert json.loads(payload) == {
        "device": "G1",
        "timestamp": "2020-05-20T10:27:57.980802+00:00",
        "readings": [
            {"component": "G1", "measurand": "frequency", "data": 50.0},
            {"component": "G1", "measurand": "voltmagnitude", "phase": "A", "data": 230.0},
        ],
    }
    assert context.counters.get("withheld") == 1


def test_a_batch_that_the_format_cannot_hold_is_a_dead_letter(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        context = connection(make_context, broker, "out")
        config = MqttPublishConfig(bus="databus", topic="villas", format=VillasJson(signals=SIGNALS))
        sink = MqttPublish(config, context)
        sink.open()
        try:
            sink.write([batch(2)])
            assert sink.flush(10.0)
        finally:
            sink.close()
    ((reason, text, _),) = make_context.dead_letters
    assert reason == "not_encodable"
    assert "the format does not name devices" in text


def test_a_device_that_the_format_cannot_hold_costs_no_other(tmp_path: Path, make_context: ContextMaker) -> None:
    rows = [(0, "G1", {"frequency_hz": 1e39, "voltage_v": 1.0}), (0, "G2", {"frequency_hz": 50.0, "voltage_v": 1.0})]
    with Mosquitto(tmp_path) as broker, Listener(broker) as other:
        context = connection(make_context, broker, "out")
        config = MqttPublishConfig(bus="databus", topic="villas/{device}", format=VillasBinary(signals=SIGNALS))
        sink = MqttPublish(config, context)
        sink.open()
        try:
            sink.write([samples_from_rows(rows)])
            assert sink.flush(10.0)
        finally:
            sink.close()
        ((topic, _),) = other.wait_for(1)
    assert topic == "villas/G2"
    ((_, text, _),) = make_context.dead_letters
    assert text == (
        "a message of type 'samples': 1 rows for topic 'villas/G1': "
        "column 'frequency_hz' holds a value too large for 32 bits"
    )
