"""What a right flow becomes, several flows at once, and what is only worth a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import flow_kinds
import pytest
from flow_kinds import FLOW, SITE, Mode, Step

from edgeflex_flow.errors import FlowFileError
from edgeflex_flow.flowfile import CheckedFlow, Plan, check_flows, load_flow, load_flows
from edgeflex_flow.node import ANY, DEAD_LETTERS, Input, OperatorNode
from edgeflex_flow.policy import PolicyBinding
from edgeflex_flow.registry import Registry

Check = Callable[..., CheckedFlow]


def plan_of(checked: CheckedFlow) -> Plan:
    assert checked.problems == ()
    assert checked.plan is not None
    return checked.plan


def test_a_plan_holds_what_the_files_say(check: Check) -> None:
    plan = plan_of(check(FLOW.replace("nodes:", "labels: {owner: grid team}\nnodes:")))
    assert (plan.name, plan.about, plan.site, plan.file) == ("events", "Find events.", "yard_7", Path("flow.yaml"))
    assert plan.labels == {"owner": "grid team"}
    assert plan.folder == Path.cwd()
    assert plan.flow_wires == ("dead_letters",)


def test_nodes_stand_after_all_that_they_read(check: Check) -> None:
    flow = """
flow: backwards
nodes:
  tell: {kind: tell, from: watch, topic: t}
  watch: {kind: limit, from: {in: slope}, column: frequency_hz}
  slope: {kind: slope, from: [b, a]}
  a: {kind: meter, port: 1}
  b: {kind: meter, port: 2}
