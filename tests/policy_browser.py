"""Debian's Chromium for tests of the policy system's page, and what each page must hold for those who look at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from served_policies import PASSWORD

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK = ViewportSize(width=1280, height=900)
ZOOMED = ViewportSize(width=640, height=450)
"""What a desk's screen shows at 200 %."""
PHONE = ViewportSize(width=360, height=740)

AUDIT = r"""
() => {
  const problems = [];
  const shown = (element) => {
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    return box.width > 1 && box.height > 1 && style.visibility === "visible" && style.opacity !== "0";
  };
  const told = (element) => {
    const ids = (element.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
    const texts = [
      element.getAttribute("aria-label"),
      ...ids.map((id) => document.getElementById(id)?.textContent),
      ...[...(element.labels || [])].map((label) => label.textContent),
      ["INPUT", "SELECT", "TEXTAREA"].includes(element.tagName) ? "" : element.textContent,
      ...[...element.querySelectorAll("img")].map((image) => image.alt),
    ];
    return texts.filter(Boolean).join(" ").trim();
  };
  const which = (element) => element.outerHTML.slice(0, 140);
  for (const element of document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, summary")) {
    if (shown(element) && told(element) === "") problems.push(`no name: ${which(element)}`);
    if (element.tagName === "A" && !/^(\/|#|\?)/.test(element.getAttribute("href") || ""))
      problems.push(`a link that leads elsewhere: ${which(element)}`);
  }
  for (const element of document.querySelectorAll("img:not([alt])")) problems.push(`no alt: ${which(element)}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) problems.push(`id twice: ${id}`);
  for (const name of ["aria-describedby", "aria-labelledby"])
    for (const element of document.querySelectorAll(`[${name}]`))
      for (const id of element.getAttribute(name).split(" ").filter(Boolean))
        if (!document.getElementById(id)) problems.push(`${name} leads to nothing: ${id}`);
  for (const link of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(link.getAttribute("href").slice(1))) problems.push(`leads to nothing: ${which(link)}`);
  if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
  let level = 1;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) problems.push(`a level of headings is left out: ${which(heading)}`);
    level = own;
  }
  if (!document.documentElement.lang || !document.title) problems.push("no language or title");

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([red, green, blue]) => {
    const part = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const look = (element, text, what) => {
    const ratio = contrast(colour(text), ground(element));
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(2)} of ${what}: ${which(element)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.textContent.trim() && shown(element)) look(element, getComputedStyle(element).color, "text");
  }
  for (const element of document.querySelectorAll("input, select, textarea")) {
    if (!shown(element)) continue;
    look(element, getComputedStyle(element).color, "what is typed");
    if (element.placeholder) look(element, getComputedStyle(element, "::placeholder").color, "a placeholder");
    const style = getComputedStyle(element);
    const edge = contrast(colour(style.borderTopColor), ground(element.parentElement));
    if (edge < 3 && style.borderTopWidth !== "0px") problems.push(`edge ${edge}: ${which(element)}`);
  }
  return problems;
}
"""


OVERFLOW = """
() => {
  const width = document.documentElement.clientWidth;
  // What a part of the page clips, or scrolls by itself, reaches nowhere.
  const clipped = (element) => {
    for (let each = element.parentElement; each && each !== document.body; each = each.parentElement)
      if (getComputedStyle(each).overflowX !== "visible") return true;
    return false;
  };
  const boxes = [...document.querySelectorAll("body *")].filter((element) => !clipped(element))
    .map((element) => element.getBoundingClientRect());
  const shown = boxes.filter((box) => box.width > 1 && box.height > 1);
  return Math.max(document.documentElement.scrollWidth, ...shown.map((box) => Math.floor(box.right))) - width;
}
"""


@dataclass
class Watched:
    """A page of a browser, what went wrong on it, and which other hosts it asked for something."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self._told(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("dialog", self._asked)

    def _told(self, kind: str, text: str) -> None:
        # A page that tells what is wrong with a form has a status of its own, which Chromium tells too.
        is_of_a_form = any(f"status of {status} " in text for status in (401, 409, 422, 429))
        if kind in ("error", "warning") and not is_of_a_form:
            self.errors.append(text)

    def _asked(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.errors.append(f"dialog: {dialog.message}")
        dialog.accept()

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, name: str = "admin", password: str = PASSWORD) -> Page:
        page = self.go("/sign-in")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/policies")
        return page

    def check(self) -> None:
        """That nothing went wrong, nothing came from elsewhere, and everybody can use what is shown."""
        assert self.errors == []
        assert self.hosts <= {urlsplit(self.url).netloc}
        found = self.page.evaluate(AUDIT)
        assert found == [], f"{self.page.url}: {found}"

    def overflow_px(self) -> int:
        """By how much anything that is shown reaches beyond the right edge of the window."""
        return int(self.page.evaluate(OVERFLOW))


class Shown(Protocol):
    """What has a page."""

    @property
    def url(self) -> str: ...


@contextmanager
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program is not None, "mark the test with @pytest.mark.needs('chromium')"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser, service: Shown, **options: Any) -> Iterator[Watched]:
    """A new window that knows nobody yet."""
    context = browser.new_context(**{"viewport": DESK, **options})
    context.set_default_timeout(15_000)
    try:
        yield Watched(context.new_page(), service.url)
    finally:
        context.close()
