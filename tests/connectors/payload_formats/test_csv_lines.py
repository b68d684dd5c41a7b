from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payload_cases import (
    SCALABLE,
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

from edgeflex_connectors.payload_formats import Csv
from edgeflex_connectors.payload_formats.channels import Channel
from edgeflex_flow.errors import ConfigError
from edgeflex_flow.messages import Samples

FIELDS = {"u [kV]": Channel(column="voltage_v", unit="kV"), "f": Channel(column="frequency_hz")}
CONFIG = Csv(fields=FIELDS, time="t", time_unit="ms", device="id", quality="q")
RESOLUTIONS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1, "iso8601": 1000}
HEAD = b"t,id,q,u [kV],f\r\n"


@pytest.mark.parametrize("german", [False, True])
@pytest.mark.parametrize("unit", RESOLUTIONS)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same_rows(german: bool, unit: str, data: st.DataObject) -> None:
    config = Csv(
        fields=FIELDS,
        time="t",
        time_unit=unit,  # type: ignore[arg-type]
        device="id",
        quality="q",
        separator="semicolon" if german else "tab",
        decimal="comma" if german else "point",
    )
    samples: Samples = data.draw(batches(config.columns, values=SCALABLE, resolution_ns=RESOLUTIONS[unit]))
    (payload,) = encoder_of(config).encode(samples)
    assert_same_rows(decode_all(decoder_of(config), [payload], None, config.columns), samples, rel=1e-12)


@given(batches(("frequency_hz",), devices=st.just("G1"), flags=st.just(0)))
def test_lines_without_names_decode_by_the_declared_ones(samples: Samples) -> None:
    config = Csv(names=("t", "unused", "frequency_hz"), time="t", time_unit="ns", fields={})
    (payload,) = encoder_of(config).encode(samples)
    assert payload.count(b"\r\n") == samples.rows
    decoder = decoder_of(config, "frequency_hz", given=True)
    assert_same_rows(decode_all(decoder, [payload], "G1", ("frequency_hz",)), samples)


def test_what_is_sent_is_as_in_rfc_4180() -> None:
    samples = decode_all(decoder_of(CONFIG), [HEAD + b'1,"G,""1",4,0.23,\r\n'], None, CONFIG.columns)
    assert samples.devices == ('G,"1',)
    assert encoder_of(CONFIG).encode(samples) == [HEAD + b'1,"G,""1",4,0.23,\r\n']


def test_german_spreadsheets_are_read() -> None:
    config = Csv(fields=FIELDS, time="t", time_unit="s", separator="semicolon", decimal="comma")
    payload = "\ufefft;f;u [kV];Bemerkung\n1,5;49,98;0,23;ä\n\n2;;1;\n".encode()
    rows = rows_of(decoder_of(config, given=True), payload, "G1")
    assert rows[0] == (1_500_000_000, "G1", 0, (230.0, 49.98))
    assert rows[1][0] == 2_000_000_000


def test_lines_that_are_right_are_given_beside_wrong_ones() -> None:
    decoded = decoder_of(CONFIG).decode(HEAD + b"1,G,0,1,50\n2,G,0,1,fast\n3,G,0,1\n4,G,,1,51\n", None)
    assert [row[0] for row in decoded.rows] == [1_000_000, 4_000_000]
    assert decoded.bad_rows == 2
    assert decoded.error is not None
    assert str(decoded.error) == ("2 of 4 rows cannot be used, first: line 3: field 'f': expected a number, got 'fast'")
    assert decoded.error.payload == b"2,G,0,1,fast"


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "line 1: no field 't'; got nothing"),
        (b"a,b\n", "line 1: no field 't'; got 'a', 'b'"),
        (b"t,f\n1,2\n", "line 1: no field 'id'; got 't', 'f'"),
        (b"t,id,x\n1,G,2\n", "line 1: no field 'u [kV]'; got 't', 'id', 'x'"),
        (b"t,id,f,f\n1,G,2,3\n", "line 1: field 'f' stands twice"),
        (b"t,id,f\n1,G,\xff\n", "no UTF-8 text: byte 0xff at 11"),
        (b't,id,f\n1,"G,2\n', "line 2: unexpected end of data"),
        (b"t,id,f\n1,G\n", "line 2: 2 values, known: 3 fields"),
        (b"t,id,f\n,G,2\n", "line 2: field 't': expected a number, got ''"),
        (b"t,id,f\n-1,G,2\n", "line 2: field 't': expected a time from 1970 to 2262, got '-1'"),
        (b"t,id,f\n1,,2\n", "line 2: field 'id': no device"),
        (b"t,id,f\n1,G,nan\n", "line 2: field 'f': expected a number, got 'nan'"),
        (b"t,id,f\n1,G,1_000\n", "line 2: field 'f': expected a number, got '1_000'"),
        (b"t,id,f\n1,G,1e999\n", "line 2: field 'f': expected a number, got '1e999'"),
        (b"t,id,q,f\n1,G,-1,2\n", "line 2: field 'q': expected quality flags from 0 to 65535, got '-1'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(payload: bytes, complaint: str) -> None:
    assert str(refusal(decoder_of(CONFIG), payload)).startswith(complaint)


def test_a_point_among_decimal_commas_is_refused() -> None:
    config = Csv(fields=FIELDS, time="t", time_unit="ms", separator="semicolon", decimal="comma")
    error = refusal(decoder_of(config, given=True), b"t;f\n1;1.234,5\n", "G1")
    assert "line 2: field 'f': expected a number, got '1.234,5'" in str(error)


@settings(max_examples=200)
@given(st.binary() | st.text().map(str.encode) | mutated(HEAD + b'1,"G",4,0.23,50\r\n2,G,0,,\r\n'))
def test_no_payload_raises_anything_but_bad_message(payload: bytes) -> None:
    assert_right_or_refused(decoder_of(CONFIG), payload, None, CONFIG.columns)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"decimal": "comma"}, "`separator` and `decimal` are the same"),
        ({"device": "t"}, "field 't' is named twice"),
        ({"names": ("t", "f")}, r"`names` lacks field 'u \[kV\]'"),
        ({"names": ("t", "f", "f", "u [kV]")}, "`names` names a field twice"),
        ({"fields": {"f": Channel(column="a_v", angle_column="b_rad")}}, "the format holds no complex values"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, object], complaint: str) -> None:
    good: dict[str, object] = {"fields": FIELDS, "time": "t", "time_unit": "s"}
    with pytest.raises(ConfigError, match=complaint):
        Csv(**{**good, **fields})  # type: ignore[arg-type]
