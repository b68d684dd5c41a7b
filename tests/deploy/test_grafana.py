"""Dashboards as Grafana wants them, and each of their queries on the real server, on what a real run told or stored."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from broker import BrokerProcess, Mosquitto, free_port, wait_until
from certificates import Authority
from dashboards import (
    DEPLOY,
    FILES,
    FOLDER,
    Query,
    datasources,
    influxql,
    panels,
    promql,
    queries,
    read,
    sql,
    variable_queries,
)
from databases import PASSWORD, Influxdb, Postgres
from flow_files import RunningFlow
from inertia_cases import load_case
from msgspec.structs import replace
from policy_server import AUDIENCE, GROUP, PolicyServer
from preview_cases import npz
from programs import find_program
from ruamel.yaml import YAML

from edgeflex_flow.cli.monitored import flow_monitored
from edgeflex_flow.flowfile.plan import MonitorConfig
from edgeflex_flow.runtime.recovery import keep_state
from edgeflex_operators._units import GeneratingUnit

SITE_BOARD, POSTGRES_BOARD, INFLUXDB_BOARD = (
    read(FOLDER / f"{name}.json") for name in ("site", "measurements-postgres", "measurements-influxdb")
)
START_NS = 1_800_000_000_000_000_000
END_NS = START_NS + 60 * 10**9

each_board = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@each_board
def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap(file: Path) -> None:
    board = read(file)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


@each_board
def test_panels_name_what_they_show_once(file: Path) -> None:
    titles = [panel["title"] for panel in panels(read(file))]
    assert len(set(titles)) == len(titles)
    for panel in panels(read(file)):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        assert panel["targets"]


@each_board
def test_every_datasource_is_provisioned_with_its_type(file: Path) -> None:
    known = datasources()
    board = read(file)
    named = [each for each in [board, *panels(board)] for each in _datasources_in(each)]
    assert named
    for each in named:
        assert known[each["uid"]]["type"] == each["type"]


def _datasources_in(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if isinstance(value.get("datasource"), dict):
            yield value["datasource"]
        for each in value.values():
            yield from _datasources_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _datasources_in(each)


@each_board
def test_every_variable_is_declared_or_grafanas_own(file: Path) -> None:
    board = read(file)
    declared = {each["name"] for each in board["templating"]["list"]}
    used = set(re.findall(r"\$(?!__|tag_|timeFilter)(\w+)", json.dumps(board)))
    assert used == declared


def test_boards_and_datasources_are_told_apart() -> None:
    boards = [read(file) for file in FILES]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    provider = YAML(typ="safe").load(DEPLOY / "grafana/provisioning/dashboards/edgeflex.yaml")["providers"][0]
    assert provider["type"] == "file"
    for each in datasources().values():
        assert "password" not in each
        assert re.fullmatch(r"\$\{[A-Z_]+\}", each["url"])


# The site, in Prometheus -------------------------------------------------------------------------------------------

WATCHED = """\
flow: watched
nodes:
  pmu: {kind: file_replay, path: rows.jsonl, columns: [frequency_hz], speed: 1}
  rocof: {kind: rocof, from: pmu, window: 100ms}
  event:
    kind: frequency_event
    from: rocof
    onset: {policy: rocof_trigger, field: onset, default: 0.02 Hz/s, min: 0.005 Hz/s, max: 1 Hz/s}
  tell: {kind: mqtt_publish, from: rocof, bus: databus, topic: "rows/{device}"}
  others: {kind: mqtt_subscribe, bus: databus, topics: [alarms], messages: [alarm]}
  archive: {kind: store_write, from: [pmu, event, others], store: history}
budgets:
  - {from: pmu, to: archive, within: 1s}
  - {from: pmu, to: tell, within: 1s, of: took}
"""
WATCHED_SITE = """\
site: yard
state: {{folder: state, every: 50ms}}
connections:
  databus: {{kind: mqtt, url: "{bus}", ca: authority.pem}}
  history: {{kind: sqlite, path: history.db}}
  policies:
    kind: policy_system
    url: "{policies}"
    group: {group}
    refresh: 1s
    auth: {{kind: jwt, key: site.pem, issuer: {group}, audience: {audience}}}
