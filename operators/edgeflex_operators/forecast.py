"""`forecast`: what wind, photovoltaics, loads or prices will be in the steps to come, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from edgeflex_flow import __version__
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import DeadLetter, Forecast, Quality, Samples
from edgeflex_flow.node import Delays, Input, NodeConfig, OperatorNode, Wire, WireMessage, message_wire, quantity, table
from edgeflex_flow.units import SUFFIXES, names_its_unit
from edgeflex_operators._forecast_model import (
    LAGS,
    PROBABILITIES,
    Course,
    Model,
    bridged,
    fit,
    forecast_by,
    simple_forecast,
    usual_zero,
)
from edgeflex_operators._highs import load_optimize
from edgeflex_operators._latest import AHEAD_NS
from edgeflex_operators._step_series import StepSeries
from edgeflex_operators._units import digest

VERSION = f"{__version__}/forecast-1"

Array = NDArray[np.float64]

REFUSED_QUALITY = int(Quality.BAD_DATA | Quality.TEST)
DAY_S = 86_400
TICK_S = 1.0
ZERO_SHARE = 1e-3
"""Of the capacity: less is nothing, in the night of a photovoltaic plant."""
WEATHER_BRIDGED_NS = 3 * 3_600_000_000_000
"""Between forecasts of weather that are no farther apart, a line is drawn."""


class ForecastAsset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is forecast. Wind and photovoltaics stay within 0 and the capacity, loads above 0."""

    kind: Annotated[
        Literal["wind", "pv", "load", "other"],
        Meta(description="`other` has no bounds of its own: prices, or power that flows both ways."),
    ]
    capacity: (
        Annotated[float, Meta(gt=0, description="Installed capacity, the highest value, in the column's unit.")] | None
    ) = None
    weather: (
        Annotated[str, Meta(min_length=1, description="Device whose weather counts; by default its own.")] | None
    ) = None

    @property
    def low(self) -> float:
        return -math.inf if self.kind == "other" else 0.0

    @property
    def high(self) -> float:
        return math.inf if self.capacity is None else self.capacity


Method: TypeAlias = Literal["persistence", "daily", "regression"]


