"""What the live page shows of sites that are not well: a studio that is told so, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from policy_browser import Watched, watched
from studio_site import OPERATOR, sign_in
from studio_told import DATABUS, ToldStudio, told_flow, told_letter, told_vitals

from edgeflex_flow.monitor.status import Move
from edgeflex_flow.runtime.vitals import BudgetVitals

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.long]
UNREACHED = "does not reach 'databus': 127.0.0.1:1884 refuses the connection"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToldStudio]:
    with ToldStudio(tmp_path_factory.mktemp("told"), told_flow()) as started:
        yield started


@pytest.fixture
def window(browser: Browser, studio: ToldStudio) -> Iterator[Watched]:
    studio.flows = (told_flow(),)
    with watched(browser, studio) as opened:
        sign_in(opened, OPERATOR)
        yield opened


def test_a_new_version_that_was_refused_is_a_warning_for_as_long_as_it_waits(
    window: Watched, studio: ToldStudio
) -> None:
    failed = Move(digest="fedcba98", worked=False, why=UNREACHED, time_ns=time.time_ns())
    studio.flows = (told_flow(refused=UNREACHED, moves=(failed,)),)
    page = window.page
    words = f"▲ a new version waits: {UNREACHED}; the one before runs on"
    row = page.locator("tr[data-flow=meters]")
    expect(row.locator(".tag.warn")).to_have_text(words)
    expect(row).not_to_contain_text("failed")
    expect(page.locator("#figures")).to_contain_text("New versions that wait▲ 1")
    assert window.overflow_px() <= 0
    window.check()
    window.go("/flows/meters")
    expect(page.locator("#refused")).to_have_text(words)
    window.check()
    studio.flows = (told_flow(moves=(failed,)),)
    expect(page.locator("#refused")).to_be_hidden()
    expect(page.locator("#figures")).to_contain_text(f"a move failed at {clock(failed)}: {UNREACHED}")
    worked = Move(digest="fedcba98", worked=True, why="", time_ns=time.time_ns())
    studio.flows = (told_flow(moves=(failed, worked)),)
    expect(page.locator("#figures")).to_contain_text(f"moved over at {clock(worked)}")
    window.go("/")
    expect(row).to_contain_text(f"moved over at {clock(worked)}")
    expect(row).not_to_contain_text("waits")
    window.check()


def clock(move: Move) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(move.time_ns / 1e9))


def test_budgets_are_shown_and_one_that_is_broken_is_a_warning(window: Watched, studio: ToldStudio) -> None:
    kept = BudgetVitals(source="meter", sink="log", of="age", within_s=2.0, messages=900, late=0, is_broken=False)
    broken = BudgetVitals(
        source="meter", sink="limits", of="took", within_s=0.05, messages=900, late=45, is_broken=True
    )
    studio.flows = (told_flow(vitals=told_vitals(budgets=(kept, broken))),)
    page = window.page
    row = page.locator("tr[data-flow=meters]")
    expect(row).to_contain_text("▲ budget broken: meter → limits, from source to sink within 50 ms")
    expect(row).not_to_contain_text("since it was measured")
    expect(page.locator("#figures")).to_contain_text("Budgets broken▲ 1")
    window.check()
    window.go("/flows/meters")
    figures = page.locator("#figures")
    expect(figures).to_contain_text("● keptmeter → log, since it was measured within 2 s: 0 of 900 late")
    expect(figures).to_contain_text("▲ brokenmeter → limits, from source to sink within 50 ms: 45 of 900 late")
    assert window.overflow_px() <= 0
    window.check()


def test_a_node_shows_its_newest_dead_letters_and_leads_to_all_of_them(window: Watched, studio: ToldStudio) -> None:
    studio.letters("meters", *(told_letter(number) for number in range(12)))
    studio.letters("meters", told_letter(20, node="log", text="of another node"))
    page = window.go("/flows/meters#limits")
    panel = page.get_by_role("region", name="Node limits")
    expect(panel.locator("ul.letters > li")).to_have_count(5)
    expect(panel.locator("ul.letters > li").first).to_contain_text("letter 11")
    expect(panel).to_contain_text("The newest 5 of 12.")
    window.check()
    panel.get_by_role("link", name="All dead letters of this node").click()
    expect(page.locator("#letters tr")).to_have_count(12)
    expect(page.locator("#letters")).not_to_contain_text("of another node")
    reason = page.locator("#letters code").first
    assert reason.evaluate("each => each.getClientRects().length") == 1
    page.get_by_label("Node").select_option("")
    expect(page.locator("#letters tr")).to_have_count(13)
    window.check()


def test_connections_tell_what_they_lead_to_and_what_waits_in_words(window: Watched, studio: ToldStudio) -> None:
    gauges = {"connected": 0.0, "outbox_messages": 1.0, "queue_rows": 220.0, "outbox_disk_bytes": 2048.0}
    studio.flows = (told_flow(vitals=told_vitals(gauges={"log": gauges})),)
    row = window.page.locator("#connections tr")
    expect(row).to_contain_text(f"log{DATABUS}")
    expect(row).to_contain_text("1 message in the outbox, 220 rows in memory, 2 KiB of the outbox on disk")
    window.check()


def test_flows_stand_in_the_order_in_which_the_site_tells_them_also_when_one_comes_again(
    window: Watched, studio: ToldStudio
) -> None:
    first, second, third = (told_flow(name) for name in ("first", "meters", "third"))
    names = window.page.locator("#flows th.name a")
    for flows in ((first, second, third), (first, third), (first, second, third)):
        studio.flows = flows
        expect(names).to_have_text([flow.name for flow in flows])


def test_a_flow_that_somebody_stopped_says_so_once(window: Watched, studio: ToldStudio) -> None:
    studio.flows = (told_flow(word="stopped", why="stopped by otto", pid=None, vitals=None),)
    page = window.page
    expect(page.locator("tr[data-flow=meters] td").first).to_contain_text(re.compile("for [0-9.]+ minby otto$"))
    window.go("/flows/meters")
    expect(page.locator("#trouble")).to_have_text("stopped by otto")
