"""Entries of the time line: what messages say, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edgeflex_flow.runtime.showing import Happened

LONGEST_TEXT = 300
SHOWN_VALUES = 6


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry."""

    number: int
    flow: str
    node: str
    kind: str
    device: str
    time_ms: float
    """UTC milliseconds since 1970, as the message says."""
    level: str
    """`info`, `warning` or `critical`."""
    text: str
    message: msgspec.Raw


def entry_of(number: int, flow: str, event: Happened) -> Entry:
    """The entry of a message."""
    told: dict[str, Any] = msgspec.json.decode(event.message)
    kind = str(told.get("type", ""))
    try:
        text, level = _WORDS.get(kind, _anything)(told)
    except (KeyError, TypeError, ValueError):  # NaN is null in JSON
        text, level = _anything(told)
    return Entry(
        number=number,
        flow=flow,
        node=event.node,
        kind=kind,
        device=str(told.get("device") or told.get("controller") or told.get("offered_by") or ""),
        time_ms=event.time_ns / 1e6,
        level=level,
        text=text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…",
        message=event.message,
    )


def _frequency_event(told: Mapping[str, Any]) -> tuple[str, str]:
    state, before, extreme = told["state"], told["frequency_before_hz"], told["frequency_extreme_hz"]
    return f"{state}: {told['rocof_hz_per_s']:+.3f} Hz/s, {before:.3f} Hz to {extreme:.3f} Hz", (
        "warning" if state == "started" else "info"
    )


def _crossing(told: Mapping[str, Any]) -> tuple[str, str]:
    text = f"{told['column']} {told['value']:.6g} is {told['state']} (limit {told['limit']:.6g})"
    return text, "info" if told["state"] == "normal" else "warning"


def _inertia_estimate(told: Mapping[str, Any]) -> tuple[str, str]:
    if told.get("status") != "ok" or told.get("h_s") is None:
        return f"{told.get('status', '')}: {told.get('reason', '')}", "info"
    low, high = told.get("h_ci95_low_s"), told.get("h_ci95_high_s")
    sure = "" if low is None or high is None else f" ({low:.2f} to {high:.2f} s)"
    return f"H = {told['h_s']:.2f} s{sure}, by {told.get('method', '')}", "info"


def _system_inertia(told: Mapping[str, Any]) -> tuple[str, str]:
    energy = told.get("kinetic_energy_mws")
    if energy is None:
        return str(told.get("reason", "")), "info"
    return f"kinetic energy {energy:,.0f} MWs of {len(told.get('estimated', ()))} estimated units", "info"


def _setpoints(told: Mapping[str, Any]) -> tuple[str, str]:
    values = dict(told.get("values", {}))
    shown = ", ".join(f"{asset} {value:.5g}" for asset, value in list(values.items())[:SHOWN_VALUES])
    more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
    status = told.get("status", "ok")
    why = "" if status == "ok" else f" ({status}{': ' + told['reason'] if told.get('reason') else ''})"
    return f"{told.get('quantity', '')}: {shown}{more}{why}", "info" if status == "ok" else "warning"


def _alarm(told: Mapping[str, Any]) -> tuple[str, str]:
    return str(told.get("text", "")), str(told.get("severity", "warning"))


def _dispatch_plan(told: Mapping[str, Any]) -> tuple[str, str]:
    text = f"{len(told.get('exchange_w', ()))} steps, profit {told.get('profit_eur', 0.0):,.2f} EUR"
    status = told.get("status", "ok")
    return (text, "info") if status == "ok" else (f"{text} ({status}: {told.get('reason', '')})", "warning")


def _flex_offer(told: Mapping[str, Any]) -> tuple[str, str]:
    why = f": {told['state_reason']}" if told.get("state_reason") else ""
    return f"offer {told.get('id', '')} is {told.get('state', '')}{why}", "info"


def _flex(told: Mapping[str, Any]) -> tuple[str, str]:
    told_of = told.get("id") or told.get("request_id") or ""
    status = told.get("status", "")
    text = f"{told.get('variable', '')} of {len(told.get('nodes', ()))} nodes {told_of} {status}".strip()
    return text, "warning" if status == "none" else "info"


def _policy(told: Mapping[str, Any]) -> tuple[str, str]:
    return f"{told.get('policy_group', '')}/{told.get('policy_id', '')} version {told.get('version', '')}", "info"


def _service_request(told: Mapping[str, Any]) -> tuple[str, str]:
    return f"{told.get('service', '')}, by {told.get('policy', '')}: {told.get('reason', '')}", "info"


def _link_status(told: Mapping[str, Any]) -> tuple[str, str]:
    is_bad = told.get("reachable") is False or told.get("qos_state") == "not_guaranteed"
    reached = {True: "reachable", False: "not reachable"}.get(told.get("reachable"), "")  # type: ignore[arg-type]
    measured = [
        f"{name} {told[key] * factor:.3g} {unit}"
        for name, key, factor, unit in (("latency", "latency_s", 1e3, "ms"), ("loss", "loss", 1e2, "%"))
        if told.get(key) is not None
    ]
    quality = f"{told['profile']} {told.get('qos_state') or ''}".strip() if told.get("profile") else ""
    why = f"({told['reason']})" if told.get("reason") else ""
    text = ", ".join(each for each in (reached, *measured, quality) if each)
    return f"{text} {why}".strip(), "warning" if is_bad else "info"


def _link_qos_request(told: Mapping[str, Any]) -> tuple[str, str]:
    wanted = "given back" if told["action"] == "release" else f"{told['profile']} asked for"
    return f"{wanted}: {told['reason']}", "info"


def _anything(told: Mapping[str, Any]) -> tuple[str, str]:
    plain = {name: value for name, value in told.items() if name != "type" and isinstance(value, str | int | float)}
    return ", ".join(f"{name} {value}" for name, value in list(plain.items())[:SHOWN_VALUES]), "info"


_WORDS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "frequency_event": _frequency_event,
    "crossing": _crossing,
    "inertia_estimate": _inertia_estimate,
    "system_inertia": _system_inertia,
    "setpoints": _setpoints,
    "shadow_setpoints": _setpoints,
    "alarm": _alarm,
    "dispatch_plan": _dispatch_plan,
    "flex_offer": _flex_offer,
    "flex_request": _flex,
    "flex_response": _flex,
    "link_status": _link_status,
    "link_qos_request": _link_qos_request,
    "policy": _policy,
    "service_request": _service_request,
}
