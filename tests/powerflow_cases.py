"""The AC power flow of pandapower, for tests of what is faster."""

from __future__ import annotations

import copy

import numpy as np
import pandapower
from numpy.typing import NDArray

from edgeflex_services.powerflow_grid import Grid


def with_pandapower(grid: Grid, power_w: NDArray[np.float64], power_var: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voltages by node of the grid, computed from tables by pandapower itself."""
    net = copy.deepcopy(grid.net)
    for table in ("load", "sgen", "storage"):
        net[table] = net[table].iloc[:0]
    for bus, active_w, reactive_var in zip(grid.buses, power_w, power_var, strict=True):
        pandapower.create_load(net, int(bus), -active_w / 1e6, -reactive_var / 1e6)
    pandapower.runpp(net, tolerance_mva=1e-9)
    voltage_pu: NDArray[np.float64] = net.res_bus.vm_pu.loc[grid.buses].to_numpy()
    return voltage_pu
