from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import policy_pictures
import pytest
from http_service import HttpService, Reply
from playwright.sync_api import Browser, Page, expect
from policy_browser import DESK, PHONE, ZOOMED, Watched, watched
from policy_pages import BOUNDS, TRIGGER
from served_policies import GROUP, PASSWORD, ServedPolicies, b64

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.long]

PATHS = (
    "/sign-in",
    "/policies",
    "/policies/new",
    "/policies/new?kind=operational_bounds",
    "/policies/new?kind=data_management",
    "/policies/new?kind=flexibility",
    "/policies/new?kind=sharing",
    f"/policies/{GROUP}/shown",
    f"/policies/{GROUP}/shown/edit",
    f"/policies/{GROUP}/shown/compare",
    f"/policies/{GROUP}/shown/versions/1",
    "/events",
    "/groups",
    f"/groups/{GROUP}",
    "/users",
    "/users/site_flow",
    "/audit?proof=1",
    "/keys",
    "/account",
    "/api",
    "/policies/none/none",
)
SCRIPTS = (
    "<script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 1">',
    "'-window.hit-'",
    "{{7*7}}{% raw %}${7*7}",
    "javascript:window.hit=1",
    "</textarea><svg onload=window.hit=1>",
)
EVIL = " ".join(SCRIPTS)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPolicies]:
    with ServedPolicies(tmp_path_factory.mktemp("policy")) as started:
        started.make_group()
        fill(started)
        yield started


@pytest.fixture
def window(browser: Browser, service: ServedPolicies) -> Iterator[Watched]:
    with watched(browser, service) as opened:
        yield opened


def fill(service: ServedPolicies) -> None:
    """A policy in two versions that a flow reads, follows in part, and by which something was done."""
    service.save("shown", {**TRIGGER, "about": "When inertia is estimated anew."})
    service.save("shown", {**TRIGGER, "fields": {"onset": "0.05 Hz/s", "hold": "2 s"}}, based_on=1)
    key = service.make_service("site_flow", "reporter")
    with service.client(key.token("site_flow")) as flow:
        query = {"policy_id": b64("shown"), "policy_group": b64(GROUP)}
        assert flow.get("/api/v1/policy", params=query).is_success
        effects = [effect("shown", 2), effect("shown", 2, setting="hold", refused="2 s is below the least, 3 s")]
        assert flow.post("/api/v1/effects", json={"effects": effects}).is_success
        report = {"group": GROUP, "asset": "feeder_1", "values": {"rocof_hz_per_s": 0.9}}
        assert flow.post("/api/v1/events", json={"reports": [report]}).is_success


def effect(policy_id: str, version: int, **changes: Any) -> dict[str, Any]:
    told = {
        "policy_group": GROUP,
        "policy_id": policy_id,
        "version": version,
        "site": "substation_12",
        "flow": "frequency_events",
        "node": "event",
        "setting": "onset",
        "before": "0.02 Hz/s",
        "after": "0.05 Hz/s",
        "refused": None,
        "time_ns": time.time_ns(),
    }
    return {**told, **changes}


# Whole journeys -----------------------------------------------------------------------------------------------------


