from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from payload_cases import WILD_JSON, assert_makes_a_batch

from edgeflex_connectors.payload_formats import (
    FORMATS,
    AnyFormat,
    Covee,
    Csv,
    Flex,
    FlexOfferFormat,
    JsonEdgeflex,
    JsonFields,
    Sogno,
    VillasBinary,
    VillasJson,
)
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_connectors.payload_formats.codec import Decoded
from edgeflex_connectors.payload_formats.signals import Signal
from edgeflex_connectors.payload_formats.sogno import Reading
from edgeflex_connectors.payloads import DeviceNames, PayloadDecoder, PayloadEncoder, device_problem
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FrequencyEvent, Quality, encode_message, samples_from_rows

FIELDS = {"f": Channel(column="frequency_hz")}
EACH: tuple[AnyFormat, ...] = (
    JsonEdgeflex(fields=FIELDS),
    JsonFields(fields=FIELDS, time="t", time_unit="ns", device="id", quality="q"),
    Sogno(readings=(Reading(column="frequency_hz", measurand="frequency"),)),
    VillasJson(signals=(Signal(column="frequency_hz"), Signal(column="quality"))),
    VillasBinary(signals=(Signal(column="frequency_hz"), Signal(column="quality"))),
    Csv(fields=FIELDS, time="t", time_unit="ns", device="id", quality="q"),
)
WITHOUT_QUALITY: tuple[AnyFormat, ...] = (
    JsonEdgeflex(fields=FIELDS, extension=False),
    JsonFields(fields=FIELDS, time="t", time_unit="ns"),
    Sogno(readings=(Reading(column="frequency_hz", measurand="frequency"),), extension=False),
    VillasJson(signals=(Signal(column="frequency_hz"),)),
    VillasBinary(signals=(Signal(column="frequency_hz"),)),
    Csv(fields=FIELDS, time="t", time_unit="ns"),
)
WITH_TESTS_OF_THEIR_OWN = {Covee, Flex, FlexOfferFormat}
"""Without quality in any payload, and without samples."""
each_format = pytest.mark.parametrize("config", EACH, ids=lambda config: type(config).__name__)
ALARM = Alarm(source="n", severity="info", text="x", time_ns=1)
DECODER = PayloadDecoder(JsonEdgeflex(), ("frequency_hz",), (Alarm,), None)


def rows_of(decoded: object) -> list[tuple[object, ...]]:
    assert isinstance(decoded, Decoded)
    assert decoded.error is None
    return list(decoded.rows)


def test_every_format_is_in_these_tests() -> None:
    assert {FORMATS[name].config for name in FORMATS} == {type(config) for config in EACH} | WITH_TESTS_OF_THEIR_OWN


@each_format
def test_every_format_keeps_time_and_quality(config: AnyFormat) -> None:
    samples = samples_from_rows([(1633791645_123456789, "G1", {"frequency_hz": 49.96875})], quality=5)
    (payload,) = PayloadEncoder(config).encode(samples)
    device = None if config.names_device else "pmu/{device}"
    decoded = PayloadDecoder(config, (), (), device).decode("pmu/G1", payload)
    assert rows_of(decoded) == [(1633791645_123456789, "G1", 5, (49.96875,))]


@each_format
def test_messages_come_beside_samples_of_every_format(config: AnyFormat) -> None:
    decoder = PayloadDecoder(config, (), (Alarm,), "pmu/{device}")
    assert decoder.decode("event/alarm", encode_message(ALARM)) == ALARM
    (payload,) = PayloadEncoder(config).encode(samples_from_rows([(1, "G1", {"frequency_hz": 50.0})]))
    assert len(rows_of(decoder.decode("pmu/G1", payload))) == 1


@each_format
def test_a_topic_that_does_not_tell_the_device_is_refused(config: AnyFormat) -> None:
    decoder = PayloadDecoder(config, (), (), "pmu/{device}")
    (payload,) = PayloadEncoder(config).encode(samples_from_rows([(1, "G1", {"frequency_hz": 50.0})]))
    with pytest.raises(BadMessageError, match=r"topic 'pmu': the topic does not match 'pmu/\{device\}'") as caught:
        decoder.decode("pmu", payload)
    assert caught.value.payload == payload


def test_what_a_decoder_did_not_foresee_is_a_bad_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = PayloadDecoder(JsonEdgeflex(), ("frequency_hz",), (), None)

    def fail(*_: object) -> None:
        raise OverflowError("int too large to convert to float")

    monkeypatch.setattr(decoder._decoder, "decode", fail)
    with pytest.raises(BadMessageError, match="topic 'pmu': OverflowError: int too large to convert to float"):
        decoder.decode("pmu", b"[]")


@each_format
def test_what_is_wrong_is_told_with_the_topic(config: AnyFormat) -> None:
    with pytest.raises(BadMessageError, match=r"^topic 'G1': ") as caught:
        PayloadDecoder(config, (), (), "{device}").decode("G1", b"\xff")
    assert (caught.value.reason, caught.value.payload) == ("bad_payload", b"\xff")


