"""The loop of voltage_mpc and flexibility through a market: both real flows, a broker, a grid and a market process."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broker import Listener, Mosquitto, wait_until
from flexibility_site import site_with_policies
from market_process import MarketProcess
from served_grids import GRID, full_sun
from served_grids import Running as ServedGrid
from served_grids import running as served_grid
from served_policies import GROUP, ServedPolicies, b64
from shipped import LOCAL, RUNTIMES, flow_run, running

from edgeflex_flow.messages import encode_message
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_flow.runtime.policy_loader import policies_of_site
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_services.powerflow_network import write_network
from edgeflex_services.profiles import make_profiles

REQUEST = "/edgeflex/goflex/flex_request"
RESULT = "/edgeflex/goflex/flex_result"

pytestmark = [pytest.mark.long, pytest.mark.needs("mosquitto")]


@dataclass
class Loop:
    """What runs, and what crosses the databus."""

    grid: ServedGrid
    market: MarketProcess
    flexibility: FlowRun
    listener: Listener

    def on(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for name, payload in list(self.listener.received) if name == topic]

    def told(self, kind: str) -> list[dict[str, Any]]:
        return self.on(f"edgeflex/local/voltage_mpc/{kind}")

    def setpoints(self) -> dict[str, float]:
        """The storages' last ones, in pu."""
        wanted = [each for each in self.told("setpoints") if each["quantity"] == "active_power_ess_pu"]
        values: dict[str, float] = wanted[-1]["values"]
        return values

    def voltage_pu(self) -> float:
        return float(self.grid.events("state")[-1]["max_voltage_pu"])


@contextmanager
def closed_loop(
    tmp_path: Path,
    *options: str,
    dialect: str = "edgeflex",
    runtime: str = "bytewax",
    site: Path = LOCAL,
    **params: Any,
) -> Iterator[Loop]:
    """The loop until both flows are under way and the MPC has asked."""
    with ExitStack() as stack:
        folder = tmp_path / "broker"
        folder.mkdir()
        broker = stack.enter_context(Mosquitto(folder))
        market = stack.enter_context(MarketProcess(*options))
        listener = stack.enter_context(Listener(broker, "#"))
        grid = stack.enter_context(served_grid(broker.url, extension=True))
        wait_until(lambda: grid.events("state"))
        write_network(tmp_path / "grid", GRID, make_profiles(GRID, "constant").at(0.0))
        shared: dict[str, Any] = {"mqtt_port": broker.port, "data_folder": tmp_path, "market_port": market.port}
        flexibility = flow_run(
            "flexibility.yaml",
            site=site,
            **{
                **shared,
                "log_file": tmp_path / "flexibility.jsonl",
                "market_period": "100ms",
                "dialect": dialect,
                "offers_path": f"/api/v1/{dialect}/offers",
                **params,
            },
        )
        mpc = flow_run(
            "voltage_mpc.yaml",
            period="1s",
            mpc_mode="control",
            grid=tmp_path / "grid",
            log_file=tmp_path / "mpc.jsonl",
            **shared,
        )
        stack.enter_context(policies_of_site(flexibility))
        stack.enter_context(running(flexibility, RUNTIMES[runtime]))
        wait_until(lambda: flexibility.counters["fates"].get("requests"))
        stack.enter_context(running(mpc, run_bytewax))
        wait_until(lambda: mpc.counters["sun"].get("messages_out"), 30.0)
        for forecast in full_sun():
            listener.publish("edgeflex/local/forecast/sun", encode_message(forecast))
        loop = Loop(grid, market, flexibility, listener)
        wait_until(lambda: loop.on(REQUEST), 30.0)
        yield loop


def wanted_kw(request: dict[str, Any]) -> list[float]:
    first: list[float] = request["flex_request"]["prediction 1"]
    return first


@pytest.mark.parametrize(
    ("dialect", "runtime", "params"),
    [
        ("edgeflex", "bytewax", {}),
        ("inea", "inline", {"ids": "number", "owner": 201}),
        ("goflex", "bytewax-2", {"ids": "uuid"}),
    ],
)
def test_what_the_mpc_asks_for_is_bought_and_done(
    tmp_path: Path, dialect: str, runtime: str, params: dict[str, Any]
) -> None:
    with closed_loop(tmp_path, dialect=dialect, runtime=runtime, **params) as loop:
        request = loop.on(REQUEST)[0]
        wait_until(lambda: loop.on(RESULT), 20.0)
        result = loop.on(RESULT)[0]
        wait_until(lambda: loop.voltage_pu() < 1.0515, 30.0)
        wait_until(lambda: abs(loop.setpoints()["node_24"] * 100.0 - wanted_kw(request)[0]) < 0.05, 20.0)
    asked = [value for row in request["flex_request"].values() for value in row]
    given = [value for row in result["flex_response"].values() for value in row]
    assert min(asked) < -1.0  # storages are to charge
    assert given == pytest.approx(asked, abs=1e-3)
    assert (result["request_id"], result.get("status", "full")) == (request["id"], "full")
    assert len(loop.market.states("assigned")) == 2
    logged = [json.loads(line) for line in (tmp_path / "flexibility.jsonl").read_text().splitlines()]
    assert {each["type"] for each in logged} == {"flex_offer", "flex_response"}
    with closing(sqlite3.connect(tmp_path / "history.db")) as store:
        rows = store.execute("SELECT time_ns, body FROM messages WHERE type = 'flex_offer'").fetchall()
    kept = [(time_ns, json.loads(body)) for time_ns, body in rows]
    assert {each["state"] for _, each in kept} >= {"initial", "assigned"}
    assert all(time_ns == each["created_ns"] for time_ns, each in kept)
    assert {each["policies"]["flexibility.price_max"] for _, each in kept if each["state"] == "initial"} == {"default"}
    assert [each for each in loop.told("alarm") if "answer" in each["text"]] == []
    assert loop.grid.events("refused") == []