def test_a_person_makes_a_policy_is_told_an_error_mends_it_saves_and_compares(window: Watched) -> None:
    page = window.sign_in()
    page.get_by_role("link", name="New policy").click()
    page.get_by_role("link", name="Trigger").click()
    page.get_by_label("Id", exact=True).fill("journey")
    page.get_by_label("Value of field onset").fill("0.03 furlong")
    page.get_by_role("button", name="Preview").click()
    summary = page.get_by_role("alert")
    expect(summary).to_contain_text("'0.03 furlong' is no quantity")
    expect(summary).to_be_focused()
    window.check()
    summary.get_by_role("link").click()
    wrong = page.get_by_label("Value of field onset")
    expect(wrong).to_be_focused()
    expect(wrong).to_have_value("0.03 furlong")
    expect(wrong).to_have_accessible_description(re.compile("no quantity"))
    wrong.fill("0.03 Hz/s")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("Nothing is saved yet.")).to_be_visible()
    window.check()
    page.get_by_label("Why").fill("made in a test")
    page.get_by_role("button", name="Save as version 1").click()
    expect(page.get_by_role("status")).to_contain_text("Saved as version 1")
    window.check()

    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Value of field onset").fill("0.04 Hz/s")
    page.get_by_role("button", name="Add a field").click()
    added = page.locator("input[name='fields.1.name']")
    expect(added).to_be_focused()
    added.fill("hold")
    page.locator("input[name='fields.1.value']").fill("2 s")
    page.get_by_role("button", name="Add a rule").click()
    page.get_by_role("group", name="Rule 1").get_by_label("Name").fill("night")
    page.get_by_role("group", name="Rule 1").get_by_label("Effect").select_option("deny")
    page.get_by_role("group", name="Rule 1").get_by_label("Since", exact=True).fill("22:00")
    page.get_by_role("group", name="Rule 1").get_by_label("Until", exact=True).fill("06:00")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("row", name=re.compile("Field onset"))).to_contain_text("0.04 Hz/s")
    expect(page.get_by_role("row", name=re.compile("night"))).to_contain_text("deny anything each day 22:00 to 06:00")
    window.check()
    page.get_by_role("button", name="Save as version 2").click()
    page.get_by_role("link", name="Compare versions").click()
    row = page.get_by_role("row", name=re.compile("Field onset"))
    expect(row.locator("del")).to_have_text("0.03 Hz/s")
    expect(row.locator("ins")).to_have_text("0.04 Hz/s")
    window.check()


def test_a_person_sees_who_reads_a_policy_and_what_it_changed(window: Watched, service: ServedPolicies) -> None:
    service.save("read_by_flow", TRIGGER)
    page = window.sign_in()
    page.get_by_label("Search").fill("read_by_flow")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row", name=re.compile("read_by_flow"))).to_contain_text("nobody")
    key = service.make_service("another_flow", "reporter")
    with service.client(key.token("another_flow")) as flow:
        query = {"policy_id": b64("read_by_flow"), "policy_group": b64(GROUP)}
        assert flow.get("/api/v1/policy", params=query).is_success
        assert flow.post("/api/v1/effects", json={"effects": [effect("read_by_flow", 1)]}).is_success
    page.reload()
    expect(page.get_by_role("row", name=re.compile("read_by_flow"))).to_contain_text("another_flow")
    page.get_by_role("link", name="read_by_flow").click()
    expect(page.get_by_role("region", name="Who reads it")).to_contain_text("another_flow now")
    expect(page.get_by_role("region", name="What it changed")).to_contain_text("0.02 Hz/s → 0.05 Hz/s")
    expect(page.get_by_role("region", name="What it changed")).to_contain_text("followed")
    window.check()


def test_an_administrator_manages_users_and_groups(window: Watched, browser: Browser, service: ServedPolicies) -> None:
    page = window.sign_in()
    page.get_by_role("link", name="Groups").click()
    page.get_by_label("Name").fill("grid_north")
    page.get_by_label("About").fill("The northern grid")
    page.get_by_role("button", name="Add the group").click()
    expect(page.get_by_role("status")).to_contain_text("The group is added.")
    page.get_by_role("link", name="Users").click()
    page.get_by_label("Name").fill("olga")
    page.get_by_label("Password").fill("short")
    page.get_by_role("button", name="Add the user").click()
    expect(page.get_by_role("alert")).to_contain_text("at least 12 characters; got 5")
    expect(page.get_by_label("Name")).to_have_value("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Add the user").click()
    page.get_by_label("Group", exact=True).select_option("grid_north")
    page.get_by_label("Role", exact=True).select_option("manager")
    page.get_by_role("button", name="Give the role").click()
    roles = page.get_by_role("region", name="Roles in groups")
    expect(roles.get_by_role("row", name=re.compile("grid_north"))).to_contain_text("manager")
    log = page.get_by_role("region", name="What was done with it")
    expect(log.get_by_role("row", name=re.compile("grid_north"))).to_contain_text("manager")
    window.check()
    with watched(browser, service) as hers:
        own = hers.sign_in("olga")
        expect(own.get_by_role("link", name="Users")).to_have_count(0)
        own.get_by_role("link", name="Groups").click()
        own.get_by_role("link", name="grid_north").click()
        expect(own.get_by_role("row", name=re.compile("olga"))).to_contain_text("manager")
        hers.check()
        page.get_by_label("Disable: why").fill("left the company")
        page.get_by_role("button", name="Disable").click()
        expect(page.get_by_role("status")).to_contain_text("Refused from now on")
        own.reload()
        expect(own).to_have_url(re.compile("/sign-in"))
    page.get_by_role("button", name="New client secret").click()
    expect(page.get_by_role("status")).to_contain_text("shown this once")
    window.check()