@pytest.mark.parametrize("config", WITHOUT_QUALITY, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("flag", [Quality.BAD_DATA, Quality.TEST])
def test_rows_that_readers_would_take_for_good_are_withheld(config: AnyFormat, flag: Quality) -> None:
    encoder = PayloadEncoder(config)
    bad = samples_from_rows([(1, "G1", {"frequency_hz": 50.0})] * 2, quality=int(flag | Quality.LATE))
    assert encoder.encode(bad) == []
    assert encoder.withheld == 2
    assert len(encoder.encode(samples_from_rows([(1, "G1", {"frequency_hz": 50.0})], quality=int(Quality.LATE)))) == 1
    assert encoder.withheld == 2


@pytest.mark.parametrize("config", [each for each in WITHOUT_QUALITY if not isinstance(each, Sogno)], ids=repr)
def test_a_batch_of_several_devices_is_not_sent_where_nobody_could_tell_them_apart(config: AnyFormat) -> None:
    samples = samples_from_rows([(1, "G1", {"frequency_hz": 50.0}), (1, "G2", {"frequency_hz": 50.0})])
    with pytest.raises(ValueError, match=r"put \{device\} into the topic, or select one; got G1, G2"):
        PayloadEncoder(config).encode(samples)


@pytest.mark.parametrize(
    "config",
    [
        JsonEdgeflex(device="x_v"),
        JsonFields(time="x_v.t", time_unit="s", device="id"),
        Csv(time="t", time_unit="s", device="x_v"),
    ],
    ids=repr,
)
def test_a_column_that_has_the_name_of_another_field_is_not_sent(config: AnyFormat) -> None:
    with pytest.raises(ValueError, match="column 'x_v' has the name of another field"):
        PayloadEncoder(config).encode(samples_from_rows([(1, "G1", {"x_v": 50.0})]))


@pytest.mark.parametrize(
    ("pattern", "topic", "device"),
    [
        ("G1", "any", "G1"),
        ("site/{device}/pmu", "site/G1/pmu", "G1"),
        ("/edgeflex/{device}/+", "/edgeflex/edgepmu0/ch0", "edgepmu0"),
        ("a/pmu-{device}/#", "a/pmu-3/b/c", "3"),
        ("+/{device}", "/Zürich 1", "Zürich 1"),
        ("a.b/{device}", "a.b/x", "x"),
    ],
)
def test_the_topic_tells_the_device(pattern: str, topic: str, device: str) -> None:
    assert device_problem(pattern) is None
    assert DeviceNames(pattern).of(topic) == device


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("a.b/{device}", "axb/x"),
        ("a/{device}", "a/"),
        ("a/{device}", "a/b/c"),
        ("a/{device}/+", "a/b"),
        ("{device}", "a/b"),
    ],
)
def test_another_topic_does_not(pattern: str, topic: str) -> None:
    with pytest.raises(BadMessageError, match="does not match"):
        DeviceNames(pattern).of(topic)


def test_a_name_that_is_given_goes_before_that_in_the_payload() -> None:
    decoder = PayloadDecoder(JsonEdgeflex(), ("frequency_hz",), (), "G1")
    assert rows_of(decoder.decode("t", b'[{"created":1,"device":5,"frequency_hz":50.0}]')) == [
        (1_000_000, "G1", 0, (50.0,))
    ]


def test_rows_that_are_right_come_with_an_error_for_the_others() -> None:
    decoded = DECODER.decode("pmu/1", b'[{"created":1,"device":"G1","frequency_hz":50.0},3]')
    assert isinstance(decoded, Decoded)
    assert len(decoded.rows) == 1
    assert str(decoded.error) == (
        "topic 'pmu/1': 1 of 2 rows cannot be used, first: Expected `object`, got `int` - at `$[1]`"
    )


@pytest.mark.parametrize("columns", [(), ("frequency_hz",)])
def test_what_is_not_asked_for_is_none(columns: tuple[str, ...]) -> None:
    decoder = PayloadDecoder(JsonEdgeflex(), columns, (FrequencyEvent,), None)
    assert decoder.decode("t", encode_message(ALARM)) is None
    if not columns:
        assert decoder.decode("t", b"[]") is None


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b'{"type":"unheard_of"}', "Invalid value 'unheard_of'"),
        (b'{"created":1}', "missing required field `type`"),
        (b'{"type":"alarm"}', "missing required field"),
        (b'{"type":', "truncated"),
    ],
)
def test_a_message_that_cannot_be_used_is_refused(payload: bytes, complaint: str) -> None:
    with pytest.raises(BadMessageError, match=complaint):
        DECODER.decode("t", payload)


def test_samples_may_have_a_type_of_their_own() -> None:
    config = JsonFields(fields=FIELDS, time="t", time_unit="ms", device="id")
    decoder = PayloadDecoder(config, (), (Alarm,), None)
    payload = json.dumps({"type": "meter", "t": 1, "id": "G1", "f": 50.0}).encode()
    assert len(rows_of(decoder.decode("t", payload))) == 1


@given(st.binary() | WILD_JSON)
@example(b"{" * 100_000)
@example(b'{"type":"alarm","text":"\\ud800"}')
@example(b'{"type":"\xff"}')
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    for config in EACH:
        try:
            decoded = PayloadDecoder(config, (), (Alarm,), "{device}").decode("G1", payload)
        except BadMessageError:
            continue
        if isinstance(decoded, Decoded):
            assert_makes_a_batch(decoded, config.columns)
