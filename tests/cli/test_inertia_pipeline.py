"""Records from end to end: the detector finds the event, units and system are estimated, and faults are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeflex_connectors.recordings import read_recording
from edgeflex_flow.cli.estimate import estimate
from edgeflex_flow.cli.inertia_pipeline import Choice, RecordResult, estimate_record, settings_known
from edgeflex_flow.cli.recorded_units import unit_table
from edgeflex_services.swing_grid import random_grid, two_areas
from edgeflex_services.swing_record import PhaseJump, PmuFault, PmuNoise, PmuRecord, measure
from edgeflex_services.swing_simulator import LoadNoise, LoadStep, UnitTrip, simulate

DATA = Path(__file__).parents[1] / "data"
TRUTH = (
    "omega", "m_sys", "h", "d_sys", "ek_mws", "ek_all_mws", "event_time", "event_kind", "event_device", "event_mw",
    "tripped", "online",
)  # fmt: skip


def estimated(file: Path) -> RecordResult:
    recording = read_recording(file)
    units, _ = unit_table(recording.units, {})
    return estimate_record(recording.batches(), units, on_progress=lambda _rows: None)


def of_record(record: PmuRecord, folder: Path) -> RecordResult:
    """The estimate from what a flow would have got of the record; its file tells the units."""
    record.save(folder / "record.npz")
    units, _ = unit_table(read_recording(folder / "record.npz").units, {})
    return estimate_record(record.batches(frames=25, start_ns=0), units, on_progress=lambda _rows: None)


def statuses(result: RecordResult) -> dict[str, str]:
    return {device: unit.estimate.status for device, unit in result.units.items()}


def as_json(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(estimate, ["inertia", *map(str, arguments), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_command_gives_every_unit_and_the_system_with_intervals() -> None:
    found = as_json(DATA / "kundur_load_step.npz")["records"]["kundur_load_step"]
    assert found["event_time_s"] == pytest.approx(3.0, abs=0.05)
    assert found["system_ek_mws"] == pytest.approx(22_815, rel=0.02)
    low, high = found["system_ci95_mws"]
    assert low < 22_815 < high
    for unit in found["units"].values():
        assert unit["status"] == "ok"
        assert unit["ci95_low"] < unit["h_s"] < unit["ci95_high"]


def test_the_truth_in_a_record_is_never_read(tmp_path: Path) -> None:
    with np.load(DATA / "ieee39_load_step.npz") as record:
        fields = {name: record[name] for name in record.files if name not in TRUTH}
        assert len(fields) == len(record.files) - len(TRUTH)
    np.savez(tmp_path / "ieee39_load_step.npz", **fields)
    assert as_json(tmp_path / "ieee39_load_step.npz") == as_json(DATA / "ieee39_load_step.npz")


@pytest.mark.parametrize(("frames_per_s", "seed"), [(25, 1), (50, 2), (100, 3)])
def test_units_of_other_grids_are_estimated_at_any_frame_rate(tmp_path: Path, frames_per_s: int, seed: int) -> None:
    grid = random_grid(5, seed=seed)
    run = simulate(grid, 12.0, [LoadStep(at_s=4.0, load=0, power_mw=0.02 * sum(u.power_mw for u in grid.units))])
    result = of_record(measure(run, frames_per_s=frames_per_s, noise=PmuNoise(), seed=seed), tmp_path)
    errors = [
        abs(found.h_s / unit.inertia_s - 1.0)
        for unit in grid.units
        if (found := result.units[unit.name].estimate).h_s is not None
    ]
    assert set(statuses(result).values()) <= {"ok", "ill_conditioned"}
    assert len(errors) >= 4  # one may be too uncertain at 25 frames/s
    assert np.median(errors) < 0.05
    assert result.system is not None
    truth_mws = sum(unit.inertia_s * unit.rated_power_mva for unit in grid.units)
    assert result.system.kinetic_energy_mws == pytest.approx(truth_mws, rel=0.04)


def test_a_unit_that_trips_tells_the_lost_power(tmp_path: Path) -> None:
    grid = random_grid(6, seed=4)
    smallest = min(range(6), key=lambda k: grid.units[k].power_mw)
    result = of_record(measure(simulate(grid, 12.0, [UnitTrip(at_s=4.0, unit=smallest)]), frames_per_s=50), tmp_path)
    name = grid.units[smallest].name
    assert statuses(result)[name] == "tripped"
    assert result.system is not None
    assert result.system.tripped == (name,)
    assert result.system.lost_power_mw == pytest.approx(grid.units[smallest].power_mw, rel=0.05)
    assert result.system.kinetic_energy_from_lost_power_mws is not None


FAULTS = [
    (PmuFault(current_angle_negated=True), {"model_mismatch", "implausible", "phase_jump"}),
    (PmuFault(voltage_angle_negated=True), {"model_mismatch", "implausible", "phase_jump"}),
    (PmuFault(nan_share=0.5), {"bad_data", "no_data"}),
    (PmuFault(gaps_s=((4.2, 5.0),)), {"bad_data"}),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_faulty_pmu_costs_its_own_unit_only(tmp_path: Path, fault: PmuFault, expected: set[str]) -> None:
    run = simulate(two_areas(), 12.0, [LoadStep(at_s=4.0, load=0, power_mw=60.0)])
    result = of_record(measure(run, frames_per_s=50, noise=PmuNoise(), faults={1: fault}), tmp_path)
    found = list(statuses(result).values())
    assert found[1] in expected
    assert [found[0], *found[2:]] == ["ok"] * 3
    assert result.system is not None
    assert result.system.kinetic_energy_mws is None or result.system.assumed


def test_of_several_events_one_is_chosen_and_the_others_are_named(tmp_path: Path) -> None:
    steps = [LoadStep(at_s=4.0, load=0, power_mw=60.0), LoadStep(at_s=64.0, load=0, power_mw=-60.0)]
    record = measure(simulate(two_areas(), 72.0, steps), frames_per_s=25, noise=PmuNoise())
    record.save(tmp_path / "record.npz")
    units, _ = unit_table(read_recording(tmp_path / "record.npz").units, {})

    def chosen(choice: Choice) -> RecordResult:
        batches = record.batches(frames=25, start_ns=0)
        return estimate_record(batches, units, choice=choice, on_progress=lambda _rows: None)

    first, second = chosen(Choice()), chosen(Choice(event_s=60.0))
    assert first.event_time_s == pytest.approx(4.0, abs=0.1)
    assert second.event_time_s == pytest.approx(64.0, abs=0.1)
    assert first.other_events_s == (second.event_time_s,)
    assert second.other_events_s == (first.event_time_s,)


def test_settings_of_a_policy_give_its_estimate_again(tmp_path: Path) -> None:
    record = measure(simulate(two_areas(), 12.0, [LoadStep(at_s=4.0, load=0, power_mw=60.0)]), noise=PmuNoise())
    record.save(tmp_path / "record.npz")
    units, _ = unit_table(read_recording(tmp_path / "record.npz").units, {})
    strict = Choice(settings={"max_deviation": 0.01})
    result = estimate_record(
        record.batches(frames=25, start_ns=0), units, choice=strict, on_progress=lambda _rows: None
    )
    assert set(statuses(result).values()) == {"ill_conditioned"}
    assert {unit.estimate.settings["max_deviation"] for unit in result.units.values()} == {0.01}


def test_no_setting_of_two_nodes_has_the_same_name() -> None:
    fields = [name for config in set(settings_known().values()) for name in config.__struct_fields__]
    assert len(settings_known()) == len(fields) - 1  # `units` is none


@pytest.mark.parametrize("offset_s", [-0.4, 0.4])
def test_a_pmu_with_another_clock_is_remarked(tmp_path: Path, offset_s: float) -> None:
    run = simulate(two_areas(), 12.0, [LoadStep(at_s=4.0, load=0, power_mw=60.0)])
    fault = PmuFault(clock_offset_s=offset_s)
    result = of_record(measure(run, frames_per_s=50, noise=PmuNoise(), faults={0: fault}), tmp_path)
    first, *others = result.units.values()
    assert "clock_offset" in first.estimate.remarks or first.estimate.status != "ok"
    assert all("clock_offset" not in other.estimate.remarks for other in others)


@pytest.mark.parametrize("seed", range(4))
def test_load_noise_alone_is_no_event(tmp_path: Path, seed: int) -> None:
    run = simulate(random_grid(5, seed=seed), 15.0, noise=LoadNoise(share=0.01), seed=seed)
    result = of_record(measure(run, frames_per_s=50, noise=PmuNoise(), seed=seed), tmp_path)
    assert "ok" not in statuses(result).values()
    assert result.system is None or result.system.kinetic_energy_mws is None


@pytest.mark.parametrize("units", [None, (0,)])
def test_a_jump_of_phases_alone_is_no_event(tmp_path: Path, units: tuple[int, ...] | None) -> None:
    run = simulate(two_areas(), 12.0, noise=LoadNoise(share=0.002))
    jump = PhaseJump(at_s=5.0, angle_rad=float(np.radians(15.0)), units=units)
    assert (
        "ok" not in statuses(of_record(measure(run, frames_per_s=50, noise=PmuNoise(), jump=jump), tmp_path)).values()
    )


def test_a_record_without_event_says_so() -> None:
    result = estimate_record([], {}, on_progress=lambda _rows: None)
    assert result.units == {}
    assert result.system is None