"""
    plan = plan_of(check(flow))
    assert [node.id for node in plan.nodes] == ["a", "b", "slope", "watch", "tell"]
    assert {node.id: dict(node.inputs) for node in plan.nodes} == {
        "a": {},
        "b": {},
        "slope": {"in": ("b", "a")},
        "watch": {"in": ("slope",)},
        "tell": {"in": ("watch",)},
    }


def test_the_order_of_the_file_stays_where_wires_leave_a_choice(check: Check) -> None:
    assert [node.id for node in plan_of(check()).nodes] == ["pmu", "slope", "detect", "watch", "both", "tell", "shed"]


def test_values_arrive_in_the_units_of_their_fields(check: Check) -> None:
    settings = "steps: [{level: 0.5, delay: 1min}], delays: [1ms, 2 h], levels: {f1: 1}, mode: slow, buffer: 2 KiB"
    flow = FLOW.replace("store: history", f"store: history, {settings}, limit: 1.5 MW")
    config = plan_of(check(flow)).nodes[-1].config
    assert isinstance(config, flow_kinds.ShedConfig)
    assert config.steps == (Step(level=0.5, delay=60.0),)
    assert config.delays == (0.001, 7200.0)
    assert config.levels == {"f1": 1.0}
    assert config.mode is Mode.SLOW
    assert (config.buffer, type(config.buffer)) == (2048, int)
    assert config.limit == 1500.0


@pytest.mark.parametrize(
    ("written", "course"),
    [
        ("swift", flow_kinds.Swift()),
        ("{type: swift, notice: soon}", flow_kinds.Swift(notice="soon")),
        ("{type: ramp, rate: 2 MW, stops: [{level: 1}]}", flow_kinds.Ramp(rate=2000.0, stops=(Step(level=1.0),))),
        ('{type: "${FORM}", rate: "${RATE}"}', flow_kinds.Ramp(rate=5.0)),
    ],
)
def test_a_form_is_named_alone_or_with_its_settings(
    check: Check, written: str, course: flow_kinds.Swift | flow_kinds.Ramp
) -> None:
    flow = FLOW.replace("store: history", f"store: history, course: {written}")
    config = plan_of(check(flow, environment={"FORM": "ramp", "RATE": "5 kW"})).nodes[-1].config
    assert isinstance(config, flow_kinds.ShedConfig)
    assert config.course == course


def test_a_form_whose_name_is_not_there_yet_is_no_error_while_only_checking(check: Check) -> None:
    flow = FLOW.replace("store: history", 'store: history, course: {type: "${FORM}", rate: 1 kW}')
    assert [problem.message for problem in check(flow, environment={}).problems] == []


def test_a_word_may_stand_for_a_number_or_quantity(check: Check) -> None:
    flow = FLOW.replace('"${meter_port}"', '1, speed: "${SPEED}", pause: "${PAUSE}"')
    found = [
        (getattr(node.config, "speed", None), getattr(node.config, "pause", None))
        for environment in ({"SPEED": "2", "PAUSE": "5ms"}, {"SPEED": "max", "PAUSE": "asked"})
        for node in plan_of(check(flow, environment=environment)).nodes[:1]
    ]
    assert found == [(2.0, 0.005), ("max", "asked")]


def test_nothing_is_a_value_where_it_is_allowed(check: Check) -> None:
    plan = plan_of(check(FLOW.replace("store: history", "store: history, limit: null")))
    assert getattr(plan.nodes[-1].config, "limit", 0) is None


def test_a_policy_binding_is_in_the_units_of_its_field(check: Check) -> None:
    watch = next(
        node for node in plan_of(check(FLOW.replace("min: 0.005 Hz/s", "min: 5 mHz/s"))).nodes if node.policies
    )
    assert watch.policies == {"onset": PolicyBinding(policy="trigger", field="onset", default=0.02, min=0.005, max=1.0)}
    assert getattr(watch.config, "onset", None) == 0.02


def test_an_integer_may_be_bound_to_a_policy(check: Check) -> None:
    flow = FLOW.replace("    onset:", "    hold: {policy: p, field: f, default: 4, min: 1, max: 9}\n    onset:")
    watch = next(node for node in plan_of(check(flow)).nodes if node.policies)
    assert watch.policies["hold"] == PolicyBinding(policy="p", field="f", default=4.0, min=1.0, max=9.0)
    assert getattr(watch.config, "hold", None) == 4


def test_connections_come_by_field(check: Check) -> None:
    nodes = {node.id: node for node in plan_of(check()).nodes}
    bus = nodes["tell"].connections["bus"]
    assert (bus.name, bus.node.kind) == ("databus", "broker")
    assert getattr(bus.config, "timeout", None) == 2.0
    assert nodes["shed"].connections["store"].name == "history"


def test_wires_tell_what_they_carry(check: Check) -> None:
    wires = {node.id: node.wire for node in plan_of(check()).nodes}
    assert wires["slope"] is not None
    assert wires["slope"].columns == {"frequency_hz", "angle_deg", "rocof_hz_per_s"}
    assert wires["slope"].more_columns
    assert wires["tell"] is None


def test_only_columns_that_all_readers_give_come_through_a_port_with_several_wires(check: Check) -> None:
    flow = """
flow: merged
nodes:
  a: {kind: meter, port: 1, channels: [p_w, q_var]}
  b: {kind: meter, port: 2, channels: [p_w]}
  both: {kind: slope, from: [a, b]}
  watch: {kind: limit, from: both, column: q_var}