def test_events_come_in_as_they_happen_wait_while_paused_and_are_bounded(
    window: Watched, service: ServedPolicies
) -> None:
    def report(asset: str, count: int = 1) -> None:
        one = {"group": "watched", "asset": asset, "values": {"rocof_hz_per_s": 0.9}}
        assert service.admin.post("/api/v1/events", json={"reports": [one] * count}).status_code == 200

    service.make_group("watched")
    service.save("watched", TRIGGER, group="watched")
    page = window.sign_in()
    window.go("/events?group=watched")
    expect(page.get_by_role("status")).to_have_text("live")
    report("feeder_live")
    row = page.get_by_role("row", name=re.compile("feeder_live"))
    expect(row).to_contain_text("rule fast_change")
    expect(row).to_contain_text("rocof_hz_per_s 0.9")
    page.get_by_role("button", name="Pause").click()
    report("feeder_paused")
    expect(page.get_by_role("status")).to_have_text("paused, 1 waiting")
    expect(page.get_by_role("row", name=re.compile("feeder_paused"))).to_have_count(0)
    page.get_by_role("button", name="Go on").click()
    row = page.get_by_role("row", name=re.compile("feeder_paused"))
    expect(row.get_by_role("link", name="2 times")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("feeder_live"))).to_have_count(0)
    report("feeder_paused", 2)
    expect(row.get_by_role("link", name="4 times")).to_be_visible()
    page.reload()
    row.get_by_role("link", name="4 times").click()
    expect(page.get_by_role("row", name=re.compile("feeder_paused"))).to_have_count(3)
    expect(page.get_by_label("User")).to_have_value("admin")
    expect(page.get_by_role("status")).to_have_text("live")
    report("feeder_many", 150)
    expect(page.locator("#events tbody tr")).to_have_count(100)
    expect(page.get_by_role("row", name=re.compile("feeder_live"))).to_have_count(0)
    window.check()
    page.reload()
    expect(page.locator("#events tbody tr")).to_have_count(100)


def test_a_new_operator_is_led_from_an_empty_system_to_the_first_policy(browser: Browser, tmp_path: Path) -> None:
    with ServedPolicies(tmp_path / "policy") as empty, watched(browser, empty) as window:
        page = window.sign_in()
        expect(page.get_by_label("Search")).to_have_count(0)
        window.check()
        page.get_by_role("link", name="Add users").click()
        page.get_by_label("Name").fill("first")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Add the user").click()
        page.get_by_role("link", name="add one").click()
        page.get_by_label("Name").fill("north")
        page.get_by_role("button", name="Add the group").click()
        expect(page.get_by_role("status")).to_contain_text("Say who is in it next")
        page.get_by_label("Name").fill("first")
        page.get_by_label("Role", exact=True).select_option("editor")
        page.get_by_role("button", name="Give the role").click()
        window.check()
        with watched(browser, empty) as theirs:
            own = theirs.sign_in("first", PASSWORD)
            own.get_by_role("link", name="Make the first one").click()
            theirs.check()
        page.get_by_role("link", name="New policy").click()
        page.get_by_role("link", name="Operational bounds").click()
        expect(page.get_by_label("Group")).to_have_value("north")
        page.get_by_label("Id", exact=True).fill("voltage")
        page.get_by_role("button", name="Preview").click()
        page.get_by_role("button", name="Save as version 1").click()
        expect(page.get_by_role("status")).to_contain_text("Saved as version 1")
        window.check()


def test_two_people_save_at_once_and_the_later_one_sees_both(window: Watched, service: ServedPolicies) -> None:
    service.save("at_once", BOUNDS)
    page = window.sign_in()
    window.go(f"/policies/{GROUP}/at_once/edit")
    page.get_by_label("Value of field voltage_max").fill("1.03 pu")
    service.save("at_once", {**BOUNDS, "fields": {"voltage_max": "1.08 pu"}}, based_on=1)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Somebody else was faster")
    expect(page.get_by_role("region", name="Theirs and yours")).to_contain_text("1.08 pu")
    expect(page.get_by_role("region", name="Theirs and yours")).to_contain_text("1.03 pu")
    window.check()
    page.get_by_role("button", name="Edit yours further").click()
    expect(page.get_by_label("Value of field voltage_max")).to_have_value("1.03 pu")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("row", name=re.compile("voltage_max"))).to_contain_text("1.08 pu")
    page.get_by_role("button", name="Save as version 3").click()
    expect(page.get_by_role("status")).to_contain_text("Saved as version 3")