class ForecastConfig(NodeConfig, frozen=True, kw_only=True):
    """Forecasts one column of each asset, from its own past and, if there is any, from forecasts of weather.

    Measurements become means over steps of `step`, which begin at whole multiples of it (UTC). After each step, and
    `delay` for rows on their way, the steps to come are forecast for every asset:

    - `persistence`: all will be as the last step was. The measure of all forecasts.
    - `daily`: the same as at that time of the last day that is known.
    - `regression`: for each horizon a ridge regression on the last six steps, on the same time of the last day, on the
      mean of that time over seven days as such and in the proportion of what came lately, on sine and cosine of the
      time of day, and on `weather` to the third power. The quantiles 0.1, 0.5 and 0.9 are linear quantile regressions
      on the expected value, on how much the value moves lately and on the time of day.

    `regression` is fitted anew every `refit`, one asset in each turn of the clock so that the flow does not wait for
    long (about 1 s for 56 days and 96 steps), on the last `history`. Its quantiles are fitted on the first 70 % of
    that and then moved by what the newest 30 % asks for. `coverage` and `skill` of the message tell how that went.
    Until `least_history` is there, where the weather ahead or the last values are missing, and while regression is no
    better than persistence on the newest 30 %, persistence takes its place, with `status` `fallback` and the reason.

    A photovoltaic plant gives nothing in steps of the day in which, with both neighbours, it never gave more than
    0.1 % of its capacity in the history (of the highest value, where none is given). The days are those of UTC.

    Input:
        in: Samples with `column`. Rows of other devices than `assets`, NaN rows and those flagged `bad_data` or `test`
            count as none. Gaps of up to `bridge` are filled by a line, or by the last value; longer ones stay gaps,
            and steps that would rest on them are not used to fit.
        weather: Samples with the column `weather`, whose times lie ahead; for a time that came before, the new value
            counts. Between two times up to 3 h apart a line is drawn. Fits take what was forecast last for the past,
            so the regression trusts a forecast of many hours ahead somewhat more than it deserves.
    Output:
        `Forecast` of each asset after each step, and once more after each fit. `status` is `none` when nothing was
        measured for longer than `bridge`. `quality` holds the flags of the last six steps, and `estimated` if one of
        them was bridged.
    Errors:
        Rows whose time lies more than 1 s after their reception are dropped and counted as `clock_ahead`, and so is
        weather that lies farther ahead than `history` and all steps together: of its reception, or of the newest
        measurement where that is not known. FatalError when scipy is not installed, for `regression`.
    Source:
        Ridge regression (Hoerl and Kennard 1970); quantile regression (Koenker and Bassett 1978) as a linear program;
        its calibration follows conformalised quantile regression (Romano, Patterson and Candès 2019), each side by
        itself.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> config = ForecastConfig(
    ...     column="active_power_w", assets={"W1": ForecastAsset(kind="wind")}, method="persistence", steps=2
    ... )
    >>> state = start(config)
    >>> rows = [(k * 300_000_000_000, "W1", {"active_power_w": 1e6 + k}) for k in range(3)]
    >>> step(config, state, samples_from_rows(rows))
    []
    >>> [made] = tick(config, state, 910_000_000_000)
    >>> made.begin_ns, made.values
    (900000000000, (1000001.0, 1000001.0))
    """

    column: Annotated[str, Meta(min_length=1, description="Column to forecast; its name ends in its unit.")]
    assets: Annotated[dict[str, ForecastAsset], table("What to forecast, by the name of the device that measures it.")]
    method: Annotated[Method, Meta(description="How to forecast.")] = "regression"
    step: Annotated[float, quantity("s", "Length of a step; a day is a whole number of them.", ge=1, le=86_400)] = 900.0
    steps: Annotated[int, Meta(ge=1, le=288, description="How many steps ahead.")] = 96
    weather: Annotated[str | None, Meta(description="Column of the port `weather`, if that is wired.")] = None
    delay: Annotated[
        float, quantity("s", "How long after a step its rows may come before forecasts are made.", ge=0, le=900)
    ] = 5.0
    bridge: Annotated[float, quantity("s", "Longest gap that is bridged.", ge=0, le=86_400)] = 3600.0
    history: Annotated[float, quantity("s", "How far back measurements count.", ge=3 * DAY_S, le=366 * DAY_S)] = (
        56.0 * DAY_S
    )
    least_history: Annotated[
        float, quantity("s", "Measurements that a fit needs; with less, persistence.", ge=2 * DAY_S, le=366 * DAY_S)
    ] = 7.0 * DAY_S
    refit: Annotated[float, quantity("s", "How often to fit anew.", ge=60, le=366 * DAY_S)] = float(DAY_S)

    def refusals(self) -> Iterator[FieldError]:
        for name in ("column", "weather"):
            column = getattr(self, name)
            if column is not None and not names_its_unit(column):
                yield FieldError(f"`{name}`: '{column}' does not end in a unit", name, known=SUFFIXES)
        if DAY_S % self.step:
            yield FieldError("a day is no whole number of steps", "step", got=f"{self.step:g} s")
        if self.least_history > self.history:
            yield FieldError("`least_history` is longer than `history`", "least_history", "history")
        for name, asset in self.assets.items():
            if asset.kind == "wind" and asset.capacity is None and self.method == "regression":
                yield FieldError(f"`assets`: wind needs its `capacity`; '{name}' has none", f"assets.{name}", "method")

    @property
    def step_ns(self) -> int:
        return round(self.step * 1e9)

    @property
    def bridged_steps(self) -> int:
        return int(self.bridge / self.step)


class _Fitted(NamedTuple):
    """When a model was fitted, and the model; None where that failed, with the reason."""

    time_ns: int
    model: Model | None
    reason: str = ""


