from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.payload_formats.codec import BadFieldError
from edgeflex_connectors.payload_formats.times import iso_texts, iso_to_ns, time_reader, time_values

LATEST_NS = 2**63 - 1
UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1, "iso8601": 1_000}


@pytest.mark.parametrize("unit", UNITS)
@given(data=st.data())
def test_a_time_that_is_written_reads_back_to_its_resolution(unit: str, data: st.DataObject) -> None:
    time_ns = data.draw(st.integers(0, LATEST_NS))
    (written,) = time_values(np.array([time_ns]), unit)
    assert time_reader(unit)(str(written)) == time_ns // UNITS[unit] * UNITS[unit]


@given(
    st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2261, 1, 1)),  # noqa: DTZ001
    st.integers(-14 * 60, 14 * 60),
)
def test_iso_times_agree_with_the_standard_library(moment: datetime.datetime, offset_min: int) -> None:
    there = moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=offset_min)))
    since = there - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert iso_to_ns(there.isoformat()) == since // datetime.timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01 00:00:01", 1_000_000_000),
        ("1970-01-01T02:00:00,5+0200", 500_000_000),
        ("2021-10-07T10:11:12.1231241+02:00", 1633594272_123_124_100),
        ("2262-04-11T23:47:16.854775807Z", LATEST_NS),
    ],
)
def test_iso_times_are_read(text: str, time_ns: int) -> None:
    assert iso_to_ns(text) == time_ns


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a time such as"),
        ("2020-05-20", "expected a time such as"),
        ("20200520T102757Z", "expected a time such as"),
        ("2020-02-30T00:00:00Z", "expected a time of the calendar"),
        ("2020-05-20T10:27:60Z", "expected a time of the calendar"),
        ("2020-05-20T10:27:57+99:00", "expected a time of the calendar"),
        ("1969-12-31T23:59:59Z", "from 1970 to 2262"),
        ("2262-04-11T23:47:16.854775808Z", "from 1970 to 2262"),
        ("٢٠٢٠-05-20T10:27:57Z", "expected a time"),
    ],
)
def test_what_is_no_iso_time_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BadFieldError, match=complaint):
        iso_to_ns(text)


@pytest.mark.parametrize(
    ("unit", "text", "time_ns"),
    [
        ("s", "1633791645.123456789", 1633791645_123_456_789),
        ("s", "1.6337916451234567894E+9", 1633791645_123_456_789),
        ("ms", "0.0000005", 0),
        ("ms", "0.0000006", 1),
        ("us", "9223372036854775.807", LATEST_NS),
    ],
)
def test_broken_numbers_are_read_exactly(unit: str, text: str, time_ns: int) -> None:
    assert time_reader(unit)(text) == time_ns


@pytest.mark.parametrize("text", ["", "x", "NaN", "sNaN", "-Infinity", "1_000", "0x10", "1,5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(BadFieldError, match="expected a number"):
        time_reader("s")(text)


@pytest.mark.parametrize("text", ["-1", "-0.1", "9223372036.854775808", "1e30", "1e999999999", "9" * 5000])
def test_times_that_no_clock_shows_are_refused(text: str) -> None:
    with pytest.raises(BadFieldError, match="from 1970 to 2262"):
        time_reader("s")(text)


def test_iso_texts_do_not_round_into_the_future() -> None:
    assert iso_texts(np.array([999_999])) == ["1970-01-01T00:00:00.000999+00:00"]