"""
    [problem] = check(flow).problems
    assert problem.node == "watch"
    assert problem.known == ("angle_deg", "frequency_hz", "p_w", "rocof_hz_per_s")


def test_a_message_wire_beside_samples_takes_no_columns_away(check: Check) -> None:
    accept_all = OperatorNode(
        "mix",
        flow_kinds.PairConfig,
        {"in": Input(ANY, ("frequency_hz",), flow_kinds.pass_on)},
        lambda _config, inputs: inputs["in"],
        flow_kinds.no_state,
    )
    Path("mix.yaml").write_text(
        "flow: x\nnodes: {m: {kind: meter, port: 1}, mix: {kind: mix, from: [m, dead_letters]}}"
    )
    plan = load_flow(Path("mix.yaml"), Registry([*flow_kinds.NODES, accept_all]))
    assert plan.nodes[1].wire is not None
    assert plan.nodes[1].wire.columns == {"frequency_hz", "angle_deg"}
    assert len(plan.nodes[1].wire.messages) == 2


def test_dead_letters_can_be_read_and_wait_for_nobody(check: Check) -> None:
    plan = plan_of(check())
    tell = next(node for node in plan.nodes if node.id == "tell")
    assert tell.inputs["in"][-1] == DEAD_LETTERS
    assert [reader.id for reader, _ in plan.readers(DEAD_LETTERS)] == ["tell"]


def test_an_output_that_nobody_reads_is_noted(check: Check) -> None:
    checked = check(FLOW.replace("from: [detect, watch, both", "from: [detect, both"))
    assert checked.notes == ("flow.yaml:8:3: node 'watch': nobody reads what it gives",)
    assert checked.plan is not None


def test_a_flow_that_its_site_does_not_list_is_noted(check: Check) -> None:
    checked = check(site=SITE + "flows: [other]\n")
    assert checked.notes == ("flow.yaml: site 'yard_7' does not list the flow 'events' under 'flows'",)
    assert check(site=SITE + "flows: [events]\n").notes == ()


def write(**files: str) -> list[Path]:
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    return [Path(f"{name}.yaml") for name in files]


@pytest.fixture
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SECOND = "flow: second\nparams: {other_port: 1}\nnodes:\n  m: {kind: meter, port: '${other_port}'}\n"


@pytest.mark.usefixtures("_in_tmp_path")
def test_an_option_may_belong_to_any_of_several_flows() -> None:
    flow, second, site = write(flow=FLOW, second=SECOND, site=SITE)
    params = {"meter_port": "1", "other_port": "2"}
    plans = load_flows([flow, second], flow_kinds.registry(), site=site, params=params)
    assert [plan.name for plan in plans] == ["events", "second"]
    assert getattr(plans[1].nodes[0].config, "port", None) == 2


@pytest.mark.usefixtures("_in_tmp_path")
def test_two_flows_of_one_name_are_wrong() -> None:
    files = write(a=SECOND, b=SECOND)
    checked = check_flows(files, flow_kinds.registry(), environment={})
    assert [[str(problem) for problem in flow.problems] for flow in checked] == [
        [],
        ["b.yaml: flow 'second' is also the name of the flow in a.yaml"],
    ]


@pytest.mark.usefixtures("_in_tmp_path")
def test_problems_of_all_files_come_once() -> None:
    flow, second, site = write(flow=FLOW, second=SECOND.replace("meter", "metre"), site=SITE.replace("2s", "2"))
    with pytest.raises(FlowFileError) as caught:
        load_flows([flow, second], flow_kinds.registry(), site=site, environment={})
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [("site.yaml", 3), ("second.yaml", 4)]


@pytest.mark.usefixtures("_in_tmp_path")
def test_files_that_are_not_there_are_problems() -> None:
    with pytest.raises(FlowFileError) as caught:
        load_flow(Path("no.yaml"), flow_kinds.registry(), site=Path("nor.yaml"), params={"a": "1"})
    assert [str(problem) for problem in caught.value.problems] == [
        "no.yaml: there is no such file",
        "nor.yaml: there is no such file",
    ]


@pytest.mark.usefixtures("_in_tmp_path")
def test_a_plan_that_a_missing_secret_prevents_is_refused_with_the_reason() -> None:
    flow, site = write(flow="flow: a\nnodes: {m: {kind: inbox, bus: databus, message: '${WHAT}'}}", site=SITE)
    with pytest.raises(FlowFileError, match="environment variable WHAT is not set"):
        load_flow(flow, flow_kinds.registry(), site=site, secrets="optional", environment={})


@pytest.mark.usefixtures("_in_tmp_path")
def test_the_environment_is_the_processs_own_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    [flow] = write(flow="flow: a\nnodes: {m: {kind: meter, port: '${FLOW_TEST_PORT}'}}")
    monkeypatch.setenv("FLOW_TEST_PORT", "77")
    assert getattr(load_flow(flow, flow_kinds.registry()).nodes[0].config, "port", None) == 77
