"""Processes of a cluster find each other, work as one, and end together."""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from broker import wait_until
from clusters import as_cluster, cluster_here, members
from msgspec.structs import replace
from toy_nodes import CollectingSink, ScriptedSource, ToyConfig, batch, count_by_device, operator, plan, planned
from toy_nodes import sink as sink_node
from toy_nodes import source as source_node

from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.flowfile.cluster import ClusterConfig
from edgeflex_flow.flowfile.plan import Plan, PlannedNode
from edgeflex_flow.messages import Samples, samples_from_rows
from edgeflex_flow.node import SinkNode, SourceNode
from edgeflex_flow.runtime import cluster_link
from edgeflex_flow.runtime.bytewax import run_bytewax, run_in_cluster
from edgeflex_flow.runtime.cluster_head import Head
from edgeflex_flow.runtime.cluster_link import listens_on, versions
from edgeflex_flow.runtime.cluster_member import Member
from edgeflex_flow.runtime.run import FlowRun, InForce
from edgeflex_flow.runtime.sharding import InFlight

RECORDING = Path(__file__).parents[1] / "data" / "ieee39_load_step.npz"
TOY = plan(
    planned("in", source_node(ScriptedSource([], endless=True))),
    planned("count", operator(count_by_device), "in"),
    planned("out", sink_node(CollectingSink()), "count"),
)


def toy(source: ScriptedSource, sink: CollectingSink, step: Any = count_by_device) -> FlowRun:
    return FlowRun(
        plan(
            planned("in", source_node(source)),
            planned("op", operator(step), "in"),
            planned("out", sink_node(sink), "op"),
        )
    )


def devices(count: int, turns: int = 1) -> list[list[Any]]:
    return [
        [samples_from_rows([(turn, f"G{k}", {"frequency_hz": float(k)}) for k in range(count)])]
        for turn in range(turns)
    ]


# Results


def recorded_frequencies() -> list[list[Any]]:
    """The swing of ten machines, as PMUs would give it: 30 batches of half a second."""
    with np.load(RECORDING) as record:
        times_ns = np.round(record["t"] * 1e9).astype(np.int64)
        frequencies = record["bus_freq"].astype(float)
        names = [str(name) for name in record["gen"]]
    batches = []
    for part in np.array_split(np.arange(len(times_ns)), 30):
        rows = [
            (int(times_ns[k]), name, {"frequency_hz": float(frequencies[k, column])})
            for k in part
            for column, name in enumerate(names)
        ]
        batches.append([samples_from_rows(rows)])
    return batches


def on_record(flow: Plan) -> tuple[Plan, dict[str, CollectingSink]]:
    """The flow with the recording for its source, and sinks that collect."""
    sinks: dict[str, CollectingSink] = {}

    def replaced(node: PlannedNode) -> PlannedNode:
        if isinstance(node.node, SourceNode):
            made = source_node(ScriptedSource(recorded_frequencies()))
            return dataclasses.replace(node, node=made, config=ToyConfig())
        if isinstance(node.node, SinkNode):
            sinks[node.id] = CollectingSink()
            return dataclasses.replace(node, node=sink_node(sinks[node.id]), config=ToyConfig(), connections={})
        return node

    return dataclasses.replace(flow, nodes=tuple(map(replaced, flow.nodes)), policy_system=None), sinks


def results(sinks: Mapping[str, CollectingSink]) -> dict[str, Counter[Any]]:
    """What each sink took: rows with all their values, and messages."""
    told: dict[str, Counter[Any]] = {}
    for name, sink in sinks.items():
        counts = told[name] = Counter[Any]()
        for message in sink.messages:
            if isinstance(message, Samples):
                names = sorted(message.columns)
                columns: list[Any] = [message.quality, *(message.columns[name] for name in names)]
                for time_ns, code, *rest in zip(message.time_ns, message.device, *columns, strict=True):
                    counts[int(time_ns), message.devices[code], *names, *map(repr, rest)] += 1
            else:
                counts[msgspec.json.encode(message)] += 1
    return told


@pytest.mark.parametrize("processes", [2, 3])
def test_a_shipped_flow_gives_the_same_over_several_processes(processes: int) -> None:
    shipped = load_flow(
        shipped_flows() / "frequency_events.yaml",
        shipped_registry(),
        site=shipped_flows() / "sites" / "local.yaml",
    )

    def given(execute: Callable[[FlowRun], None]) -> dict[str, Counter[Any]]:
        flow, sinks = on_record(shipped)
        execute(FlowRun(flow))
        return results(sinks)

    alone = given(run_bytewax)
    assert sum(alone["alarm"].values()) == 20  # each machine's beginning and end
    assert sum(alone["archive"].values()) > 15_000
    assert given(as_cluster(processes)) == alone


