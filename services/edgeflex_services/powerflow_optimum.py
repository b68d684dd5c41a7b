"""The optimal power flow of a grid: what a control that knows everything would do, to compare others with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pandapower
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import Grid
from edgeflex_services.powerflow_plant import V_MAX_PU, V_MIN_PU
from edgeflex_services.profiles import Inputs

Aim: TypeAlias = Literal["energy", "squares"]
SLACK_ROOM_PU: Final = 0.5
"""Bounds of the voltage that external grids hold anyway: wide, as the solver wants an inner point."""
TOLERANCES: Final[dict[str, Any]] = {
    "PDIPM_COMPTOL": 1e-9,
    "PDIPM_COSTTOL": 1e-9,
    "PDIPM_GRADTOL": 1e-8,
    "PDIPM_FEASTOL": 1e-8,
}
"""With those of pandapower, and costs near 1, the least curtailing of the Kerber feeder comes out a fifth too high."""
COST_A_MW: Final = 1e3
COST_A_MW2: Final = 1e5


@dataclass(frozen=True)
class Optimum:
    """Set-points that keep all voltages within limits, by inverter of the grid, and what comes of them."""

    curtailed_w: NDArray[np.float64]
    reactive_var: NDArray[np.float64]
    voltage_pu: NDArray[np.float64]
    """By node of the grid."""


def optimum(
    grid: Grid,
    inputs: Inputs,
    storage_w: NDArray[np.float64] | None = None,
    *,
    aim: Aim = "energy",
    v_min_pu: float = V_MIN_PU,
    v_max_pu: float = V_MAX_PU,
) -> Optimum:
    """The least curtailing of all inverters with reactive power within `Inverters.most_var`, by pandapower's `runopp`.

    `aim` energy takes the least sum of curtailed power; squares the least sum of its squares, which curtails more but
    shares it out, as controllers with quadratic costs do. `storage_w` is what storages discharge meanwhile. Limits of
    currents are left out, as voltage controllers know none.

    Raises FatalError when nothing keeps the voltages within limits.
    """
    net, rows = _problem(grid, inputs, storage_w)
    net.bus["min_vm_pu"], net.bus["max_vm_pu"] = v_min_pu, v_max_pu
    net.bus.loc[net.ext_grid.bus, ["min_vm_pu", "max_vm_pu"]] = 1.0 - SLACK_ROOM_PU, 1.0 + SLACK_ROOM_PU
    for row, available_w in zip(rows, inputs.available_w, strict=True):
        available_mw = available_w / 1e6
        if aim == "energy":
            pandapower.create_poly_cost(net, row, "sgen", cp1_eur_per_mw=-COST_A_MW)
        else:
            # (available − p)², but for what is constant.
            costs = {"cp1_eur_per_mw": -2.0 * COST_A_MW2 * available_mw, "cp2_eur_per_mw2": COST_A_MW2}
            pandapower.create_poly_cost(net, row, "sgen", **costs)
    try:
        # The angles that vector groups turn are of no meaning here, and keep the solver from converging.
        pandapower.runopp(net, calculate_voltage_angles=False, **TOLERANCES)
    except pandapower.OPFNotConverged as error:
        text = f"no set-points of the inverters keep grid '{grid.name}' from {v_min_pu:g} to {v_max_pu:g} pu"
        raise FatalError(text) from error
    return Optimum(
        curtailed_w=inputs.available_w - 1e6 * net.res_sgen.p_mw.loc[rows].to_numpy(),
        reactive_var=1e6 * net.res_sgen.q_mvar.loc[rows].to_numpy(),
        voltage_pu=net.res_bus.vm_pu.loc[grid.buses].to_numpy(),
    )


def _problem(grid: Grid, inputs: Inputs, storage_w: NDArray[np.float64] | None) -> tuple[Any, list[Any]]:
    """The network with these powers, one load a node and one generator to choose an inverter; rows of the latter."""
    net = copy.deepcopy(grid.net)
    for table in ("load", "sgen", "storage", "poly_cost", "pwl_cost"):
        net[table] = net[table].iloc[:0]
    for table in ("line", "trafo"):
        net[table] = net[table].drop(columns="max_loading_percent", errors="ignore")
    load_w = inputs.load_w - grid.steady_w
    if storage_w is not None:
        load_w[grid.storages.node] -= storage_w
    for bus, active_w, reactive_var in zip(grid.buses, load_w, inputs.load_var, strict=True):
        pandapower.create_load(net, bus, active_w / 1e6, reactive_var / 1e6)
    most_var = grid.inverters.most_var(inputs.available_w)
    rows = [
        pandapower.create_sgen(
            net,
            int(grid.buses[node]),
            available_w / 1e6,
            min_p_mw=0.0,
            max_p_mw=available_w / 1e6,
            min_q_mvar=-limit_var / 1e6,
            max_q_mvar=limit_var / 1e6,
            controllable=True,
        )
        for node, available_w, limit_var in zip(grid.inverters.node, inputs.available_w, most_var, strict=True)
    ]
    return net, rows
