"""Units of quantities (`500ms`, `0.02 Hz/s`) and of columns (`frequency_hz`, `angle_rad`).

Two tables rule the project: `UNITS` holds every unit that a person may write, with its dimension and its factor to
the base unit of that dimension; `SUFFIXES` holds the ending by which a column name states its unit.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple

NS_PER_S: Final = 1_000_000_000


class Unit(NamedTuple):
    """A unit: what it measures and how many base units it is worth."""

    symbol: str
    dimension: str
    factor: float


def _table(*rows: tuple[str, str, float]) -> dict[str, Unit]:
    return {symbol: Unit(symbol, dimension, factor) for symbol, dimension, factor in rows}


UNITS: dict[str, Unit] = _table(
    ("ns", "time", 1e-9),
    ("us", "time", 1e-6),
    ("µs", "time", 1e-6),
    ("ms", "time", 1e-3),
    ("s", "time", 1.0),
    ("min", "time", 60.0),
    ("h", "time", 3600.0),
    ("d", "time", 86400.0),
    ("mHz", "frequency", 1e-3),
    ("Hz", "frequency", 1.0),
    ("kHz", "frequency", 1e3),
    ("mHz/s", "rocof", 1e-3),
    ("Hz/s", "rocof", 1.0),
    ("rad/s", "angular_speed", 1.0),
    ("rad", "angle", 1.0),
    ("deg", "angle", math.pi / 180.0),
    ("mV", "voltage", 1e-3),
    ("V", "voltage", 1.0),
    ("kV", "voltage", 1e3),
    ("mA", "current", 1e-3),
    ("A", "current", 1.0),
    ("kA", "current", 1e3),
    ("mohm", "resistance", 1e-3),
    ("ohm", "resistance", 1.0),
    ("W", "active_power", 1.0),
    ("kW", "active_power", 1e3),
    ("MW", "active_power", 1e6),
    ("GW", "active_power", 1e9),
    ("W/s", "power_rate", 1.0),
    ("kW/s", "power_rate", 1e3),
    ("MW/s", "power_rate", 1e6),
    ("MW/min", "power_rate", 1e6 / 60.0),
    ("W/Hz", "power_per_frequency", 1.0),
    ("MW/Hz", "power_per_frequency", 1e6),
    ("var", "reactive_power", 1.0),
    ("kvar", "reactive_power", 1e3),
    ("Mvar", "reactive_power", 1e6),
    ("VA", "apparent_power", 1.0),
    ("kVA", "apparent_power", 1e3),
    ("MVA", "apparent_power", 1e6),
    ("GVA", "apparent_power", 1e9),
    ("Wh", "energy", 1.0),
    ("kWh", "energy", 1e3),
    ("MWh", "energy", 1e6),
    ("MWs", "energy", 1e6 / 3600.0),
    ("EUR", "money", 1.0),
    ("EUR/h", "cost_rate", 1.0),
    ("EUR/MWh", "energy_price", 1.0),
    ("EUR/kWh", "energy_price", 1e3),
    ("m/s", "speed", 1.0),
    ("W/m²", "irradiance", 1.0),
    ("pu", "per_unit", 1.0),
    ("%", "fraction", 0.01),
    ("B", "size", 1.0),
    ("KiB", "size", 1024.0),
    ("MiB", "size", 1024.0**2),
    ("GiB", "size", 1024.0**3),
)

SUFFIXES: dict[str, str] = {
    "hz_per_s": "Hz/s",
    "mhz_per_s": "mHz/s",
    "hz": "Hz",
    "mhz": "mHz",
    "rad_per_s": "rad/s",
    "rad": "rad",
    "deg": "deg",
    "v": "V",
    "kv": "kV",
    "a": "A",
    "ka": "kA",
    "w": "W",
    "kw": "kW",
    "mw": "MW",
    "var": "var",
    "kvar": "kvar",
    "mvar": "Mvar",
    "va": "VA",
    "kva": "kVA",
    "mva": "MVA",
    "wh": "Wh",
    "kwh": "kWh",
    "mwh": "MWh",
    "mws": "MWs",
    "eur": "EUR",
    "eur_per_mwh": "EUR/MWh",
    "eur_per_kwh": "EUR/kWh",
    "m_per_s": "m/s",
    "w_per_m2": "W/m²",
    "pu": "pu",
    "percent": "%",
    "ms": "ms",
    "s": "s",
}
"""Column endings and the unit each one states. In column names `mw` is always megawatt and `mhz` millihertz."""

UNITLESS_SUFFIXES = frozenset({"raw", "bits", "count"})
"""Endings of columns that carry no physical unit: device counts as sent, digital words, counts."""

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d].*?)\s*")


def parse_quantity(text: str, unit: str) -> float:
    """The value of a quantity such as `500ms`, expressed in `unit`.

    Raises ValueError with what was got and which units would do.

    >>> parse_quantity("500ms", "s")
    0.5
    >>> parse_quantity("20 mHz/s", "Hz/s")
    0.02
    """
    wanted = UNITS[unit]
    fitting = ", ".join(u.symbol for u in UNITS.values() if u.dimension == wanted.dimension)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"a {wanted.dimension} is a number with its unit ({fitting}); got '{text}'")
    found = UNITS.get(match[2])
    if found is None or found.dimension != wanted.dimension:
        raise ValueError(f"unit '{match[2]}' is no unit of {wanted.dimension} ({fitting}); got '{text}'")
    # Dividing by the exact reciprocal keeps round numbers round: 20 / 1000 is 0.02, 20 * 1e-3 need not be.
    ratio = found.factor / wanted.factor
    inverse = wanted.factor / found.factor
    if ratio < 1.0 and abs(inverse - round(inverse)) < 1e-6 * inverse:
        return float(match[1]) / round(inverse)
    return float(match[1]) * ratio


def column_unit(column: str) -> Unit | None:
    """The unit that a column's name states by its ending; None for unitless or unknown endings.

    >>> column_unit("rocof_hz_per_s").symbol
    'Hz/s'
    """
    words = column.split("_")
    for take in (3, 2, 1):
        suffix = "_".join(words[-take:])
        if len(words) > take and suffix in SUFFIXES:
            return UNITS[SUFFIXES[suffix]]
    return None


def names_its_unit(column: str) -> bool:
    """Whether the column's name ends in a unit or in one of the unitless endings.

    >>> names_its_unit("voltage_v"), names_its_unit("breaker_bits"), names_its_unit("voltage")
    (True, True, False)
    """
    return column_unit(column) is not None or column.rpartition("_")[2] in UNITLESS_SUFFIXES


def conversion_factor(source: str, target: str) -> float:
    """Factor that turns values of column `source` into values of column `target`.

    Raises ValueError when a name states no unit or the two measure different things.

    >>> conversion_factor("power_kw", "power_mw")
    0.001
    """
    a, b = column_unit(source), column_unit(target)
    for name, unit in ((source, a), (target, b)):
        if unit is None:
            raise ValueError(f"column '{name}' does not end in a unit; known endings: {', '.join(SUFFIXES)}")
    assert a is not None
    assert b is not None
    if a.dimension != b.dimension:
        raise ValueError(f"'{source}' measures {a.dimension} ({a.symbol}), '{target}' {b.dimension} ({b.symbol})")
    return a.factor / b.factor
