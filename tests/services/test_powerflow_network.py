from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from powerflow_cases import with_pandapower
from ruamel.yaml import YAML

from edgeflex_flow.errors import FatalError
from edgeflex_flow.units import parse_quantity
from edgeflex_services.powerflow_grid import Grid, make_grid
from edgeflex_services.powerflow_network import Branch, network, radial_branches, sensitivities, write_network
from edgeflex_services.profiles import Inputs, make_profiles


def path_ohm(grid: Grid, bus: int) -> tuple[float, float]:
    """Resistance and reactance between the slack and a bus."""
    found = radial_branches(grid)
    assert found is not None
    into: dict[int, Branch] = {branch.to_bus: branch for branch in found}
    resistance_ohm = reactance_ohm = 0.0
    while bus in into:
        resistance_ohm += into[bus].resistance_ohm
        reactance_ohm += into[bus].reactance_ohm
        bus = into[bus].from_bus
    return resistance_ohm, reactance_ohm


@pytest.mark.long
@pytest.mark.parametrize("name", ["kerber", "cigre_lv"])
def test_sensitivities_predict_what_a_kilowatt_does_within_5_percent(name: str) -> None:
    grid = make_grid(name)
    inputs = make_profiles(grid, "clear").at(13 * 3600.0)
    found = sensitivities(grid, inputs)
    power_w = grid.steady_w - inputs.load_w
    power_w[grid.inverters.node] += inputs.available_w
    before_pu = with_pandapower(grid, power_w, -inputs.load_var)
    for number, asset in enumerate(found.assets):
        step_w = np.where(np.array(grid.nodes) == asset, 1000.0, 0.0)
        step_pu = 1000.0 / grid.power_base_w
        for predicted, after_pu in (
            (found.active[:, number], with_pandapower(grid, power_w + step_w, -inputs.load_var)),
            (found.reactive[:, number], with_pandapower(grid, power_w, step_w - inputs.load_var)),
        ):
            # What moves by less than 10 millionths is of other feeders.
            moved = np.abs(after_pu - before_pu) > 1e-5
            assert moved.any()
            assert step_pu * predicted[moved] == pytest.approx((after_pu - before_pu)[moved], rel=0.05)


def test_lindistflow_of_cigre_lv_is_as_the_reference_states() -> None:
    grid = make_grid("cigre_lv")
    for bus in grid.buses[grid.inverters.node]:
        resistance_ohm, reactance_ohm = path_ohm(grid, int(bus))
        assert 2.3e-5 < resistance_ohm * 1e3 / 400.0**2 < 9.5e-4
        assert 0.25 < reactance_ohm / resistance_ohm < 0.55
    transformer_ohm = path_ohm(grid, 2)
    assert transformer_ohm[1] / transformer_ohm[0] == pytest.approx(4.0)


def test_sensitivity_at_the_nominal_load_of_cigre_lv_is_as_the_reference_states() -> None:
    grid = make_grid("cigre_lv")
    found = sensitivities(grid, Inputs(grid.load_w, grid.load_var, np.zeros(5)))
    own = [found.active[grid.nodes.index(asset), number] for number, asset in enumerate(found.assets)]
    assert max(own) / grid.power_base_kva == pytest.approx(9.5e-4, rel=0.01)
    reactive = found.reactive[grid.nodes.index("node_17"), found.assets.index("node_17")]
    assert reactive / max(own) == pytest.approx(0.26, abs=0.015)


def test_lindistflow_is_near_the_ac_power_flow_without_load() -> None:
    grid = make_grid("kerber")
    found = sensitivities(grid, Inputs(0.0 * grid.load_w, 0.0 * grid.load_var, np.zeros(14)))
    resistance_ohm, reactance_ohm = path_ohm(grid, 25)
    per_pu = 1e3 * grid.power_base_kva / 400.0**2
    at = grid.nodes.index("node_26"), found.assets.index("node_26")
    assert found.active[at] == pytest.approx(per_pu * resistance_ohm, rel=0.02)
    assert found.reactive[at] == pytest.approx(per_pu * reactance_ohm, rel=0.02)


def test_branches_lead_from_the_slack_to_every_node() -> None:
    for name in ("kerber", "cigre_lv", "cigre_mv"):
        grid = make_grid(name)
        branches = radial_branches(grid)
        assert branches is not None
        assert {branch.to_bus for branch in branches} == set(grid.buses)
        reached = {int(grid.net.ext_grid.bus.iloc[0])}
        for branch in branches:
            assert branch.from_bus in reached
            reached.add(branch.to_bus)


def test_a_ring_has_no_radial_branches() -> None:
    grid = make_grid("cigre_mv")
    grid.net.switch["closed"] = True
    assert radial_branches(grid) is None
    inputs = make_profiles(grid, "constant").at(0.0)
    assert "branches" not in network(grid, inputs)


def test_tables_are_those_that_a_controller_reads(tmp_path: Path) -> None:
    grid = make_grid("cigre_lv", storage_kwh=0.0)
    files = write_network(tmp_path / "lv", grid, make_profiles(grid, "constant").at(0.0))
    assert [file.name for file in files] == ["inverters.yaml", "branches.yaml", "sensitivities.yaml"]
    assert "power_base: 100 kVA, voltage_base: 400 V" in files[0].read_text()
    inverters, branches, sensitivities_of = (YAML(typ="safe").load(file) for file in files)
    assert inverters["node_17"] == {
        "rated_power": "109.091 kVA",
        "min_power_factor": 0.9,
        "storage": {
            "capacity": "50 kWh",
            "max_charge": "25 kW",
            "max_discharge": "25 kW",
            "lowest": 0.1,
            "highest": 0.9,
            "efficiency": 0.95,
        },
    }
    # 35 m of UG1 with 0.162 ohm/km.
    line = branches["line_1"]
    assert (line["from"], line["to"]) == ("node_3", "node_4")
    assert parse_quantity(line["resistance"], "ohm") == pytest.approx(0.035 * 0.162)
    row = sensitivities_of["node_17"]
    assert row["voltage_per_active_power"]["node_17"] > row["voltage_per_active_power"]["node_13"] > 0.0
    assert row["voltage_per_reactive_power"]["node_17"] > 0.0


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    grid = make_grid("kerber")
    with pytest.raises(FatalError, match=r"inverters\.yaml' cannot be written: No such file or directory"):
        write_network(tmp_path / "none" / "grid", grid, make_profiles(grid, "constant").at(0.0))
