from __future__ import annotations

import numpy as np
import pytest

from edgeflex_flow.errors import FatalError
from edgeflex_services.powerflow_grid import Grid, make_grid
from edgeflex_services.profiles import ProfileName, Profiles, make_profiles

NOON_S = 12 * 3600.0


@pytest.fixture(scope="module")
def grid() -> Grid:
    return make_grid("kerber")


def available_kw(profiles: Profiles, step_s: float = 60.0) -> np.ndarray:
    return np.array([profiles.at(time_s).available_w.sum() for time_s in np.arange(0.0, 86_400.0, step_s)]) / 1e3


def test_constant_is_the_reference_at_any_time(grid: Grid) -> None:
    for time_s in (0.0, NOON_S, 1e6):
        inputs = make_profiles(grid, "constant").at(time_s)
        assert inputs.available_w.sum() == pytest.approx(308e3)
        assert inputs.load_w.sum() == pytest.approx(14e3)


@pytest.mark.parametrize("name", ["clear", "cloudy"])
def test_the_same_seed_gives_the_same_day(grid: Grid, name: ProfileName) -> None:
    one, other = (make_profiles(grid, name, seed=7).at(NOON_S + 3.3) for _ in range(2))
    assert (one.load_w == other.load_w).all()
    assert (one.available_w == other.available_w).all()
    assert (one.load_w != make_profiles(grid, name, seed=8).at(NOON_S + 3.3).load_w).any()


def test_the_sun_does_not_shine_at_night_and_gives_nearly_all_at_noon(grid: Grid) -> None:
    clear_kw = available_kw(make_profiles(grid, "clear"))
    assert clear_kw[: 5 * 60].max() == 0.0
    assert clear_kw[21 * 60 + 1 :].max() == 0.0
    assert 290.0 < clear_kw[13 * 60] <= 308.0


def test_clouds_take_much_of_it_and_never_add(grid: Grid) -> None:
    clear_kw = available_kw(make_profiles(grid, "clear"))
    cloudy_kw = available_kw(make_profiles(grid, "cloudy"))
    assert 0.4 < cloudy_kw.sum() / clear_kw.sum() < 0.8
    assert (cloudy_kw <= clear_kw + 1e-9).all()


def test_clouds_reach_one_house_after_the_other(grid: Grid) -> None:
    profiles = make_profiles(grid, "cloudy")
    within = [np.ptp(profiles.at(time_s).available_w) for time_s in np.arange(NOON_S, NOON_S + 3600.0, 10.0)]
    assert max(within) > 5e3


def test_between_two_minutes_values_go_straight(grid: Grid) -> None:
    profiles = make_profiles(grid, "clear")
    before, middle, after = (profiles.at(NOON_S + seconds).load_w for seconds in (0.0, 30.0, 60.0))
    assert middle == pytest.approx(0.5 * (before + after))


def test_a_day_follows_the_other_without_a_jump(grid: Grid) -> None:
    profiles = make_profiles(grid, "clear")
    assert profiles.at(86_400.0).load_w == pytest.approx(profiles.at(0.0).load_w)
    assert profiles.at(86_399.999).load_w == pytest.approx(profiles.at(86_400.0).load_w, rel=1e-3)


def test_a_grid_that_is_not_of_simbench_has_no_such_profiles(grid: Grid) -> None:
    with pytest.raises(FatalError, match="grid 'kerber' has no profiles of SimBench; known: constant, clear, cloudy"):
        make_profiles(grid, "simbench")


@pytest.mark.long
def test_profiles_of_simbench_are_its_quarters_of_an_hour() -> None:
    grid = make_grid("simbench:1-LV-rural1--0-sw")
    profiles = make_profiles(grid, "simbench", day=172)
    june_kw = available_kw(profiles, step_s=900.0)
    row = 171 * 96 + 50
    pv = grid.net.profiles["renewables"].iloc[row]
    expected_w = 1e6 * sum(sgen.p_mw * pv[sgen.profile] for sgen in grid.net.sgen.itertuples())
    assert 1e3 * june_kw[50] == pytest.approx(expected_w, rel=0.02)
    assert available_kw(make_profiles(grid, "simbench", day=1), step_s=900.0).sum() < 0.5 * june_kw.sum()
    # The year begins again behind its end.
    assert make_profiles(grid, "simbench", day=366).at(2 * 86_400.0).available_w.sum() == 0.0
