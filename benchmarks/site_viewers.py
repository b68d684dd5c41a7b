"""What the live page of a site costs, and how soon it shows something: a part of `python -m benchmarks.site`."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
from playwright.sync_api import sync_playwright
from rich.progress import track

from benchmarks.children import child
from benchmarks.report import Report
from benchmarks.site_run import IDLE, Site, shared_mb, site, used_s
from edgeflex_services.broker import free_tcp_port, free_udp_port

VIEWERS = 10
LOADS = 10
LOOK_S = 15.0
WIRE = {"flow": "watched", "node": "rocof"}


def viewers(report: Report) -> None:
    """A page in a browser, then `VIEWERS` who watch a wire of 600 rows/s."""
    web, udp = free_tcp_port(), free_udp_port()
    with site(f"studio: {{port: {web}}}") as yard:
        yard.write("watched", IDLE.format(name="watched", port=udp))
        yard.start(["watched"])
        yard.wait_for("the site is shown at")
        simulator = ["-m", "edgeflex_services.pmu_simulator", "--host", "127.0.0.1", "--port", str(udp), "--json"]
        with child(simulator):
            time.sleep(3.0)
            section = "live page"
            report.add(section, "from opening a flow's page to live rates in it", "ms", page_loads(web))
            before = costs(yard)
            with watching(web) as bytes_read:
                began, began_s = bytes_read(), time.monotonic()
                during = costs(yard)
                per_viewer = (bytes_read() - began) / (time.monotonic() - began_s) / VIEWERS
            for name in before:
                report.add(section, f"processor of the {name}, nobody looks", "% of a core", [before[name]])
                report.add(section, f"processor of the {name}, {VIEWERS} look at a wire", "% of a core", [during[name]])
            report.add(section, "sent to a viewer", "kB/s", [per_viewer / 1e3])
            report.add(section, "memory of the page's process (PSS)", "MB", [shared_mb(studio_of(yard))])


def page_loads(port: int) -> list[float]:
    """Milliseconds, each in a browser context that has nothing cached."""
    took = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for _ in track(range(LOADS), description="page loads", transient=True):
            page = browser.new_context().new_page()
            began_s = time.monotonic()
            page.goto(f"http://127.0.0.1:{port}/flows/watched")
            page.wait_for_selector("#live[data-state=on]", state="attached")
            took.append(1e3 * (time.monotonic() - began_s))
            page.context.close()
        browser.close()
    return took


def chromium() -> str | None:
    """The system's browser."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def studio_of(yard: Site) -> psutil.Process:
    return next(each for each in yard.processes() if "edgeflex_flow.studio" in each.cmdline())


def costs(yard: Site) -> dict[str, float]:
    """Processor time of the processes over `LOOK_S`, in % of a core."""
    processes = {
        "page's process": studio_of(yard),
        "supervisor": yard.processes()[0],
        "flow": yard.members()["watched"],
    }
    before = {name: each.cpu_times() for name, each in processes.items()}
    time.sleep(LOOK_S)
    return {name: 100 * used_s(before[name], each.cpu_times()) / LOOK_S for name, each in processes.items()}


@contextmanager
def watching(port: int) -> Iterator[Callable[[], int]]:
    """Viewers of a wire; gives a function that tells how many bytes they have read."""
    counts = [0] * VIEWERS
    over = threading.Event()

    def look(number: int) -> None:
        with httpx.stream("GET", f"http://127.0.0.1:{port}/live", params=WIRE, timeout=30.0) as answer:
            for chunk in answer.iter_raw():
                counts[number] += len(chunk)
                if over.is_set():
                    return

    threads = [threading.Thread(target=look, args=(number,)) for number in range(VIEWERS)]
    for each in threads:
        each.start()
    try:
        time.sleep(2.0)
        yield lambda: sum(counts)
    finally:
        over.set()
        for each in threads:
            each.join()