"""


class Prometheus(BrokerProcess):
    """Prometheus as `deploy/prometheus` sets it up, but for its target and how often it asks."""

    scheme = "http"

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder)
        folder.mkdir()
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8")
        for old, new in (("edgeflex:9464", f"127.0.0.1:{target}"), ("scrape_interval: 5s", "scrape_interval: 200ms")):
            assert old in text
            text = text.replace(old, new)
        (folder / "prometheus.yml").write_text(text)
        (folder / "rules.yml").write_text((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))

    def command(self) -> list[str]:
        program = find_program("prometheus")
        assert program is not None
        return [
            program, f"--config.file={self.folder / 'prometheus.yml'}", f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        while answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # it listens, and is not ready yet
            time.sleep(0.1)
            answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        told = answer.json()
        assert told["status"] == "success", told
        return told["data"]

    def gives(self, query: Query) -> bool:
        """Whether a query gives values that are numbers."""
        text = promql(query.target["expr"], site=["yard"], flow=["watched"])
        return any(row["value"][1] != "NaN" for row in self.get("query", query=text)["result"])

    def values(self, query: Query) -> list[str]:
        """Of a variable."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query.target["text"])
        assert found is not None
        series = self.get("series", **{"match[]": promql(found[1], site=["yard"])})
        return sorted({each[found[2]] for each in series})


def watched(folder: Path, bus: str, policies: str) -> None:
    """Files of a flow that reads a recording as fast as it was made, at 50 rows a second."""
    rows = [
        json.dumps({"type": "samples", "time_ns": n * 20_000_000, "device": "G1", "quality": 0, "frequency_hz": 50.0})
        for n in range(60 * 50)
    ]
    (folder / "rows.jsonl").write_text("\n".join(["no row", *rows]) + "\n")
    (folder / "flow.yaml").write_text(WATCHED)
    (folder / "site.yaml").write_text(WATCHED_SITE.format(bus=bus, policies=policies, group=GROUP, audience=AUDIENCE))


@pytest.mark.needs("prometheus")
@pytest.mark.needs("mosquitto")
def test_every_query_of_the_site_gives_rows_from_a_flow_that_runs(tmp_path: Path) -> None:
    port = free_port()
    tls = Authority(tmp_path).issue("broker")
    with Mosquitto(tmp_path, tls=tls) as broker, PolicyServer(tmp_path) as policies:
        policies.save("rocof_trigger", onset="0.1 Hz/s")
        watched(tmp_path, broker.url, policies.url)
        flow = RunningFlow(tmp_path / "flow.yaml", tmp_path / "site.yaml")
        keep_state(flow.run)
        with (
            flow,
            flow_monitored(flow.run, MonitorConfig(port=port)),
            Prometheus(tmp_path / "prometheus", port) as server,
        ):
            wait_until(lambda: flow.run.in_force["event"].policies == {"rocof_trigger.onset": "1"})
            policies.stop()  # so that there are attempts that fail
            left = list(queries(SITE_BOARD))

            def none_left() -> bool:
                left[:] = [query for query in left if not server.gives(query)]
                return not left

            try:
                wait_until(none_left, 30.0)
            except AssertionError:
                raise AssertionError(f"no rows: {[query.where for query in left]}") from None
            assert {query.where: server.values(query) for query in variable_queries(SITE_BOARD)} == {
                "site": ["yard"],
                "flow": ["watched"],
            }
            assert {rule["name"] for group in server.get("rules")["groups"] for rule in group["rules"]}
        assert flow.error is None


# What was measured, in databases -----------------------------------------------------------------------------------