def test_everything_but_live_events_works_without_scripts(browser: Browser, service: ServedPolicies) -> None:
    service.save("no_scripts", TRIGGER)
    with watched(browser, service, java_script_enabled=False) as window:
        page = window.sign_in()
        window.go(f"/policies/{GROUP}/no_scripts/edit")
        page.get_by_role("button", name="Add a rule").click()
        page.get_by_role("group", name="Rule 2").get_by_label("Name").fill("plain")
        page.get_by_role("group", name="Rule 2").get_by_label("Effect").select_option("act")
        page.get_by_role("group", name="Rule 2").get_by_label(re.compile("Run service")).check()
        page.get_by_role("group", name="Rule 2").get_by_label("Service", exact=True).fill("inertia_online")
        page.get_by_role("button", name="Move up Rule 2").click()
        expect(page.get_by_role("group", name="Rule 1").get_by_label("Name")).to_have_value("plain")
        page.get_by_role("button", name="Edit as JSON").click()
        expect(page.get_by_label("Document")).to_have_value(re.compile('"service": "inertia_online"'))
        page.get_by_role("button", name="Edit as a form").click()
        page.get_by_role("button", name="Preview").click()
        page.get_by_role("button", name="Save as version 2").click()
        expect(page.get_by_role("status")).to_contain_text("Saved as version 2")
        window.go(f"/events?group={GROUP}")
        expect(page.get_by_role("row", name=re.compile("feeder_1"))).to_have_count(1)
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()


# By keyboard alone --------------------------------------------------------------------------------------------------


