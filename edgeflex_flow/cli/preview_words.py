"""What a preview found, in words of a control room."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from edgeflex_flow.cli.preview_compare import Comparison, MessagesDifference
from edgeflex_flow.cli.preview_samples import SamplesDifference
from edgeflex_flow.cli.preview_setpoints import SetpointsDifference

NAMES: Final = {
    "frequency_event": ("event", "events"),
    "crossing": ("crossing of a limit", "crossings of limits"),
    "inertia_estimate": ("estimate of inertia", "estimates of inertia"),
    "system_inertia": ("estimate of the system's inertia", "estimates of the system's inertia"),
    "dispatch_plan": ("dispatch plan", "dispatch plans"),
    "flex_request": ("request for flexibility", "requests for flexibility"),
    "flex_response": ("answer about flexibility", "answers about flexibility"),
}
"""Types of messages as people call one and several."""
NOTHING: Final = "With the proposed policy nothing would have been different on this record"
_ENERGIES: Final = ("kWh", "kvarh")
_UNIX_TIME_NS: Final = 365 * 24 * 3_600_000_000_000
"""Times before this count from the beginning of a record, not from 1970."""
_THOUSANDS: Final = {
    "W": ("W", "kW", "MW", "GW"),
    "var": ("var", "kvar", "Mvar"),
    "kWh": ("kWh", "MWh", "GWh"),
    "kvarh": ("kvarh", "Mvarh"),
}


def within_a_day(begin_ns: int, end_ns: int) -> bool:
    """Whether a record lies within one day, UTC, so that its times need no date."""
    day_ns = 24 * 3_600_000_000_000
    return begin_ns // day_ns == end_ns // day_ns


def is_of_a_day(time_ns: int) -> bool:
    """Whether a time is of the calendar, not from the beginning of a record."""
    return abs(time_ns) >= _UNIX_TIME_NS


def moment(time_ns: int, *, dated: bool = True) -> str:
    """
    >>> moment(1_780_000_000_250_000_000), moment(3_007_000_000)
    ('2026-05-28 20:26:40.250', '3.007 s')
    >>> moment(1_780_000_000_250_000_000, dated=False)
    '20:26:40.250'
    """
    if not is_of_a_day(time_ns):
        return f"{time_ns / 1e9:.3f} s"
    whole = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC) + timedelta(milliseconds=time_ns // 1_000_000 % 1000)
    day = f"{whole:%Y-%m-%d} " if dated else ""
    return f"{day}{whole:%H:%M:%S}.{whole.microsecond // 1000:03d}"


def amount(value: float, unit: str) -> str:
    """
    >>> amount(-12_345_678.0, "W"), amount(0.0123, "Hz/s"), amount(0.5, "")
    ('-12.35 MW', '0.0123 Hz/s', '0.5')
    """
    units = _THOUSANDS.get(unit, (unit,))
    place = 0
    while abs(value) >= 1e3 and place + 1 < len(units):
        value, place = value / 1e3, place + 1
    if not place and unit in _ENERGIES:
        value = round(value, 3)  # what is below a watt-hour comes of rounding
    return f"{value:.4g} {units[place]}".strip()


def setting(value: Any, unit: str) -> str:
    """The value of a setting: a quantity with its unit, or a text."""
    return amount(value, unit) if isinstance(value, int | float) else str(value)


def counted(count: int, type_: str) -> str:
    """
    >>> counted(1, "alarm"), counted(3, "frequency_event")
    ('1 alarm', '3 events')
    """
    one, several = NAMES.get(type_, (type_.replace("_", " "), f"{type_.replace('_', ' ')}s"))
    return f"{count:,} {one if count == 1 else several}"


def summary(comparison: Comparison, *, dated: bool = True) -> str:
    """What would have been different, in a few sentences; first what people would have been told.

    `dated`: times with their date.
    """
    types = dict.fromkeys(each.type for each in comparison.messages)
    if not comparison.differs:
        counts = {type_: sum(each.today for each in comparison.messages if each.type == type_) for type_ in types}
        told = [counted(count, type_) for type_, count in counts.items()]
        setpoints = sum(each.today for each in comparison.setpoints)
        told += [f"{setpoints:,} set-points"] if setpoints else []
        return f"{NOTHING}: both tell {_listed(told)}." if told else f"{NOTHING}, on which the flow tells nothing."
    said = [
        *(text for type_ in types if (text := _of_messages([m for m in comparison.messages if m.type == type_]))),
        *_of_setpoints([each for each in comparison.setpoints if each.differs], dated=dated),
        *(_of_samples(each) for each in comparison.samples if each.differs),
    ]
    return " ".join(["With the proposed policy " + said[0], *(text[0].upper() + text[1:] for text in said[1:])])


def _of_messages(found: Sequence[MessagesDifference]) -> str:
    """Of one type, over all nodes; empty if nothing differs."""
    type_ = found[0].type
    today = sum(each.today for each in found)
    gone = sum(len(each.only_today) for each in found)
    new = sum(len(each.only_proposed) for each in found)
    changed = sum(len(each.changed) for each in found)
    parts = []
    if gone:
        none = f"none of today's {counted(today, type_)} would have been told"
        if today == 1:
            none = f"today's only {counted(1, type_).removeprefix('1 ')} would not have been told"
        parts.append(none if gone == today else f"{_of(gone, today, type_)} would not have been told")
    if new:
        more = f"{new:,} more" if gone else f"{counted(new, type_)} beside today's {today:,}"
        parts.append(
            f"{more} would have been told" if today else f"{counted(new, type_)} instead of none would have been told"
        )
    if changed:
        who = f"{changed:,}" if parts else _of(changed, today, type_)
        parts.append(f"{who} would have looked different")
    return f"{_listed(parts)}." if parts else ""


def _of(count: int, all_: int, type_: str) -> str:
    return f"{count:,} of {counted(all_, type_)}"


def _of_setpoints(found: Sequence[SetpointsDifference], *, dated: bool) -> Iterable[str]:
    """Of each controller and quantity."""
    for key in dict.fromkeys((each.controller, each.quantity) for each in found):
        of_key = [each for each in found if (each.controller, each.quantity) == key]
        largest = max(of_key, key=lambda each: abs(each.largest or 0.0))
        text = f"set-points of {quantity_name(largest.quantity)} by '{key[0]}' would have "
        if largest.largest is None or largest.largest_time_ns is None:
            text += "come at other times or with another status"
        else:
            by, when = amount(abs(largest.largest), largest.unit), moment(largest.largest_time_ns, dated=dated)
            text += f"differed by up to {by} ({largest.asset}, {when})"
        shifted = sum(each.energy.shifted for each in of_key if each.energy is not None)
        unit = next((each.energy.unit for each in of_key if each.energy is not None), "")
        yield f"{text}{f', {amount(shifted, unit)} in all' if shifted else ''}."


def quantity_name(quantity: str) -> str:
    """
    >>> quantity_name("active_power_ess_pu"), quantity_name("active_power_w")
    ('active power (storage)', 'active power')
    """
    for stem in ("active_power", "reactive_power"):
        if quantity.startswith(stem):
            return stem.replace("_", " ") + (" (storage)" if "_ess_" in quantity else "")
    return quantity


def _of_samples(found: SamplesDifference) -> str:
    changed = max((each.changed for each in found.columns.values()), default=0)
    parts = [f"{changed:,} rows of '{found.node}' would have had other values"] if changed else []
    if found.only_today:
        parts.append(f"{found.only_today:,} rows of '{found.node}' would not have been there")
    if found.only_proposed:
        parts.append(f"{found.only_proposed:,} rows of '{found.node}' would have been there as well")
    return f"{_listed(parts)}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def field_value(name: str, value: Any, *, dated: bool = True) -> str:
    """A field's value for people: times as such, numbers short."""
    if value is None:
        return "none"
    if name.endswith("_ns") and isinstance(value, int):
        return moment(value, dated=dated)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return "none" if math.isnan(value) else f"{value:.5g}"


def field_difference(name: str, by: float | None) -> str:
    """How much more a field is; times in seconds."""
    if by is None:
        return ""
    return f"{by / 1e9:+.3g} s" if name.endswith("_ns") else f"{by:+.3g}"
