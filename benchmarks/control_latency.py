"""How long a measurement takes to become a set-point, over a real broker: `python -m benchmarks.control_latency`.

The shipped flows run as `edgeflex run` runs them, in a process of their own; what measures and what obeys is here.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.progress import track

from benchmarks.children import child
from benchmarks.control_frequency import plan_of
from benchmarks.control_voltage import Operator, config_of
from benchmarks.mqtt import running_broker
from benchmarks.report import Report
from edgeflex_flow.cli.closed_loop import flow_in_loop
from edgeflex_flow.cli.pictures import plain_frame
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.node import OperatorNode, WireMessage
from edgeflex_operators._qp import Solver
from edgeflex_services.broker import free_udp_port, hang_up
from edgeflex_services.frequency_model import FrequencyGrid, close_loop, single_area
from edgeflex_services.powerflow_grid import make_grid
from edgeflex_services.powerflow_plant import Plant
from edgeflex_services.profiles import make_profiles

FLOWS = Path(__file__).parent.parent / "flows"
ROUNDS = 200
PAUSE_S = 0.6
"""Longer than the flow's `settle`, after which measurements show the last set-points."""
FRAMES_S = 30.0
SUN, VOLTAGE = "/voltage_control/measuremnts/pv", "/voltage_control/measuremnts/voltage"
REACTIVE = "/voltage_control/control/reactive_power"

CONTROLLERS = ("droop", "inertia", "agc", "dispatch")

Arrival = tuple[int, bytes]
"""When a message came, nanoseconds of the clock, and what it holds."""


