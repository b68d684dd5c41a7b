"""The live page of a real site, in a real browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from broker import wait_until
from playwright.sync_api import Browser, Page, expect
from policy_browser import DESK, PHONE, ZOOMED, Watched, watched
from studio_site import OPERATOR, READER, StudioSite, sign_in

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.long]
TICKS = """
window.ticks = [];
const fill = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, ...more) {
  ticks.push({ text: String(text), x, width: this.measureText(text).width });
  return fill.call(this, text, x, ...more);
};
"""
"""Keeps which texts a plot draws, and where."""
PATHS = (
    "/",
    "/flows/events",
    "/flows/events#event",
    "/flows/events#rocof%20-%3E%20archive.in",
    "/timeline",
    "/letters",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioSite]:
    with StudioSite(tmp_path_factory.mktemp("studio"), picky=True) as started:
        yield started


@pytest.fixture
def window(browser: Browser, site: StudioSite) -> Iterator[Watched]:
    with watched(browser, site) as opened:
        yield opened


def number(text: str | None) -> float:
    found = re.search(r"[0-9][0-9,.]*", text or "")
    return float(found[0].replace(",", "")) if found else 0.0


def test_the_overview_tells_of_all_flows_and_their_numbers_move(window: Watched) -> None:
    page = sign_in(window, READER)
    row = page.locator("tr[data-flow=events]")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("rows/s")
    expect(row).to_contain_text("MiB")
    expect(page.locator("tr[data-flow=meters]")).to_contain_text("Voltages of meters")
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    before = page.locator("#since").inner_text()
    expect(page.locator("#since")).not_to_have_text(before)
    window.check()


def test_the_picture_shows_rates_and_a_wire_shows_what_flows(window: Watched) -> None:
    sign_in(window, READER)
    window.page.add_init_script(TICKS)
    page = window.go("/flows/events")
    wire = page.get_by_role("button", name=re.compile("^Wire from pmu to rocof: .*rows"))
    wire.wait_for()
    assert page.locator("[data-node]").count() == 5
    wire.focus()
    page.keyboard.press("Enter")
    panel = page.get_by_role("region", name="Wire pmu -> rocof.in")
    expect(panel.locator("table.rows tbody tr")).to_have_count(30)
    expect(panel.locator("table.rows")).to_contain_text("GENROU_")
    expect(panel.locator(".uplot canvas")).to_be_visible()
    edges = "each => each.getBoundingClientRect().right"
    quality = panel.get_by_role("columnheader", name="Quality")
    assert quality.evaluate(edges) <= panel.locator(".scroll").evaluate(edges)
    ticks = page.evaluate("ticks.filter(tick => /^[0-9]{2}:[0-9]{2}:[0-9.]+$/.test(tick.text))")
    apart = [b["x"] - a["x"] - (a["width"] + b["width"]) / 2 for a, b in itertools.pairwise(ticks) if b["x"] > a["x"]]
    assert min(apart) > 8
    newest = panel.locator("table.rows tbody tr").first.inner_text()
    expect(panel.locator("table.rows tbody tr").first).not_to_have_text(newest)
    window.check()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(wire).to_be_focused()


def test_a_node_tells_its_manual_page_settings_policies_and_counters(window: Watched) -> None:
    sign_in(window, READER)
    page = window.go("/flows/events")
    page.get_by_role("button", name="operator event, a frequency_event").click()
    panel = page.get_by_role("region", name="Node event")
    expect(panel).to_contain_text("events.yaml:6")
    policies = panel.get_by_role("table", name="Policies")
    for text in ("0.02 Hz/s", "rocof_trigger.onset", "the flow file's own"):
        expect(policies).to_contain_text(text)
    panel.get_by_text("Manual page").click()
    expect(panel.locator(".manual")).to_contain_text("Output")
    panel.get_by_role("heading", name="Settings").click()
    expect(panel.get_by_role("table", name="Settings")).to_contain_text("onset")
    page.get_by_role("button", name="source pmu, a pmu_udp").click()
    expect(page.get_by_role("table", name="Counters")).to_contain_text("frames")
    window.check()


def test_events_stand_on_the_time_line_and_can_be_filtered(window: Watched, site: StudioSite) -> None:
    sign_in(window, READER)
    page = window.go("/timeline")
    page.get_by_role("status").filter(has_text="live").wait_for()
    site.meter(230.0, "line_meter")
    site.meter(260.0, "line_meter")
    row = page.locator("#entries tr").filter(has_text="line_meter")
    expect(row.first).to_contain_text("voltage_v 260 is above (limit 253)")
    page.get_by_label("Kind", exact=True).select_option("crossing")
    page.get_by_label("Device or controller").select_option("line_meter")
    expect(page.locator("#entries tr")).to_have_count(1)
    expect(page.locator("#line .mark")).to_have_count(1)
    window.check()


def test_a_dead_letter_is_shown_and_replayed_by_who_may(window: Watched, site: StudioSite) -> None:
    sign_in(window, OPERATOR)
    page = window.go("/letters")
    page.get_by_role("status").filter(has_text="live").wait_for()
    site.datagram(b'[{"created": "yesterday", "note": "<b>bold</b>"}]')
    row = page.locator("#letters tr").filter(has_text="bad_payload").first
    expect(row).to_contain_text("meter")
    row.get_by_role("button", name="Show").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text('"note": "<b>bold</b>"')
    expect(dialog).to_contain_text("5b 7b 22 63 72 65")
    window.check()
    dialog.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Replay").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(page.locator("#letters").get_by_role("status").filter(has_text="refused again").first).to_be_visible()
    site.wait_for(f"is given again by {OPERATOR}")


def test_a_dead_letter_that_is_not_refused_any_more_goes_on_from_its_node(window: Watched, site: StudioSite) -> None:
    sign_in(window, OPERATOR)
    page = window.go("/letters")
    page.get_by_role("status").filter(has_text="live").wait_for()
    refuse = site.folder / "refuse"
    written = site.folder / "sites" / "meters.jsonl"
    site.meter(230.25, "m7")
    wait_until(lambda: "230.25" in written.read_text())
    refuse.touch()
    site.meter(262.5, "m7")
    row = page.locator("#letters tr").filter(has_text="there is a file 'refuse'").first
    expect(row).to_contain_text("picky")
    refuse.unlink()
    assert '"value":262.5' not in written.read_text()
    row.get_by_role("button", name="Replay").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(row).to_contain_text("given to 'picky' once more")
    wait_until(lambda: '"value":262.5' in written.read_text())
    window.check()


def test_who_may_only_look_can_neither_restart_nor_replay(window: Watched, site: StudioSite) -> None:
    page = sign_in(window, READER)
    window.go("/flows/meters")
    page.locator("[data-node]").first.wait_for()
    assert page.get_by_role("button", name="Restart").count() == 0
    told = page.evaluate(
        """async () => {
            const csrf = document.documentElement.dataset.csrf;
            const answers = [];
            for (const path of ["/api/flows/meters/restart", "/api/letters/meters/1/replay"]) {
                const answer = await fetch(path, { method: "POST", body: new URLSearchParams({ csrf }) });
                answers.push([answer.status, (await answer.json()).detail]);
            }
            return answers;
        }"""
    )
    assert told == [[403, "you may look, and not operate"]] * 2


def test_an_operator_stops_and_starts_a_flow(window: Watched, site: StudioSite) -> None:
    page = sign_in(window, OPERATOR)
    window.go("/flows/meters")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert "wants flow" not in site.log
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.locator("#trouble")).to_contain_text(f"stopped by {OPERATOR}")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    expect(page.locator("#done")).to_have_text("")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Start").click()
    site.wait_for("flow 'meters' runs", 2)
    expect(page.locator("#figures")).to_contain_text("running")
    restarted(page, site)


def restarted(page: Page, site: StudioSite) -> None:
    runs = site.log.count("flow 'meters' runs")
    page.get_by_role("button", name="Restart").click()
    page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    site.wait_for(f"flow 'meters' was restarted by {OPERATOR}")
    site.wait_for("flow 'meters' runs", runs + 1)


def test_a_dead_letter_of_a_run_that_is_over_says_so_before_somebody_replays_it(
    window: Watched, site: StudioSite
) -> None:
    page = sign_in(window, OPERATOR)
    window.go("/letters")
    page.get_by_role("status").filter(has_text="live").wait_for()
    site.datagram(b"of the first run")
    row = page.locator("#letters tr").filter(has_text="bad_payload").first
    replay = row.get_by_role("button", name="Replay")
    expect(replay).to_be_enabled()
    window.go("/flows/meters")
    restarted(page, site)
    window.go("/letters?node=meter")
    expect(row).to_contain_text("not kept any more: its run is over")
    expect(replay).to_be_disabled()
    expect(row.get_by_role("button", name="Show")).to_be_disabled()
    window.check()
    count = page.locator("#letters tr").count()
    site.datagram(b"of the second run")
    expect(page.locator("#letters tr")).to_have_count(count + 1)
    expect(replay).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_pages_are_as_they_have_to_be(browser: Browser, site: StudioSite, scheme: str) -> None:
    for size in (DESK, ZOOMED, PHONE):
        with watched(browser, site, viewport=size, color_scheme=scheme) as window:
            sign_in(window, OPERATOR)
            for path in PATHS:
                page = window.go(path)
                shown(page)
                assert window.overflow_px() <= 0, (path, size)
                window.check()


def shown(page: Page) -> None:
    page.get_by_role("status").filter(has_text="live").wait_for()
    if "/flows/" in page.url:
        page.locator("[data-node]").first.wait_for()
    if page.url.endswith("archive.in"):
        page.locator("table.rows tbody tr").first.wait_for()


def test_colours_can_be_switched_and_stay_so(window: Watched) -> None:
    page = sign_in(window, READER)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name=re.compile("^Colours: Auto")).click()
    dark = page.evaluate(ground)
    assert dark != light
    window.go("/timeline")
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name=re.compile("^Colours: Dark")).click()
    assert page.evaluate(ground) == light


def test_the_picture_moves_by_keyboard_and_pointer(window: Watched) -> None:
    sign_in(window, READER)
    page = window.go("/flows/events")
    page.locator("[data-node=pmu]").focus()
    page.locator("#picture[viewBox]").wait_for()

    def view() -> list[float]:
        return [float(each) for each in (page.locator("#picture").get_attribute("viewBox") or "").split()]

    first = view()
    page.keyboard.press("ArrowRight")
    assert view()[0] > first[0]
    page.keyboard.press("+")
    assert view()[2] < first[2]
    page.get_by_role("button", name="Fit").click()
    assert view() == pytest.approx(first)
    box = page.locator("#picture").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60)
    page.mouse.up()
    assert view()[0] < first[0]


def test_a_new_version_that_fails_is_a_warning_until_its_files_are_as_before(window: Watched, site: StudioSite) -> None:
    page = sign_in(window, READER)
    row = page.locator("tr[data-flow=meters]")
    file = site.folder / "meters.yaml"
    before = file.read_text()
    file.write_text(before.replace("path: meters.jsonl", "path: /dev/null/meters.jsonl"))
    expect(row).to_contain_text("▲ a new version waits: ", timeout=30_000)
    expect(row).to_contain_text("the one before runs on")
    window.check()
    file.write_text(before)
    expect(row).not_to_contain_text("waits", timeout=30_000)


def test_a_phone_shows_all_nodes_at_first(browser: Browser, site: StudioSite) -> None:
    with watched(browser, site, viewport=PHONE) as window:
        sign_in(window, READER)
        page = window.go("/flows/events")
        page.locator("[data-node]").first.wait_for()
        inside = """picture => {
            const frame = picture.getBoundingClientRect();
            const boxes = [...picture.querySelectorAll(".box")].map((each) => each.getBoundingClientRect());
            return boxes.filter((box) => box.left >= frame.left && box.right <= frame.right).length;
        }"""
        assert page.locator("#picture").evaluate(inside) == page.locator("[data-node]").count() == 5


def test_a_killed_studio_comes_again_and_no_flow_is_touched(browser: Browser, site: StudioSite) -> None:
    before = site.processes()
    before["studio"].kill()
    site.wait_for("the studio was killed by signal 9; starting it again in 1 s")
    shown_before = site.log.count("the site is shown at")
    wait_until(lambda: site.log.count("the site is shown at") > shown_before or "studio" in site.processes(), 30.0)
    site.wait_for("the site is shown at", 2)
    after = site.processes()
    assert (after["events"], after["meters"]) == (before["events"], before["meters"])
    with watched(browser, site) as window:
        page = sign_in(window, READER)
        expect(page.locator("tr[data-flow=events]")).to_contain_text("running")
