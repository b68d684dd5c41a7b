"""Makes the pictures of the policy system's page in docs/: `python tests/policy_pictures.py [FOLDER]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ViewportSize
from policy_browser import Watched, chromium, watched
from served_policies import GROUP, ServedPolicies, b64

DOCS = Path(__file__).parents[1] / "docs"
LARGEST_BYTES = 150_000
PLANT = "vpp_north"
PERSON, PASSWORD = "berta", "battery-staple-horse"
WINDOW = ViewportSize(width=1200, height=760)

TRIGGER: dict[str, Any] = {
    "kind": "trigger",
    "about": "When the inertia of the area is estimated anew after a fast change of frequency.",
    "fields": {"onset": "0.02 Hz/s", "hold": "2 s"},
    "rules": [
        {
            "name": "fast_change",
            "effect": "act",
            "when": {
                "actions": ["measured"],
                "state": [{"quantity": "rocof_hz_per_s", "above": "0.5 Hz/s", "magnitude": True}],
            },
            "then": {"do": "run_service", "service": "inertia_estimation", "hold_off": "60s"},
        }
    ],
}
CHANGED = {
    **TRIGGER,
    "fields": {"onset": "0.05 Hz/s", "hold": "2 s", "window": "500 ms"},
    "rules": [
        {
            **TRIGGER["rules"][0],
            "when": {
                "actions": ["measured"],
                "state": [{"quantity": "rocof_hz_per_s", "above": "0.8 Hz/s", "magnitude": True}],
            },
        },
        {
            "name": "weekend",
            "effect": "act",
            "when": {
                "actions": ["frequency_event"],
                "since": "22:00",
                "until": "06:00",
                "days": ["sat", "sun"],
                "timezone": "Europe/Berlin",
            },
            "then": {"do": "run_service", "service": "inertia_online"},
        },
    ],
}
BOUNDS = {
    "kind": "operational_bounds",
    "about": "Band of the MV feeders in normal operation.",
    "asset_id": "feeder_3",
    "fields": {"voltage_min": "0.95 pu", "voltage_max": "1.05 pu", "ramp": "2 MW/min"},
}
SHARING = {
    "kind": "sharing",
    "about": "Who may see PMU data of the substation.",
    "fields": {"variables": ["frequency_hz", "rocof_hz_per_s"]},
    "rules": [
        {
            "name": "members",
            "effect": "permit",
            "when": {"actions": ["read_data"], "groups": [GROUP]},
            "then": {"do": "return_data", "quantities": ["frequency_hz"]},
        }
    ],
}
FLEXIBILITY = {
    "kind": "flexibility",
    "about": "Offers of the plant.",
    "fields": {"max_duration": "4h", "window_begin": "06:00", "window_end": "22:00", "max_power": "500 kW"},
}


def fill(service: ServedPolicies) -> None:
    """Policies of a substation and of a plant, a flow that follows them, and what happened since."""
    service.make_group(GROUP)
    service.make_group(PLANT)
    service.admin.put(f"/api/v1/users/{PERSON}", json={"about": "Control room, shift B", "password": PASSWORD})
    for group in (GROUP, PLANT):
        service.admin.put(f"/api/v1/groups/{group}/members/{PERSON}", json={"role": "manager"})
    with service.client(service.password_token(PERSON, PASSWORD)) as person:
        save(person, "rocof_trigger", TRIGGER, comment="first version")
        save(person, "voltage_bounds", BOUNDS, comment="agreed with planning")
        save(person, "pmu_sharing", SHARING)
        save(person, "flex_window", FLEXIBILITY, group=PLANT)
        key = service.make_service("site_12", "reporter")
        with service.client(key.token("site_12")) as flow:
            flow.get("/api/v1/policies", params={"policy_group": b64(GROUP)}).raise_for_status()
            save(person, "rocof_trigger", CHANGED, based_on=1, comment="too many estimates at night")
            query = {"policy_group": b64(GROUP), "policy_id": b64("rocof_trigger")}
            flow.get("/api/v1/policy", params=query).raise_for_status()
            refused = "500 ms is below the least that the flow allows, 1 s"
            effects = [
                effect(1, "event", "onset", "0.01 Hz/s", "0.02 Hz/s"),
                effect(2, "event", "onset", "0.02 Hz/s", "0.05 Hz/s"),
                {**effect(2, "rocof", "window", "1 s", "1 s"), "refused": refused},
            ]
            flow.post("/api/v1/effects", json={"effects": effects}).raise_for_status()
            for rocof, frequency in ((0.12, 49.98), (-0.91, 49.71)):
                values = {"rocof_hz_per_s": rocof, "frequency_hz": frequency}
                report = {"group": GROUP, "asset": "feeder_3", "values": values}
                flow.post("/api/v1/events", json={"reports": [report]}).raise_for_status()
            for asking, action, count in ((person, "read_data", 3), (flow, "offer_flexibility", 1)):
                ask = {"group": GROUP, "asset": "feeder_3", "action": action}
                for _ in range(count):
                    asking.post("/api/v1/requests", json=ask).raise_for_status()


def save(
    person: Any, policy_id: str, document: dict[str, Any], *, group: str = GROUP, based_on: int = 0, comment: str = ""
) -> None:
    body = {"document": document, "based_on": based_on, "comment": comment}
    person.put(f"/api/v1/policies/{b64(group)}/{b64(policy_id)}", json=body).raise_for_status()


def effect(version: int, node: str, setting: str, before: str, after: str) -> dict[str, Any]:
    return {
        "policy_group": GROUP,
        "policy_id": "rocof_trigger",
        "version": version,
        "site": "substation_12",
        "flow": "frequency_events",
        "node": node,
        "setting": setting,
        "before": before,
        "after": after,
        "time_ns": time.time_ns(),
    }


def draw(window: Watched, folder: Path) -> None:
    policy = f"/policies/{GROUP}/rocof_trigger"
    page = window.sign_in(PERSON, PASSWORD)
    page.screenshot(path=folder / "policy_list.png")
    window.go(policy)
    page.screenshot(path=folder / "policy_policy.png")
    window.go(f"{policy}/edit")
    page.get_by_label("Value of field onset").fill("0.05 furlong")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("alert").wait_for()
    page.screenshot(path=folder / "policy_edit.png")
    window.go(f"{policy}/compare")
    page.screenshot(path=folder / "policy_compare.png")
    window.go("/events")
    page.get_by_text("live", exact=True).wait_for()
    page.screenshot(path=folder / "policy_events.png")
    window.go("/api#post-api-v1-decisions")
    page.screenshot(path=folder / "policy_api.png")


def make(browser: Browser, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as data, ServedPolicies(Path(data) / "policy") as service:
        fill(service)
        with watched(browser, service, viewport=WINDOW) as window:
            draw(window, folder)
    for picture in folder.glob("policy_*.png"):
        assert picture.stat().st_size < LARGEST_BYTES, f"{picture.name}: {picture.stat().st_size} bytes"


if __name__ == "__main__":
    with chromium() as started:
        make(started, Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
