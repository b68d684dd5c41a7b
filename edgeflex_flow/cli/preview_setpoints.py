"""Set-points of two runs compared: row by row, and as energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgeflex_flow.cli.preview_run import Series, SeriesKey
from edgeflex_flow.cli.preview_samples import row_keys
from edgeflex_flow.flowfile.fields import unit_of
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.units import UNITS, column_unit

_HOUR_NS: Final = 3.6e12
_ENERGIES: Final = {"active_power": "kWh", "reactive_power": "kvarh"}


class Energy(Struct, frozen=True):
    """What set-points mean as energy, if assets follow them as long as they are valid."""

    unit: str
    """kWh or kvarh."""
    today: float
    proposed: float
    shifted: float
    """Integral of the magnitude of the difference, over the time when both runs have one in force."""


class SetpointsDifference(Struct, frozen=True):
    """Set-points of one quantity for one asset by one controller."""

    node: str
    controller: str
    quantity: str
    unit: str
    asset: str
    today: int
    """How many today's policies give."""
    proposed: int
    changed: int
    """With another value at the same time."""
    only_today: int
    only_proposed: int
    other_status: int
    """Of those at the same time, how many are `ok` in one run only, or `fallback`, or `safe`."""
    largest: float | None
    """The difference of largest magnitude, proposed less today's; None when there is none."""
    largest_time_ns: int | None
    energy: Energy | None

    @property
    def differs(self) -> bool:
        return bool(self.changed or self.only_today or self.only_proposed or self.other_status)


class _Hold(NamedTuple):
    """A set-point is in force from each time until the next one, but no longer than it is valid."""

    begin_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    values: NDArray[np.float64]

    def at(self, time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values in force; NaN where there is none."""
        if not len(self.values):
            return np.full(len(time_ns), np.nan)
        place = np.searchsorted(self.begin_ns, time_ns, side="right") - 1
        known = (place >= 0) & (time_ns < self.end_ns[np.maximum(place, 0)])
        return np.where(known, self.values[np.maximum(place, 0)], np.nan)

    def integral(self) -> float:
        """In hours times the unit of the values."""
        return float(np.sum(self.values * (self.end_ns - self.begin_ns)) / _HOUR_NS)


def compare_setpoints(
    plan: Plan, today: Mapping[SeriesKey, Series], proposed: Mapping[SeriesKey, Series], end_ns: int
) -> list[SetpointsDifference]:
    """Of each controller, quantity and asset. `end_ns`: where the record ends."""
    configs = {node.id: node.config for node in plan.nodes}
    places = {node.id: place for place, node in enumerate(plan.nodes)}
    keys = sorted({*today, *proposed}, key=lambda key: (places[key[0]], *key))
    return [
        _compare(key, today.get(key, Series()), proposed.get(key, Series()), configs[key[0]], end_ns) for key in keys
    ]


def _compare(key: SeriesKey, today: Series, proposed: Series, config: Any, end_ns: int) -> SetpointsDifference:
    node, controller, quantity, asset = key
    before_ns, before = today.arrays()
    after_ns, after = proposed.arrays()
    keys = [row_keys(np.zeros(len(each), dtype=np.int32), each) for each in (before_ns, after_ns)]
    both, old, new = np.intersect1d(keys[0], keys[1], return_indices=True)
    by = after[new] - before[old]
    changed = before[old] != after[new]
    largest = int(np.abs(by).argmax()) if changed.any() else None
    unit = column_unit(quantity)
    return SetpointsDifference(
        node=node,
        controller=controller,
        quantity=quantity,
        unit=unit.symbol if unit is not None else "",
        asset=asset,
        today=len(before_ns),
        proposed=len(after_ns),
        changed=int(changed.sum()),
        only_today=len(before_ns) - len(both),
        only_proposed=len(after_ns) - len(both),
        other_status=sum(today.status[a] != proposed.status[b] for a, b in zip(old, new, strict=True)),
        largest=None if largest is None else float(by[largest]),
        largest_time_ns=None if largest is None else int(before_ns[old[largest]]),
        energy=_energy(quantity, today, proposed, config, end_ns),
    )


def _energy(quantity: str, today: Series, proposed: Series, config: Any, end_ns: int) -> Energy | None:
    """As energy, where the quantity is a power whose watts are known."""
    kind = next((each for each in _ENERGIES if quantity.startswith(each)), None)
    kilo = _thousands(quantity, config)
    if kind is None or kilo is None:
        return None
    before, after = _hold(today, end_ns), _hold(proposed, end_ns)
    edges = np.unique(np.concatenate([before.begin_ns, before.end_ns, after.begin_ns, after.end_ns]))
    differences = np.abs(after.at(edges[:-1]) - before.at(edges[:-1]))
    shifted = float(np.nansum(differences * np.diff(edges)) / _HOUR_NS)
    return Energy(_ENERGIES[kind], kilo * before.integral(), kilo * after.integral(), kilo * shifted)


def _thousands(quantity: str, config: Any) -> float | None:
    """How many kW (or kvar) one of the quantity is: by its unit, or by the base of the controller."""
    unit = column_unit(quantity)
    if unit is None:
        return None
    if unit.dimension in _ENERGIES:
        return unit.factor / 1e3
    base: float | None = getattr(config, "power_base", None)
    base_unit = UNITS.get(unit_of(type(config), "power_base").strip()) if base is not None else None
    if unit.dimension != "per_unit" or base is None or base_unit is None:
        return None
    return unit.factor * base * base_unit.factor / 1e3


def _hold(series: Series, end_ns: int) -> _Hold:
    begin_ns, values = series.arrays()
    order = np.argsort(begin_ns, kind="stable")
    begin_ns, values = begin_ns[order], values[order]
    valid_ns = np.round(np.array(series.valid_s)[order] * 1e9).astype(np.int64)
    until_ns = np.minimum(begin_ns + valid_ns, end_ns)
    until_ns[:-1] = np.minimum(until_ns[:-1], begin_ns[1:])
    return _Hold(begin_ns, np.maximum(until_ns, begin_ns), values)
