"""The operator `forecast`: what it says, and what it says when it cannot."""

from __future__ import annotations

import importlib
import math
import pickle

import msgspec
import numpy as np
import pytest

from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import (
    DeadLetter,
    Forecast,
    Quality,
    Samples,
    decode_message,
    encode_message,
    samples_from_rows,
)
from edgeflex_operators.forecast import (
    NODE,
    ForecastAsset,
    ForecastConfig,
    ForecastState,
    Method,
    start,
    step,
    step_weather,
    tick,
)

HOUR_NS = 3_600_000_000_000
PER_DAY = 24
DELAY_NS = 5_000_000_000


def config_of(method: Method = "regression", **changes: object) -> ForecastConfig:
    assets = {"P1": ForecastAsset(kind="pv", capacity=1e6)}
    settings = {"column": "active_power_w", "assets": assets, "method": method, "step": 3600.0, "steps": 24, **changes}
    return ForecastConfig(**settings)  # type: ignore[arg-type]


def plant_w(days: int, seed: int = 1) -> list[float]:
    rng = np.random.default_rng(seed)
    bow = np.maximum(np.sin(math.tau * (np.arange(PER_DAY) - 6) / PER_DAY), 0.0)
    found: list[float] = (1e6 * rng.uniform(0.3, 1.0, (days, 1)) * bow).ravel().tolist()
    return found


def samples_of(values: list[float], device: str = "P1", *, first: int = 0, quality: int = 0) -> Samples:
    rows = len(values)
    return Samples(
        time_ns=(first + np.arange(rows, dtype=np.int64)) * HOUR_NS,
        device=np.zeros(rows, dtype=np.int32),
        devices=(device,),
        columns={"active_power_w": np.array(values)},
        quality=np.full(rows, quality, dtype=np.uint16),
        received_ns=0,
    )


def made_after(config: ForecastConfig, state: ForecastState, hours: int) -> Forecast:
    [made] = tick(config, state, hours * HOUR_NS + DELAY_NS)
    assert isinstance(made, Forecast)
    return made


def fitted(config: ForecastConfig, state: ForecastState, hours: int) -> Forecast:
    """The forecast that follows the fit, in the turn of the clock after the one at the step's end."""
    made_after(config, state, hours)
    [made] = tick(config, state, hours * HOUR_NS + DELAY_NS + 1_000_000_000)
    assert isinstance(made, Forecast)
    return made


def told(values: list[float], **changes: object) -> tuple[ForecastConfig, ForecastState]:
    config = config_of(**changes)  # type: ignore[arg-type]
    state = start(config)
    assert step(config, state, samples_of(values)) == []
    return config, state


