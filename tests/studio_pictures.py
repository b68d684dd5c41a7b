"""Makes the pictures of the live page in docs/: `python tests/studio_pictures.py [FOLDER]`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, expect
from policy_browser import Watched, chromium, watched
from studio_site import OPERATOR, StudioSite, sign_in

DOCS = Path(__file__).parents[1] / "docs"
LARGEST_BYTES = 200_000
WINDOW = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=360, height=740)
WIRE = "/flows/events#rocof%20-%3E%20event.in"


def fill(site: StudioSite) -> None:
    """Meters that measure, exceed their limits, and send what nobody can read."""
    for step in range(40):
        for meter in range(4):
            site.meter(231.0 + meter + (25.0 if step % 16 == 8 and meter == 2 else 0.0), f"feeder_{meter}")
        time.sleep(0.05)
    for payload in (b'[{"created": "yesterday", "device": "feeder_1", "voltage_v": 231.5}]', b"\x00\x17V,231;ok\xff"):
        site.datagram(payload)
        time.sleep(1.1)  # the source tells one of a kind a second


def settled(window: Watched) -> None:
    window.page.get_by_role("status").filter(has_text="live").wait_for()


def draw(window: Watched, site: StudioSite, folder: Path, scheme: str) -> None:
    page = sign_in(window, OPERATOR)
    expect(page.locator("tr[data-flow=events]")).to_contain_text("rows/s")
    if scheme == "light":
        page.screenshot(path=folder / "live_site.png")
        window.go("/flows/meters#meter")
        settled(window)
        page.locator("ul.letters > li").first.wait_for()
        page.locator("#bench").evaluate("each => each.scrollIntoView()")
        page.screenshot(path=folder / "live_node.png")
        window.go("/letters")
        page.locator("#letters tr").first.wait_for()
        page.screenshot(path=folder / "live_letters.png")
        return
    window.go(WIRE)
    expect(page.locator("table.rows tbody tr")).to_have_count(30)
    time.sleep(10.0)  # the plot fills
    page.screenshot(path=folder / "live_wire.png")
    fill(site)
    window.go("/timeline")
    page.get_by_label("Shown").select_option("60")
    page.locator("#entries tr").filter(has_text="crossing").first.wait_for()
    page.screenshot(path=folder / "live_timeline.png")


def make(browser: Browser, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as data, StudioSite(Path(data) / "site") as site:
        site.wait_for("stream 10 from")
        for scheme in ("dark", "light"):  # the load step of the simulator comes soon
            with watched(browser, site, viewport=WINDOW, color_scheme=scheme) as window:
                draw(window, site, folder, scheme)
        with watched(browser, site, viewport=PHONE, color_scheme="dark") as window:
            sign_in(window, OPERATOR)
            page = window.go("/flows/events")
            page.get_by_role("button", name="Wire from pmu to rocof").wait_for()
            page.locator("section.picture").scroll_into_view_if_needed()
            page.locator("h2", has_text="Nodes and wires").evaluate("each => each.scrollIntoView()")
            time.sleep(4.0)
            page.screenshot(path=folder / "live_phone.png")
    for picture in folder.glob("live_*.png"):
        assert picture.stat().st_size < LARGEST_BYTES, f"{picture.name}: {picture.stat().st_size} bytes"


if __name__ == "__main__":
    with chromium() as started:
        make(started, Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
