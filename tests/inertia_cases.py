"""Recorded load steps as batches of samples, with noise and with the mistakes that a site makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import EventWindow, FrequencyEvent, Samples
from edgeflex_operators._units import GeneratingUnit, Governor, UnitTable

DATA = Path(__file__).parent / "data"
RATED_KV = 20.0
NS = 1_000_000_000


class Case(NamedTuple):
    """One recorded event: what was measured, the units and the truth."""

    samples: Samples
    units: UnitTable
    onset_ns: int
    h_s: dict[str, float]
    energy_mws: float


def load_case(name: str, *, seed: int | None = None) -> Case:
    """A record of `tests/data`; with a seed, 1 mHz of noise in frequency and 0.1 % in power."""
    with np.load(DATA / f"{name}.npz") as file:
        record = {key: file[key] for key in file.files}
    fields = {key: record[key].astype(np.float64) for key in ("v_mag", "v_ang", "i_mag", "i_ang", "bus_freq")}
    if seed is not None:
        _add_noise(fields, float(record["fps"]), np.random.default_rng(seed))
    names = tuple(str(gen) for gen in record["gen"])
    return Case(
        samples=_samples(record["t"], fields, names, float(record["s_base"])),
        units={gen: _unit(record, index) for index, gen in enumerate(names)},
        onset_ns=round(float(record["event_time"]) * NS),
        h_s={gen: float(record["h"][index]) for index, gen in enumerate(names)},
        energy_mws=float(record["ek_mws"]),
    )


def _add_noise(fields: dict[str, NDArray[np.float64]], frames_per_s: float, rng: np.random.Generator) -> None:
    shape = fields["v_ang"].shape
    # White noise of an angle makes this much of frequency, its central difference.
    jitter = rng.normal(0.0, 1e-3 * math.tau * 2.0 / frames_per_s / math.sqrt(2.0), shape)
    fields["v_ang"] += jitter
    fields["i_ang"] += jitter
    fields["i_mag"] *= 1.0 + rng.normal(0.0, 1e-3, shape)
    fields["bus_freq"] += rng.normal(0.0, 1e-3, shape)


def _samples(
    time_s: NDArray[np.float64], fields: dict[str, NDArray[np.float64]], names: tuple[str, ...], base_mva: float
) -> Samples:
    rows, units = fields["v_mag"].shape
    base_v = RATED_KV * 1e3 / math.sqrt(3.0)
    base_a = base_mva * 1e6 / (3.0 * base_v)
    columns = {
        "frequency_hz": fields["bus_freq"],
        "voltage_v": fields["v_mag"] * base_v,
        "voltage_angle_rad": fields["v_ang"],
        "current_a": fields["i_mag"] * base_a,
        "current_angle_rad": fields["i_ang"],
    }
    power = 3.0 * columns["voltage_v"] * columns["current_a"] * np.cos(fields["v_ang"] - fields["i_ang"])
    return Samples(
        time_ns=np.tile(np.rint(time_s * 1e9).astype(np.int64), units),
        device=np.repeat(np.arange(units, dtype=np.int32), rows),
        devices=names,
        columns={name: values.T.ravel().copy() for name, values in (*columns.items(), ("active_power_w", power))},
        quality=np.zeros(rows * units, dtype=np.uint16),
        received_ns=0,
    )


def _unit(record: dict[str, NDArray[Any]], index: int) -> GeneratingUnit:
    ratio = float(record["sn"][index]) / float(record["s_base"])
    return GeneratingUnit(
        rated_power=float(record["sn"][index]),
        rated_voltage=RATED_KV,
        transient_reactance_pu=float(record["xd1"][index]) * ratio,
        subtransient_reactance_pu=float(record["xd2"][index]) * ratio,
        armature_resistance_pu=float(record["ra"][index]) * ratio,
        governor=Governor() if record["has_gov"][index] else None,
    )


def seconds(samples: Samples) -> list[Samples]:
    """The samples as a stream would bring them: one batch a second, in order of time."""
    ordered = samples.take(np.argsort(samples.time_ns, kind="stable"))
    second = (ordered.time_ns - ordered.time_ns[0]) // NS
    return [ordered.take(second == number) for number in np.unique(second)]


def event_at(onset_ns: int, device: str = "GENROU_1") -> FrequencyEvent:
    return FrequencyEvent(
        id=f"{device}@{onset_ns}",
        state="started",
        device=device,
        onset_time_ns=onset_ns,
        detected_time_ns=onset_ns + NS // 2,
        rocof_hz_per_s=-0.05,
        frequency_before_hz=60.0,
        frequency_extreme_hz=59.95,
    )


def window_of(case: Case, samples: Samples | None = None, *, power_step: float | None = 1000.0) -> EventWindow:
    """The window that `event_window` would give, from 2 s before to 5 s after the onset."""
    given = case.samples if samples is None else samples
    begin_ns, end_ns = case.onset_ns - 2 * NS, case.onset_ns + 5 * NS
    inside = given.take((given.time_ns >= begin_ns) & (given.time_ns < end_ns))
    return EventWindow(
        event=event_at(case.onset_ns),
        onset_time_ns=case.onset_ns,
        begin_ns=begin_ns,
        end_ns=end_ns,
        samples=inside,
        power_step=power_step,
    )


def with_column(samples: Samples, device: str, name: str, values: Any) -> Samples:
    """The samples with a function of one device's column in its place."""
    mine = samples.device == samples.devices.index(device)
    changed = samples.columns[name].copy()
    changed[mine] = values(changed[mine])
    return samples.with_columns({**samples.columns, name: changed})