@dataclass(slots=True)
class ForecastState:
    """The history of each asset, the weather by device and step, and the models."""

    config: ForecastConfig
    config_digest: str = field(init=False)
    series: dict[str, StepSeries] = field(default_factory=dict)
    weather: dict[str, dict[int, float]] = field(default_factory=dict)
    """By device: value by time."""
    fitted: dict[str, _Fitted] = field(default_factory=dict)
    made_for: int | None = None
    """Number of the step after which forecasts were made last."""

    def __post_init__(self) -> None:
        self.adopt(self.config)

    def adopt(self, config: ForecastConfig) -> None:
        """Follow a config. Fits that rest on another one are made anew."""
        self.config = config
        self.config_digest = digest(config)
        self.fitted.clear()
        series = {name: StepSeries(config.step_ns, round(config.history / config.step)) for name in config.assets}
        for name, before in self.series.items():
            if name in series and (before.step_ns, before.kept) == (series[name].step_ns, series[name].kept):
                series[name] = before
        self.series = series


def start(config: ForecastConfig) -> ForecastState:
    if config.method == "regression":
        load_optimize()
    return ForecastState(config)


def _follow(config: ForecastConfig, state: ForecastState) -> None:
    if config is not state.config and config != state.config:
        state.adopt(config)


def step(config: ForecastConfig, state: ForecastState, samples: Samples) -> list[WireMessage]:
    _follow(config, state)
    values = samples.columns[config.column]
    usable = np.isfinite(values) & ((samples.quality & REFUSED_QUALITY) == 0)
    ahead = _ahead(samples)
    for name, series in state.series.items():
        if name in samples.devices:
            mine = usable & ~ahead & (samples.device == samples.devices.index(name))
            series.add(samples.time_ns[mine], values[mine], samples.quality[mine])
    return _letters(samples, ahead, samples.received_ns)


def step_weather(config: ForecastConfig, state: ForecastState, samples: Samples) -> list[WireMessage]:
    _follow(config, state)
    assert config.weather is not None
    values = samples.columns[config.weather]
    usable = np.isfinite(values) & ((samples.quality & REFUSED_QUALITY) == 0)
    kept_ns = round((config.history + config.steps * config.step) * 1e9)
    now_ns = samples.received_ns or max((each.newest_ns or 0 for each in state.series.values()), default=0)
    ahead = usable & (samples.time_ns > now_ns + kept_ns) if now_ns else np.zeros(samples.rows, dtype=np.bool_)
    wanted = {each.weather or name for name, each in config.assets.items()}
    for row in np.flatnonzero(usable & ~ahead).tolist():
        device = samples.devices[samples.device[row]]
        if device in wanted:
            state.weather.setdefault(device, {})[int(samples.time_ns[row])] = float(values[row])
    if now_ns:
        _forget_weather(state, now_ns, kept_ns)
    return _letters(samples, ahead, now_ns)


def _forget_weather(state: ForecastState, now_ns: int, kept_ns: int) -> None:
    """What came before anything told the time may lie too far ahead as well."""
    for name, known in state.weather.items():
        newest_ns = max((each for each in known if each <= now_ns + kept_ns), default=0)
        state.weather[name] = {
            time_ns: value for time_ns, value in known.items() if newest_ns - 2 * kept_ns <= time_ns <= newest_ns
        }


def _ahead(samples: Samples) -> NDArray[np.bool_]:
    """Rows from the future, where it is known when they were received."""
    if not samples.received_ns:
        return np.zeros(samples.rows, dtype=np.bool_)
    ahead: NDArray[np.bool_] = samples.time_ns > samples.received_ns + AHEAD_NS
    return ahead


def _letters(samples: Samples, ahead: NDArray[np.bool_], now_ns: int) -> list[WireMessage]:
    count = int(ahead.sum())
    if not count:
        return []
    row = int(np.flatnonzero(ahead)[0])
    name, seconds = samples.devices[samples.device[row]], (int(samples.time_ns[row]) - now_ns) / 1e9
    return [
        DeadLetter(
            node="",
            reason="clock_ahead",
            text=f"rows from the future, first of '{name}', {seconds:.1f} s ahead",
            time_ns=now_ns,
            count=count,
        )
    ]


def tick(config: ForecastConfig, state: ForecastState, now_ns: int) -> list[WireMessage]:
    _follow(config, state)
    end = (now_ns - round(config.delay * 1e9)) // config.step_ns
    if end != state.made_for:
        state.made_for = end
        return [_forecast(config, state, name, end) for name in config.assets]
    due = _due(config, state, now_ns)
    if due is None:
        return []
    state.fitted[due] = _fit(config, state, due, end, now_ns)
    return [_forecast(config, state, due, end)]


