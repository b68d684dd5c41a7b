from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Samples, samples_from_rows
from edgeflex_flow.node import samples_wire
from edgeflex_operators import convert
from edgeflex_operators.convert import NODE, ConvertConfig


def batch(**values: float) -> Samples:
    return samples_from_rows([(0, "G1", values), (1, "G1", values)], quality=32)


def test_degrees_become_radians() -> None:
    [out] = convert.step(ConvertConfig(columns={"angle_deg": "angle_rad"}), None, batch(angle_deg=180.0))
    assert isinstance(out, Samples)
    assert out.columns["angle_rad"] == pytest.approx([np.pi, np.pi])


def test_converted_column_is_replaced_and_the_others_pass() -> None:
    samples = batch(angle_deg=1.0, frequency_hz=50.0)
    [out] = convert.step(ConvertConfig(columns={"angle_deg": "angle_rad"}), None, samples)
    assert isinstance(out, Samples)
    assert sorted(out.columns) == ["angle_rad", "frequency_hz"]
    assert out.columns["frequency_hz"] is samples.columns["frequency_hz"]
    assert out.quality is samples.quality


def test_two_columns_may_swap_their_units() -> None:
    config = ConvertConfig(columns={"power_kw": "power_mw", "power_mw": "power_kw"})
    [out] = convert.step(config, None, batch(power_kw=1.0, power_mw=2.0))
    assert isinstance(out, Samples)
    assert {name: values[0] for name, values in out.columns.items()} == {"power_mw": 0.001, "power_kw": 2000.0}


def test_missing_values_stay_missing() -> None:
    [out] = convert.step(ConvertConfig(columns={"power_kw": "power_w"}), None, batch(power_kw=np.nan))
    assert isinstance(out, Samples)
    assert np.isnan(out.columns["power_w"]).all()


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"angle_deg": "angle_hz"}, r"'angle_deg' measures angle \(deg\), 'angle_hz' frequency \(Hz\)"),
        ({"angle": "angle_rad"}, "column 'angle' does not end in a unit"),
        ({"angle_deg": "angle_deg"}, "column 'angle_deg' is converted into itself"),
        ({"power_kw": "power_w", "power_mw": "power_w"}, "'power_w' would take the place of more than one column"),
        ({}, "length >= 1"),
    ],
)
def test_columns_that_make_no_sense_are_refused(columns: dict[str, str], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({"columns": columns}, ConvertConfig)


def test_output_has_the_new_columns_for_the_old() -> None:
    config = ConvertConfig(columns={"angle_deg": "angle_rad"})
    wire = NODE.output(config, {"in": samples_wire("angle_deg", "frequency_hz", more_columns=True)})
    assert wire == samples_wire("angle_rad", "frequency_hz", more_columns=True)
    assert NODE.inputs["in"].columns(config) == {"angle_deg"}


def test_new_column_that_is_there_already_is_an_error_of_the_check() -> None:
    config = ConvertConfig(columns={"angle_deg": "angle_rad"})
    with pytest.raises(ValueError, match="'angle_rad' is already among the columns; known: angle_deg, angle_rad"):
        NODE.output(config, {"in": samples_wire("angle_deg", "angle_rad")})


def test_new_column_that_only_the_stream_shows_to_be_there_is_a_bad_message() -> None:
    config = ConvertConfig(columns={"angle_deg": "angle_rad"})
    with pytest.raises(BadMessageError, match="already among the columns") as caught:
        convert.step(config, None, batch(angle_deg=1.0, angle_rad=1.0))
    assert caught.value.reason == "column_taken"
