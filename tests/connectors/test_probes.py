"""Trying connections, as `edgeflex check --connect` does, against the real things."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from broker import Mosquitto, free_port
from certificates import Authority
from http_service import HttpService, Reply
from stores import alarm, grid, kept

from edgeflex_connectors import mqtt, parquet, rest, sqlite
from edgeflex_connectors.rest_auth import Bearer
from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.node import ConnectionNode, Probe

if TYPE_CHECKING:
    from conftest import ContextMaker

DAY_S = 86_400.0


def tried(make_context: ContextMaker, node: ConnectionNode[Any], settings: Mapping[str, Any]) -> Probe:
    assert node.probe is not None
    return node.probe(node.config(**settings), make_context("databus"))


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_broker_tells_how_long_it_takes(tmp_path: Path, make_context: ContextMaker, version: str) -> None:
    with Mosquitto(tmp_path, users={"grid": "secret"}) as broker:
        login = {"url": broker.url, "version": version, "username": "grid", "password": "secret"}
        found = tried(make_context, mqtt.NODE, login)
    assert 0.0 < found.latency_s < 5.0
    assert (found.peer, found.certificate_until_s) == (f"MQTT {version}", None)


def test_a_broker_tells_when_its_certificate_ends(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with Mosquitto(tmp_path, tls=authority.issue("broker", valid_to=timedelta(days=20))) as broker:
        found = tried(make_context, mqtt.NODE, {"url": broker.url, "ca": str(authority.certificate)})
    assert found.certificate_until_s == pytest.approx(time.time() + 20 * DAY_S, abs=60.0)


def test_a_broker_that_refuses_or_is_not_there_says_so(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path, users={"grid": "secret"}) as broker:
        login = {"url": broker.url, "username": "grid", "password": "wrong"}
        with pytest.raises(FatalError, match="refused user 'grid'"):
            tried(make_context, mqtt.NODE, login)
    with pytest.raises(RetryableError, match="connection refused"):
        tried(make_context, mqtt.NODE, {"url": f"mqtt://127.0.0.1:{free_port()}"})


@pytest.mark.parametrize(("node", "name"), [(parquet.NODE, "history"), (sqlite.NODE, "data/history.db")])
def test_a_store_that_could_not_be_made_says_so(
    tmp_path: Path, make_context: ContextMaker, node: ConnectionNode[Any], name: str
) -> None:
    with pytest.raises(FatalError, match=r"there is no folder '.*nowhere'"):
        tried(make_context, node, {"path": str(tmp_path / "nowhere" / name)})
    assert list(tmp_path.iterdir()) == []


def test_trying_a_broker_tells_nobody_a_status(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        tried(make_context, mqtt.NODE, {"url": broker.url, "status_topic": "status/{flow}/{node}"})
        assert "status/" not in broker.log


def test_the_folder_of_an_outbox_is_looked_at_and_not_made(tmp_path: Path, make_context: ContextMaker) -> None:
    with Mosquitto(tmp_path) as broker:
        found = tried(make_context, mqtt.NODE, {"url": broker.url, "outbox": "kept/outbox", "outbox_size": 65536.0})
    assert re.fullmatch(r"MQTT 3\.1\.1, [\d,]+ MiB free for the outbox", found.peer)
    assert not (make_context.folder / "kept").exists()


def test_an_outbox_without_room_says_so(make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=3 << 20))
    with pytest.raises(FatalError, match="3 MiB free, less than the `outbox_size` of 256 MiB that one node may need"):
        tried(make_context, mqtt.NODE, {"url": "mqtt://127.0.0.1:1", "outbox": "outbox"})


def test_an_outbox_that_cannot_be_written_says_so(make_context: ContextMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"url": "mqtt://127.0.0.1:1", "outbox": "outbox"}
    (make_context.folder / "outbox").write_text("a file")
    with pytest.raises(FatalError, match=r"databus: outbox '.*': .*outbox is no folder"):
        tried(make_context, mqtt.NODE, settings)
    monkeypatch.setattr("os.access", lambda _path, _mode: False)  # root may write anywhere
    with pytest.raises(FatalError, match=r"outbox '.*': cannot be made: .* cannot be written to"):
        tried(make_context, mqtt.NODE, {**settings, "outbox": "other"})


@pytest.mark.parametrize("module", [sqlite, parquet])
def test_a_store_tells_up_to_when_it_has_samples(make_context: ContextMaker, module: Any) -> None:
    place = {"path": "history"}
    assert tried(make_context, module.NODE, place).peer == "no store yet: the first flow that writes makes it"
    assert not (make_context.folder / "history").exists()
    store = module.NODE.open(module.NODE.config(**place), make_context("archive"))
    store.open()
    store.write([], kept(alarm()))
    assert tried(make_context, module.NODE, place).peer == "no samples yet"
    store.write([grid([0.0, 2.0])], [])
    store.close()
    assert tried(make_context, module.NODE, place).peer == "samples until 2023-11-14 22:13:22 UTC"


def test_a_service_tells_its_status_and_when_its_certificate_ends(tmp_path: Path, make_context: ContextMaker) -> None:
    authority = Authority(tmp_path)
    with HttpService(tls=authority.issue("service", valid_to=timedelta(days=9))) as service:
        service.answers("/", Reply(status=204))
        found = tried(make_context, rest.NODE, {"url": service.url, "ca": str(authority.certificate)})
    assert found.peer == "HTTP status 204"
    assert found.certificate_until_s == pytest.approx(time.time() + 9 * DAY_S, abs=60.0)


@pytest.mark.parametrize(("status", "error"), [(401, FatalError), (403, FatalError), (503, RetryableError)])
def test_a_service_that_refuses_or_fails_says_so(
    make_context: ContextMaker, status: int, error: type[Exception]
) -> None:
    with HttpService() as service:
        service.answers("/", Reply(status=status))
        with pytest.raises(error, match=str(status)):
            tried(make_context, rest.NODE, {"url": service.url, "auth": Bearer(token="hush")})
