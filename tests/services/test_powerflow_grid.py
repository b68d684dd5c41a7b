from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import make_grid, node_name
from edgeflex_services.powerflow_plant import Plant


def test_kerber_has_the_voltage_of_the_reference_when_nobody_acts() -> None:
    measured = Plant(make_grid("kerber")).step(0.0)
    assert measured.voltage_pu.max() == pytest.approx(1.1189, abs=5e-5)


def test_kerber_has_fourteen_houses_with_22_kw_behind_24_kva() -> None:
    grid = make_grid("kerber")
    assert grid.inverters.names == tuple(f"node_{number}" for number in range(4, 31, 2))
    assert grid.inverters.rated_w == pytest.approx(22e3)
    assert grid.inverters.rated_va == pytest.approx(24e3)
    assert not len(grid.storages.names)


def test_nodes_are_counted_from_one_and_the_external_grid_is_not_measured() -> None:
    grid = make_grid("kerber")
    assert node_name(0) == "node_1"
    assert grid.nodes == tuple(f"node_{number}" for number in range(2, 31))


def test_reactive_power_is_bound_by_the_power_factor_and_by_the_apparent_power() -> None:
    inverters = make_grid("kerber").inverters
    # At half power the power factor of 0.9 is what counts, at full power the 24 kVA.
    assert inverters.most_var(0.5 * inverters.rated_w) == pytest.approx(11e3 * 0.48432, rel=1e-4)
    assert inverters.most_var(inverters.rated_w) == pytest.approx((24e3**2 - 22e3**2) ** 0.5)
    assert inverters.most_var(0.0 * inverters.rated_w) == pytest.approx(0.0)


def test_batteries_are_put_where_there_are_none() -> None:
    storages = make_grid("kerber", storage_kwh=10.0).storages
    assert len(storages.names) == 14
    assert storages.capacity_wh == pytest.approx(10e3)
    assert storages.power_w == pytest.approx(5e3)
    own = make_grid("cigre_lv", storage_kwh=10.0).storages
    assert own.capacity_wh == pytest.approx(make_grid("cigre_lv").storages.capacity_wh)


def test_fuel_cells_obey_no_set_points() -> None:
    grid = make_grid("cigre_mv")
    assert grid.steady_w.sum() == pytest.approx(33e3 + 310e3 + 212e3 + 14e3)
    assert grid.inverters.names[np.flatnonzero(grid.inverters.is_wind)[0]] == "node_8"
    assert grid.storages.names == ("node_6", "node_11")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "kerbr",
            "no grid is called 'kerbr'; known: kerber, cigre_lv, cigre_mv, simbench:CODE; did you mean 'kerber'?",
        ),
        (
            "simbench:1-LV-rural1--0-w",
            "SimBench has no grid '1-LV-rural1--0-w', but 246 others .* '1-LV-rural1--0-sw'?",
        ),
    ],
)
def test_an_unknown_grid_is_refused_with_those_that_are_known(name: str, told: str) -> None:
    with pytest.raises(FatalError, match=told):
        make_grid(name)


def test_a_missing_simbench_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(FatalError, match=r"pip install 'PATH/TO/edgeflex-flow\[simbench\]'"):
        make_grid("simbench:1-LV-rural1--0-sw")


@pytest.mark.long
def test_a_grid_of_simbench_has_its_inverters_and_batteries() -> None:
    grid = make_grid("simbench:1-LV-rural3--2-sw")
    assert len(grid.inverters.names) == len(set(grid.net.sgen.bus)) > 20
    assert grid.storages.capacity_wh.sum() == pytest.approx(1e6 * grid.net.storage.max_e_mwh.sum())
    assert Plant(grid).step(0.0).voltage_pu.min() > 0.9


@pytest.mark.long
def test_a_grid_with_voltage_controlling_generators_is_refused() -> None:
    with pytest.raises(FatalError, match="only low and medium voltage will do"):
        make_grid("simbench:1-EHV-mixed--0-sw")
