"""10,000 devices in 100 groups of a simulated network: `make bench-devices`.

Service and network are processes of their own; the service's callbacks go over TLS, as CAMARA wants it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
from device_services import OWNER, SERVER, DeviceSite, Standard
from rich.console import Console
from rich.progress import track

from benchmarks.children import memory_mb
from benchmarks.report import Report

DEVICES, GROUPS, PORTION = 10_000, 100, 1000
EACH = DEVICES // GROUPS
SINGLE = 100
"""Devices whose quality is changed one by one."""
PATIENCE_S = 300.0
STANDARDS: Sequence[Standard] = ("camara", "nef")


def main() -> None:
    report = Report("devices", command="make bench-devices")
    for standard in STANDARDS:
        with (
            tempfile.TemporaryDirectory() as folder,
            DeviceSite(Path(folder), standard, devices=DEVICES, patience_s=PATIENCE_S, compare_s=3600.0) as site,
        ):
            _measure(site, report)
    report.notes.append(
        "Each request is written to disk before it is carried out and when it is over; the simulated network, which "
        "shares the processors, grants what was asked for after 50 ms and sends a notification of it."
    )
    report.show(Console())
    report.save()


def _measure(site: DeviceSite, report: Report) -> None:
    section = f"{DEVICES:,} devices in {GROUPS} groups, {site.standard}"
    gpsis = [site.gpsi(name) for name in site.known]

    def add(name: str, unit: str, *values: float) -> None:
        report.add(section, name, unit, values)

    add("onboard all, 1,000 in a request", "s", _seconds(lambda: _onboard(site)))
    add("make the groups", "s", _seconds(lambda: _each(site, "make groups", _make)))
    add("fill the groups, 100 devices in a request", "s", _seconds(lambda: _each(site, "fill groups", _fill)))
    add("list all, 1,000 in a page", "s", *(_seconds(lambda: _list(site)) for _ in range(3)))
    look = [_seconds(partial(_ask, site, "GET", f"/devices/{gpsi}")) for gpsi in gpsis[:SINGLE]]
    add("look at one", "ms", *(1e3 * each for each in look))
    add(
        "move 100 devices from one group to another",
        "s",
        *(_seconds(partial(_move, site, n)) for n in range(0, 10, 2)),
    )
    single = [_seconds(partial(_set, site, gpsi, "QOS_M")) for gpsi in gpsis[-SINGLE:]]
    add("change the quality of one link, until it is in force", "ms", *(1e3 * each for each in single))
    add(
        "change the quality of a group of 100 links",
        "s",
        *(_seconds(partial(_set_group, site, n)) for n in range(20, 25)),
    )
    add(
        "change the quality of all links, group after group",
        "s",
        _seconds(lambda: _each(site, "qualities", _set_group)),
    )
    assert site.service is not None
    add("memory of the service", "MB", memory_mb(site.service.process.pid))


def _seconds(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _ask(site: DeviceSite, method: str, path: str, body: Any = None, **query: Any) -> Any:
    """The answer; of an operation once it is over. Raises where it did not go well."""
    answer = site.api.request(method, path, json=body, params=query, timeout=httpx.Timeout(PATIENCE_S))
    told = answer.raise_for_status().json()
    while answer.status_code == httpx.codes.ACCEPTED and told["state"] == "running":
        told = site.api.get(f"/operations/{told['id']}", params={"wait_s": 30}).raise_for_status().json()
    if "results" in told and told["state"] != "succeeded":
        raise RuntimeError(f"{method} {path}: {told['state']}: {told['reason']}")
    return told


def _onboard(site: DeviceSite) -> None:
    new = [
        {"gpsi": site.gpsi(name), "name": name, "owner": OWNER, "ipv4_address": each["ipv4_address"]}
        for name, each in site.known.items()
    ]
    for begin in track(range(0, DEVICES, PORTION), f"{site.standard}: onboard"):
        _ask(site, "POST", "/devices/many", {"devices": new[begin : begin + PORTION]}, wait_s=30)


def _each(site: DeviceSite, text: str, work: Callable[[DeviceSite, int], object]) -> None:
    for number in track(range(GROUPS), f"{site.standard}: {text}"):
        work(site, number)


def _make(site: DeviceSite, number: int) -> None:
    _ask(site, "POST", "/groups", {"name": f"g{number}", "owner": OWNER}, wait_s=30)


def _members(site: DeviceSite, number: int) -> list[str]:
    return [site.gpsi(name) for name in list(site.known)[number * EACH : (number + 1) * EACH]]


def _fill(site: DeviceSite, number: int) -> None:
    _ask(site, "PATCH", f"/groups/g{number}", {"add": _members(site, number)}, wait_s=30)


def _move(site: DeviceSite, number: int) -> None:
    gpsis = _members(site, number)
    _ask(site, "PATCH", f"/groups/g{number + 1}", {"add": gpsis}, wait_s=30)
    _ask(site, "PATCH", f"/groups/g{number}", {"remove": gpsis}, wait_s=30)


def _list(site: DeviceSite) -> None:
    after: str | None = None
    count = 0
    while True:
        page = _ask(site, "GET", "/devices", **({} if after is None else {"after": after}))
        count += len(page["devices"])
        after = cast("str | None", page["after"])
        if after is None:
            break
    assert count == DEVICES, count


def _wanted(profile: str) -> dict[str, Any]:
    return {"profile": profile, "server_ipv4": SERVER, "server_ports": [4713], "duration_s": 3600}


def _set(site: DeviceSite, gpsi: str, profile: str) -> None:
    _ask(site, "PUT", f"/devices/{gpsi}/qos", _wanted(profile), wait_s=30)


def _set_group(site: DeviceSite, number: int) -> None:
    _ask(site, "PUT", f"/groups/g{number}/qos", _wanted("QOS_L"), wait_s=30)


if __name__ == "__main__":
    main()
