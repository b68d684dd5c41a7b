"""The AC power flow of a grid, without the tables that cost pandapower milliseconds a step."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandapower
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import Grid

TOLERANCE_PU: Final = 1e-12
MOST_ITERATIONS: Final = 500


class AcSolver:
    """Voltages of a grid's nodes from the powers into them.

    Iterates v ← w + Z·conj(s/v) over the buses that no external grid holds, Z being the inverse of their part of
    pandapower's admittance matrix and w the voltages without load. It converges linearly wherever a distribution grid
    is operated, and begins with the last solution, which is near.
    """

    def __init__(self, grid: Grid) -> None:
        net = grid.net
        pandapower.runpp(net)
        case = net._ppc["internal"]
        free = case["pq"]
        admittance = case["Ybus"][free].toarray()
        self._impedance = np.linalg.inv(admittance[:, free])
        self._no_load = -self._impedance @ admittance[:, case["ref"]] @ case["V"][case["ref"]]
        place = np.full(len(case["V"]), -1)
        place[free] = np.arange(len(free))
        # Buses that closed switches join are one in the case.
        self._rows = place[net._pd2ppc_lookups["bus"][grid.buses]]
        # Those that switches join to an external grid have its voltage.
        self._held = np.abs(case["V"][net._pd2ppc_lookups["bus"][grid.buses]])
        self._is_free = self._rows >= 0
        self._base_w = 1e6 * net.sn_mva
        self._voltage = self._no_load.copy()

    def voltages_pu(self, power_w: NDArray[np.float64], power_var: NDArray[np.float64]) -> NDArray[np.float64]:
        """Magnitudes by node of the grid. Raises FatalError when the grid cannot carry these powers."""
        power = np.zeros(len(self._no_load), dtype=np.complex128)
        into = self._rows[self._is_free]
        np.add.at(power, into, (power_w + 1j * power_var)[self._is_free] / self._base_w)
        voltage = self._voltage
        for _ in range(MOST_ITERATIONS):
            before = voltage
            with np.errstate(all="ignore"):
                voltage = self._no_load + self._impedance @ np.conj(power / before)
            # Not a number is no solution either.
            if np.max(np.abs(voltage - before)) < TOLERANCE_PU:
                self._voltage = voltage
                magnitudes: NDArray[np.float64] = self._held.copy()
                magnitudes[self._is_free] = np.abs(voltage[into])
                return magnitudes
        raise FatalError(
            f"the power flow has no solution: {power_w.sum() / 1e3:.0f} kW and {power_var.sum() / 1e3:.0f} kvar into "
            "the grid are more than it carries"
        )