def test_persistence_goes_on_from_the_mean_of_the_last_step() -> None:
    config, state = told([], method="persistence")
    rows = samples_of([100.0, 300.0])
    half_hours = msgspec.structs.replace(rows, time_ns=rows.time_ns // 2)
    step(config, state, half_hours)
    made = made_after(config, state, 1)
    assert made.values == (200.0,) * 24
    assert (made.begin_ns, made.time_ns, made.status, made.rows) == (HOUR_NS, HOUR_NS, "ok", 1)
    assert made.quantiles == {}


def test_nothing_is_said_twice_for_one_step() -> None:
    config, state = told(plant_w(1), method="persistence")
    made_after(config, state, 24)
    assert tick(config, state, 24 * HOUR_NS + 2 * DELAY_NS) == []
    assert len(tick(config, state, 25 * HOUR_NS + DELAY_NS)) == 1


def test_rows_on_their_way_are_waited_for() -> None:
    config, state = told(plant_w(1), method="persistence")
    [early] = tick(config, state, 24 * HOUR_NS + DELAY_NS - 1)
    assert isinstance(early, Forecast)
    assert early.begin_ns == 23 * HOUR_NS


def test_daily_repeats_the_last_day() -> None:
    values = plant_w(2)
    config, state = told(values, method="daily")
    assert made_after(config, state, 48).values == pytest.approx(values[24:])


def test_daily_without_a_whole_day_falls_back_and_says_so() -> None:
    config, state = told(plant_w(2)[:20], method="daily")
    made = made_after(config, state, 20)
    assert (made.method, made.status) == ("persistence", "fallback")
    assert made.reason == "the last day is not known as a whole"


def test_short_history_falls_back_to_persistence_and_says_how_short() -> None:
    config, state = told(plant_w(3))
    made = made_after(config, state, 72)
    assert (made.method, made.status, made.reason) == ("persistence", "fallback", "3.0 d are measured, a fit needs 7 d")
    assert tick(config, state, 72 * HOUR_NS + 2 * DELAY_NS) == []


def test_regression_of_a_plant_is_never_negative_and_zero_at_night() -> None:
    config, state = told(plant_w(28))
    made = fitted(config, state, 28 * PER_DAY)
    assert (made.method, made.status, made.reason) == ("regression", "ok", "")
    for row in (made.values, *made.quantiles.values()):
        assert min(row) >= 0.0
        assert max(row) <= 1e6
        assert set(row[:5] + row[20:]) == {0.0}
    assert made.values[12] > 2e5
    assert made.quantiles["0.1"] <= made.quantiles["0.5"] <= made.quantiles["0.9"]
    assert made.skill is not None
    assert made.skill > 0.3
    assert made.coverage is not None
    assert 0.0 <= made.coverage <= 1.0


def test_fit_is_made_anew_after_its_period_and_one_asset_a_turn() -> None:
    assets = {name: ForecastAsset(kind="pv", capacity=1e6) for name in ("P1", "P2")}
    config, state = told(plant_w(28), assets=assets)
    step(config, state, samples_of(plant_w(28, seed=2), "P2"))
    end_ns = 28 * PER_DAY * HOUR_NS + DELAY_NS
    turns = [
        [each.device for each in tick(config, state, end_ns + turn) if isinstance(each, Forecast)] for turn in range(4)
    ]
    assert turns == [["P1", "P2"], ["P1"], ["P2"], []]
    later = [
        [each.device for each in tick(config, state, end_ns + 24 * HOUR_NS + turn) if isinstance(each, Forecast)]
        for turn in (0, 9)
    ]
    assert later[0] == ["P1", "P2"]
    assert later[1] == ["P1"]


def test_regression_no_better_than_persistence_is_not_used() -> None:
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(size=28 * PER_DAY)) * 1e3  # of which nothing can be foreseen
    config, state = told(walk.tolist(), assets={"P1": ForecastAsset(kind="other")})
    made = fitted(config, state, 28 * PER_DAY)
    if made.status == "fallback":
        assert "worse than persistence: skill" in made.reason
        assert made.values == pytest.approx([walk[-1]] * 24)
    else:
        assert made.skill is not None
        assert made.skill > 0.0


def test_short_gap_is_bridged_and_told() -> None:
    values = plant_w(28)
    values[-1] = math.nan
    config, state = told(values)
    made = fitted(config, state, 28 * PER_DAY)
    assert made.status == "ok"
    assert made.quality == Quality.ESTIMATED
    assert made.missing_steps == 1


def test_silence_is_told_and_gives_no_values() -> None:
    config, state = told(plant_w(28))
    made = fitted(config, state, 28 * PER_DAY + 3)
    assert (made.status, made.values, made.quantiles) == ("none", (), {})
    assert made.reason == "nothing was measured for 14400 s, more than 3600 s are not bridged"


def test_device_that_is_silent_for_years_is_told_still() -> None:
    config, state = told(plant_w(2), method="persistence")
    made = made_after(config, state, 20 * 365 * PER_DAY)
    assert (made.status, made.missing_steps) == ("none", 56 * PER_DAY)


def test_device_that_never_sent_is_told_too() -> None:
    config = config_of()
    made = made_after(config, start(config), 5)
    assert (made.status, made.reason) == ("none", "nothing was measured")


def test_bad_rows_count_as_none_and_flags_pass_on() -> None:
    config, state = told([], method="persistence", bridge=0.0)
    step(config, state, samples_of([1e5], quality=Quality.SYNC_LOST))
    step(config, state, samples_of([9e5], first=1, quality=Quality.BAD_DATA))
    assert made_after(config, state, 1).quality == Quality.SYNC_LOST
    assert made_after(config, state, 2).status == "none"


def test_rows_of_others_are_not_its_business() -> None:
    config, state = told([], method="persistence")
    step(config, state, samples_of([1.0], "another"))
    assert made_after(config, state, 1).status == "none"


def test_rows_from_the_future_are_dropped_and_counted() -> None:
    config, state = told([1e5], method="persistence")
    late = msgspec.structs.replace(samples_of([9e5, 9e5], first=50), received_ns=HOUR_NS)
    [letter] = step(config, state, late)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.count) == ("clock_ahead", 2)
    assert made_after(config, state, 1).values[0] == 1e5


