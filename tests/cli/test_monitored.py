"""`edgeflex run --monitor` and the site's key `monitor`: processes as a user starts them, asked over HTTP."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from broker import Mosquitto, free_port, wait_until
from monitored_sites import ask, ask_json

from edgeflex_flow.cli import monitored
from edgeflex_flow.cli.monitored import Address
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.monitor.status import SiteStatus
from edgeflex_services.broker import free_udp_port

FLOW = """\
flow: {name}
nodes:
  pmu: {{kind: pmu_udp, host: 127.0.0.1, port: {port}}}
  tell: {{kind: mqtt_publish, from: pmu, bus: databus, topic: "rows/{{device}}"}}
"""
SITE = """\
site: yard
flows: [one, two]
monitor: {{port: {monitor}}}
connections:
  databus: {{kind: mqtt, url: "mqtt://127.0.0.1:{broker}", reconnect_min: 50ms, reconnect_max: 100ms}}
"""


class Started:
    """A process of `edgeflex`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgeflex_flow", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    @property
    def url(self) -> str:
        """Where it tells metrics and health, once it does."""
        wait_until(lambda: " tells metrics" in self.log or self.ended, 60.0)
        found = re.search(r"(http://[^ ]+) tells", self.log)
        assert found, self.log
        return found[1]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> int:
        if not self.ended:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60.0)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Started]:
    made = Started(folder, *arguments)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "sites").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(FLOW.format(name=name, port=free_udp_port()))
    (tmp_path / "broker").mkdir()
    return tmp_path


def lacks(url: str) -> Any:
    status, told = ask_json(f"{url}/health/ready")
    assert (status == 200) == told["ok"]
    return told["flows"]


@pytest.mark.needs("mosquitto")
def test_one_flow_is_ready_once_its_broker_is_there(site: Path) -> None:
    with Mosquitto(site / "broker") as broker:
        broker.stop()
        (site / "sites" / "yard.yaml").write_text(SITE.format(monitor=0, broker=broker.port))
        with started(site, "run", "one.yaml", "--site", "yard", "--monitor", "127.0.0.1:0") as run:
            wait_until(lambda: lacks(run.url) == {"one": ["'tell' is not connected"]})
            assert ask(f"{run.url}/health/live")[0] == 200
            broker.start()
            wait_until(lambda: lacks(run.url) == {"one": []})
            text = ask(f"{run.url}/metrics")[1]
            assert run.end() == 0
    assert 'edgeflex_connected{flow="one",node="tell",site="yard"} 1.0' in text
    assert 'edgeflex_outbox_messages{flow="one",node="tell",site="yard"} 0.0' in text
    assert 'edgeflex_opened{flow="one",node="pmu",site="yard"} 1.0' in text


@pytest.mark.needs("mosquitto")
def test_a_supervised_site_tells_of_all_its_flows(site: Path) -> None:
    with Mosquitto(site / "broker") as broker:
        (site / "sites" / "yard.yaml").write_text(SITE.format(monitor=0, broker=broker.port))
        with started(site, "up", "sites/yard.yaml") as up:
            wait_until(lambda: lacks(up.url) == {"one": [], "two": []}, 60.0)
            text = ask(f"{up.url}/metrics")[1]
            assert up.end() == 0
    for name in ("one", "two"):
        assert f'edgeflex_flow_state{{flow="{name}",site="yard",state="running"}} 1.0' in text
        assert re.search(rf'edgeflex_flow_memory_bytes{{flow="{name}",site="yard"}} \d\.\d+e\+0[78]', text)
        assert f'edgeflex_connected{{flow="{name}",node="tell",site="yard"}} 1.0' in text


def test_a_flow_that_cannot_be_watched_as_asked_does_not_run(site: Path) -> None:
    (site / "sites" / "yard.yaml").write_text(SITE.format(monitor=0, broker=free_port()))
    with started(site, "run", "one.yaml", "--site", "yard", "--monitor", "no.such.host.invalid:1") as run:
        assert run.process.wait(60.0) == 3
    assert "'no.such.host.invalid' is no address of this machine" in run.log


def test_a_site_runs_on_where_nothing_can_listen_and_is_told_once_something_can(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitored, "AGAIN_S", 0.01)
    status = SiteStatus(site="yard", file="", version="1", started_ns=0, time_ns=0, problem="", flows=())

    async def watch(taken: socket.socket) -> None:
        port = taken.getsockname()[1]
        async with monitored.site_monitored(lambda: status, MonitorConfig(port=port)):
            await asyncio.sleep(0.05)
            taken.close()
            while True:
                try:
                    assert (await asyncio.to_thread(ask, f"http://127.0.0.1:{port}/health/live"))[0] == 200
                    return
                except urllib.error.URLError:
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(watch(socket.create_server(("127.0.0.1", 0))), 20.0))
    assert caplog.text.count("another program has this port; tried again each") == 1


@pytest.mark.parametrize("address", ["9464x", "host:", "host:70000", "::1:9464"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{address}' is not HOST:PORT"):
        Address().convert(address, None, None)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("0.0.0.0:80", "0.0.0.0", 80), ("[::1]:9464", "::1", 9464), ("9465", "127.0.0.1", 9465)],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert Address().convert(address, None, None) == MonitorConfig(host=host, port=port)
