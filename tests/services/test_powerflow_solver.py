from __future__ import annotations

import time

import numpy as np
import pytest
from powerflow_cases import with_pandapower

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import make_grid
from edgeflex_services.powerflow_plant import Plant
from edgeflex_services.powerflow_solver import AcSolver
from edgeflex_services.profiles import make_profiles

GRIDS = [
    "kerber",
    "cigre_lv",
    "cigre_mv",
    pytest.param("simbench:1-LV-rural1--0-sw", marks=pytest.mark.long),
    pytest.param("simbench:1-MV-rural--1-sw", marks=pytest.mark.long),
]


@pytest.mark.parametrize("name", GRIDS)
def test_voltages_are_those_of_pandapower(name: str) -> None:
    grid = make_grid(name)
    random = np.random.default_rng(1)
    solver = AcSolver(grid)
    for share in (0.0, 0.4, 1.0):
        power_w = grid.steady_w - grid.load_w * random.random(len(grid.nodes))
        power_w[grid.inverters.node] += share * grid.inverters.rated_w
        power_var = -grid.load_var * random.random(len(grid.nodes))
        expected_pu = with_pandapower(grid, power_w, power_var)
        assert solver.voltages_pu(power_w, power_var) == pytest.approx(expected_pu, abs=1e-8)


def test_more_than_the_grid_carries_is_told() -> None:
    grid = make_grid("kerber")
    solver = AcSolver(grid)
    with pytest.raises(FatalError, match="the power flow has no solution: -30800 kW and 0 kvar"):
        solver.voltages_pu(-30.8e6 / 29 * np.ones(29), np.zeros(29))
    # The next one begins where the last good one ended.
    assert solver.voltages_pu(np.zeros(29), np.zeros(29)) == pytest.approx(1.0, abs=1e-3)


def test_a_step_takes_less_than_ten_milliseconds() -> None:
    grid = make_grid("kerber")
    plant = Plant(grid, make_profiles(grid, "cloudy"))
    plant.step(0.0)
    begin_s = time.process_time()
    for minute in range(200):
        plant.step(60.0 * minute)
    assert time.process_time() - begin_s < 200 * 0.010
