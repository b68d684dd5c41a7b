"""The budgets that the page about flows shows can hold in the flow that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shipped import running

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.vitals import vitals_of
from edgeflex_services.broker import free_udp_port
from edgeflex_services.pmu_simulator import PmuSimulator

PAGE = Path(__file__).parents[2] / "docs" / "writing-flows.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


def block(key: str) -> str:
    [found] = [each for each in BLOCKS if re.match(rf"{key}:", each)]
    return str(found)


@pytest.mark.long
def test_samples_keep_the_budget_of_the_example_and_events_could_not_since_they_are_confirmed(tmp_path: Path) -> None:
    flow, budgets = block("flow"), block("budgets")
    flow = re.sub(r"\{kind: mqtt_publish, from: event, .*\}", "{kind: file_write, from: event, path: a.jsonl}", flow)
    archive = "  archive: {kind: store_write, from: pmu, store: history}\n"
    events = "  - {from: pmu, to: alarm, within: 100ms}\n"
    (tmp_path / "page.yaml").write_text(flow + archive + "\n" + budgets)
    site = tmp_path / "site.yaml"
    site.write_text("site: yard\nconnections: {history: {kind: sqlite, path: history.db}}\n")
    port = free_udp_port()
    plan = load_flow(tmp_path / "page.yaml", shipped_registry(), site=site, params={"pmu_port": str(port)})
    (tmp_path / "events.yaml").write_text(flow + archive + "\n" + budgets + events)
    with pytest.raises(FlowFileError, match="= 1 s of 100 ms"):
        load_flow(tmp_path / "events.yaml", shipped_registry(), site=site)
    run = FlowRun(plan)
    with running(run, run_bytewax):
        PmuSimulator("127.0.0.1", port, event_at_s=1.5).run(seconds=3.0)
    samples, took = vitals_of(run).budgets
    assert (samples.sink, took.sink) == ("archive", "alarm")
    # A machine that is busy may be late now and then.
    assert samples.late < samples.messages / 2
    assert took.late < took.messages / 2