def tab_to(page: Page, name: str, most: int = 150) -> None:
    """Press the tab key until something of that name has the focus, which must be seen at each stop."""
    for _ in range(most):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => {
              const at = document.activeElement;
              const label = at.labels?.[0]?.textContent ?? at.getAttribute("aria-label") ?? at.textContent;
              return [label.trim(), getComputedStyle(at).outlineStyle, parseFloat(getComputedStyle(at).outlineWidth)];
            }"""
        )
        assert told[1] != "none" and told[2] >= 2, f"the focus on '{told[0]}' is not seen"  # noqa: PT018
        if told[0].startswith(name):
            return
    raise AssertionError(f"the tab key leads to no '{name}'")


def press_enter(page: Page) -> None:
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_a_policy_is_made_by_keyboard_alone(window: Watched) -> None:
    page = window.go("/policies")
    keys = page.keyboard
    expect(page.get_by_label("Name")).to_be_focused()
    keys.type("admin")
    keys.press("Tab")
    keys.type(PASSWORD)
    press_enter(page)
    expect(page).to_have_url(re.compile("/policies$"))
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to(page, "New policy")
    press_enter(page)
    tab_to(page, "Operational bounds")
    press_enter(page)
    tab_to(page, "Id")
    keys.type("by_keyboard")
    tab_to(page, "Value")
    keys.press("Control+a")
    keys.type("wrong")
    press_enter(page)
    expect(page.get_by_role("alert")).to_be_focused()
    tab_to(page, "Value of field voltage_min")
    keys.press("Enter")
    expect(page.get_by_label("Value of field voltage_min")).to_be_focused()
    keys.press("Control+a")
    keys.type("0.94 pu")
    press_enter(page)
    expect(page.get_by_label("Why")).to_be_focused()
    keys.type("no mouse")
    press_enter(page)
    expect(page.get_by_role("status")).to_contain_text("Saved as version 1")
    tab_to(page, "Withdraw this policy")
    keys.press("Enter")
    tab_to(page, "Why")
    keys.type("only a test")
    tab_to(page, "Withdraw")
    press_enter(page)
    expect(page.get_by_role("status")).to_contain_text("Withdrawn")
    tab_to(page, "Sign out")
    press_enter(page)
    expect(page).to_have_url(re.compile("/sign-in$"))
    window.check()


# What everybody must be able to see ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_be_read_and_every_control_has_a_name(browser: Browser, service: ServedPolicies, scheme: str) -> None:
    with watched(browser, service, color_scheme=scheme) as window:
        page = window.go(PATHS[0])
        window.check()
        window.sign_in()
        for path in PATHS[1:]:
            window.go(path)
            window.errors[:] = [text for text in window.errors if "status of 404" not in text]
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            window.check()
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in re.findall(r"\d+", ground)[:3]) < 200) is (scheme == "dark")


@pytest.mark.parametrize("viewport", [PHONE, ZOOMED, DESK], ids=["phone", "zoomed", "desk"])
def test_no_page_is_wider_than_its_window(browser: Browser, service: ServedPolicies, viewport: Any) -> None:
    long = "x" * 64
    service.admin.put(f"/api/v1/groups/{long}", json={"about": "y" * 400})
    service.admin.put(
        f"/api/v1/policies/{b64(long)}/{b64(long)}",
        json={"document": {**BOUNDS, "about": "z" * 400, "fields": {long: 1.0}}, "based_on": 0},
    )
    with watched(browser, service, viewport=viewport) as window:
        window.sign_in()
        paths = (*PATHS, f"/policies/{long}/{long}", f"/policies/{long}/{long}/edit", f"/groups/{long}")
        wide = {path: window.overflow_px() for path in paths if window.go(path) and window.overflow_px() > 0}
        assert wide == {}


def test_the_pictures_of_the_docs_can_be_made_again(browser: Browser, tmp_path: Path) -> None:
    policy_pictures.make(browser, tmp_path)
    made = {picture.name for picture in tmp_path.iterdir()}
    assert made == {picture.name for picture in policy_pictures.DOCS.glob("policy_*.png")}
    page = (policy_pictures.DOCS / "policy-page.md").read_text()
    assert [name for name in made if f"({name})" not in page] == []


# What must stay text, and what must stay out ------------------------------------------------------------------------


def test_what_looks_like_a_script_stays_text_in_every_field_of_a_form(window: Watched) -> None:
    page = window.sign_in()
    for path, button in (
        ("/policies/new?kind=sharing", "Preview"),
        ("/policies/new?kind=trigger", "Preview"),
        ("/policies/new?kind=flexibility", "Preview"),
        ("/users", "Add the user"),
        ("/groups", "Add the group"),
        ("/users/site_flow", "Save the keys"),
        ("/users/site_flow", "Save"),
        (f"/groups/{GROUP}", "Give the role"),
        (f"/policies/{GROUP}/shown", "Give the right"),
        ("/policies", "Search"),
        ("/audit", "Search"),
        ("/events", "Show"),
    ):
        window.go(path)
        fields = page.locator("input[type=text]:visible, input[type=search]:visible, textarea:visible")
        for at in range(fields.count()):
            fields.nth(at).fill(EVIL)
        page.get_by_role("button", name=button, exact=True).click()
        page.wait_for_load_state()
        assert_nothing_ran(window)


def test_what_looks_like_a_script_stays_text_where_it_was_saved(window: Watched, service: ServedPolicies) -> None:
    rule = {"name": "evil", "effect": "permit", "about": EVIL[:400]}
    document = {
        "kind": "data_management",
        "about": EVIL,
        "fields": {"source": SCRIPTS[4], "topic": SCRIPTS[0], "variables": list(SCRIPTS), "rows": SCRIPTS[3]},
        "rules": [rule],
    }
    path = f"/api/v1/policies/{b64(GROUP)}/{b64('evil')}"
    for at in range(2):
        body = {"document": {**document, "about": f"{EVIL} {at}"}, "based_on": at, "comment": EVIL[:400]}
        assert service.admin.put(path, json=body).status_code == 201
    told = effect("evil", 1, site=EVIL[:200], flow=EVIL[:200], node=SCRIPTS[0], setting=SCRIPTS[1], before=EVIL[:200])
    assert service.admin.post("/api/v1/effects", json={"effects": [{**told, "refused": EVIL}]}).json()["kept"] == 1
    assert service.admin.put("/api/v1/users/evil", json={"about": EVIL[:400]}).status_code == 200
    assert service.admin.post("/api/v1/users/evil/disable", json={"why": EVIL[:400]}).status_code == 200
    assert service.admin.put("/api/v1/groups/evil", json={"about": EVIL[:400]}).status_code == 200
    page = window.sign_in()
    own = f"/policies/{GROUP}/evil"
    for where in (own, f"{own}/edit", f"{own}/compare", f"{own}/versions/1", "/policies", "/users", "/users/evil"):
        window.go(where)
        assert_nothing_ran(window)
        assert "window.hit" in page.locator("main").inner_text() + "".join(
            page.locator("textarea, input").evaluate_all("all => all.map((each) => each.value)")
        )
    for where in ("/groups/evil", "/groups", "/audit"):
        window.go(where)
        assert_nothing_ran(window)
    window.go("/events")
    expect(page.get_by_role("status")).to_have_text("live")
    ask = {"group": GROUP, "asset": "evil_asset", "action": "read_data"}
    assert service.admin.post("/api/v1/requests", json=ask).status_code == 200
    expect(page.get_by_role("row", name=re.compile("evil_asset"))).to_have_count(1)
    assert_nothing_ran(window)


def assert_nothing_ran(window: Watched) -> None:
    page = window.page
    assert page.evaluate("window.hit") is None
    assert page.locator("img[onerror], svg, a[href^='javascript'], script:not([src])").count() == 0
    assert "49" not in page.locator("h1, legend, .error, .note").all_inner_texts()
    assert [text for text in window.errors if "Content Security Policy" in text] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_can_send_no_form(window: Watched, service: ServedPolicies, host: str) -> None:
    """127.0.0.1 with another port is the same site: the cookie comes along, and the origin alone tells them apart."""
    page = window.sign_in()
    csrf = page.locator("input[name=csrf]").first.get_attribute("value")
    form = f"""<form method="post" action="{service.url}/groups"><input name="csrf" value="{csrf}">
      <input name="name" value="forged"><input name="about" value=""><button>win a prize</button></form>"""
    with HttpService() as evil:
        evil.answers("/", Reply(body=form.encode(), headers={"Content-Type": "text/html"}))
        page.goto(evil.url.replace("127.0.0.1", host))
        with page.expect_response(lambda response: response.url.endswith("/groups")) as caught:
            page.get_by_role("button").click()
        assert caught.value.status == 403
    window.go("/groups")
    expect(page.get_by_role("link", name="forged")).to_have_count(0)


def test_a_page_of_another_origin_can_show_it_in_no_frame(window: Watched, service: ServedPolicies) -> None:
    page = window.sign_in()
    frame = f'<iframe src="{service.url}/policies" title="bait"></iframe>'
    with HttpService() as evil:
        evil.answers("/", Reply(body=frame.encode(), headers={"Content-Type": "text/html"}))
        page.goto(evil.url)
        page.wait_for_function("document.readyState === 'complete'")
        assert any("frame-ancestors" in text for text in window.errors)
        assert "Policies" not in page.frames[-1].content()


def test_scripts_cannot_see_the_session_and_signing_out_ends_it(window: Watched, service: ServedPolicies) -> None:
    page = window.sign_in()
    assert page.evaluate("document.cookie") == ""
    cookies = page.context.cookies()
    assert [(each.get("httpOnly"), each.get("sameSite"), each.get("path")) for each in cookies] == [
        (True, "Strict", "/")
    ]
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    assert page.context.cookies() == []
    page.go_back()
    expect(page).to_have_url(re.compile("/sign-in"))
    page.context.add_cookies(cookies)  # type: ignore[arg-type]
    window.go("/policies")
    expect(page).to_have_url(re.compile("/sign-in"))


def test_what_was_typed_is_there_again_after_signing_in_again(window: Watched, service: ServedPolicies) -> None:
    service.save("interrupted", BOUNDS)
    page = window.sign_in()
    window.go(f"/policies/{GROUP}/interrupted/edit")
    page.get_by_label("About").fill("An hour of work,\nin two lines.")
    page.context.clear_cookies()
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("What you typed is kept")).to_be_visible()
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Go on with it").click()
    expect(page.get_by_role("row", name=re.compile("About"))).to_contain_text("An hour of work,")
    window.check()


def test_leaving_what_was_typed_is_asked_about(window: Watched, service: ServedPolicies) -> None:
    service.save("left", BOUNDS)
    page = window.sign_in()
    window.go(f"/policies/{GROUP}/left/edit")
    page.get_by_label("About").fill("not saved")
    with page.expect_event("dialog") as caught:
        page.get_by_role("link", name="Events").click()
    assert caught.value.type == "beforeunload"
