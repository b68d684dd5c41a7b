"""Grids to control: a pandapower network with the inverters and storages that obey set-points.

Known are `kerber`, `cigre_lv`, `cigre_mv` and `simbench:CODE`. A bus is called `node_<number>` on the databus, where
the number is its index in pandapower's table plus one, as CoVEE counts the buses of PYPOWER from 1. Powers there are
per unit of `power_base_kva`, whatever the level of voltage, and positive into the grid.

Sources: G. Kerber, thesis, TU München 2011; CIGRE task force C6.04.02; SimBench, U. Kassel and others, 2019.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandapower
import pandapower.networks
from numpy.typing import NDArray

from edgeflex_flow.errors import FatalError, how_to_install, nearest

POWER_BASE_KVA: Final = 100.0
POWER_FACTOR: Final = 0.9
"""Generators that feed into low voltage must reach it (VDE-AR-N 4105)."""
TAN_PHI: Final = math.tan(math.acos(POWER_FACTOR))
OVERSIZE: Final = 24.0 / 22.0
"""Apparent power of an inverter by the active power of its PV: a 22 kW array behind 24 kVA."""
EFFICIENCY: Final = 0.95
"""Of charging, and again of discharging."""
HOURS_TO_FILL: Final = 2.0
"""Power of a storage that the grid's data do not give: its capacity in so many hours."""
SIMBENCH: Final = "simbench:"


@dataclass(frozen=True)
class Inverters:
    """What feeds in renewable power: all of a node as one, each array of shape (inverters,)."""

    names: tuple[str, ...]
    """Of their nodes."""
    node: NDArray[np.intp]
    """Index into the nodes of the grid."""
    rated_w: NDArray[np.float64]
    rated_va: NDArray[np.float64]
    is_wind: NDArray[np.bool_]

    def most_var(self, available_w: NDArray[np.float64]) -> NDArray[np.float64]:
        """The reactive power that each can give: min(P·tan φ, √(S² − P²)).

        P is the available power, so that curtailing does not move the limit: who controls knows it from what is
        measured.
        """
        circle_var = np.sqrt(np.maximum(self.rated_va**2 - available_w**2, 0.0))
        return np.minimum(available_w * TAN_PHI, circle_var)