def test_offers_keep_to_the_policy_and_to_the_next_one_while_the_loop_runs(tmp_path: Path) -> None:
    fields = {"max_duration": "30 min", "price_min": "-90 EUR/MWh"}
    with ServedPolicies(tmp_path / "policy") as served:
        served.make_group()
        served.save("flexibility", {"kind": "flexibility", "fields": fields})
        with closed_loop(tmp_path, site=site_with_policies(tmp_path, served)) as loop:
            wait_until(lambda: loop.on(RESULT), 20.0)
            changed = {**fields, "max_duration": "15 min"}
            served.save("flexibility", {"kind": "flexibility", "fields": changed}, based_on=1)
            wait_until(lambda: loop.flexibility.in_force["offers"].policies["flexibility.max_duration"] == "2")
            request = {**loop.on(REQUEST)[0], "id": "again", "time_ns": time.time_ns(), "begin_ns": time.time_ns()}
            loop.listener.publish(REQUEST, json.dumps(request).encode())
            wait_until(lambda: [each for each in loop.on(RESULT) if each["request_id"] == "again"], 20.0)
            path = f"/api/v1/policies/{b64(GROUP)}/{b64('flexibility')}"
            wait_until(lambda: len(served.admin.get(f"{path}/effects").json()) == 3)
    logged = [json.loads(line) for line in (tmp_path / "flexibility.jsonl").read_text().splitlines()]
    offers = [each for each in logged if each["type"] == "flex_offer" and each["state"] == "initial"]
    lengths = {each["policies"]["flexibility.max_duration"]: len(each["slices"]) for each in offers}
    assert lengths == {"1": 2, "2": 1}
    assert {each["policies"]["flexibility.window_end"] for each in offers} == {"default"}


def test_market_that_refuses_leaves_its_nodes_at_rest_and_the_others_keep_the_voltage(tmp_path: Path) -> None:
    with closed_loop(tmp_path, "--refuse", "1") as loop:
        wait_until(lambda: loop.on(RESULT), 20.0)
        result = loop.on(RESULT)[0]
        wait_until(lambda: loop.voltage_pu() < 1.0515, 30.0)
        wait_until(lambda: abs(loop.setpoints()["node_24"]) < 1e-3, 20.0)
    assert {value for row in result["flex_response"].values() for value in row} == {0.0}
    assert result["status"] == "none"
    assert result["reason"] == "of 2 offers 2 rejected (24: refused on demand, 26: refused on demand)"


def test_market_with_too_little_demand_gives_a_part(tmp_path: Path) -> None:
    # Half a kWh a quarter of an hour is 2 kW.
    with closed_loop(tmp_path, "--wholesale", "none", "--demand=-0.5:0") as loop:
        request = loop.on(REQUEST)[0]
        wait_until(lambda: loop.on(RESULT), 20.0)
        result = loop.on(RESULT)[0]
        given = result["flex_response"]["prediction 1"]
        wait_until(lambda: abs(loop.setpoints()["node_24"] * 100.0 - given[0]) < 0.05, 20.0)
    assert sum(wanted_kw(request)) < -2.1
    assert sum(given) == pytest.approx(-2.0, abs=1e-6)
    assert result["status"] == "changed"


def test_market_that_answers_late_is_not_waited_for(tmp_path: Path) -> None:
    with closed_loop(tmp_path, "--delay", "6", answer_within="2s") as loop:
        wait_until(lambda: loop.on(RESULT), 20.0)
        result = loop.on(RESULT)[0]
        assert {value for row in result["flex_response"].values() for value in row} == {0.0}
        assert (result["status"], result["reason"]) == ("none", "of 2 offers 2 without an answer in time")
        wait_until(lambda: loop.voltage_pu() < 1.0515, 30.0)
        alarms = "edgeflex/local/flexibility/alarm"
        wait_until(lambda: len(loop.on(alarms)) == 2, 20.0)
    assert all("nobody does what it says" in each["text"] for each in loop.on(alarms))
    assert loop.flexibility.counters["answers"].get("operator_error") == 0


def test_market_that_is_away_gets_no_offer_late(tmp_path: Path) -> None:
    with closed_loop(tmp_path, answer_within="3s") as loop:
        wait_until(lambda: loop.on(RESULT), 20.0)
        apply_policies(loop.flexibility, {"flexibility": {"accept_within": 1.0}})
        port = loop.market.port
        loop.market.stop()
        request = {**loop.on(REQUEST)[0], "id": "again", "time_ns": time.time_ns(), "begin_ns": time.time_ns()}
        loop.listener.publish(REQUEST, json.dumps(request).encode())
        wait_until(lambda: loop.flexibility.counters["market"].get("expired") == 2, 20.0)
        with MarketProcess(port=port) as again:
            asked = loop.flexibility.counters["fates"].get("answers")
            wait_until(lambda: loop.flexibility.counters["fates"].get("answers") > asked, 20.0)
            wait_until(lambda: len(loop.on(RESULT)) == 2, 20.0)
            assert again.events("offer") == []
    assert (loop.on(RESULT)[1]["request_id"], loop.on(RESULT)[1]["status"]) == ("again", "none")