def windy(days: int) -> tuple[list[float], list[float]]:
    """Power of a wind farm and the speed that was forecast for it."""
    rng = np.random.default_rng(2)
    speed = np.repeat(rng.uniform(3.0, 12.0, 8 * days), 3)
    return (1e6 * (speed / 12.0) ** 3).tolist(), speed.tolist()


def told_weather(hours: int, *, config: ForecastConfig) -> ForecastState:
    power, speed = windy(31)
    state = start(config)
    step(config, state, samples_of(power[: 28 * PER_DAY], "W1"))
    weather = samples_of(speed[:hours], "station")
    # Speeds are those of the middle of each step.
    weather = msgspec.structs.replace(weather, time_ns=weather.time_ns + HOUR_NS // 2)
    assert (
        step_weather(config, state, weather.with_columns({"wind_speed_m_per_s": weather.columns["active_power_w"]}))
        == []
    )
    return state


WIND = {"W1": ForecastAsset(kind="wind", capacity=1e6, weather="station")}


def test_weather_ahead_makes_the_forecast_better() -> None:
    config = config_of(assets=WIND, weather="wind_speed_m_per_s")
    made = fitted(config, told_weather(30 * PER_DAY, config=config), 28 * PER_DAY)
    truth = np.array(windy(31)[0][28 * PER_DAY :][:24])
    assert made.status == "ok"
    assert np.abs(np.array(made.values) - truth).mean() < 2e4


def weather_at(time_ns: int, *, received_ns: int = 0) -> Samples:
    return samples_from_rows([(time_ns, "station", {"wind_speed_m_per_s": 9.0})], received_ns=received_ns)


@pytest.mark.parametrize("received_ns", [0, 28 * PER_DAY * HOUR_NS], ids=["by the measurements", "by the reception"])
def test_weather_of_the_far_future_is_dropped_and_counted_and_the_rest_stays(received_ns: int) -> None:
    config = config_of(assets=WIND, weather="wind_speed_m_per_s")
    state = told_weather(30 * PER_DAY, config=config)
    [letter] = step_weather(config, state, weather_at(7 * 10**18, received_ns=received_ns))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.count) == ("clock_ahead", 1)
    assert len(state.weather["station"]) == 30 * PER_DAY


def test_weather_of_the_far_future_goes_once_the_time_is_known() -> None:
    config = config_of(assets=WIND, weather="wind_speed_m_per_s")
    state = start(config)
    for time_ns in (HOUR_NS, 7 * 10**18):
        assert step_weather(config, state, weather_at(time_ns)) == []
    assert step_weather(config, state, weather_at(2 * HOUR_NS, received_ns=3 * HOUR_NS)) == []
    assert list(state.weather["station"]) == [HOUR_NS, 2 * HOUR_NS]


def test_missing_weather_falls_back_and_is_told() -> None:
    config = config_of(assets=WIND, weather="wind_speed_m_per_s")
    state = told_weather(28 * PER_DAY + 30, config=config)
    assert fitted(config, state, 28 * PER_DAY).status == "ok"
    step(config, state, samples_of([5e5] * 12, "W1", first=28 * PER_DAY))
    made = made_after(config, state, 28 * PER_DAY + 12)
    assert (made.method, made.status) == ("persistence", "fallback")
    assert made.reason == "the weather of the steps to come is not known as a whole"


def test_policy_that_changes_the_step_begins_anew() -> None:
    config, state = told(plant_w(2), method="persistence")
    changed = msgspec.structs.replace(config, step=1800.0)
    assert step(changed, state, samples_of([3.0], first=48)) == []
    [made] = tick(changed, state, 48 * HOUR_NS + HOUR_NS // 2 + DELAY_NS)
    assert isinstance(made, Forecast)
    assert made.values[0] == 3.0


def test_message_survives_json_and_state_survives_pickling() -> None:
    config, state = told(plant_w(28))
    made = fitted(config, state, 28 * PER_DAY)
    assert decode_message(encode_message(made), [Forecast]) == made
    again: ForecastState = pickle.loads(pickle.dumps(state))
    step(config, again, samples_of([0.0], first=28 * PER_DAY))
    step(config, state, samples_of([0.0], first=28 * PER_DAY))
    assert made_after(config, again, 28 * PER_DAY + 1) == made_after(config, state, 28 * PER_DAY + 1)


def test_missing_scipy_is_fatal_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_module: str) -> None:
        raise ImportError("no scipy")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(FatalError, match=r"edgeflex-flow\[control\]"):
        NODE.start(config_of())
    NODE.start(config_of("persistence"))
