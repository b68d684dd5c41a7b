from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toy_nodes import CollectingSink, ScriptedSource, batch, operator, plan, planned, sink, source

from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.stage import Stage, by_scope, whole


def pass_on(_config: object, _state: object, message: Any) -> Sequence[WireMessage]:
    return [message]


def stages(flow: Plan) -> list[tuple[str, list[str]]]:
    return [(stage.scope, [node.id for node in stage.nodes]) for stage in by_scope(flow)]


def device(node_id: str, *sources: str) -> Any:
    return planned(node_id, operator(pass_on), *sources)


def site(node_id: str, *sources: str) -> Any:
    return planned(node_id, operator(pass_on, scope="site"), *sources)


def pmu() -> Any:
    return planned("pmu", source(ScriptedSource([])))


def out(*sources: str) -> Any:
    return planned("out", sink(CollectingSink()), *sources)


def test_a_chain_of_device_operators_is_one_stage_and_its_sink_another() -> None:
    flow = plan(pmu(), device("a", "pmu"), device("b", "a"), out("b", "pmu"))
    assert stages(flow) == [("device", ["a", "b"]), ("site", ["out"])]


def test_a_flow_without_operators_is_one_stage() -> None:
    assert stages(plan(pmu(), out("pmu"))) == [("site", ["out"])]


def test_each_change_of_scope_begins_a_stage() -> None:
    flow = plan(pmu(), device("a", "pmu"), site("b", "a"), device("c", "b"), site("d", "pmu"), out("c", "d"))
    assert stages(flow) == [("device", ["a"]), ("site", ["d"]), ("site", ["b"]), ("device", ["c"]), ("site", ["out"])]


def test_no_stage_reads_from_a_later_one() -> None:
    flow = plan(pmu(), device("a", "pmu"), site("b", "a", "pmu"), device("c", "b", "a"), out("a", "b", "c"))
    seen = {"pmu"}
    for stage in by_scope(flow):
        assert stage.wanted <= seen
        seen |= stage.ids


def test_a_stage_gives_what_other_stages_read_and_keeps_the_rest() -> None:
    made = CollectingSink()
    flow = plan(
        pmu(), device("a", "pmu"), device("b", "a"), planned("out", sink(made), "b"), planned("kept", sink(made), "a")
    )
    run = FlowRun(flow)
    first, second = by_scope(flow)
    message = batch(50.0)
    leaving = Stage(run, first, {}).begin("pmu", message)
    assert leaving == [("a", [message]), ("b", [message])]
    assert Stage(run, whole(flow), {"out": made, "kept": made}).begin("pmu", message) == []
    assert made.messages == [message, message]
    assert second.wanted == {"a", "b"}
    run.wakeup.close()