def test_counters_of_all_processes_are_added() -> None:
    sink = CollectingSink()
    run = toy(ScriptedSource(devices(40, turns=5)), sink)
    as_cluster(3)(run)
    assert len(sink.rows) == 200
    summary = run.summary()
    assert summary["nodes"]["op"]["rows_out"] == 200
    assert summary["wires"]["in -> op.in"]["rows"] == 200
    assert run.counters["op"].get("rows_out") < 150  # others had their share


def test_what_a_policy_changes_holds_in_all_processes() -> None:
    seen = []

    def by_name(config: ToyConfig, _state: object, message: Samples) -> list[Samples]:
        return [message] if config.name == "go" else []

    source, sink = ScriptedSource([], endless=True), CollectingSink()
    run = toy(source, sink, by_name)
    cluster = cluster_here(2)

    def change() -> None:
        assert run.started.wait(20)
        run.in_force["op"] = InForce(ToyConfig(name="go"), {"p.f": "3"})
        wait_until(lambda: all(each.in_force["op"].config == ToyConfig(name="go") for each in runs))
        seen.append(runs[0].in_force["op"].policies)
        source.script.extend(devices(40))
        wait_until(lambda: len(sink.rows) == 40)
        run.stop()

    with members(run, cluster) as runs:
        changer = threading.Thread(target=change)
        changer.start()
        run_in_cluster(run, cluster, 0)
        changer.join()
    assert seen == [{"p.f": "3"}]


# Starting


def fails(run: FlowRun, cluster: ClusterConfig, process: int) -> str:
    with pytest.raises(FatalError) as caught:
        run_in_cluster(run, cluster, process)
    return str(caught.value)


def test_a_process_that_does_not_come_is_named() -> None:
    sink = CollectingSink()
    cluster = replace(cluster_here(3), wait=1.0)
    source = ScriptedSource([])
    told = fails(toy(source, sink), cluster, 0)
    assert told == (
        f"of the cluster process 1 ({cluster.processes[1]}), process 2 ({cluster.processes[2]}) did not come within 1 s"
    )
    assert source.opened == 0


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_whose_own_name_nobody_knows_says_so(process: int) -> None:
    processes = tuple(f"edge-{number}.no-such-host.invalid:9470" for number in range(2))
    told = fails(FlowRun(TOY), ClusterConfig(processes=processes, secret="hush", wait=1.0), process)
    assert told.startswith(f"the own address edge-{process}.no-such-host.invalid:9470 is not known: ")


def test_a_first_process_that_is_not_there_is_named() -> None:
    cluster = replace(cluster_here(2), wait=1.0)
    told = fails(FlowRun(TOY), cluster, 1)
    assert told.startswith(f"process 0 ({cluster.control}) of the cluster was not there within 1 s: ")


def refusal(other: FlowRun, cluster: ClusterConfig, process: int = 1) -> str:
    """What a process is told that comes to a cluster that waits."""
    run = FlowRun(TOY)
    head = threading.Thread(target=run_in_cluster, args=(run, cluster, 0))
    head.start()
    try:
        return fails(other, cluster, process)
    finally:
        run.stop()
        head.join()


def test_a_cluster_that_lost_a_process_before_it_began_ends_and_says_so() -> None:
    cluster = cluster_here(2)
    head = Head(FlowRun(TOY), cluster, InFlight())
    gathering = threading.Thread(target=head.gather)
    gathering.start()
    link = Member(FlowRun(TOY), cluster, 1, InFlight())._come()
    assert link is not None
    gathering.join()
    link.close()
    wait_until(lambda: not head._members)
    with pytest.raises(FatalError) as told:
        head.pass_messages(lambda: None, listens=lambda: True)
    assert str(told.value) == f"of the cluster process 1 ({cluster.processes[1]}) went away before it began"
    head.close()


def test_a_process_with_another_flow_is_refused() -> None:
    cluster = cluster_here(2)
    other = dataclasses.replace(TOY, nodes=TOY.nodes[:-1])
    told = refusal(FlowRun(other), cluster)
    assert told.startswith(f"process 0 ({cluster.control}) does not let process 1 in: it has flow 'toy' of digest ")
    assert "all need the same files and parameters" in told


def test_a_process_with_another_cluster_file_is_refused() -> None:
    cluster = cluster_here(2)
    run = FlowRun(TOY)
    head = threading.Thread(target=run_in_cluster, args=(run, cluster, 0))
    head.start()
    told = fails(FlowRun(TOY), replace(cluster, workers=2), 1)
    run.stop()
    head.join()
    assert told.endswith("its cluster file says something else than that of process 0")


