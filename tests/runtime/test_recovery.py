"""A run goes on with what the one before held, and says what it does not have."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from broker import wait_until
from clusters import as_cluster
from msgspec import Meta
from runtimes import RUNTIMES, Run
from toy_nodes import CollectingSink, ScriptedSource, ToyConfig, batch, count_by_device, operator, plan, planned
from toy_nodes import sink as sink_node
from toy_nodes import source as source_node

from edgeflex_flow.errors import FatalError, RetryableError
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.messages import Alarm, samples_from_rows
from edgeflex_flow.node import NodeConfig, OperatorNode
from edgeflex_flow.runtime import state_folder
from edgeflex_flow.runtime.bytewax import run_bytewax
from edgeflex_flow.runtime.inline import run_inline
from edgeflex_flow.runtime.recovery import STATE, Recovery
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.state_folder import GO_ON, MOVED, StateFolder, StateUse, written

Counting = OperatorNode[Any, Any]
COUNTING: Counting = operator(count_by_device)
EVERY_S = 0.05


@pytest.fixture(params=list(RUNTIMES))
def execute(request: pytest.FixtureRequest) -> Run:
    return RUNTIMES[request.param]


class ListConfig(NodeConfig, frozen=True, kw_only=True):
    """A node for tests, with a number and a list."""

    limit: Annotated[float, Meta(description="Any number.")]
    devices: Annotated[tuple[str, ...], Meta(description="Any names.")]


class Flow:
    """A counting flow with state in a folder."""

    def __init__(
        self,
        folder: Path,
        *frequencies: float,
        node: Counting = COUNTING,
        config: NodeConfig | None = None,
        endless: bool = True,
        use: StateUse = GO_ON,
    ) -> None:
        count = PlannedNode("count", node, config or ToyConfig(), {"in": ("in",)})
        self.source = ScriptedSource([[batch(each)] for each in frequencies], endless=endless)
        self.sink = CollectingSink()
        nodes = (
            planned("in", source_node(self.source)),
            count,
            planned("out", sink_node(self.sink), "count"),
        )
        self.run = FlowRun(plan(*nodes))
        self.run.recovery = Recovery(self.run, StateFolder(folder), every_s=EVERY_S, use=use)
        self.wanted = len(frequencies)

    def to_its_end(self, execute: Run) -> list[float]:
        """Run until all has come through, then drain; the counts that it gave."""
        thread = threading.Thread(target=self._stop_when_done)
        thread.start()
        try:
            execute(self.run)
        finally:
            thread.join()
        return [count for _, _, count in self.sink.rows]

    def _stop_when_done(self) -> None:
        wait_until(lambda: len(self.sink.rows) >= self.wanted or self.run.stopping)
        self.run.stop()


def killed(folder: Path, *frequencies: float, node: Counting = COUNTING, execute: Run = run_inline) -> None:
    """Leave in the folder what a run leaves that is killed after these: a state, the last row perhaps not in it."""
    left = folder.with_name("left")
    flow = Flow(left, *frequencies, node=node)

    def copy_when_saved() -> None:
        wait_until(lambda: len(flow.sink.rows) >= flow.wanted)
        before = flow.run.counters[STATE].get("saved")
        wait_until(lambda: flow.run.counters[STATE].get("saved") > before)
        folder.mkdir(mode=0o700)
        for name in ("state", "marks"):
            (folder / name).write_bytes((left / name).read_bytes())
        flow.run.stop()

    thread = threading.Thread(target=copy_when_saved)
    thread.start()
    execute(flow.run)
    thread.join()


def test_run_goes_on_where_the_one_before_ended(tmp_path: Path, execute: Run) -> None:
    assert Flow(tmp_path / "s", 1, 1, 1).to_its_end(execute) == [1, 2, 3]
    assert Flow(tmp_path / "s", 1, 1).to_its_end(execute) == [4, 5]


def test_run_that_was_killed_leaves_a_state_to_go_on_with(tmp_path: Path, execute: Run) -> None:
    killed(tmp_path / "s", 1, 1, 1, execute=execute)
    after = Flow(tmp_path / "s", 1)
    assert after.to_its_end(execute) == [4]
    assert after.run.counters["in"].get("not_in_state") == 0


def test_what_came_after_the_last_state_is_counted(tmp_path: Path) -> None:
    killed(tmp_path / "s", 1, 1, 1)
    marks = tmp_path / "s" / "marks"
    content = bytearray(marks.read_bytes())
    content[-8] += 5  # as if killed five messages later
    marks.write_bytes(content)
    after = Flow(tmp_path / "s", 1)
    after.to_its_end(run_inline)
    assert after.run.counters["in"].get("not_in_state") == 5


def test_recording_that_is_over_leaves_no_state(tmp_path: Path, execute: Run) -> None:
    for _ in range(2):
        flow = Flow(tmp_path / "s", 1, 1, endless=False)
        execute(flow.run)
        assert [count for _, _, count in flow.sink.rows] == [1, 2]


def test_operator_that_goes_on_is_not_asked_for_what_it_holds(tmp_path: Path) -> None:
    def give_all(_config: Any, state: dict[str, Any]) -> Sequence[Any]:
        return [Alarm(source="end", severity="info", text=str(state), time_ns=0)]

    node = operator(count_by_device, end=give_all)
    stopped, over = Flow(tmp_path / "a", 1, node=node), Flow(tmp_path / "b", 1, node=node, endless=False)
    stopped.to_its_end(run_inline)
    run_inline(over.run)
    assert not stopped.sink.of_type(Alarm)
    assert [each.text for each in over.sink.of_type(Alarm)] == ["{'G1': 1}"]


@pytest.mark.parametrize("cut", [0, 10, 60, -1])
def test_damaged_state_is_set_aside_and_the_one_before_is_used(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / "s"
    Flow(folder, 1, 1).to_its_end(run_inline)
    (folder / "state.before").write_bytes((folder / "state").read_bytes())
    (folder / "state").write_bytes((folder / "state").read_bytes()[:cut])
    after = Flow(folder, 1)
    assert after.to_its_end(run_inline) == [3]
    assert after.run.counters[STATE].get("set_aside") == 1
    assert (folder / "state.aside").exists()


def test_both_states_damaged_begin_anew(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    Flow(folder, 1, 1).to_its_end(run_inline)
    for name in ("state", "state.before"):
        (folder / name).write_bytes(b"nonsense")
    after = Flow(folder, 1)
    assert after.to_its_end(run_inline) == [1]
    assert after.run.counters[STATE].get("set_aside") == 2


def test_state_that_cannot_be_read_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    Flow(folder, 1).to_its_end(run_inline)
    Flow(folder, 1).to_its_end(run_inline)
    state = folder / "state"
    state.rename(folder / "state.before")
    state.mkdir()  # stands for a sector that is broken
    after = Flow(folder, 1)
    assert after.to_its_end(run_inline) == [3]
    assert (folder / "state.aside").is_dir()


def test_what_was_set_aside_first_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for text in (b"first", b"second"):
        Flow(folder, 1).to_its_end(run_inline)
        (folder / "state").write_bytes(text)
        Flow(folder, 1).to_its_end(run_inline)
    assert (folder / "state.aside").read_bytes() == b"first"
    assert (folder / "state.aside.2").read_bytes() == b"second"


OTHERS: dict[str, dict[str, Any]] = {
    "its state is of version 1, and 'toy_operator' has version 2 now": {"state_version": 2},
    "its state is of kind 'toy_operator', and it is of kind 'other' now": {"kind": "other"},
}


@pytest.mark.parametrize("why", OTHERS)
def test_state_that_does_not_fit_is_dropped_and_said(
    tmp_path: Path, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    Flow(tmp_path / "s", 1).to_its_end(run_inline)
    after = Flow(tmp_path / "s", 1, node=replace(COUNTING, **OTHERS[why]))
    assert after.to_its_end(run_inline) == [1]
    assert after.run.counters["count"].get("states_dropped") == 1
    assert f"operator 'count' begins anew: {why}" in caplog.text


def test_state_that_does_not_read_is_dropped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = StateFolder(tmp_path / "s")
    Flow(folder.folder, 1).to_its_end(run_inline)
    found = folder.load()
    assert found is not None
    nodes = tuple(msgspec.structs.replace(each, pickled=b"cgone\nClass\n.") for each in found.nodes)
    folder.save(written(msgspec.structs.replace(found, nodes=nodes)))
    assert Flow(folder.folder, 1).to_its_end(run_inline) == [1]
    assert "it does not read: ModuleNotFoundError" in caplog.text


def test_numbers_may_change_and_lists_may_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counting = replace(COUNTING, config=ListConfig)
    as_before = ListConfig(limit=1.0, devices=("G1",))
    Flow(tmp_path / "s", 1, node=counting, config=as_before).to_its_end(run_inline)
    other_limit = msgspec.structs.replace(as_before, limit=2.0)
    assert Flow(tmp_path / "s", 1, node=counting, config=other_limit).to_its_end(run_inline) == [2]
    other_devices = msgspec.structs.replace(as_before, devices=("G1", "G2"))
    assert Flow(tmp_path / "s", 1, node=counting, config=other_devices).to_its_end(run_inline) == [1]
    assert "operator 'count' begins anew: other settings: devices" in caplog.text


def test_state_that_cannot_be_saved_costs_its_operator_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def hold_a_lock(config: Any, state: dict[str, Any], message: Any) -> Sequence[Any]:
        given = count_by_device(config, state, message)
        state["lock"] = threading.Lock()
        return given

    node = operator(hold_a_lock)
    Flow(tmp_path / "s", 1, node=node).to_its_end(run_inline)
    assert Flow(tmp_path / "s", 1, node=node).to_its_end(run_inline) == [1]
    assert "the state of operator 'count' cannot be saved: TypeError" in caplog.text


def test_state_of_another_number_of_workers_is_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Flow(tmp_path / "s", 1).to_its_end(run_inline)
    assert Flow(tmp_path / "s", 1).to_its_end(RUNTIMES["bytewax-2"]) == [1]
    assert "shared out devices in another way (one stage, now 2 shards)" in caplog.text


def test_state_goes_on_in_another_number_of_processes_with_as_many_shards(tmp_path: Path) -> None:
    def counts(execute: Run) -> dict[str, list[float]]:
        flow = Flow(tmp_path / "s")
        flow.source.script.append([samples_from_rows([(k, f"G{k % 9}", {"frequency_hz": 50.0}) for k in range(36)])])
        flow.wanted = 36
        flow.to_its_end(execute)
        return {name: [count for _, device, count in flow.sink.rows if device == name] for name in ("G0", "G4", "G8")}

    three = as_cluster(3, shards=4)
    for run_it, before in [
        (three, 0),
        (lambda run: run_bytewax(run, workers=4), 4),
        (as_cluster(2, workers=2), 8),
        (three, 12),
    ]:
        assert counts(run_it) == {name: [before + each for each in (1, 2, 3, 4)] for name in ("G0", "G4", "G8")}


def test_second_process_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "s")
    folder.open()
    with pytest.raises(FatalError, match="another process runs it"):
        run_inline(Flow(tmp_path / "s", 1).run)
    folder.close()
    assert Flow(tmp_path / "s", 1).to_its_end(run_inline) == [1]


def test_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "s").chmod(0o777)
    with pytest.raises(FatalError, match="others than this user may write it"):
        run_inline(Flow(tmp_path / "s", 1).run)


def test_flow_runs_without_a_folder_that_can_be_used_and_says_so(
    tmp_path: Path, execute: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    flow = Flow(tmp_path / "file" / "s", 1, 1)
    assert flow.to_its_end(execute) == [1, 2]
    assert flow.run.counters[STATE].get("not_saved")
    assert "the state cannot be saved" in caplog.text


def test_folder_that_vanishes_costs_no_message_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    flow = Flow(folder, *[1.0] * 3)
    flow.wanted = 4

    def meddle() -> None:
        saved = flow.run.counters[STATE]
        wait_until(lambda: saved.get("saved"))
        folder.rename(tmp_path / "away")
        flow.source.script.append([batch(1)])
        wait_until(lambda: saved.get("not_saved"))
        (tmp_path / "away").rename(folder)
        before = saved.get("saved")
        wait_until(lambda: saved.get("saved") > before)
        flow.run.stop()

    thread = threading.Thread(target=meddle)
    thread.start()
    run_inline(flow.run)
    thread.join()
    assert [count for _, _, count in flow.sink.rows] == [1, 2, 3, 4]
    assert Flow(folder, 1).to_its_end(run_inline) == [5]


def test_run_that_cannot_open_leaves_the_state_as_it_is(tmp_path: Path, execute: Run) -> None:
    Flow(tmp_path / "s", 1, 1).to_its_end(execute)
    failing = Flow(tmp_path / "s", 1)
    failing.source.open = _refuse  # type: ignore[method-assign]
    with pytest.raises(FatalError, match="the port is in use"):
        execute(failing.run)
    assert Flow(tmp_path / "s", 1).to_its_end(execute) == [3]


def _refuse() -> None:
    raise FatalError("the port is in use")


def test_run_that_is_stopped_while_it_waits_for_a_sink_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    Flow(tmp_path / "s", 1, 1).to_its_end(run_inline)
    waiting = Flow(tmp_path / "s")
    tries = threading.Event()

    def away() -> None:
        tries.set()
        raise RetryableError("the far side is away")

    waiting.sink.open = away  # type: ignore[method-assign]
    waiting.wanted = 1
    thread = threading.Thread(target=run_inline, args=(waiting.run,))
    thread.start()
    assert tries.wait(10.0)
    waiting.run.stop()
    thread.join()
    assert Flow(tmp_path / "s", 1).to_its_end(run_inline) == [3]


OTHER: Counting = replace(COUNTING, state_version=7)
FIRST, SECOND = StateUse(of="first"), StateUse(of="second")
"""One version after the other."""
TRIAL_OF_SECOND, TRIAL_OF_THIRD = StateUse("on_trial", "first"), StateUse("on_trial", "second")


def killed_at_once(folder: Path, use: StateUse) -> None:
    """Leave what a run leaves that is killed before it has saved anything."""
    opened = StateFolder(folder)
    opened.open(use)
    opened.take_up()
    opened.close()


def test_version_that_is_given_up_leaves_the_state_of_the_one_before(tmp_path: Path) -> None:
    Flow(tmp_path / "s", 1, 1, use=FIRST).to_its_end(run_inline)
    on_trial = Flow(tmp_path / "s", 1, 1, node=OTHER, use=TRIAL_OF_SECOND)
    assert on_trial.to_its_end(run_inline) == [1, 2]
    assert Flow(tmp_path / "s", 1, use=FIRST).to_its_end(run_inline) == [3]
    killed_at_once(tmp_path / "s", FIRST)  # and it is not put back once more
    assert Flow(tmp_path / "s", 1, use=FIRST).to_its_end(run_inline) == [4]


@pytest.mark.parametrize("dies", ["before it looks", "before it saves", "later"])
def test_what_was_kept_at_an_earlier_move_is_never_gone_back_to(tmp_path: Path, dies: str) -> None:
    folder = tmp_path / "s"
    Flow(folder, 1, 1, use=FIRST).to_its_end(run_inline)
    assert Flow(folder, 1, use=TRIAL_OF_SECOND).to_its_end(run_inline) == [3]  # and is the one that runs from then on
    assert (folder / f"{MOVED}.first").exists()
    if dies == "before it saves":
        killed_at_once(folder, TRIAL_OF_THIRD)
    elif dies == "later":
        Flow(folder, 1, 1, node=OTHER, use=TRIAL_OF_THIRD).to_its_end(run_inline)
    assert Flow(folder, 1, use=SECOND).to_its_end(run_inline) == [4]
    assert list(folder.glob(f"{MOVED}*")) == []


def test_next_version_on_trial_goes_on_with_what_was_kept_if_the_one_before_has_not_run_meanwhile(
    tmp_path: Path,
) -> None:
    Flow(tmp_path / "s", 1, 1, use=FIRST).to_its_end(run_inline)
    for _ in range(2):
        assert Flow(tmp_path / "s", 1, use=TRIAL_OF_SECOND).to_its_end(run_inline) == [3]
    assert Flow(tmp_path / "s", 1, use=FIRST).to_its_end(run_inline) == [3]


def test_what_is_kept_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for _ in range(2):
        Flow(folder, 1, use=FIRST).to_its_end(run_inline)
    (folder / "state.before").write_bytes((folder / "state").read_bytes())
    (folder / "state").write_bytes(b"damaged")
    Flow(folder, 1, 1, node=OTHER, use=TRIAL_OF_SECOND).to_its_end(run_inline)
    assert Flow(folder, 1, use=FIRST).to_its_end(run_inline) == [3]


@pytest.mark.parametrize("copies", [True, False], ids=["no links", "cannot be written"])
def test_version_on_trial_saves_nothing_before_what_it_goes_on_with_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    Flow(tmp_path / "s", 1, 1, use=FIRST).to_its_end(run_inline)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "hardlink_to", refuse)
        if not copies:
            patched.setattr(state_folder, "replace_durably", refuse)
        on_trial = Flow(tmp_path / "s", 1, use=TRIAL_OF_SECOND)
        assert on_trial.to_its_end(run_inline) == [3 if copies else 1]
        assert (on_trial.run.counters[STATE].get("not_saved") == 0) is copies
    assert Flow(tmp_path / "s", 1, use=FIRST).to_its_end(run_inline) == [3]


def test_what_could_not_be_put_back_is_not_put_back_over_what_was_saved_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    Flow(folder, 1, 1, use=FIRST).to_its_end(run_inline)
    Flow(folder, 1, use=TRIAL_OF_SECOND).to_its_end(run_inline)
    put_back = StateFolder._put_back
    fails = iter([True])

    def put_back_later(self: StateFolder) -> None:
        if next(fails, False):
            raise OSError(errno.EIO, "Input/output error")
        put_back(self)

    monkeypatch.setattr(StateFolder, "_put_back", put_back_later)
    assert Flow(folder, 1, use=FIRST).to_its_end(run_inline) == [1]
    assert Flow(folder, 1, use=FIRST).to_its_end(run_inline) == [2]


def test_state_with_which_a_flow_breaks_down_is_set_aside(tmp_path: Path) -> None:
    Flow(tmp_path / "s", 1, 1).to_its_end(run_inline)
    anew = Flow(tmp_path / "s", 1, use=StateUse("anew"))
    assert anew.to_its_end(run_inline) == [1]
    assert (tmp_path / "s" / "state.aside").exists()


def test_device_that_sends_nothing_for_a_run_keeps_its_count_with_several_workers(tmp_path: Path, execute: Run) -> None:
    both = Flow(tmp_path / "s", 1)
    both.source.script[0] = [samples_from_rows([(1, name, {"frequency_hz": 50.0}) for name in ("G1", "G2")])]
    both.to_its_end(execute)
    for _ in range(2):  # after two, nothing of the first is left but what is carried on
        Flow(tmp_path / "s", 1).to_its_end(execute)
    again = Flow(tmp_path / "s", 1)
    again.source.script[0] = [samples_from_rows([(9, "G2", {"frequency_hz": 50.0})])]
    assert again.to_its_end(execute) == [2]


def test_what_a_run_gave_that_was_killed_before_its_first_state_is_counted(tmp_path: Path) -> None:
    killed(tmp_path / "s", 1, 1, 1)
    state = (tmp_path / "s" / "state").read_bytes()
    Flow(tmp_path / "s", 1, 1).to_its_end(run_inline)
    (tmp_path / "s" / "state").write_bytes(state)  # as if that run had saved none
    after = Flow(tmp_path / "s", 1)
    assert after.to_its_end(run_inline) == [4]
    assert after.run.counters["in"].get("not_in_state") == 2
