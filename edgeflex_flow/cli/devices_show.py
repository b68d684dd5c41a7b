"""Devices, links and groups as people see them on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

_COLOURS: Final = {
    "onboarded": "green", "available": "green", "member": "green", "succeeded": "green", "watched": "green",
    "onboarding": "yellow", "requested": "yellow", "pending": "yellow", "running": "yellow", "partly": "yellow",
    "not_guaranteed": "yellow", "removing": "yellow", "unknown": "yellow",
    "denied": "red", "refused": "red", "failed": "red", "missing": "red",
}  # fmt: skip
WHOLE: Final = frozenset({"GPSI", "device", "group", "state", "quality", "id", "when", "asked", "until", "as of"})
"""Columns whose words people look for: they are never broken."""
_UNITS: Final = {"s": (1e3, "ms"), "1": (1e2, "%"), "bit/s": (1e-6, "Mbit/s")}


def device_table(devices: Sequence[Mapping[str, Any]]) -> Group:
    """With reasons below it."""
    rows, reasons = [], []
    for each in devices:
        qos = each.get("qos") or {}
        in_force = {} if qos.get("state") == "ended" else qos
        why = each.get("reason") or qos.get("reason")
        rows.append(
            (
                each["name"],
                each["gpsi"],
                each["owner"],
                _state(each["state"]),
                ", ".join(each.get("groups", ())),
                _quality(in_force),
                _moment(in_force.get("expires_ns")),
            )
        )
        reasons += [] if why is None else [Text(f"{each['name']}: {_reason(why)}", "dim")]
    return Group(_drawn(("device", "GPSI", "owner", "state", "groups", "quality", "until"), rows), *reasons)


def link_table(links: Sequence[Mapping[str, Any]]) -> Group:
    """With the reasons for what the network does not tell below it."""
    names = ("reachability", "latency", "jitter", "loss", "downlink", "uplink", "signal")
    rows, not_told = [], dict[str, Text]()
    for each in sorted(links, key=lambda link: str(link["name"])):
        reasons = each.get("not_told", {})
        readings = [_reading(each["readings"].get(name), reasons.get(name)) for name in names]
        if not each["readings"] and not reasons:
            readings[0] = Text("not told yet", "dim")
        rows.append((each["name"], *readings, _quality(each.get("qos") or {}), _moment(each["time_ns"])))
        not_told |= {name: Text(f"{name} is not told: {_reason(reason)}", "dim") for name, reason in reasons.items()}
    columns = ("device", "reachable", "latency", "jitter", "loss", "down", "up", "signal", "quality", "as of")
    return Group(_drawn(columns, rows), *not_told.values())


def group_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for each in groups:
        counts = ", ".join(f"{count} {state}" for state, count in each["devices"].items())
        rows.append((each["name"], each["owner"], ", ".join(each["profiles"]), counts, each["network_id"] or ""))
    return _drawn(("group", "owner", "qualities", "devices", "in the network"), rows)


def member_table(group: Mapping[str, Any]) -> Table:
    rows = [
        (each["name"], each["gpsi"], _state(each["state"]), _reason(each.get("reason"))) for each in group["members"]
    ]
    return _drawn(("device", "GPSI", "state", "why"), rows)


def profile_table(profiles: Sequence[Mapping[str, Any]]) -> Table | Text:
    if not profiles:
        return Text("this network's standard has no list of qualities: its operator knows them")
    rows = [
        (
            str(each["name"]),
            str(each.get("state", "")),
            _number(each.get("latency_s"), "s"),
            _number(each.get("jitter_s"), "s"),
            _number(each.get("loss"), "1"),
            _number(each.get("downlink_bit_per_s"), "bit/s"),
            _number(each.get("uplink_bit_per_s"), "bit/s"),
            str(each.get("priority", "")),
            f"{each['longest_s']:g} s" if each.get("longest_s") else "",
        )
        for each in profiles
    ]
    columns = ("quality", "state", "latency", "jitter", "loss", "down", "up", "priority", "longest")
    return _drawn(columns, rows)


def operation_table(operations: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            _moment(each["created_ns"]),
            each["requested_by"],
            each["kind"],
            each["target"],
            _state(each["state"]),
            _reason(each.get("reason") or each.get("waiting_for")),
            each["id"],
        )
        for each in operations
    ]
    return _drawn(("asked", "by", "what", "of", "state", "why", "id"), rows)


def audit_table(audit: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (_moment(each["time_ns"]), each["actor"], each["action"], each["target"], each["outcome"], each["detail"])
        for each in audit
    ]
    return _drawn(("when", "who", "what", "of", "outcome", "detail"), rows)


def under_way(operation: Mapping[str, Any]) -> str:
    """What an operation waits for."""
    why = _reason(operation.get("waiting_for")) or "the network has not said yet what became of it"
    return f"{operation['kind']} {operation['target']} is under way: {why} (operation {operation['id']})"


def outcome(operation: Mapping[str, Any]) -> Group:
    """What became of an operation, and of each device that it did not go well for."""
    head = Text.assemble(f"{operation['kind']} {operation['target']}: ", _state(operation["state"]))
    why = _reason(operation.get("reason"))
    if why:
        head.append(f" ({why})")
    bad = [each for each in operation["results"] if each.get("reason")]
    lines = [Text.assemble(f"  {each['gpsi']}: ", _state(each["state"]), f" {_reason(each['reason'])}") for each in bad]
    return Group(head, *lines)


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Without columns in which nothing stands, but the first."""
    kept = [place for place in range(len(columns)) if place == 0 or any(str(row[place]) for row in rows)]
    table = Table()
    for place in kept:
        table.add_column(columns[place], overflow="fold", no_wrap=columns[place] in WHOLE)
    for row in rows:
        table.add_row(*(row[place] for place in kept))
    return table


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))


def _quality(qos: Mapping[str, Any]) -> Text:
    if not qos:
        return Text("")
    return Text.assemble(f"{qos['profile']} ", _state(qos["state"]))


def _reason(reason: Mapping[str, Any] | None) -> str:
    if reason is None:
        return ""
    text = reason.get("text") or ""
    return f"{reason['code']}: {text}" if text else str(reason["code"])


def _reading(reading: Mapping[str, Any] | None, not_told: Mapping[str, Any] | None) -> Text:
    if reading is None:
        return Text("" if not_told is None else "not told", style="dim")
    value, meets = reading.get("value"), reading.get("meets_profile")
    style = "" if meets is None else "green" if meets else "red"
    if isinstance(value, bool):
        return Text("yes" if value else "no", style="green" if value else "red")
    if isinstance(value, int | float):
        return Text(_number(value, reading.get("unit", "")), style=style)
    if value is None:
        return Text("" if meets is None else "meets" if meets else "fails", style=style)
    return Text(str(value), style=style)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    factor, shown = _UNITS.get(unit, (1.0, unit))
    return f"{value * factor:.3g} {shown}".strip()


def _moment(time_ns: int | None) -> str:
    if time_ns is None:
        return ""
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone()
    is_today = moment.date() == datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")