def _due(config: ForecastConfig, state: ForecastState, now_ns: int) -> str | None:
    """The asset that has waited longest to be fitted."""
    if config.method != "regression":
        return None
    waits_ns = {
        name: now_ns - (state.fitted[name].time_ns if name in state.fitted else 0)
        for name, series in state.series.items()
        if (series.counts > 0).sum() * config.step >= config.least_history
    }
    longest = max(waits_ns, key=waits_ns.__getitem__, default=None)
    return longest if longest is not None and waits_ns[longest] >= config.refit * 1e9 else None


class _Past(NamedTuple):
    """What is known of an asset before a step."""

    course: Course
    night: NDArray[np.bool_]
    """By step of the day, where it gives nothing."""
    bridged: int
    """Of the last six steps, those that were bridged."""
    missing: int
    measured: int


def _past(config: ForecastConfig, state: ForecastState, name: str, end: int) -> _Past:
    series, asset = state.series[name], config.assets[name]
    first, values = series.means(end)
    filled, _ = bridged(values, config.bridged_steps)
    per_day = round(DAY_S / config.step)
    course = Course(filled, first, per_day, _weather(config, state, name, first, end))
    zero = ZERO_SHARE * (asset.capacity or float(np.nanmax(np.abs(values), initial=0.0)))
    is_pv = asset.kind == "pv" and len(values)
    night = usual_zero(course._replace(values=values), zero) if is_pv else np.zeros(per_day, dtype=np.bool_)
    gaps = np.isnan(values)
    return _Past(course, night, int(gaps[-LAGS:].sum()), int(gaps.sum()), int((~gaps).sum()))


def _weather(config: ForecastConfig, state: ForecastState, name: str, first: int, end: int) -> Array | None:
    """Of the steps from `first` to the last one that is forecast, at their middles; None if it does not count."""
    if config.weather is None:
        return None
    known = state.weather.get(config.assets[name].weather or name, {})
    wanted_ns = np.arange(first, end + config.steps) * config.step_ns + config.step_ns // 2
    if not known:
        return np.full(len(wanted_ns), np.nan)
    times_ns = np.array(sorted(known), dtype=np.int64)
    values = np.array([known[time_ns] for time_ns in times_ns.tolist()])
    found: Array = np.interp(wanted_ns, times_ns, values, left=np.nan, right=np.nan)
    after = np.searchsorted(times_ns, wanted_ns).clip(1, max(len(times_ns) - 1, 1))
    if len(times_ns) > 1:
        found[times_ns[after] - times_ns[after - 1] > WEATHER_BRIDGED_NS] = np.nan
    return found


def _fit(config: ForecastConfig, state: ForecastState, name: str, end: int, now_ns: int) -> _Fitted:
    asset, past = config.assets[name], _past(config, state, name, end)
    try:
        model = fit(past.course, config.steps, ~past.night, asset.low, asset.high)
    except (ValueError, np.linalg.LinAlgError) as error:
        return _Fitted(now_ns, None, f"the fit failed: {error}")
    if model is None:
        return _Fitted(now_ns, None, "too few rows of the history are whole")
    if model.skill <= 0.0:
        reason = f"on held-out history the regression is worse than persistence: skill {model.skill:.2f}"
        return _Fitted(now_ns, None, reason)
    return _Fitted(now_ns, model)


def _forecast(config: ForecastConfig, state: ForecastState, name: str, end: int) -> Forecast:
    """The forecast of an asset for the steps from number `end` on."""
    past = _past(config, state, name, end)
    made = Forecast(
        device=name,
        quantity=config.column,
        time_ns=end * config.step_ns,
        begin_ns=end * config.step_ns,
        step_s=config.step,
        method=config.method,
        status="none",
        missing_steps=past.missing,
        quality=_quality(state.series[name], past, end),
        config_digest=state.config_digest,
        version=VERSION,
    )
    if not len(past.course.values) or np.isnan(past.course.values[-1]):
        return replace(made, reason=_silence(config, state.series[name], end))
    reason = ""
    if config.method == "regression":
        fitted = state.fitted.get(name)
        if fitted is None or fitted.model is None:
            known_d, least_d = past.measured * config.step / DAY_S, config.least_history / DAY_S
            short = f"{known_d:.1f} d are measured, a fit needs {least_d:g} d"
            reason = fitted.reason if fitted is not None else short if known_d < least_d else "the fit is yet to come"
        else:
            expected, quantiles = forecast_by(fitted.model, past.course, config.steps)
            if np.isfinite(expected).all() and np.isfinite(quantiles).all():
                made = replace(
                    made, status="ok", rows=fitted.model.rows, coverage=fitted.model.coverage, skill=fitted.model.skill
                )
                return _with_values(config.assets[name], made, past, expected, quantiles)
            reason = _lacking(past, config)
    return _simple(config, name, past, made, reason)


