"""The studio as a process beside the flows: whatever becomes of it, they go on."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from broker import wait_until
from studio_site import OPERATOR, PASSWORD, StudioSite

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioSite]:
    with StudioSite(tmp_path_factory.mktemp("studio"), users=False, simulator=False) as started:
        yield started


def written(site: StudioSite) -> str:
    file = site.folder / "sites" / "meters.jsonl"
    return file.read_text() if file.exists() else ""


def arrives(site: StudioSite, voltage_v: float) -> None:
    site.meter(voltage_v)
    wait_until(lambda: f"{voltage_v}" in written(site))


def test_a_studio_that_stands_or_is_flooded_holds_up_no_flow(site: StudioSite) -> None:
    before = site.processes()
    studio = before["studio"]
    arrives(site, 231.25)
    studio.send_signal(signal.SIGSTOP)
    try:
        # Much more to tell than its socket and buffers hold.
        for round_ in range(20):
            for _ in range(500):
                site.datagram(b"x" * 1200)
            arrives(site, 232.0 + round_ / 64)
        memory = _supervisor_memory(site)
    finally:
        studio.send_signal(signal.SIGCONT)
    assert memory < 400 * 2**20
    wait_until(lambda: httpx.get(f"{site.url}/health/live").status_code == 200)
    arrives(site, 233.5)
    after = site.processes()
    assert (after["events"], after["meters"]) == (before["events"], before["meters"])


def _supervisor_memory(site: StudioSite) -> int:
    import psutil

    return int(psutil.Process(site.process.pid).memory_info().rss)


def test_ten_viewers_cost_little_and_one_that_does_not_read_costs_the_others_nothing(site: StudioSite) -> None:
    studio = site.processes()["studio"]
    url = f"{site.url}/live?flow=meters&node=meter&what=entries,letters"
    with httpx.Client(timeout=10.0) as client:
        streams = [client.stream("GET", url) for _ in range(10)]
        answers = [each.__enter__() for each in streams]
        try:
            lines = [each.iter_lines() for each in answers]
            for each in lines[:9]:  # the last is never read
                next(each)
            cpu_s, began_s = sum(studio.cpu_times()[:2]), time.monotonic()
            for _ in range(3):
                for each in lines[:9]:
                    while not next(each).startswith("data:"):
                        pass
            share = (sum(studio.cpu_times()[:2]) - cpu_s) / (time.monotonic() - began_s)
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)
    assert share < 0.25
    arrives(site, 234.5)


def test_a_flow_that_somebody_stopped_stays_so_when_the_supervisor_is_started_anew(tmp_path: Path) -> None:
    site = StudioSite(tmp_path / "site", simulator=False)
    with site, operating(site) as operate:
        operate("stop", "meters")
        wait_until(lambda: "meters" not in site.processes())
        wait_until((site.folder / "sites/.yard/held.json").exists)
    site.wants = ("events",)
    with site, operating(site) as operate:
        assert "flow 'meters' stays stopped, as otto wanted: start it on the live page, or have '" in site.log
        assert "meters" not in site.processes()
        operate("start", "meters")
        site.wait_for("flow 'meters' runs")
        arrives(site, 233.0)
        wait_until(lambda: (site.folder / "sites/.yard/held.json").read_text() == "{}")


def test_who_restarts_a_flow_while_its_new_version_is_on_trial_keeps_the_way_back(tmp_path: Path) -> None:
    with StudioSite(tmp_path / "site", simulator=False, picky=True) as site, operating(site) as operate:
        arrives(site, 231.0)
        file = site.folder / "meters.yaml"
        file.write_text(file.read_text().replace("fault: refuse", "fault: exit"))
        site.wait_for("flow 'meters' runs", 2)
        operate("restart", "meters")
        site.wait_for("flow 'meters' was restarted by otto")
        # The one before may be moved over from so soon that it does not say that it runs.
        site.wait_for("operator 'picky' begins anew: other settings: fault", 2)
        site.meter(232.0)
        site.wait_for("flow 'meters': the new version ended with exit code 7; the old one runs on")
        arrives(site, 233.0)


@contextmanager
def operating(site: StudioSite) -> Iterator[Callable[[str, str], None]]:
    """Somebody who may operate, signed in without a browser."""
    origin = {"Origin": site.url}
    with httpx.Client(base_url=site.url, headers=origin, timeout=10.0) as client:
        client.post("/sign-in", data={"name": OPERATOR, "password": PASSWORD, "then": "/"})
        (csrf,) = re.findall('data-csrf="([^"]+)"', client.get("/").text)

        def operate(do: str, flow: str) -> None:
            answer = client.post(f"/api/flows/{flow}/{do}", data={"csrf": csrf}).json()
            assert answer["done"], answer

        yield operate


def test_a_site_that_ends_does_not_wait_for_who_looks(tmp_path: Path) -> None:
    with StudioSite(tmp_path / "site", users=False, simulator=False) as ending:
        with httpx.stream("GET", f"{ending.url}/live") as answer:
            next(answer.iter_lines())
            studio = ending.processes()["studio"]
            began_s = time.monotonic()
            ending.process.send_signal(signal.SIGTERM)
            studio.wait(5.0)
            assert time.monotonic() - began_s < 4.0
        assert ending.process.wait(30.0) == 0