def test_a_process_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeflex_flow.runtime.cluster_member.versions", lambda: {**versions(), "Python": "3.99"})
    assert f"Python is 3.99 there, and {versions()['Python']} at process 0" in refusal(FlowRun(TOY), cluster_here(2))


def test_a_process_with_another_secret_is_not_let_in(caplog: pytest.LogCaptureFixture) -> None:
    cluster = cluster_here(2)
    run = FlowRun(TOY)
    head = threading.Thread(target=run_in_cluster, args=(run, cluster, 0))
    head.start()
    with caplog.at_level(logging.INFO):
        told = fails(FlowRun(TOY), replace(cluster, secret="guessed", wait=1.0), 1)
    run.stop()
    head.join()
    assert told.endswith("does not let process 1 in: it has another secret")
    assert "127.0.0.1: has another secret: not let in" in caplog.text
    assert "guessed" not in caplog.text
    assert cluster.secret not in caplog.text


def test_who_does_not_know_the_secret_is_not_taken_for_process_0() -> None:
    cluster = replace(cluster_here(2), wait=1.0)

    def pretend(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            link = cluster_link.link_from(connection)
            link.say(cluster_link.new_challenge())
            hello = link.hear()
            assert isinstance(hello, cluster_link.Hello)
            link.say(cluster_link.welcome_for(hello, "guessed"))
            link.close()

    with socket.create_server(cluster.control) as listener:
        thread = threading.Thread(target=pretend, args=(listener,))
        thread.start()
        told = fails(FlowRun(TOY), cluster, 1)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert told.endswith("it does not know the secret of the cluster")


def test_a_second_process_of_the_same_number_is_refused_and_the_cluster_goes_on() -> None:
    cluster = cluster_here(2)
    source, sink = ScriptedSource([], endless=True), CollectingSink()
    run = toy(source, sink)
    told: list[str] = []

    def come_late() -> None:
        assert run.started.wait(20)
        told.append(fails(FlowRun(run.plan), cluster, 1))
        told.append(fails(FlowRun(run.plan), cluster, 0))
        source.script.extend(devices(20))
        wait_until(lambda: len(sink.rows) == 20)
        run.stop()

    with members(run, cluster):
        late = threading.Thread(target=come_late)
        late.start()
        run_in_cluster(run, cluster, 0)
        late.join()
    assert told[0].endswith("the cluster runs already: two processes have the number 1, or one came back alone")
    assert told[1].startswith(f"process 0 cannot listen on {cluster.control} to hear the other processes: ")


def test_strangers_who_connect_do_not_disturb(caplog: pytest.LogCaptureFixture) -> None:
    cluster = cluster_here(2)
    sink = CollectingSink()
    run = toy(ScriptedSource(devices(20)), sink)
    head = threading.Thread(target=run_in_cluster, args=(run, cluster, 0))
    head.start()
    for text in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\5hello", b"\0\0\0\1\xc1"):
        wait_until(lambda: _connects(cluster))
        with socket.create_connection(cluster.control) as stranger:
            stranger.sendall(text)
    with members(run, cluster):
        head.join()
    assert len(sink.rows) == 20


def _connects(cluster: ClusterConfig) -> bool:
    try:
        socket.create_connection(cluster.control).close()
    except OSError:
        return False
    return True


# Ending


def test_all_end_in_order_when_any_process_is_asked_to() -> None:
    source, sink = ScriptedSource(devices(20), endless=True), CollectingSink()
    run = toy(source, sink)
    cluster = cluster_here(3)

    def ask() -> None:
        wait_until(lambda: len(sink.rows) == 20)
        open_ports.extend(each for each in range(3) if listens_on(cluster.address(each).port))
        runs[1].stop()

    open_ports: list[int] = []

    with members(run, cluster) as runs:
        asker = threading.Thread(target=ask)
        asker.start()
        run_in_cluster(run, cluster, 0)
        asker.join()
    assert sink.closed
    assert source.closed == 1
    assert open_ports == []  # nobody can come to the dataflow while it runs


def test_a_fatal_error_in_any_process_is_told_by_all() -> None:
    def fail_on(_config: object, _state: object, message: Samples) -> list[Samples]:
        if "G7" in message.devices and threading.current_thread() is not threading.main_thread():
            raise FatalError("seven")
        return [message]

    run = toy(ScriptedSource(devices(20), endless=True), CollectingSink(), fail_on)
    with pytest.raises(FatalError, match="seven"):
        as_cluster(2)(run)


def test_a_batch_of_one_device_needs_no_other_process() -> None:
    sink = CollectingSink()
    as_cluster(2)(toy(ScriptedSource([[batch(1.0, 2.0, 3.0)]]), sink))
    assert [value for _, _, value in sink.rows] == [1.0, 2.0, 3.0]
