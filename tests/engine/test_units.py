"""Quantities and column units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_flow.units import SUFFIXES, UNITS, Unit, column_unit, conversion_factor, names_its_unit, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("500ms", "s", 0.5),
        ("0.02 Hz/s", "Hz/s", 0.02),
        ("20 mHz/s", "Hz/s", 0.02),
        ("2 min", "s", 120.0),
        ("16 MiB", "B", 16 * 1024 * 1024),
        ("-3.5e2 kW", "W", -350000.0),
        ("180 deg", "rad", math.pi),
        ("12.5 mohm", "ohm", 0.0125),
        ("0.085 EUR/kWh", "EUR/MWh", 85.0),
    ],
)
def test_a_quantity_is_read_in_the_wanted_unit(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["500", "ms", "", "5 Hz", "1,5 s", "nan s", "5 ms ms"])
def test_a_quantity_without_a_fitting_unit_is_refused_with_the_units_that_would_do(text: str) -> None:
    with pytest.raises(ValueError, match="ms"):
        parse_quantity(text, "s")


@given(st.floats(-1e6, 1e6), st.sampled_from([unit for unit in UNITS.values() if unit.dimension == "time"]))
def test_every_unit_of_time_reads_back(value: float, unit: Unit) -> None:
    symbol, factor = unit.symbol, unit.factor
    assert parse_quantity(f"{value!r} {symbol}", "s") == pytest.approx(value * factor, rel=1e-12)


def test_every_column_ending_states_a_known_unit() -> None:
    for suffix, symbol in SUFFIXES.items():
        unit = column_unit(f"x_{suffix}")
        assert unit is not None
        assert unit.symbol == symbol


def test_the_longest_ending_wins() -> None:
    unit = column_unit("rocof_hz_per_s")
    assert unit is not None
    assert unit.symbol == "Hz/s"


@pytest.mark.parametrize(
    ("column", "symbol"),
    [
        ("price_eur_per_mwh", "EUR/MWh"),
        ("wind_speed_m_per_s", "m/s"),
        ("irradiance_w_per_m2", "W/m²"),
        ("cost_eur", "EUR"),
    ],
)
def test_prices_and_weather_state_their_units(column: str, symbol: str) -> None:
    unit = column_unit(column)
    assert unit is not None
    assert unit.symbol == symbol


def test_a_bare_unit_is_no_column_name() -> None:
    assert not names_its_unit("hz")


def test_converting_between_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="'angle_deg' measures angle"):
        conversion_factor("angle_deg", "voltage_v")


def test_degrees_become_radians() -> None:
    assert 180 * conversion_factor("angle_deg", "angle_rad") == pytest.approx(math.pi)
