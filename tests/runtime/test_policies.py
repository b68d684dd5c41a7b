from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta
from toy_nodes import CollectingSink, ScriptedSource, batch, plan, planned, sink, source

from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.messages import Alarm, Crossing, Message
from edgeflex_flow.node import ANY, Input, NodeConfig, OperatorNode, WireMessage, message_wire, quantity
from edgeflex_flow.policy import PolicyBinding
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.policies import apply_policies, policies_from, read_policies
from edgeflex_flow.runtime.run import FlowRun

BINDING = PolicyBinding(policy="trigger", field="onset", default=0.02, min=0.01, max=1.0)
BOTH = {
    name: PolicyBinding(policy="band", field=name, default=default, min=-200.0, max=200.0)
    for name, default in (("lowest", -150.0), ("highest", -100.0))
}


class BoundConfig(NodeConfig, frozen=True, kw_only=True):
    """A node with a parameter that a policy may change."""

    onset: Annotated[float, quantity("Hz/s", "Any rate.", gt=0)] = 0.02

    def __post_init__(self) -> None:
        if self.onset == 0.5:
            raise ValueError("not this one")


class BandConfig(NodeConfig, frozen=True, kw_only=True):
    """A node with two parameters that must go together."""

    name: Annotated[str, Meta(description="Any name.")] = "band-7"
    lowest: Annotated[float, quantity("W", "Any power.")] = -150.0
    highest: Annotated[float, quantity("W", "Any power.")] = -100.0

    def __post_init__(self) -> None:
        if self.lowest > self.highest:
            raise ValueError("lowest is above highest")


def tell(config: BoundConfig, _state: None, _message: object) -> Sequence[WireMessage]:
    crossing = Crossing(device="G1", column="x_hz_per_s", state="above", time_ns=0, value=1.0, limit=config.onset)
    return [Alarm(source="bound", severity="info", text=f"{config.onset:g}", time_ns=0), crossing]


def bound() -> PlannedNode:
    node = OperatorNode(
        "bound",
        BoundConfig,
        {"in": Input(ANY, step=tell)},
        lambda _c, _w: message_wire(Alarm, Crossing),
        lambda _config: None,
    )
    wire = message_wire(Alarm, Crossing)
    return PlannedNode("bound", node, BoundConfig(), {"in": ("in",)}, policies={"onset": BINDING}, wire=wire)


def band(*carried: type[Message], ticks: bool = False) -> PlannedNode:
    """A node that gives nothing by itself."""
    node = OperatorNode(
        "band",
        BandConfig,
        {"in": Input(ANY, step=lambda _config, _state, _message: ())},
        lambda _c, _w: message_wire(*carried),
        lambda _config: None,
        tick=(lambda _config, _state, _now_ns: ()) if ticks else None,
        tick_period_s=(lambda _config: 0.001) if ticks else None,
    )
    return PlannedNode("band", node, BandConfig(), {"in": ("in",)}, policies=BOTH, wire=message_wire(*carried))


class ChangingSource(ScriptedSource):
    """Calls a function before one of its polls."""

    def __init__(self, script: list[Any], before: dict[int, Callable[[], None]]) -> None:
        super().__init__(script)
        self._before = before
        self._polls = 0

    def poll(self) -> Sequence[WireMessage]:
        self._before.get(self._polls, lambda: None)()
        self._polls += 1
        return super().poll()


@pytest.mark.parametrize("run_it", [run_inline, run_bytewax, lambda run: run_bytewax(run, workers=2)])
def test_a_new_value_is_in_force_from_the_next_step_on(run_it: Callable[[FlowRun], None]) -> None:
    out = CollectingSink()
    changes: dict[int, Callable[[], None]] = {}
    made = ChangingSource([[batch(50.0)], [batch(50.0)], [batch(50.0)]], changes)
    run = FlowRun(plan(planned("in", source(made)), bound(), planned("out", sink(out), "bound")))

    def change() -> None:
        # What came so far must have passed before: messages on their way meet whatever is in force.
        wait_until(lambda: len(out.messages) == 4)
        apply_policies(run, {"trigger": {"onset": 0.25, "version": 7}})

    changes[2] = change
    run_it(run)
    assert [alarm.text for alarm in out.of_type(Alarm)] == ["0.02", "0.02", "0.25"]
    assert run.counters["bound"].get("policy_changes") == 1
    computed = [(each.limit, each.policies) for each in out.of_type(Crossing)]
    assert computed == [(0.02, {"trigger.onset": "default"})] * 2 + [(0.25, {"trigger.onset": "7"})]