@dataclass(frozen=True)
class Storages:
    """Batteries: all of a node as one, each array of shape (storages,)."""

    names: tuple[str, ...]
    node: NDArray[np.intp]
    power_w: NDArray[np.float64]
    """Most that it charges or discharges with."""
    capacity_wh: NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A network in normal operation, with nominal loads and what can be told to do otherwise."""

    name: str
    net: Any
    """The network of pandapower."""
    power_base_kva: float
    buses: NDArray[np.int64]
    """Indices of the buses whose voltage is measured: all in service but those that hold it."""
    nodes: tuple[str, ...]
    """Their names on the databus."""
    load_w: NDArray[np.float64]
    """Nominal loads by node."""
    load_var: NDArray[np.float64]
    steady_w: NDArray[np.float64]
    """Generation by node that no set-point moves, such as fuel cells."""
    inverters: Inverters
    storages: Storages

    @property
    def power_base_w(self) -> float:
        return 1e3 * self.power_base_kva


def node_name(bus: int) -> str:
    """What a bus of pandapower is called on the databus."""
    return f"node_{bus + 1}"


def make_grid(name: str, *, power_base_kva: float = POWER_BASE_KVA, storage_kwh: float = 0.0) -> Grid:
    """The grid of this name, with a battery of `storage_kwh` at each inverter whose node has none.

    Raises FatalError when there is no such grid, or when what it needs is not installed.
    """
    if name.startswith(SIMBENCH):
        net = _simbench(name.removeprefix(SIMBENCH))
    elif name in _BUILT_IN:
        net = _BUILT_IN[name]()
    else:
        known = [*_BUILT_IN, f"{SIMBENCH}CODE"]
        hint = f"; did you mean '{near}'?" if (near := nearest(name, known)) else ""
        raise FatalError(f"no grid is called '{name}'; known: {', '.join(known)}{hint}")
    return _grid(name, net, power_base_kva, storage_kwh)


def _grid(name: str, net: Any, power_base_kva: float, storage_kwh: float) -> Grid:
    if len(net.gen):
        raise FatalError(f"grid '{name}' has generators that hold the voltage; only low and medium voltage will do")
    held = set(net.ext_grid.bus)
    buses = np.array([bus for bus in net.bus.index[net.bus.in_service] if bus not in held], dtype=np.int64)
    is_renewable = ~net.sgen.type.isin(_STEADY).to_numpy()
    sgen_w = 1e6 * (net.sgen.p_mw * net.sgen.scaling).to_numpy()
    sgen_bus = net.sgen.bus.to_numpy()
    inverters = _inverters(buses, sgen_bus[is_renewable], sgen_w[is_renewable], net.sgen.type[is_renewable])
    return Grid(
        name=name,
        net=net,
        power_base_kva=power_base_kva,
        buses=buses,
        nodes=tuple(node_name(bus) for bus in buses),
        load_w=_by_bus(buses, net.load.bus, 1e6 * net.load.p_mw * net.load.scaling),
        load_var=_by_bus(buses, net.load.bus, 1e6 * net.load.q_mvar * net.load.scaling),
        steady_w=_by_bus(buses, sgen_bus[~is_renewable], sgen_w[~is_renewable]),
        inverters=inverters,
        storages=_storages(net, buses, inverters, 1e3 * storage_kwh),
    )


_STEADY = ("CHP diesel", "Fuel cell", "Residential fuel cell")
"""Types of generators that run as they run; all others are wind, PV or, in SimBench, like these."""
_WIND = ("WP", "Wind", "Wind_MV")


def _by_bus(buses: NDArray[np.int64], at: Any, values: Any) -> NDArray[np.float64]:
    """Sum of the values of each bus."""
    sums = np.zeros(len(buses))
    np.add.at(sums, rows_of(buses, at), np.asarray(values, dtype=np.float64))
    return sums


def rows_of(buses: NDArray[np.int64], at: Any) -> NDArray[np.intp]:
    """Where each bus of `at` stands in `buses`, which grow."""
    return np.searchsorted(buses, np.asarray(at, dtype=np.int64))


def _inverters(buses: NDArray[np.int64], at: NDArray[np.int64], rated_w: NDArray[np.float64], types: Any) -> Inverters:
    own = np.unique(at)
    summed_w = _by_bus(own, at, rated_w)
    wind_w = _by_bus(own, at, np.where(types.isin(_WIND), rated_w, 0.0))
    return Inverters(
        names=tuple(node_name(bus) for bus in own),
        node=rows_of(buses, own),
        rated_w=summed_w,
        rated_va=OVERSIZE * summed_w,
        is_wind=wind_w > 0.5 * summed_w,
    )


def _storages(net: Any, buses: NDArray[np.int64], inverters: Inverters, added_wh: float) -> Storages:
    given = np.unique(net.storage.bus.to_numpy())
    power_w = _by_bus(given, net.storage.bus, 1e6 * net.storage.p_mw.abs())
    capacity_wh = _by_bus(given, net.storage.bus, 1e6 * net.storage.max_e_mwh.fillna(0.0))
    # CIGRE gives the power of its batteries alone.
    capacity_wh = np.where(capacity_wh > 0.0, capacity_wh, HOURS_TO_FILL * power_w)
    added = np.setdiff1d(buses[inverters.node], given) if added_wh else np.zeros(0, dtype=np.int64)
    own = np.concatenate([given, added]).astype(np.int64)
    return Storages(
        names=tuple(node_name(bus) for bus in own),
        node=rows_of(buses, own),
        power_w=np.concatenate([power_w, np.full(len(added), added_wh / HOURS_TO_FILL)]),
        capacity_wh=np.concatenate([capacity_wh, np.full(len(added), added_wh)]),
    )


def _kerber() -> Any:
    """A country feeder with 14 houses of 1 kW and 0.3 kvar, 22 kW of PV on each: 1.1189 pu when nobody acts."""
    net = pandapower.networks.create_kerber_landnetz_kabel_2()
    net.load["p_mw"], net.load["q_mvar"] = 0.001, 0.0003
    for bus in net.load.bus:
        pandapower.create_sgen(net, bus, 0.022, type="PV")
    return net


_CIGRE_LV_PV_MW: Final = {12: 0.050, 16: 0.100, 17: 0.100, 18: 0.070, 19: 0.090}
"""By bus: some twice what the residential loads there draw at most, so that a clear day brings too high voltages."""


def _cigre_lv() -> Any:
    """Three feeders; at the residential one PV and batteries for two hours at a quarter of its power."""
    net = pandapower.networks.create_cigre_network_lv()
    for bus, power_mw in _CIGRE_LV_PV_MW.items():
        pandapower.create_sgen(net, bus, power_mw, type="PV")
        pandapower.create_storage(net, bus, p_mw=0.25 * power_mw, max_e_mwh=0.25 * HOURS_TO_FILL * power_mw)
    return net


def _cigre_mv() -> Any:
    """As CIGRE has it, with its wind turbine, PV and batteries."""
    return pandapower.networks.create_cigre_network_mv(with_der="all")  # pyright: ignore[reportArgumentType]


_BUILT_IN: Final[dict[str, Callable[[], Any]]] = {"kerber": _kerber, "cigre_lv": _cigre_lv, "cigre_mv": _cigre_mv}


def _simbench(code: str) -> Any:
    try:
        simbench = importlib.import_module("simbench")
    except ModuleNotFoundError as error:
        raise FatalError(f"grid '{SIMBENCH}{code}' needs simbench: {how_to_install('simbench')}") from error
    codes = simbench.collect_all_simbench_codes()
    if code not in codes:
        hint = f"; did you mean '{near}'?" if (near := nearest(code, codes)) else ""
        raise FatalError(f"SimBench has no grid '{code}', but {len(codes)} others such as '1-LV-rural1--0-sw'{hint}")
    return simbench.get_simbench_net(code)
