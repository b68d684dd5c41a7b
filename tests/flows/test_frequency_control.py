"""`frequency_control.yaml` in closed loop: on the grid's own time, and over a real broker beside its watchdog."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Listener, Mosquitto, wait_until
from msgspec.structs import replace as with_fields

from edgeflex_flow.cli.closed_loop import FlowInLoop, flow_in_loop
from edgeflex_flow.cli.kinds import shipped_registry
from edgeflex_flow.cli.places import shipped_flows
from edgeflex_flow.flowfile import load_flow
from edgeflex_flow.messages import Alarm, Quality, Samples, Setpoints, decode_message
from edgeflex_flow.runtime.policies import apply_policies
from edgeflex_services.broker import free_udp_port
from edgeflex_services.frequency_grid import FrequencyGridService, Inbox
from edgeflex_services.frequency_model import (
    Course,
    FrequencyGrid,
    Layout,
    LoadStep,
    React,
    close_loop,
    single_area,
    two_areas,
)

FLOWS = shipped_flows()
LOCAL = FLOWS / "sites" / "local.yaml"
STEP = LoadStep(at_s=5.0, area="north", power_w=50e6)
OFF: dict[str, dict[str, Any]] = {
    "droop": {"fcr_power": 0.0},
    "inertia": {"inertia": 0.0},
    "agc": {"lowest": 0.0, "highest": 0.0},
}
REFERENCE: dict[str, dict[str, Any]] = {
    "droop": {"dead_band": 0.0},
    "inertia": {"dead_band": 0.0},
    "agc": {"gain": 0.0},
}


@dataclass
class Loop:
    """The shipped flow on a grid of its own."""

    flow: FlowInLoop
    grid: FrequencyGrid
    told: list[Setpoints] = field(default_factory=list)

    def set(self, **configs: dict[str, Any]) -> None:
        for node, values in configs.items():
            self.flow.run.set_config(node, with_fields(self.flow.run.in_force[node].config, **values))

    def react(self, samples: Samples | None, now_ns: int) -> list[Setpoints]:
        told = self.flow.react(samples, now_ns)
        self.told += told
        return told

    def go_on(self, seconds: float, react: React | None = None) -> Course:
        return close_loop(self.grid, react or self.react, seconds)

    @property
    def alarms(self) -> list[str]:
        return [alarm.text for alarm in self.flow.alarms]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def flow(stack: ExitStack, **params: str) -> FlowInLoop:
    plan = load_flow(FLOWS / "frequency_control.yaml", shipped_registry(), site=LOCAL, params=params)
    return stack.enter_context(flow_in_loop(plan))


def loop(stack: ExitStack, layout: Layout | None = None, *, delay_s: float = 0.0) -> Loop:
    return Loop(flow(stack), FrequencyGrid(layout or single_area(), [STEP], delay_s=delay_s))


@pytest.mark.parametrize(
    ("off", "nadir_hz"),
    [(("droop", "inertia", "agc"), -0.272), (("inertia", "agc"), -0.141), (("agc",), -0.132)],
    ids=["none", "droop", "droop and inertia"],
)
def test_nadirs_are_those_of_the_reference_case(stack: ExitStack, off: tuple[str, ...], nadir_hz: float) -> None:
    made = loop(stack)
    made.set(**REFERENCE)
    made.set(**{node: OFF[node] for node in off})
    course = made.go_on(65.0)
    assert course.nadir_hz("north") == pytest.approx(nadir_hz, abs=0.0015)
    assert course.settled_s("north", 5.0) > 59.0
    assert made.alarms == []


def test_area_control_brings_the_reference_case_back_within_15_s(stack: ExitStack) -> None:
    made = loop(stack)
    made.set(**REFERENCE)
    course = made.go_on(60.0)
    assert course.nadir_hz("north") >= -0.132
    assert course.settled_s("north", 5.0) <= 15.0


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
def test_frequency_settles_within_15_s_and_does_not_hunt_whatever_the_delay(stack: ExitStack, delay_s: float) -> None:
    made = loop(stack, delay_s=delay_s)
    course = made.go_on(60.0)
    assert course.settled_s("north", 5.0) <= 15.0
    late = course.time_s > 30.0
    trend = np.polynomial.Polynomial.fit(course.time_s[late], course.deviation_hz("north")[late], 3)
    assert np.abs(course.deviation_hz("north")[late] - trend(course.time_s[late])).max() < 2e-3
    assert made.alarms == []


@pytest.mark.parametrize("area", ["north", "south"])
def test_exchange_of_two_areas_comes_back_and_the_area_of_the_event_bears_it(
    stack: ExitStack, tmp_path: Path, area: str
) -> None:
    plant = (FLOWS / "units" / "plant.yaml").read_text()
    (tmp_path / "south.yaml").write_text(plant.replace("north", "south"))
    flows = [flow(stack), flow(stack, area="south", plant=str(tmp_path / "south.yaml"))]
    grid = FrequencyGrid(two_areas(), [LoadStep(at_s=5.0, area=area, power_w=50e6)])
    course = close_loop(grid, lambda samples, now_ns: [s for each in flows for s in each.react(samples, now_ns)], 150.0)
    assert np.abs(course.exchange_w).max() > 10e6
    assert np.abs(course.exchange_w[-1]).max() < 2e6
    assert abs(course.deviation_hz(area)[-1]) < 2e-3
    own = [name.startswith(area) for name in course.resources]
    assert (course.power_w[-1] - course.power_w[0])[own].sum() == pytest.approx(50e6, abs=5e6)


def test_policy_moves_the_exchange_and_the_bounds(stack: ExitStack) -> None:
    made = loop(stack)
    made.go_on(2.0)
    apply_policies(made.flow.run, {"frequency_bounds": {"plant_highest": 10e6}})
    made.go_on(20.0)
    asked = [sum(each.values.values()) - 200e6 for each in made.told]
    assert max(asked) == pytest.approx(10e6)
    assert any("the units can give 1e+07 W" in text for text in made.alarms)


# ---- faults: each ends in the documented safe behaviour and an alarm


def spoilt(samples: Samples | None, **values: Any) -> Samples | None:
    return None if samples is None else with_fields(samples, **values)


def column(samples: Samples | None, change: Any) -> Samples | None:
    if samples is None:
        return None
    frequency_hz = change(samples.columns["frequency_hz"].copy())
    return with_fields(samples, columns={**samples.columns, "frequency_hz": frequency_hz})


FAULTS: dict[str, tuple[Any, str]] = {
    "missing": (lambda _samples: None, "s old"),
    "late": (lambda samples: spoilt(samples, time_ns=samples.time_ns - 6_000_000_000), "s old"),
    "nan": (lambda samples: column(samples, lambda hz: hz * math.nan), "not a number"),
    "frozen": (lambda samples: column(samples, lambda hz: hz * 0.0 + 49.93), "frozen at 49.93"),
    "millihertz": (lambda samples: column(samples, lambda hz: hz * 1e3), "is not plausible: outside 45 to 55"),
    "bad data": (lambda samples: spoilt(samples, quality=samples.quality | Quality.BAD_DATA), "flagged bad_data"),
    "test": (lambda samples: spoilt(samples, quality=samples.quality | Quality.TEST), "flagged test"),
    "ahead": (lambda samples: spoilt(samples, time_ns=samples.time_ns + 3_000_000_000), "from a clock that is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_measurements_that_cannot_be_relied_on_end_in_the_safe_state_and_alarms(stack: ExitStack, fault: str) -> None:
    made = loop(stack)
    made.go_on(9.0)
    before_w = sum(made.told[-1].values.values())
    assert before_w > 215e6
    spoil, why = FAULTS[fault]
    began_ns = made.grid.now_ns
    made.go_on(60.0, lambda samples, now_ns: made.react(spoil(samples), now_ns))
    last = made.told[-1]
    assert last.values == {"north_bess": 0.0, "north_chp": 200e6}
    assert (last.status, last.time_ns) == ("fallback", made.grid.now_ns)
    assert why in last.reason
    # Once when it is held, once when it is safe, of each controller; and the dispatch tells of them.
    for name in ("droop", "inertia", "agc"):
        told = [alarm for alarm in made.flow.alarms if alarm.source == name]
        assert [alarm.text.split(": ")[1] for alarm in told] == ["hold", "safe"], (name, told)
    assert made.flow.alarms[0].time_ns - began_ns < 12e9
    assert {alarm.severity for alarm in made.flow.alarms} == {"warning"}
    # And the frequency is seen again: all is normal, and that is told.
    made.flow.alarms.clear()
    made.go_on(20.0)
    assert made.told[-1].status == "ok"
    assert {alarm.source for alarm in made.flow.alarms if alarm.severity == "info"} == {
        "droop", "inertia", "agc", "dispatch"
    }  # fmt: skip


def test_policy_beyond_the_hardware_is_refused_and_the_last_good_one_stays(stack: ExitStack) -> None:
    made = loop(stack)
    run = made.flow.run
    apply_policies(run, {"frequency_bounds": {"highest": 100e6, "plant_highest": 300e6}})
    assert run.in_force["agc"].config.highest == 100e6  # type: ignore[attr-defined]
    made.set(agc={"maximum": 120e6})
    before = {name: each.config for name, each in run.in_force.items()}
    # Beyond the binding's own limits; then within them, but beyond what the hardware can.
    apply_policies(run, {"frequency_bounds": {"highest": 900e6, "plant_highest": 900e6}})
    apply_policies(run, {"frequency_bounds": {"highest": 150e6, "plant_highest": 300e6}})
    assert {name: each.config for name, each in run.in_force.items()} == before
    assert run.counters["agc"].get("policy_refused") == 2
    assert run.counters["dispatch"].get("policy_refused") == 1


def test_bounds_of_policies_that_contradict_each_other_are_refused(stack: ExitStack) -> None:
    made = loop(stack)
    made.set(agc={"lowest": 0.0, "highest": 0.0})
    with pytest.raises(ValueError, match=r"lowest .* is above highest"):
        made.set(agc={"lowest": 1.0})


def test_orderly_end_leaves_the_units_safe(stack: ExitStack) -> None:
    made = loop(stack)
    made.go_on(10.0)
    last = made.flow.end(made.grid.now_ns)[-1]
    assert (last.status, last.values) == ("safe", {"north_bess": 0.0, "north_chp": 200e6})
    made.grid.obey(last)
    made.go_on(1.5, lambda _samples, _now_ns: [])
    assert made.grid.counts.late == 0
    assert made.grid.course().power_w[-1] == pytest.approx([0.0, 200e6], abs=1e3)
    assert made.grid.counts.expired == 0


# ---- over a real broker


class Flow:
    """`edgeflex run` of a shipped flow in a process of its own."""

    def __init__(self, name: str, broker: Mosquitto, folder: Path, **params: object) -> None:
        folder.mkdir()
        given = {"mqtt_port": broker.port, "data_folder": folder, **params}
        settings = [text for key, value in given.items() for text in ("-D", f"{key}={value}")]
        command = [sys.executable, "-m", "edgeflex_flow", "run", str(FLOWS / name), "--site", str(LOCAL), *settings]
        self._log = (folder / f"{name}.log").open("ab")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=folder)

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30.0)
        self._log.close()
        return code


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as made:
        yield made


def of(listener: Listener, kind: str) -> list[Any]:
    known = (Setpoints, Alarm)
    return [decode_message(payload, known) for topic, payload in list(listener.received) if f"/{kind}/" in topic]


def grid_is_held(grid: FrequencyGrid) -> bool:
    """Whether the plant gives what the load took more."""
    return grid.time_s > 3.0 and grid.power_w > 210e6


@pytest.mark.long
def test_killed_flow_is_followed_by_the_safe_state_of_its_watchdog(broker: Mosquitto, tmp_path: Path) -> None:
    port, inbox = free_udp_port(), Inbox("127.0.0.1", broker.port, "edgeflex/local/setpoints/units")
    step = LoadStep(at_s=1.0, area="north", power_w=50e6)
    service, stop = FrequencyGridService("127.0.0.1", port, events=[step], inbox=inbox), threading.Event()
    grid = service.grid
    serving = threading.Thread(target=service.run, args=(stop,))
    with Listener(broker, "edgeflex/local/#") as listener:
        control = Flow("frequency_control.yaml", broker, tmp_path / "control", pmu_port=port)
        watchdog = Flow("setpoint_watchdog.yaml", broker, tmp_path / "watchdog")
        try:
            wait_until(lambda: Path(tmp_path / "control" / "history.db").exists(), 60.0)
            serving.start()
            wait_until(lambda: grid_is_held(grid), 60.0)
            wait_until(lambda: Path(tmp_path / "watchdog" / "history.db").exists(), 60.0)
            time.sleep(1.0)
            control.end(signal.SIGKILL)
            killed_s = grid.time_s
            wait_until(lambda: any(told.status == "safe" for told in of(listener, "setpoints")))
            wait_until(lambda: grid.time_s > killed_s + 4.0)
        finally:
            stop.set()
            serving.join()
            inbox.close()
            codes = control.end(signal.SIGKILL), watchdog.end(signal.SIGTERM)
    assert codes == (-signal.SIGKILL, 0)
    critical = [alarm for alarm in of(listener, "alarm") if alarm.severity == "critical"]
    assert {alarm.source for alarm in critical} == {"watchdog"}
    assert critical[-1].time_ns > grid.start_ns + round(killed_s * 1e9)
    # From the last set-point of the killed flow to the safe state, without a gap in which nothing was in force.
    assert grid.counts.expired == 0
    course = service.course()
    assert course.power_w[course.time_s < killed_s].sum(axis=1).max() > 210e6
    assert course.power_w[-1] == pytest.approx([0.0, 200e6], abs=1e3)


@pytest.mark.long
def test_broker_that_is_away_in_the_middle_of_a_step_brings_no_old_set_point(broker: Mosquitto, tmp_path: Path) -> None:
    port, inbox = free_udp_port(), Inbox("127.0.0.1", broker.port, "edgeflex/local/setpoints/units")
    step = LoadStep(at_s=1.0, area="north", power_w=50e6)
    service, stop = FrequencyGridService("127.0.0.1", port, events=[step], inbox=inbox), threading.Event()
    grid = service.grid
    serving = threading.Thread(target=service.run, args=(stop,))
    control = Flow("frequency_control.yaml", broker, tmp_path / "control", pmu_port=port)
    try:
        wait_until(lambda: Path(tmp_path / "control" / "history.db").exists(), 60.0)
        serving.start()
        wait_until(lambda: grid_is_held(grid), 60.0)
        broker.kill()
        wait_until(lambda: grid.counts.expired == 2)  # back on their schedule, 2 s after the last set-point
        away_s = grid.time_s
        time.sleep(2.0)
        with Listener(restarted(broker), "edgeflex/local/setpoints/units") as listener:
            obeyed = grid.counts.obeyed
            wait_until(lambda: grid.counts.obeyed > obeyed + 40, 30.0)
            wait_until(lambda: grid_is_held(grid))
            received_ns = time.time_ns()
            told = of(listener, "setpoints")
    finally:
        stop.set()
        serving.join()
        inbox.close()
        code = control.end(signal.SIGTERM)
    assert code == 0
    assert grid.counts.late == 0
    assert min(each.time_ns for each in told) > received_ns - 12_000_000_000
    oldest_s = (min(each.time_ns for each in told) - grid.start_ns) / 1e9
    assert oldest_s > away_s  # nothing of the time before the broker came back, beyond its validity
    course = service.course()
    between = (course.time_s > away_s + 0.5) & (course.time_s < oldest_s)
    assert course.power_w[between] == pytest.approx(np.tile([0.0, 200e6], (int(between.sum()), 1)), abs=1e4)


def restarted(broker: Mosquitto) -> Mosquitto:
    broker.start()
    return broker