def _simple(config: ForecastConfig, name: str, past: _Past, made: Forecast, reason: str) -> Forecast:
    """By persistence or the last day; `reason` says why regression was asked for and not used."""
    method: Method = "daily" if config.method == "daily" else "persistence"
    expected, quantiles = simple_forecast(past.course, config.steps, daily=method == "daily")
    if np.isnan(expected).any():
        method, reason = "persistence", "the last day is not known as a whole"
        expected, quantiles = simple_forecast(past.course, config.steps, daily=False)
    status: Literal["ok", "fallback"] = "fallback" if reason else "ok"
    made = replace(made, method=method, status=status, reason=reason, rows=past.measured)
    night = past._replace(night=np.zeros_like(past.night)) if method == "persistence" else past
    return _with_values(config.assets[name], made, night, expected, quantiles)


def _with_values(
    asset: ForecastAsset, made: Forecast, past: _Past, expected: Array, quantiles: Array | None
) -> Forecast:
    """Values within the asset's bounds, and nothing at night."""
    course = past.course
    steps = (course.first + len(course.values) + np.arange(len(expected))) % course.per_day
    dark = past.night[steps]
    values = np.where(dark, 0.0, np.clip(expected, asset.low, asset.high))
    if quantiles is None:
        return replace(made, values=tuple(values.tolist()))
    cut = np.where(dark, 0.0, np.clip(quantiles, asset.low, asset.high))
    return replace(
        made,
        values=tuple(values.tolist()),
        quantiles={
            f"{probability:g}": tuple(row) for probability, row in zip(PROBABILITIES, cut.tolist(), strict=True)
        },
    )


def _quality(series: StepSeries, past: _Past, end: int) -> int:
    last = series.flags[max(end - LAGS - series.first, 0) : max(end - series.first, 0)]
    return int(np.bitwise_or.reduce(last, initial=0)) | (int(Quality.ESTIMATED) if past.bridged else 0)


def _silence(config: ForecastConfig, series: StepSeries, end: int) -> str:
    if series.newest_ns is None:
        return "nothing was measured"
    silent_s = (end * config.step_ns - series.newest_ns) / 1e9
    if silent_s <= config.bridge:
        return "no step is over yet that holds a measurement"
    return f"nothing was measured for {max(silent_s, config.step):.0f} s, more than {config.bridge:g} s are not bridged"


def _lacking(past: _Past, config: ForecastConfig) -> str:
    weather = past.course.weather
    if weather is not None and np.isnan(weather[-config.steps :]).any():
        return "the weather of the steps to come is not known as a whole"
    return "a gap in what the regression rests on: the last six steps, or that time of the last seven days"


def _output(_config: ForecastConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Forecast)


def _needs_weather(config: ForecastConfig) -> tuple[str, ...]:
    return () if config.weather is None else (config.weather,)


def _delays(config: ForecastConfig) -> Delays:
    """A row waits for the end of its step; a forecast has the time of that end."""
    lag_s = config.delay + TICK_S
    return Delays(lag_s=lag_s, period_s=config.step, age_s=lag_s)


NODE = OperatorNode(
    kind="forecast",
    config=ForecastConfig,
    inputs={
        "in": Input(accepts=(Samples,), needs=lambda config: (config.column,), step=step),
        "weather": Input(accepts=(Samples,), needs=_needs_weather, step=step_weather, optional=True),
    },
    output=_output,
    start=start,
    tick=tick,
    tick_period_s=lambda _config: TICK_S,
    # Weather of one device counts for many assets.
    scope="site",
    delays=_delays,
)