@contextmanager
def listening(port: int, topic: str) -> Iterator[tuple[Client, SimpleQueue[Arrival]]]:
    """A client that publishes, and puts what comes on a topic into a queue."""
    arrived: SimpleQueue[Arrival] = SimpleQueue()

    def keep(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        arrived.put((time.time_ns(), bytes(message.payload)))

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = keep
    client.connect("127.0.0.1", port)
    connection = client.socket()
    assert isinstance(connection, socket.socket)
    # Else the second of two messages waits 40 ms for the acknowledgement of the first.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.subscribe(topic)
    client.loop_start()
    try:
        yield client, arrived
    finally:
        hang_up(client)


def flow(name: str, **params: object) -> list[str]:
    """Arguments that run a shipped flow."""
    arguments = ["-m", "edgeflex_flow", "run", str(FLOWS / name), "--site", str(FLOWS / "sites" / "local.yaml")]
    return arguments + [part for key, value in params.items() for part in ("-D", f"{key}={value}")]


def measure_voltage(report: Report, port: int, folder: str) -> list[float]:
    grid = make_grid("kerber")
    plant = Plant(grid)
    measured = plant.step(0.0)
    sun = dict(zip(grid.inverters.names, (measured.available_w / grid.power_base_w).tolist(), strict=True))
    random = np.random.default_rng(1)

    def publish(client: Client) -> int:
        begun_ns = time.time_ns()
        values = measured.voltage_pu + random.normal(0.0, 1e-3, len(grid.nodes))
        voltages = dict(zip(grid.nodes, values.tolist(), strict=True))
        client.publish(SUN, json.dumps({"pv_input_measurements": sun, "time_ns": begun_ns}))
        sent_ns = time.time_ns()
        client.publish(VOLTAGE, json.dumps({"voltage_measurements": voltages, "time_ns": begun_ns}))
        return sent_ns

    latencies_ms: list[float] = []
    with (
        child(flow("voltage_control.yaml", mqtt_port=port, data_folder=folder, log_file=f"{folder}/log.jsonl")),
        listening(port, REACTIVE) as (client, arrived),
    ):
        first(lambda: publish(client), arrived)
        for _ in track(range(ROUNDS), "voltages"):
            time.sleep(PAUSE_S)
            clear(arrived)
            sent_ns = publish(client)
            came_ns, _ = arrived.get(timeout=10.0)
            latencies_ms.append((came_ns - sent_ns) / 1e6)
    section = "voltage_control: voltages of 30 nodes published until set-points of 14 inverters received"
    add_percentiles(report, section, "all", latencies_ms)
    _measure_alone(report, section)
    return latencies_ms


def _measure_alone(report: Report, section: str) -> None:
    grid = make_grid("kerber")
    inputs = make_profiles(grid, "constant").at(0.0)
    operator, plant = Operator(config_of(grid, inputs)), Plant(grid)
    solver_s: list[float] = []
    solve = Solver.solve

    def timed(solver: Solver, program: object) -> object:
        began_s = time.perf_counter()
        try:
            return solve(solver, program)  # type: ignore[arg-type]
        finally:
            solver_s.append(time.perf_counter() - began_s)

    Solver.solve = timed  # type: ignore[method-assign, assignment]
    try:
        for number in range(200):
            operator(plant, plant.step(float(number)), float(number))
    finally:
        Solver.solve = solve  # type: ignore[method-assign]
    report.add(section, "one step of the operator alone", "ms", [1e3 * float(np.median(operator.seconds[1:]))])
    report.add(section, "of that the solver", "ms", [1e3 * float(np.median(solver_s[1:]))])


def measure_frequency(report: Report, port: int, folder: str) -> dict[str, list[float]]:
    pmu_port = free_udp_port()
    grid = ["-m", "edgeflex_flow", "serve", "frequency-grid", "--port", str(pmu_port)]
    grid += ["--mqtt", f"127.0.0.1:{port}", "--seconds", str(FRAMES_S + 20.0)]
    ages: dict[str, list[float]] = {}
    with (
        child(flow("frequency_control.yaml", mqtt_port=port, data_folder=folder, pmu_port=pmu_port)),
        listening(port, "edgeflex/local/setpoints/#") as (_, arrived),
        child(grid),
    ):
        while json.loads(arrived.get(timeout=30.0)[1])["measured_end_ns"] is None:
            continue  # no frame has come yet
        time.sleep(3.0)
        clear(arrived)
        until_s = time.monotonic() + FRAMES_S
        while time.monotonic() < until_s:
            came_ns, payload = arrived.get(timeout=5.0)
            told = json.loads(payload)
            ages.setdefault(told["controller"], []).append((came_ns - told["measured_end_ns"]) / 1e6)
    section = "frequency_control: time tag of the newest frame until the set-point that it had a part in was received"
    for controller in CONTROLLERS:
        add_percentiles(report, section, controller, ages[controller])
    for name, seconds in ticks_alone().items():
        report.add(section, f"one decision of {name} alone", "ms", [1e3 * float(np.median(seconds))])
    report.notes.append(
        "Droop, inertia and dispatch decide each 50 ms, agc each second, with what came by then: 0 to 20 ms, the time "
        "between two frames, and the way of the frame are in it."
    )
    return {f"{name}, from the time tag of the frame": values for name, values in ages.items()}


def ticks_alone() -> dict[str, list[float]]:
    """By controller, how long its decisions take in closed loop with the grid, s."""
    taken: dict[str, list[float]] = {name: [] for name in CONTROLLERS}

    def timed(planned: PlannedNode) -> PlannedNode:
        node = planned.node
        if planned.id not in taken or not isinstance(node, OperatorNode) or node.tick is None:
            return planned
        tick = node.tick

        def tick_timed(config: Any, state: Any, now_ns: int) -> Sequence[WireMessage]:
            began_s = time.perf_counter()
            told = tick(config, state, now_ns)
            taken[planned.id].append(time.perf_counter() - began_s)
            return told

        return replace(planned, node=replace(node, tick=tick_timed))

    plan = plan_of()
    with flow_in_loop(replace(plan, nodes=tuple(timed(each) for each in plan.nodes))) as loop:
        close_loop(FrequencyGrid(single_area()), loop.react, 30.0)
    return taken


def first(publish: Callable[[], int], arrived: SimpleQueue[Arrival]) -> None:
    """Publish until the flow runs and answers."""
    for _ in range(60):
        publish()
        try:
            arrived.get(timeout=1.0)
        except Empty:
            continue
        return
    raise click.ClickException("the flow gives no set-points")


def clear(arrived: SimpleQueue[Arrival]) -> None:
    while not arrived.empty():
        arrived.get()


def add_percentiles(report: Report, section: str, name: str, latencies_ms: list[float]) -> None:
    for percent in (50, 99, 100):
        told = "largest" if percent == 100 else f"p{percent}"
        report.add(
            section, f"{name}, {told} of {len(latencies_ms)}", "ms", [float(np.percentile(latencies_ms, percent))]
        )


def draw(panel: Any, latencies_ms: dict[str, list[float]]) -> None:
    """What share of all came within a time."""
    for name, values in latencies_ms.items():
        panel.plot(np.sort(values), 100.0 * (np.arange(len(values)) + 1.0) / len(values), label=name)
    panel.set_ylabel("% came within")
    panel.set_xlim(left=0.0)
    panel.legend(fontsize=8, frameon=False, loc="lower right")
    plain_frame(panel)


def main() -> None:
    report = Report("control-latency", command="python -m benchmarks.control_latency")
    with running_broker() as broker, tempfile.TemporaryDirectory() as folder:
        voltage = measure_voltage(report, broker.port, folder)
        frequency = measure_frequency(report, broker.port, folder)
    report.figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    draw(report.figure.subplots(), {"voltage_control, from the voltages": voltage, **frequency})
    report.figure.axes[0].set_xlabel("ms until the set-points were received")
    report.show(Console())
    report.save()


if __name__ == "__main__":
    main()
