from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.payloads import PayloadDecoder, encode_samples
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Alarm, FrequencyEvent, encode_message, samples_from_rows

DECODER = PayloadDecoder(("frequency_hz", "rocof_hz_per_s"), (Alarm,), "device")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.floats(allow_infinity=False)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**63 - 1),
        NAMES,
        st.fixed_dictionaries({"frequency_hz": VALUES, "rocof_hz_per_s": VALUES}),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(ROWS, st.integers(0, 0xFFFF))
def test_encoded_samples_decode_to_the_same_rows(rows: list[tuple[int, str, dict[str, float]]], quality: int) -> None:
    decoded = DECODER.decode("t", encode_samples(samples_from_rows(rows, quality=quality)))
    assert isinstance(decoded, list)
    assert [(time_ns, device, flags) for time_ns, device, flags, _ in decoded] == [
        (time_ns, device, quality) for time_ns, device, _ in rows
    ]
    values = np.array([list(row[3]) for row in decoded]).reshape(-1, 2)
    wanted = np.array([[row[2]["frequency_hz"], row[2]["rocof_hz_per_s"]] for row in rows]).reshape(-1, 2)
    assert np.array_equal(values, wanted, equal_nan=True)


def test_infinity_is_null_for_readers_of_json() -> None:
    payload = encode_samples(samples_from_rows([(1, "G", {"x_v": float("inf")})]))
    assert json.loads(payload)[0]["x_v"] is None


def test_created_in_milliseconds_serves_where_time_ns_is_missing() -> None:
    payload = (
        b'[{"created":1633791645123,"device":"G1","frequency_hz":50},{"created":1.5,"device":"G1","frequency_hz":50}]'
    )
    rows = DECODER.decode("t", payload)
    assert isinstance(rows, list)
    assert [row[0] for row in rows] == [1633791645123_000_000, 1_500_000]


def test_payload_of_an_edge_pmu_decodes_with_its_own_names() -> None:
    # The example of the format's documentation, as published on /edgeflex/edgepmu0/ch0.
    payload = b'[{"created":1633791645123,"frequency":49.98,"amplitude":325.1,"phase":1.57,"rocof":-0.02}]'
    decoder = PayloadDecoder(("frequency", "rocof"), (), "topic:3")
    assert decoder.decode("/edgeflex/edgepmu0/ch0", payload) == [(1633791645123_000_000, "edgepmu0", 0, (49.98, -0.02))]


@pytest.mark.parametrize(
    ("level", "device"), [("topic:1", "a"), ("topic:3", "c"), ("topic:-1", "c"), ("topic:-3", "a")]
)
def test_levels_of_the_topic_count_from_both_ends(level: str, device: str) -> None:
    rows = PayloadDecoder(("x_v",), (), level).decode("a/b/c", b'[{"created":1,"x_v":1}]')
    assert rows == [(1_000_000, device, 0, (1.0,))]


def test_column_that_a_row_lacks_is_nan() -> None:
    rows = DECODER.decode("t", b'[{"created":1,"device":"G1","rocof_hz_per_s":1,"frequency_hz":null}]')
    assert isinstance(rows, list)
    assert np.array_equal(rows[0][3], [np.nan, 1.0], equal_nan=True)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "truncated"),
        (b"[", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b'[{"created":1,"device":"G1","frequency_hz":1},3]', r"Expected `object`, got `int` - at `\$\[1\]`"),
        (b'[{"device":"G1","frequency_hz":1}]', r"neither `created` nor `time_ns` - at `\$\[0\]`"),
        (b'[{"created":1,"frequency_hz":1}]', r"no device under the key `device` - at `\$\[0\]`"),
        (b'[{"created":1,"device":"","frequency_hz":1}]', r"length >= 1 - at `\$\[0\].device`"),
        (b'[{"created":1,"device":"G1","f_hz":1}]', "none of the columns frequency_hz, rocof_hz_per_s"),
        (b'[{"created":1,"device":"G1","frequency_hz":true}]', r"got `bool` - at `\$\[0\].frequency_hz`"),
        (b'[{"created":1,"device":"G1","frequency_hz":{"real":1,"imag":0}}]', r"got `object` - at"),
        (b'[{"created":-1,"device":"G1","frequency_hz":1}]', r"`\$\[0\].created`"),
        (b'[{"created":1e300,"device":"G1","frequency_hz":1}]', r"`\$\[0\].created`"),
        (b'[{"time_ns":9223372036854775808,"device":"G1","frequency_hz":1}]', r"`\$\[0\].time_ns`"),
        (b'[{"created":1,"device":"G1","quality":65536,"frequency_hz":1}]', r"`\$\[0\].quality`"),
        (b'{"type":"unheard_of"}', "Invalid value 'unheard_of'"),
        (b'{"created":1}', "missing required field `type`"),
        (b'{"type":"alarm"}', "missing required field"),
    ],
)
def test_bad_payload_is_refused_with_topic_and_position(payload: bytes, complaint: str) -> None:
    with pytest.raises(BadMessageError, match=complaint) as caught:
        DECODER.decode("pmu/1", payload)
    assert str(caught.value).startswith("topic 'pmu/1'")
    assert caught.value.payload == payload


def test_topic_without_the_level_is_refused() -> None:
    decoder = PayloadDecoder(("x_v",), (), "topic:4")
    with pytest.raises(BadMessageError, match="topic 'a/b' has no level 4"):
        decoder.decode("a/b", b'[{"created":1,"x_v":1}]')


def test_message_decodes_to_itself() -> None:
    alarm = Alarm(source="n", severity="info", text="x", time_ns=1)
    assert DECODER.decode("t", encode_message(alarm)) == alarm


@pytest.mark.parametrize("columns", [(), ("x_v",)])
def test_what_is_not_asked_for_is_none(columns: tuple[str, ...]) -> None:
    decoder = PayloadDecoder(columns, (FrequencyEvent,), "device")
    alarm = encode_message(Alarm(source="n", severity="info", text="x", time_ns=1))
    assert decoder.decode("t", alarm) is None
    if not columns:
        assert decoder.decode("t", b"[]") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["created", "device", "type", "x"]) | st.text(), inner)
    ),
)


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'[{"device":"\\ud800","created":1,"frequency_hz":1}]')
@example(b'[{"device":"\xff","created":1,"frequency_hz":1}]')
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    try:
        decoded = DECODER.decode("t", payload)
    except BadMessageError:
        return
    if isinstance(decoded, list) and decoded:
        builder = SamplesBuilder(("frequency_hz", "rocof_hz_per_s"))
        for row in decoded:
            builder.add(*row)
        samples = builder.take(0)
        assert list(samples.problems()) == []
        encode_samples(samples)
