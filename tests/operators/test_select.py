from __future__ import annotations

import pickle
from typing import get_args

import msgspec
import numpy as np
import pytest
from operator_streams import one_device

from edgeflex_flow.messages import Quality, Samples, samples_from_rows
from edgeflex_flow.node import samples_wire
from edgeflex_operators import select
from edgeflex_operators.select import NODE, QualityName, SelectConfig, SelectState


def run(config: SelectConfig, samples: Samples, state: SelectState | None = None) -> Samples | None:
    out = select.step(config, state or select.start(config), samples)
    if not out:
        return None
    [only] = out
    assert isinstance(only, Samples)
    return only


def batch() -> Samples:
    names = ["north_1", "north_2", "south_1"]
    samples = samples_from_rows([(0, name, {"frequency_hz": 50.0, "voltage_v": 230.0}) for name in names])
    samples.quality[:] = [0, Quality.BAD_DATA | Quality.TEST, Quality.TEST]
    return samples


def kept(samples: Samples | None) -> list[str]:
    return [] if samples is None else [samples.devices[code] for code in samples.device]


def test_columns_that_are_not_named_are_taken_away() -> None:
    samples = batch()
    out = run(SelectConfig(columns=("voltage_v",)), samples)
    assert out is not None
    assert list(out.columns) == ["voltage_v"]
    assert out.columns["voltage_v"] is samples.columns["voltage_v"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("south_1",), ["south_1"]),
        (("north_*",), ["north_1", "north_2"]),
        (("*_[2]", "south_?"), ["north_2", "south_1"]),
        (("NORTH_1",), []),
    ],
)
def test_devices_are_kept_by_name_or_pattern(patterns: tuple[str, ...], expected: list[str]) -> None:
    assert kept(run(SelectConfig(devices=patterns), batch())) == expected


def test_rows_with_one_of_the_flags_are_taken_away() -> None:
    assert kept(run(SelectConfig(without_quality=("bad_data", "sync_lost")), batch())) == ["north_1", "south_1"]
    assert kept(run(SelectConfig(without_quality=("test",)), batch())) == ["north_1"]


def test_flags_of_kept_rows_stay() -> None:
    out = run(SelectConfig(devices=("south_1",)), batch())
    assert out is not None
    assert out.quality.tolist() == [Quality.TEST]


def test_conditions_hold_together() -> None:
    config = SelectConfig(columns=("frequency_hz",), devices=("north_*",), without_quality=("test",))
    out = run(config, batch())
    assert out is not None
    assert (kept(out), list(out.columns)) == (["north_1"], ["frequency_hz"])


def test_batch_of_which_nothing_is_taken_away_is_not_copied() -> None:
    samples = batch()
    config = SelectConfig(columns=("voltage_v", "frequency_hz"), devices=("*",), without_quality=("late",))
    assert run(config, samples) is samples


def test_batch_without_a_wanted_row_gives_nothing() -> None:
    assert run(SelectConfig(devices=("west_*",)), batch()) is None


def test_new_devices_and_new_patterns_are_seen() -> None:
    config = SelectConfig(devices=("A*",))
    state = select.start(config)
    samples = one_device([0], [50.0], name="A1")
    assert run(config, samples, state) is samples
    assert run(config, one_device([0], [50.0], name="B1"), state) is None
    assert run(SelectConfig(devices=("B*",)), samples, state) is None


def test_ever_new_devices_do_not_fill_the_memory() -> None:
    config = SelectConfig(devices=("A*",))
    state = select.start(config)
    for k in range(1000):
        run(config, one_device([0], [50.0], name=f"A{k}"), state)
    assert len(state.known) <= 16


def test_state_pickles() -> None:
    config = SelectConfig(devices=("A*",))
    state = select.start(config)
    samples = one_device([0], [50.0], name="A1")
    run(config, samples, state)
    assert run(config, samples, pickle.loads(pickle.dumps(state))) is samples


def test_nothing_to_select_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="none of 'columns', 'devices' and 'without_quality' is given"):
        msgspec.convert({}, SelectConfig)


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'bad'"):
        msgspec.convert({"without_quality": ["bad"]}, SelectConfig)


def test_every_flag_can_be_named() -> None:
    assert set(get_args(QualityName)) == {str(flag.name).lower() for flag in Quality if flag}


def test_output_has_the_columns_that_are_kept() -> None:
    wire = samples_wire("frequency_hz", "voltage_v", more_columns=True)
    assert NODE.output(SelectConfig(columns=("voltage_v",)), {"in": wire}) == samples_wire("voltage_v")
    assert NODE.output(SelectConfig(devices=("A",)), {"in": wire}) == wire
    assert NODE.inputs["in"].columns(SelectConfig(columns=("voltage_v",))) == {"voltage_v"}


def test_rows_are_kept_as_numpy_would_keep_them() -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"{'AB'[k % 2]}{k}" for k in range(20))
    samples = Samples(
        time_ns=np.arange(500, dtype=np.int64),
        device=rng.integers(0, 20, 500).astype(np.int32),
        devices=names,
        columns={"frequency_hz": rng.normal(size=500)},
        quality=rng.integers(0, 512, 500).astype(np.uint16),
        received_ns=0,
    )
    out = run(SelectConfig(devices=("A*",), without_quality=("stale", "late")), samples)
    assert out is not None
    expected = (samples.device % 2 == 0) & (samples.quality & int(Quality.STALE | Quality.LATE) == 0)
    assert out.time_ns.tolist() == samples.time_ns[expected].tolist()
