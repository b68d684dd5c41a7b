"""What a controller of voltages needs to know of a grid, as tables that its config takes:

inverters.yaml       node_4: {rated_power: 24 kVA, min_power_factor: 0.9}
branches.yaml        line_1: {from: node_2, to: node_3, resistance: 8.24 mohm, reactance: 3.2 mohm}
sensitivities.yaml   node_3: {voltage_per_active_power: {node_4: 0.011}, voltage_per_reactive_power: {node_4: 0.018}}

Branches lead from the slack outwards, and are there only where the grid is radial; their impedances are referred to the
voltage base. Sensitivities are in pu of voltage at a node for each pu of power into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import EFFICIENCY, POWER_FACTOR, Grid, node_name
from edgeflex_services.powerflow_plant import SOC_MAX, SOC_MIN
from edgeflex_services.powerflow_solver import AcSolver
from edgeflex_services.profiles import Inputs

STEP_W: Final = 1000.0
"""By how much powers are moved, half to each side, to see what the voltages do."""


class Branch(NamedTuple):
    """A line, transformer or closed switch between two buses of pandapower, in ohm at the voltage base."""

    name: str
    from_bus: int
    to_bus: int
    resistance_ohm: float
    reactance_ohm: float


class Sensitivities(NamedTuple):
    """What voltages do per unit of power into nodes with assets: pu/pu, shape (nodes, assets)."""

    assets: tuple[str, ...]
    active: NDArray[np.float64]
    reactive: NDArray[np.float64]


def voltage_base_kv(grid: Grid) -> float:
    """The nominal voltage where most inverters are."""
    levels = grid.net.bus.vn_kv.loc[grid.buses[grid.inverters.node]]
    return float(levels.mode().iloc[0])


def sensitivities(grid: Grid, inputs: Inputs) -> Sensitivities:
    """By perturbation of the AC power flow, where nobody controls and loads and sun are as `inputs`."""
    solver = AcSolver(grid)
    power_w = grid.steady_w - inputs.load_w
    power_w[grid.inverters.node] += inputs.available_w
    columns = np.union1d(grid.inverters.node, grid.storages.node)
    per_pu = grid.power_base_w / STEP_W
    active = np.empty((len(grid.nodes), len(columns)))
    reactive = np.empty_like(active)
    for number, column in enumerate(columns):
        half = np.zeros(len(grid.nodes))
        half[column] = 0.5 * STEP_W
        above = solver.voltages_pu(power_w + half, -inputs.load_var)
        below = solver.voltages_pu(power_w - half, -inputs.load_var)
        active[:, number] = per_pu * (above - below)
        above = solver.voltages_pu(power_w, half - inputs.load_var)
        below = solver.voltages_pu(power_w, -half - inputs.load_var)
        reactive[:, number] = per_pu * (above - below)
    return Sensitivities(tuple(grid.nodes[column] for column in columns), active, reactive)


def radial_branches(grid: Grid) -> list[Branch] | None:
    """The branches in service, each from the slack outwards; None when they form rings or there are several slacks."""
    at: dict[int, list[Branch]] = {}
    branches = list(_branches(grid))
    for branch in branches:
        at.setdefault(branch.from_bus, []).append(branch)
        at.setdefault(branch.to_bus, []).append(branch)
    slacks = grid.net.ext_grid.bus[grid.net.ext_grid.in_service].tolist()
    reached, outwards = set(slacks), []
    waiting = list(slacks)
    while waiting:
        bus = waiting.pop(0)
        for branch in at.get(bus, []):
            other = branch.to_bus if branch.from_bus == bus else branch.from_bus
            if other not in reached:
                reached.add(other)
                waiting.append(other)
                outwards.append(branch._replace(from_bus=bus, to_bus=other))
    return outwards if len(slacks) == 1 and len(outwards) == len(branches) else None


def _branches(grid: Grid) -> Iterator[Branch]:
    net, base_kv = grid.net, voltage_base_kv(grid)
    open_ends = net.switch[~net.switch.closed]
    level_kv = net.bus.vn_kv
    for index, line in net.line[net.line.in_service].iterrows():
        if index not in set(open_ends.element[open_ends.et == "l"]):
            scale = (base_kv / level_kv[line.from_bus]) ** 2 * line.length_km / line.parallel
            ohm = scale * line.r_ohm_per_km, scale * line.x_ohm_per_km
            yield Branch(f"line_{index + 1}", int(line.from_bus), int(line.to_bus), *ohm)
    for index, trafo in net.trafo[net.trafo.in_service].iterrows():
        if index not in set(open_ends.element[open_ends.et == "t"]):
            scale = (base_kv * trafo.vn_lv_kv / level_kv[trafo.lv_bus]) ** 2 / trafo.sn_mva / trafo.parallel / 100.0
            reactance = (trafo.vk_percent**2 - trafo.vkr_percent**2) ** 0.5
            ohm = scale * trafo.vkr_percent, scale * reactance
            yield Branch(f"transformer_{index + 1}", int(trafo.hv_bus), int(trafo.lv_bus), *ohm)
    for index, switch in net.switch[net.switch.closed & (net.switch.et == "b")].iterrows():
        yield Branch(f"switch_{index + 1}", int(switch.bus), int(switch.element), 0.0, 0.0)


def write_network(folder: Path, grid: Grid, inputs: Inputs) -> list[Path]:
    """Write the tables of this grid into a folder, which is made if it does not exist; the files.

    Raises FatalError when they cannot be written.
    """
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 10_000
    written: list[Path] = []
    bases = f"power_base: {grid.power_base_kva:g} kVA, voltage_base: {1e3 * voltage_base_kv(grid):g} V"
    for name, table in network(grid, inputs).items():
        file = folder / f"{name}.yaml"
        try:
            folder.mkdir(exist_ok=True)
            with file.open("w") as out:
                out.write(f"# {name} of the grid {grid.name}; {bases}; by edgeflex serve powerflow --write-network\n")
                yaml.dump(table, out)
        except OSError as error:
            raise FatalError(f"'{file}' cannot be written: {error.strerror or error}") from error
        written.append(file)
    return written


def network(grid: Grid, inputs: Inputs) -> dict[str, dict[str, Any]]:
    """The tables by name."""
    found: dict[str, dict[str, Any]] = {"inverters": _inverters(grid)}
    branches = radial_branches(grid)
    if branches is not None:
        found["branches"] = {branch.name: _branch(branch) for branch in branches}
    measured = sensitivities(grid, inputs)
    found["sensitivities"] = {
        node: {
            "voltage_per_active_power": _row(measured.assets, active),
            "voltage_per_reactive_power": _row(measured.assets, reactive),
        }
        for node, active, reactive in zip(grid.nodes, measured.active, measured.reactive, strict=True)
    }
    return found


def _branch(branch: Branch) -> dict[str, str]:
    return {
        "from": node_name(branch.from_bus),
        "to": node_name(branch.to_bus),
        "resistance": f"{1e3 * branch.resistance_ohm:.6g} mohm",
        "reactance": f"{1e3 * branch.reactance_ohm:.6g} mohm",
    }


def _inverters(grid: Grid) -> dict[str, dict[str, Any]]:
    """Those of renewables, and those of storages alone, which give no reactive power and cannot be curtailed."""
    found: dict[str, dict[str, Any]] = {}
    pv, batteries = grid.inverters, grid.storages
    for name, rated_va in zip(pv.names, pv.rated_va, strict=True):
        found[name] = {"rated_power": f"{rated_va / 1e3:.6g} kVA", "min_power_factor": POWER_FACTOR}
    for name, power_w, capacity_wh in zip(batteries.names, batteries.power_w, batteries.capacity_wh, strict=True):
        power = f"{power_w / 1e3:.6g} kW"
        alone = {"rated_power": f"{power_w / 1e3:.6g} kVA", "storage_only": True}
        storage = {
            "capacity": f"{capacity_wh / 1e3:.6g} kWh",
            "max_charge": power,
            "max_discharge": power,
            "lowest": SOC_MIN,
            "highest": SOC_MAX,
            "efficiency": EFFICIENCY,
        }
        found[name] = {**found.get(name, alone), "storage": storage}
    return found


def _row(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in zip(names, values, strict=True)}
