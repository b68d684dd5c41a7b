"""The server of metrics and health, asked by real clients: good ones, slow ones, many of them."""

from __future__ import annotations

import gzip
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from monitored_sites import ask, ask_json, flow_known, full_vitals, site_known
from msgspec.structs import replace

from edgeflex_flow.errors import FatalError
from edgeflex_flow.monitor import server
from edgeflex_flow.monitor.server import MOST_CLIENTS, serve_monitor
from edgeflex_flow.monitor.status import SiteStatus

WELL = site_known(flow_known(vitals=replace(full_vitals(), gauges={})))
WAITS = site_known(flow_known(word="waiting", why="ended"))


class Site:
    """A served site."""

    def __init__(self) -> None:
        self.known: SiteStatus | Exception = WELL
        self.port = 0

    def tell(self) -> SiteStatus:
        if isinstance(self.known, Exception):
            raise self.known
        return self.known

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with serve_monitor("127.0.0.1", 0, made.tell) as made.port:
        yield made


def test_metrics_are_given_as_prometheus_asks_for_them(site: Site) -> None:
    request = urllib.request.Request(site.url("/metrics"))
    request.add_header("Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    request.add_header("Accept-Encoding", "gzip")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert gzip.decompress(answer.read()).endswith(b"# EOF\n")
    status, text = ask(site.url("/metrics"))
    assert status == 200
    assert 'edgeflex_flow_state{flow="one",site="yard",state="running"} 1.0' in text


def test_one_metric_alone_may_be_asked_for(site: Site) -> None:
    text = ask(site.url("/metrics?name[]=edgeflex_flow_restarts_total"))[1]
    assert {line.partition("{")[0] for line in text.splitlines() if line[0] != "#"} == {"edgeflex_flow_restarts_total"}


def test_health_says_which_flow_lacks_what(site: Site) -> None:
    assert ask_json(site.url("/health/ready")) == (200, {"site": "yard", "ok": True, "why": [], "flows": {"one": []}})
    site.known = WAITS
    assert ask_json(site.url("/health/live"))[0] == 200
    status, told = ask_json(site.url("/health/ready"))
    assert status == 503
    assert told["flows"] == {"one": ["is waiting: ended"]}
    site.known = replace(WELL, turn_age_s=60.0)
    assert ask_json(site.url("/health/live"))[0] == 503


def test_other_paths_name_the_known_ones(site: Site) -> None:
    status, told = ask_json(site.url("/health"))
    assert status == 404
    assert told["known"] == ["/health/live", "/health/ready", "/metrics"]


def test_nothing_can_be_posted(site: Site) -> None:
    request = urllib.request.Request(site.url("/health/live"), data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request)


def test_a_question_that_fails_is_answered_and_costs_no_other(site: Site) -> None:
    site.known = ZeroDivisionError("a bug")
    assert ask(site.url("/health/ready"))[0] == 500
    assert ask(site.url("/metrics"))[0] == 500
    site.known = WELL
    assert ask(site.url("/health/ready"))[0] == 200


def test_clients_that_say_nothing_do_not_keep_others_out(site: Site) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port))) for _ in range(3 * MOST_CLIENTS)
        ]
        silent[-1].sendall(b"GET /metr")
        assert ask(site.url("/health/live"))[0] == 200
        silent[0].settimeout(10.0)
        assert silent[0].recv(1) == b""  # the oldest had to go


def test_a_client_that_stops_within_its_question_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", site.port), 10.0) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHos")
        assert client.recv(1) == b""


def test_a_port_that_is_taken_is_fatal_and_named(site: Site) -> None:
    with (
        pytest.raises(FatalError, match=rf"127\.0\.0\.1:{site.port}: another program has this port"),
        serve_monitor("127.0.0.1", site.port, site.tell),
    ):
        pass


def test_a_host_that_is_none_is_fatal_and_named() -> None:
    with (
        pytest.raises(FatalError, match=r"'no\.such\.host\.invalid' is no address"),
        serve_monitor("no.such.host.invalid", 0, lambda: WELL),
    ):
        pass