MEASURED = """\
flow: measured
nodes:
  pmu:
    kind: file_replay
    path: recording.npz
    columns: [frequency_hz, voltage_v, voltage_angle_rad, current_a, current_angle_rad, active_power_w]
  rocof: {kind: rocof, from: pmu, window: 500ms}
  computed: {kind: select, from: rocof, columns: [rocof_hz_per_s]}
  event: {kind: frequency_event, from: rocof}
  window: {kind: event_window, from: {samples: pmu, event: event}}
  inertia: {kind: inertia_event, from: window, units: units.yaml, max_deviation: 0.4}
  system: {kind: system_inertia, from: inertia, units: units.yaml}
  archive: {kind: store_write, from: [pmu, computed, event, inertia, system], store: history}
"""


def nameplate(unit: GeneratingUnit) -> str:
    """As a site's file has it."""
    return (
        f"{{rated_power: {unit.rated_power} MVA, rated_voltage: {unit.rated_voltage} kV, "
        f"transient_reactance_pu: {unit.transient_reactance_pu}, "
        f"subtransient_reactance_pu: {unit.subtransient_reactance_pu}, "
        f"armature_resistance_pu: {unit.armature_resistance_pu}}}"
    )


def store_case(folder: Path, store: str) -> list[str]:
    """Have a flow store a recorded load step and what comes of it; the devices."""
    case = load_case("ieee39_load_step", seed=1)
    samples = case.samples
    shifted = replace(samples, time_ns=samples.time_ns - int(samples.time_ns.min()) + START_NS)
    order = np.argsort(shifted.time_ns, kind="stable")
    npz(folder / "recording.npz", [shifted.take(order)])
    (folder / "units.yaml").write_text("".join(f"{name}: {nameplate(unit)}\n" for name, unit in case.units.items()))
    (folder / "flow.yaml").write_text(MEASURED)
    (folder / "site.yaml").write_text(f"site: yard\nconnections:\n  history: {store}\n")
    with RunningFlow(folder / "flow.yaml", folder / "site.yaml") as flow:
        wait_until(lambda: flow.run.ending, 120.0)
    assert flow.error is None
    assert flow.count("archive", "messages") > 20
    return sorted(samples.devices)


@pytest.mark.needs("postgres")
def test_every_query_of_measurements_gives_rows_in_postgresql(tmp_path: Path) -> None:
    with Postgres() as server:
        server.make_database("grid")
        store = f'{{kind: postgres, url: "{server.url}/grid", username: flow, password: {PASSWORD}, tls: off}}'
        devices = store_case(tmp_path, store)
        with server.connect("grid") as database:
            [variable] = variable_queries(POSTGRES_BOARD)
            found = database.execute(sql(variable.target["text"], START_NS, END_NS).encode()).fetchall()
            assert [name for (name,) in found] == devices
            for query in queries(POSTGRES_BOARD):
                text = sql(query.target["rawSql"], START_NS, END_NS, device=devices)
                rows = database.execute(text.encode())
                assert rows.fetchall(), query.where
                names = [column.name for column in rows.description or ()]
                if query.target["format"] == "time_series":
                    assert names == ["time", "metric", "value"], query.where


@pytest.mark.needs("influxd")
def test_every_query_of_measurements_gives_rows_in_influxdb(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with Influxdb(tmp_path / "server") as server:
        config = server.config("grid")
        store = f'{{kind: influxdb, url: "{server.url}", database: grid, username: flow, password: {PASSWORD}}}'
        devices = store_case(tmp_path, store)

        def ask(text: str) -> Any:
            answer = httpx.get(
                f"{server.url}/query", params={"db": config.database, "q": text}, auth=("flow", PASSWORD)
            )
            [result] = answer.json()["results"]
            return result["series"]

        [variable] = variable_queries(INFLUXDB_BOARD)
        [told] = ask(variable.target["text"])
        assert sorted(name for _, name in told["values"]) == devices
        for query in queries(INFLUXDB_BOARD):
            series = ask(influxql(query.target["query"], START_NS, END_NS, device=devices))
            assert all(each["values"] for each in series), query.where
            if query.target.get("alias"):
                assert {each["tags"]["device"] for each in series} <= set(devices)
            if "body" in series[0]["columns"]:
                assert json.loads(series[0]["values"][0][series[0]["columns"].index("body")])