@pytest.mark.parametrize("run_it", [run_inline, run_bytewax, lambda run: run_bytewax(run, workers=2)])
@pytest.mark.parametrize("ticks", [False, True])
def test_a_refused_value_is_an_alarm_on_the_wire_of_its_node(run_it: Callable[[FlowRun], None], ticks: bool) -> None:
    out = CollectingSink()
    made = ScriptedSource([] if ticks else [[batch(50.0)], [batch(50.0)]], endless=ticks)
    run = FlowRun(plan(planned("in", source(made)), band(Alarm, ticks=ticks), planned("out", sink(out), "band")))
    apply_policies(run, {"band": {"lowest": 500.0}})

    def stop_when_told() -> None:
        wait_until(lambda: bool(out.messages))
        run.stop()

    stopper = threading.Thread(target=stop_when_told)
    stopper.start()
    run_it(run)
    stopper.join()
    [alarm] = out.of_type(Alarm)
    assert (alarm.source, alarm.severity) == ("band-7", "warning")
    assert alarm.text == (
        "policy 'band', field 'lowest', for band.lowest: refused: 500 is outside -200 to 200 W; -150 W stays"
    )
    assert 0 <= run.clock.now_ns() - alarm.time_ns < 60_000_000_000
    assert run.counters["band"].get("messages_out") == 1


def wait_until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 5.0
    while not happened() and time.monotonic() < deadline_s:
        time.sleep(0.005)


@pytest.fixture
def run() -> Iterator[FlowRun]:
    made = FlowRun(plan(planned("in", source(ScriptedSource([]))), bound()))
    yield made
    made.wakeup.close()


def onset(run: FlowRun) -> float:
    config = run.in_force["bound"].config
    assert isinstance(config, BoundConfig)
    return config.onset


def test_a_value_may_have_its_unit(run: FlowRun) -> None:
    apply_policies(run, {"trigger": {"onset": "30 mHz/s"}})
    assert onset(run) == pytest.approx(0.03)


