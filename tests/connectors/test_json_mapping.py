from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.json_mapping import Column, JsonMapping, JsonReader, mapping_refusals
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Quality

POWER = {"active_power_w": Column(place="p", unit="kW")}


def reader(**fields: Any) -> JsonReader:
    return JsonReader(JsonMapping(**{"columns": POWER, "time": "t", "time_unit": "s", "device": "id", **fields}))


def rows(value: Any, **fields: Any) -> Any:
    return reader(**fields).rows(json.dumps(value).encode(), 7)


def test_object_of_the_answer_is_a_row() -> None:
    assert rows({"p": 1.5, "t": 2, "id": "G1"}) == [(2_000_000_000, "G1", 0, (1500.0,))]


def test_list_of_objects_stands_at_its_place() -> None:
    answer = {"data": [{"x": 0}, {"items": [{"p": 1, "t": 1, "id": 5}, {"p": 2, "t": 2, "id": "G2"}]}]}
    found = rows(answer, rows="data.1.items")
    assert [(row[1], row[3]) for row in found] == [("5", (1000.0,)), ("G2", (2000.0,))]


def test_values_stand_below_each_other() -> None:
    columns = {"active_power_w": Column(place="now.power.0")}
    assert rows({"now": {"power": [3]}, "t": 1, "id": "a"}, columns=columns)[0][3] == (3.0,)


def test_empty_list_gives_no_rows() -> None:
    assert rows({"data": []}, rows="data") == []


def test_null_and_absent_values_are_nan() -> None:
    columns = {
        "active_power_w": Column(place="p"),
        "reactive_power_var": Column(place="q"),
        "voltage_v": Column(place="v"),
    }
    ((_, _, _, values),) = rows({"p": 1, "q": None, "t": 1, "id": "a"}, columns=columns)
    assert values[0] == 1.0
    assert all(math.isnan(value) for value in values[1:])


def test_row_without_a_time_of_its_own_has_that_of_the_answer_and_says_so() -> None:
    assert rows({"p": 1, "id": "a"}, time=None) == [(7, "a", Quality.TIME_UNCERTAIN, (1000.0,))]


def test_device_may_be_the_same_for_all_rows() -> None:
    assert rows({"p": 1, "t": 1}, device=None, device_name="farm")[0][1] == "farm"


@pytest.mark.parametrize(
    ("unit", "value", "time_ns"),
    [
        ("rfc3339", "2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("rfc3339", "2023-11-14T23:13:20.123456+01:00", 1_700_000_000_123_456_000),
        ("s", 1_700_000_000.5, 1_700_000_000_500_000_000),
        ("ms", 1_700_000_000_123, 1_700_000_000_123_000_000),
        ("us", 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        ("ns", 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
    ],
)
def test_time_is_read_in_its_unit(unit: Any, value: Any, time_ns: int) -> None:
    assert rows({"p": 1, "t": value, "id": "a"}, time_unit=unit)[0][0] == time_ns


@pytest.mark.parametrize(
    ("item", "fields", "complaint"),
    [
        ({"p": "1", "t": 1, "id": "a"}, {}, '`active_power_w` needs a number; got "1"'),
        ({"p": True, "t": 1, "id": "a"}, {}, "needs a number; got true"),
        ({"p": 10**400, "t": 1, "id": "a"}, {}, "fits into 64 bits"),
        ({"t": 1, "id": "a"}, {}, "holds none of p"),
        ({"p": 1, "id": "a"}, {}, "`t` holds no time"),
        ({"p": 1, "t": 1e300, "id": "a"}, {}, "`t` holds no time"),
        ({"p": 1, "t": "2023-11-14T22:13:20", "id": "a"}, {"time_unit": "rfc3339"}, "`t` holds no time"),
        ({"p": 1, "t": 5, "id": "a"}, {"time_unit": "rfc3339"}, "`t` holds no time"),
        ({"p": 1, "t": 1}, {}, "`id` holds no name of a device; got null"),
        ({"p": 1, "t": 1, "id": ""}, {}, "`id` holds no name"),
        ([1], {}, r"an object is expected; got 1"),
        ({"data": {"a": 1}}, {"rows": "data.b"}, "data.b: an object is expected; got null"),
    ],
)
def test_answer_with_something_wrong_is_refused_as_a_whole(item: Any, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadMessageError, match=complaint) as caught:
        rows(item, **fields)
    assert caught.value.reason == "bad_answer"


@given(st.binary())
def test_bytes_give_rows_or_a_bad_message(body: bytes) -> None:
    try:
        reader().rows(body, 0)
    except BadMessageError as error:
        assert error.payload == body  # noqa: PT017


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["p", "t", "id", "data"]), inner),
    max_leaves=12,
)


@given(values, st.sampled_from(["rfc3339", "s", "ns"]))
def test_any_json_gives_well_made_rows_or_a_bad_message(value: Any, unit: Any) -> None:
    try:
        found = reader(rows="data", time_unit=unit).rows(json.dumps(value).encode(), 0)
    except BadMessageError:
        return
    for time_ns, device, quality, numbers in found:
        assert -(2**63) <= time_ns < 2**63
        assert device
        assert quality == 0
        assert [type(number) for number in numbers] == [float]


@given(st.integers(min_value=-(2**52), max_value=2**52))
def test_moments_are_read_exactly(microseconds: int) -> None:
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
    expected_ns = microseconds * 1000
    assert rows({"p": 1, "t": text, "id": "a"}, time_unit="rfc3339")[0][0] == expected_ns


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"device": None}, "needs one of `device` and `device_name`"),
        ({"device_name": "x"}, "needs one of `device` and `device_name`"),
        ({"columns": {"power": Column(place="p")}}, "'power' does not end in a unit"),
        (
            {"columns": {"power_w": Column(place="p", unit="kV")}},
            "no value of this column has the unit 'kV'; known: W, kW",
        ),
        ({"columns": {"trips_count": Column(place="p", unit="kV")}}, "no value of this column has the unit"),
    ],
)
def test_mapping_that_cannot_work_is_refused(fields: dict[str, Any], complaint: str) -> None:
    mapping = JsonMapping(**{"columns": POWER, "device": "id", **fields})
    (error,) = mapping_refusals(mapping, "samples")
    assert complaint in str(error)
