"""What is known of sites, for tests of metrics and health."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from msgspec.structs import replace
from toy_nodes import CollectingSink, ScriptedSource, batch, plan, planned
from toy_nodes import sink as sink_node
from toy_nodes import source as source_node

from edgeflex_flow.gauges import GAUGES
from edgeflex_flow.messages import Quality
from edgeflex_flow.monitor.status import FlowStatus, SiteStatus
from edgeflex_flow.node import Counters
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.vitals import BudgetVitals, Vitals, vitals_of

VERSION = "0.0.1"


def run_of_rows(quality: int = 0) -> FlowRun:
    """A run that is over: three rows with these flags, from `src` to `out`."""
    rows = replace(batch(1.0, 2.0, 3.0), quality=batch(1.0, 2.0, 3.0).quality | quality)
    flow = FlowRun(
        plan(
            planned("src", source_node(ScriptedSource([[rows]]))),
            planned("out", sink_node(CollectingSink()), "src"),
        )
    )
    run_inline(flow)
    return flow


def full_vitals() -> Vitals:
    """Of a flow that tells everything that there is to tell."""
    flow = run_of_rows(Quality.SYNC_LOST | Quality.STALE)
    flow.dead_letter("src", "bad_crc", "a frame with a wrong check sum")
    flow.counters["out"].add_all(retries=2, commits=5, a_name_from_elsewhere=7)
    flow.counters["state of the flow"] = Counters()
    flow.counters["state of the flow"].set("away_s", 12)
    for name in GAUGES:
        flow.gauges["out"].watch(name, lambda: 1.5)
    budget = BudgetVitals(source="src", sink="out", of="age", within_s=0.1, messages=50, late=2, is_broken=True)
    told = replace(vitals_of(flow), phase="running", budgets=(budget,))
    return replace(told, policies={"out": {"rocof_trigger.onset": "3"}})


def flow_known(**more: Any) -> FlowStatus:
    given = {"name": "one", "file": "one.yaml", "word": "running", "digest": "abc", "vitals": full_vitals(), **more}
    return FlowStatus(**{"why": "", "since_ns": 0, "restarts": 0, "moves": (), "pid": None, **given})


def site_known(*flows: FlowStatus, **more: Any) -> SiteStatus:
    given = {"site": "yard", "version": VERSION, "started_ns": 1_000_000_000, "turn_age_s": 0.1, "flows": flows, **more}
    return SiteStatus(**{"file": "yard.yaml", "time_ns": 2_000_000_000, "problem": "", **given})


def ask(url: str) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ask_json(url: str) -> tuple[int, Any]:
    status, text = ask(url)
    return status, json.loads(text)
