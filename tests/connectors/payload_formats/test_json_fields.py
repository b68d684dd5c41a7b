from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payload_cases import (
    HOSTILE,
    NAMES,
    SCALABLE,
    WILD_JSON,
    assert_right_or_refused,
    assert_same_rows,
    batches,
    decode_all,
    decoder_of,
    encoder_of,
    mutated,
    refusal,
    rows_of,
)

from edgeflex_connectors.payload_formats import JsonFields
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples

FIELDS = {
    "ac.u": Channel(column="voltage_v", unit="kV"),
    "ac.p.sum": Channel(column="active_power_w", unit="MW"),
    "s": Channel(column="breaker_bits"),
}
CONFIG = JsonFields(fields=FIELDS, time="meta.t", time_unit="ns", device="meta.id", quality="meta.q")
RESOLUTIONS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1, "iso8601": 1000}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("unit", RESOLUTIONS)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same_rows(single: bool, unit: str, data: st.DataObject) -> None:
    config = JsonFields(
        fields=FIELDS,
        time="meta.t",
        time_unit=unit,  # type: ignore[arg-type]
        device="meta.id",
        quality="meta.q",
        single=single,
    )
    samples: Samples = data.draw(batches(config.columns, values=SCALABLE, resolution_ns=RESOLUTIONS[unit]))
    payloads = encoder_of(config).encode(samples)
    assert len(payloads) == (samples.rows if single else 1)
    assert_same_rows(decode_all(decoder_of(config), payloads, None, config.columns), samples, rel=1e-12)


@given(batches(("frequency_hz", "x_v"), devices=st.just("G1"), flags=st.just(0)))
def test_without_a_mapping_columns_go_by_their_names(samples: Samples) -> None:
    config = JsonFields(time="t", time_unit="ns")
    decoder = decoder_of(config, "frequency_hz", "x_v", given=True)
    decoded = decode_all(decoder, encoder_of(config).encode(samples), "G1", ("frequency_hz", "x_v"))
    assert_same_rows(decoded, samples)


def test_fields_of_objects_inside_are_sent_inside() -> None:
    payload = b'[{"meta":{"t":1500000,"id":"G1","q":4},"ac":{"u":0.23,"p":{"sum":null}},"s":true,"x":[{}]}]'
    ((time_ns, device, quality, values),) = rows_of(decoder_of(CONFIG), payload)
    assert (time_ns, device, quality) == (1_500_000, "G1", 4)
    assert values[0] == 230.0
    assert values[2] == 1.0
    samples = decode_all(decoder_of(CONFIG), [payload], None, CONFIG.columns)
    assert json.loads(encoder_of(CONFIG).encode(samples)[0]) == [
        {"meta": {"t": 1500000, "id": "G1", "q": 4}, "ac": {"u": 0.23, "p": {"sum": None}}, "s": 1.0}
    ]


def test_a_time_in_seconds_is_read_to_the_nanosecond() -> None:
    config = JsonFields(fields={"f": Channel(column="frequency_hz")}, time="t", time_unit="s")
    rows = rows_of(decoder_of(config, given=True), b'{"t":1633791645.123456789,"f":50}', "G1")
    assert rows == [(1633791645_123_456_789, "G1", 0, (50.0,))]


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"3", "Expected `object`, got `int` - at `$`"),
        (b'{"s":1,"meta":{"id":"G"}}', "no `meta.t`; got s, meta - at `$`"),
        (b'{"s":1,"meta":{"t":1}}', "no device under the key `meta.id`; got s, meta - at `$`"),
        (b'{"meta":{"t":1,"id":"G"},"ac":{"u":"x"}}', "got `str` - at `$.ac.u`"),
        (b'{"meta":{"t":1,"id":"G"},"ac":3}', "got `int` - at `$.ac`"),
        (b'{"meta":{"t":"1","id":"G"},"s":3}', "Expected `int | float | null`, got `str` - at `$.meta.t`"),
        (b'{"meta":{"t":1,"id":"G"},"ac":{}}', "none of the fields ac.u, ac.p.sum, s; got meta, ac - at `$`"),
        (b'{"meta":{"t":1,"id":"G"},"s":1,"meta":{"t":2,"id":"G"}}', "key `meta` stands twice - at `$`"),
        (b'[{"meta":{"t":1,"id":"G","q":70000},"s":1}]', "<= 65535 - at `$[0].meta.q`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(payload: bytes, complaint: str) -> None:
    assert complaint in str(refusal(decoder_of(CONFIG), payload))


def test_a_text_is_needed_for_iso_times() -> None:
    config = JsonFields(fields=FIELDS, time="t", time_unit="iso8601")
    decoder = decoder_of(config, given=True)
    assert "Expected `str | null`, got `int` - at `$.t`" in str(refusal(decoder, b'{"t":1633791645,"s":1}', "G1"))
    assert "got 'noon' - at `$.t`" in str(refusal(decoder, b'{"t":"noon","s":1}', "G1"))


@pytest.mark.parametrize("time", ['"1633791645"', "null", "[]", "true", "-1", "1e999999999", "9223372037"])
def test_a_number_is_needed_for_seconds(time: str) -> None:
    decoder = decoder_of(JsonFields(fields=FIELDS, time="t", time_unit="s"), given=True)
    assert "`t`" in str(refusal(decoder, f'{{"t":{time},"s":1}}'.encode(), "G1")).replace("$.t", "t")


@settings(max_examples=200)
@given(
    st.binary() | WILD_JSON | mutated(b'[{"meta":{"t":1,"id":"G","q":4},"ac":{"u":0.23,"p":{"sum":null}},"s":true}]')
)
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(CONFIG), payload, None, CONFIG.columns)


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_payloads_are_right_or_refused(payload: bytes) -> None:
    config = JsonFields(time="created", time_unit="ms", device="device")
    assert_right_or_refused(decoder_of(config, "x_v"), payload, None, ("x_v",))


@given(NAMES, NAMES)
def test_any_names_of_fields_will_do_or_are_refused(name: str, time: str) -> None:
    try:
        config = JsonFields(fields={name: Channel(column="x_v")}, time=time, time_unit="ms")
    except ConfigError:
        assert name == time or not (name + time).isprintable() or set('"\\.') & set(name + time)
        return
    payload: dict[str, object] = {}
    for path, value in ((name.split("."), 2.5), (time.split("."), 1)):
        inner: dict[str, object] = payload
        for key in path[:-1]:
            inner = inner.setdefault(key, {})  # type: ignore[assignment]
        inner[path[-1]] = value
    decoder = decoder_of(config, given=True)
    assert rows_of(decoder, json.dumps(payload).encode(), "G1") == [(1_000_000, "G1", 0, (2.5,))]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"time": 'a"b'}, "no quotation marks"),
        ({"time": "a..b"}, "a field's name has no empty part"),
        ({"time": "ac"}, "field 'ac' and field 'ac.u' cannot both be there"),
        ({"device": "t"}, "field 't' and field 't' cannot both be there"),
        ({"fields": {"a": Channel(column="x_v"), "b": Channel(column="x_v")}}, "comes from two fields"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, object], complaint: str) -> None:
    good: dict[str, object] = {"fields": FIELDS, "time": "t", "time_unit": "s"}
    with pytest.raises(ConfigError, match=complaint):
        JsonFields(**{**good, **fields})  # type: ignore[arg-type]