@pytest.mark.parametrize("value", [0.001, 2.0, "3 Hz/s", "5 kV", "much", None, True, [1], 0.5, float("nan")])
def test_a_value_that_may_not_be_leaves_the_last_good_one(
    run: FlowRun, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    apply_policies(run, {"trigger": {"onset": 0.1}})
    with caplog.at_level(logging.WARNING):
        apply_policies(run, {"trigger": {"onset": value}})
    assert onset(run) == 0.1
    assert run.counters["bound"].get("policy_refused") == 1
    assert "policy 'trigger', field 'onset', for bound.onset: refused" in caplog.text


@pytest.fixture
def banded() -> Iterator[FlowRun]:
    made = FlowRun(plan(planned("in", source(ScriptedSource([]))), band(Alarm)))
    yield made
    made.wakeup.close()


def limits(run: FlowRun) -> tuple[float, float]:
    config = run.in_force["band"].config
    assert isinstance(config, BandConfig)
    return config.lowest, config.highest


def test_values_that_only_go_together_take_effect_together(banded: FlowRun) -> None:
    apply_policies(banded, {"band": {"lowest": 50.0, "highest": 100.0, "version": 7}})
    assert limits(banded) == (50.0, 100.0)
    assert banded.in_force["band"].policies == {"band.lowest": "7", "band.highest": "7"}
    assert banded.counters["band"].snapshot() == {"policy_changes": 2}
    apply_policies(banded, {})
    assert limits(banded) == (-150.0, -100.0)


def test_values_that_do_not_go_together_are_refused_together(banded: FlowRun, caplog: pytest.LogCaptureFixture) -> None:
    apply_policies(banded, {"band": {"lowest": 50.0, "highest": 10.0, "version": 7}})
    assert limits(banded) == (-150.0, -100.0)
    assert banded.in_force["band"].policies == {"band.lowest": "default", "band.highest": "default"}
    assert banded.counters["band"].snapshot() == {"policy_refused": 2}
    [told] = [record.getMessage() for record in caplog.records]
    assert told == (
        "policy 'band', field 'lowest', for band.lowest and policy 'band', field 'highest', for band.highest: "
        "refused: 50 W and 10 W: lowest is above highest; -150 W and -100 W stay"
    )


def test_a_value_that_cannot_be_by_itself_does_not_keep_the_others_back(banded: FlowRun) -> None:
    apply_policies(banded, {"band": {"lowest": "much", "highest": 100.0, "version": 7}})
    assert limits(banded) == (-150.0, 100.0)
    assert banded.in_force["band"].policies == {"band.lowest": "default", "band.highest": "7"}
    assert banded.counters["band"].snapshot() == {"policy_refused": 1, "policy_changes": 1}


def test_a_value_that_stays_the_same_is_not_refused_with_one_that_changes(banded: FlowRun) -> None:
    apply_policies(banded, {"band": {"lowest": 50.0, "highest": -100.0, "version": 7}})
    assert limits(banded) == (-150.0, -100.0)
    assert banded.in_force["band"].policies == {"band.lowest": "default", "band.highest": "7"}
    assert banded.counters["band"].snapshot() == {"policy_refused": 1}


def test_the_same_refusal_is_an_alarm_once_until_something_changed(banded: FlowRun) -> None:
    def alarms(lowest: float) -> int:
        apply_policies(banded, {"band": {"lowest": lowest}})
        return len(banded.take_alarms("band"))

    assert [alarms(lowest) for lowest in (500.0, 500.0, 600.0, 600.0, -120.0, 600.0)] == [1, 0, 1, 0, 0, 1]


def test_a_node_whose_wire_has_no_alarms_gives_none(caplog: pytest.LogCaptureFixture) -> None:
    out = CollectingSink()
    made = ScriptedSource([[batch(50.0)]])
    run = FlowRun(plan(planned("in", source(made)), band(Crossing), planned("out", sink(out), "band")))
    apply_policies(run, {"band": {"lowest": 500.0}})
    run_inline(run)
    assert out.messages == []
    assert run.counters["band"].get("policy_refused") == 1
    assert "500 is outside" in caplog.text


def test_without_a_policy_the_default_comes_back(run: FlowRun) -> None:
    apply_policies(run, {"trigger": {"onset": 0.1}})
    apply_policies(run, {})
    assert onset(run) == 0.02


def version(run: FlowRun) -> str:
    return run.in_force["bound"].policies["trigger.onset"]


def test_policy_without_a_version_is_known_by_a_digest_of_its_fields(run: FlowRun) -> None:
    versions = []
    for fields in ({"onset": 0.1}, {"onset": 0.2}, {"onset": 0.1, "other": 1}, {"onset": 0.1}):
        apply_policies(run, {"trigger": fields})
        versions.append(version(run))
    assert all(each.startswith("sha256:") for each in versions)
    assert versions[0] == versions[3]
    assert len(set(versions)) == 3


def test_policy_that_is_refused_is_not_the_one_in_force(run: FlowRun) -> None:
    apply_policies(run, {"trigger": {"onset": 0.1, "version": "a"}})
    apply_policies(run, {"trigger": {"onset": 5.0, "version": "b"}})
    assert version(run) == "a"
    apply_policies(run, {"trigger": {"onset": 0.1, "version": "c"}})
    assert version(run) == "c"
    apply_policies(run, {})
    assert version(run) == "default"


def test_version_of_a_policy_is_no_misspelt_field(run: FlowRun, caplog: pytest.LogCaptureFixture) -> None:
    apply_policies(run, {"trigger": {"onset": 0.1, "version": "a"}})
    assert "nothing is bound" not in caplog.text


def test_policies_for_others_change_nothing(run: FlowRun) -> None:
    apply_policies(run, {"other": {"onset": 0.1}, "trigger": {"other": 0.1}})
    assert onset(run) == 0.02
    assert run.counters["bound"].get("policy_changes") == 0


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"triger": {"onset": 0.1}}, "policy 'triger'; did you mean 'trigger'?"),
        ({"trigger": {"onst": 0.1}}, "policy 'trigger': nothing is bound to field 'onst'; known: onset"),
    ],
)
def test_a_name_that_looks_misspelt_is_told(
    run: FlowRun, policies: dict[str, dict[str, float]], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    apply_policies(run, policies)
    assert words in caplog.text


def test_policies_of_other_flows_are_not_told(run: FlowRun, caplog: pytest.LogCaptureFixture) -> None:
    apply_policies(run, {"voltage_band": {"low": 0.9}})
    assert caplog.text == ""


def test_changes_are_told_with_their_unit(run: FlowRun, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        apply_policies(run, {"trigger": {"onset": 0.1}})
    assert "0.02 Hz/s -> 0.1 Hz/s" in caplog.text


def write(file: Path, text: str) -> None:
    """As a careful editor does: the file is never there in part."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


def test_a_policy_file_is_followed_while_the_flow_runs(run: FlowRun, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    write(file, "trigger: {onset: 100 mHz/s}\n")
    with policies_from(file, run):
        assert onset(run) == pytest.approx(0.1)
        write(file, "trigger: {onset: 0.3 Hz/s}\n# changed\n")
        wait_until(lambda: onset(run) == 0.3)
        assert onset(run) == 0.3


@pytest.mark.parametrize("text", ["trigger: [1", "trigger: 3\n", "- a\n", "\x00"])
def test_a_policy_file_that_is_none_leaves_the_last_good_values(
    run: FlowRun, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(text)
    apply_policies(run, {"trigger": {"onset": 0.1}})
    with policies_from(file, run):
        assert onset(run) == 0.1
    assert "what was in force stays" in caplog.text


def test_a_number_in_a_policy_file_needs_its_unit(
    run: FlowRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text("trigger: {onset: 0.1}\n")
    with policies_from(file, run):
        assert onset(run) == 0.02
    assert "write it with its unit, e.g. 0.1 Hz/s" in caplog.text


def test_a_policy_file_that_is_not_there_yet_leaves_the_defaults(run: FlowRun, tmp_path: Path) -> None:
    with policies_from(tmp_path / "none.yaml", run):
        assert onset(run) == 0.02


def test_a_policy_file_holds_fields_by_policy(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text("trigger: {onset: 0.1, hold: 3 s}\nother: {}\n")
    assert read_policies(file) == {"trigger": {"onset": 0.1, "hold": "3 s"}, "other": {}}
