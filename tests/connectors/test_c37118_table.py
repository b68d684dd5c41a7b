from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from c37118_cases import plain_config

from edgeflex_connectors import c37118_table
from edgeflex_connectors.c37118 import Analog, ConfigFrame, Digital, FrameType, Phasor, PmuConfig
from edgeflex_connectors.c37118_columns import ColumnPlan, plan_columns
from edgeflex_connectors.c37118_kernel import find_stream
from edgeflex_connectors.c37118_table import StreamTable, TableFullError, differences

CHANNELS = {"V1": "voltage_v", "I1": "current_a", "P": "active_power_w"}


def plan(pmu: PmuConfig, **declared: str) -> ColumnPlan:
    return plan_columns(pmu, declared)


def pmu_of(*phasors: Phasor, analogs: tuple[Analog, ...] = (), words: int = 0, format_bits: int = 15) -> PmuConfig:
    return PmuConfig(
        station="S", idcode=1, format=format_bits, phasors=phasors, analogs=analogs, digitals=(Digital(),) * words
    )


def test_declared_channels_go_by_their_columns_and_phasors_add_an_angle() -> None:
    pmu = pmu_of(Phasor(name="V1"), Phasor(name="I1", is_current=True), analogs=(Analog(name="P"),))
    found = plan(pmu, **CHANNELS)
    assert found.columns == ("voltage_v", "voltage_angle_rad", "current_a", "current_angle_rad", "active_power_w")
    assert found.problems == ()


def test_other_channels_go_by_their_own_names() -> None:
    pmu = pmu_of(Phasor(name="VA-1 "), Phasor(name="I n", is_current=True), analogs=(Analog(name="Temp"),), words=2)
    assert plan(pmu).columns == (
        "va_1_v",
        "va_1_angle_rad",
        "i_n_a",
        "i_n_angle_rad",
        "temp_raw",
        "digital1_bits",
        "digital2_bits",
    )


def test_channels_of_the_same_name_get_columns_of_their_own() -> None:
    pmu = pmu_of(Phasor(name="VA"), Phasor(name="va"), Phasor(name="§"), Phasor(name=""))
    assert plan(pmu).columns == (
        "va_v",
        "va_angle_rad",
        "va_2_v",
        "va_2_angle_rad",
        "phasor3_v",
        "phasor3_angle_rad",
        "phasor4_v",
        "phasor4_angle_rad",
    )


def test_a_declared_column_is_never_taken_by_another_channel() -> None:
    pmu = pmu_of(Phasor(name="VA"), Phasor(name="X"))
    assert plan(pmu, X="va_v").columns[::2] == ("va_2_v", "va_v")


def test_a_channel_named_like_a_field_of_the_frame_does_not_take_its_column() -> None:
    columns = plan(pmu_of(analogs=(Analog(name="frequency_hz"),))).columns
    assert columns == ("frequency_hz_raw",)


@pytest.mark.parametrize(
    ("column", "factor"), [("voltage_v", 1.0), ("voltage_kv", 1e-3), ("voltage_pu", 1.0), ("voltage_raw", 1.0)]
)
def test_magnitudes_are_converted_to_the_unit_of_their_column(column: str, factor: float) -> None:
    channel = plan(pmu_of(Phasor(name="V1", scale=0.5)), V1=column).channels[0]
    assert channel.factor == pytest.approx(factor)
    assert channel.angle_column == "voltage_angle_rad"


def test_scale_applies_to_integer_formats_only() -> None:
    phasor = Phasor(name="V1", scale=0.5, angle_offset_rad=0.1)
    assert plan(pmu_of(phasor, format_bits=0)).channels[0][2:] == (0.5, 0.1)
    assert plan(pmu_of(phasor, format_bits=2)).channels[0][2:] == (1.0, 0.0)


def test_a_current_does_not_go_by_a_column_in_volts() -> None:
    found = plan(pmu_of(Phasor(name="V1", is_current=True)), V1="voltage_v")
    assert found.columns == ("v1_a", "v1_angle_rad")
    assert "phasor 'V1' is a current; column 'voltage_v' states a voltage" in found.problems[0]


def test_a_declared_channel_that_is_not_sent_is_told() -> None:
    found = plan(pmu_of(Phasor(name="V1")), V2="voltage_v")
    assert found.problems == ("sends no channel 'V2'; known: V1",)


def table(names: dict[str, str] | None = None, channels: dict[str, str] | None = None) -> StreamTable:
    return StreamTable(names or {}, channels or {})


def test_devices_go_by_names_then_station_then_idcode() -> None:
    streams = table({"7": "feeder"})
    streams.configure(1, plain_config(7, "S7"), "10.0.0.1")
    streams.configure(1, plain_config(8, "S8"), "10.0.0.1")
    streams.configure(1, plain_config(9, " "), "10.0.0.1")
    assert streams.devices == ("feeder", "S8", "pmu-9")


def test_devices_of_the_same_name_stay_apart() -> None:
    streams = table()
    for peer, idcode in ((1, 7), (1, 8), (2, 7), (3, 7), (4, 7)):
        streams.configure(peer, plain_config(idcode, "S"), f"host{peer if peer < 4 else 3}")
    assert streams.devices == ("S", "S-8", "S-7", "S-7-host3", "S-7-host3-2")


def test_twins_in_one_frame_are_two_devices() -> None:
    pmu = plain_config(7, "S").pmus[0]
    config = msgspec.structs.replace(plain_config(7), pmus=(pmu, pmu))
    streams = table()
    assert streams.configure(1, config, "host").devices == ("S", "S-7")
    assert streams.most_rows == 2


def test_repeating_a_configuration_changes_nothing() -> None:
    streams = table()
    streams.configure(1, plain_config(), "host")
    devices, columns, used = streams.devices, streams.columns, streams._pmus_used
    outcome = streams.configure(1, plain_config(), "host")
    assert not outcome.new
    assert outcome.changes == ()
    assert streams.devices is devices
    assert streams.columns is columns
    assert streams._pmus_used == used


def test_a_change_keeps_the_device_and_tells_what_changed() -> None:
    streams = table()
    streams.configure(1, plain_config(), "host")
    longer = plain_config(analogs=(Analog(name="P"), Analog(name="Q")), change_count=2)
    outcome = streams.configure(1, longer, "host")
    assert outcome.changes == (
        "frame size 46 -> 50",
        "'G7': analogs ['P'] -> ['P', 'Q']",
        "'G7': CFGCNT 1 -> 2",
    )
    assert outcome.devices == ("G7",)
    assert streams.devices == ("G7",)


def test_a_change_back_and_forth_does_not_fill_the_memory() -> None:
    streams = table()
    for count in range(1000):
        streams.configure(1, plain_config(change_count=count % 2), "host")
    assert len(streams.pmus) < 64
    assert find_stream(streams.slot_peers, streams.slots, np.uint64(1), 7) == 0


def test_cfg_1_does_not_override_what_is_sent() -> None:
    capability = plain_config(analogs=(), kind=FrameType.CFG1)
    assert differences(plain_config(), capability) == ()
    assert differences(capability, plain_config()) != ()


def test_cfg_2_and_cfg_3_of_the_same_data_are_no_change() -> None:
    assert differences(plain_config(), plain_config(kind=FrameType.CFG3)) == ()
    # A CFG-2 has no room for more of the name, and tells a scale in decimals.
    (long, short) = ("bus 7 voltage of phase A", "bus 7 voltage of")
    third = plain_config(
        kind=FrameType.CFG3, format_bits=0, phasors=(Phasor(name=long, scale=float(np.float32(9.15527))),)
    )
    second = plain_config(format_bits=0, phasors=(Phasor(name=short, scale=9.15527),))
    assert differences(second, third) == differences(third, second) == ()
    assert differences(plain_config(), plain_config(kind=FrameType.CFG3, change_count=2)) == ("'G7': CFGCNT 1 -> 2",)


V1, I1 = Phasor(name="V1", scale=0.5), Phasor(name="I1", is_current=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"station": "other"},
        {"phasors": (I1, V1)},
        {"phasors": (msgspec.structs.replace(V1, name="V2"), I1)},
        {"phasors": (msgspec.structs.replace(V1, scale=0.6), I1)},
        {"phasors": (msgspec.structs.replace(V1, is_current=True), I1)},
        {"phasors": (msgspec.structs.replace(V1, angle_offset_rad=0.1), I1)},
        {"analogs": (Analog(name="Q"),)},
        {"analogs": (Analog(name="P", gain=2.0),)},
        {"analogs": (Analog(name="P", offset=1.0),)},
    ],
)
@pytest.mark.parametrize(
    "kinds", [(FrameType.CFG1, FrameType.CFG2), (FrameType.CFG2, FrameType.CFG3), (FrameType.CFG3, FrameType.CFG2)]
)
def test_configuration_of_another_kind_that_tells_of_other_data_is_a_change(
    changed: dict[str, Any], kinds: tuple[FrameType, FrameType]
) -> None:
    base: dict[str, Any] = {"format_bits": 0, "phasors": (V1, I1), "analogs": (Analog(name="P"),)}
    before = plain_config(kind=kinds[0], **base)
    after = plain_config(kind=kinds[1], **{**base, **changed})
    assert differences(before, after) != ()
    streams = table()
    streams.configure(1, before, "host")
    assert streams.configure(1, after, "host").changes
    assert streams.config_of(1, 7) == after


def test_cfg_1_after_a_cfg_2_that_repeated_it_does_not_override_it() -> None:
    streams = table()
    streams.configure(1, plain_config(kind=FrameType.CFG1), "host")
    assert streams.configure(1, plain_config(), "host").changes == ()
    assert streams.configure(1, plain_config(kind=FrameType.CFG1, analogs=()), "host").changes == ()
    assert streams.config_of(1, 7) == plain_config()


@pytest.mark.parametrize("bound", ["MOST_STREAMS", "MOST_DEVICES", "MOST_COLUMNS"])
def test_configurations_beyond_the_bounds_are_refused_and_change_nothing(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = table()
    streams.configure(1, plain_config(), "host")
    before = (streams.devices, streams.columns, len(streams))
    monkeypatch.setattr(c37118_table, bound, {"MOST_STREAMS": 1, "MOST_DEVICES": 1, "MOST_COLUMNS": 7}[bound])
    with pytest.raises(TableFullError):
        streams.configure(1, plain_config(8, phasors=(Phasor(name="V9"),)), "host")
    assert (streams.devices, streams.columns, len(streams)) == before


def test_preloaded_configuration_gives_each_peer_a_stream_of_its_own() -> None:
    streams = table(channels=CHANNELS)
    streams.preload(plain_config())
    assert not streams.devices
    assert streams.columns[:5] == ("frequency_hz", "dfreq_hz_per_s", "voltage_v", "current_a", "active_power_w")
    for peer in (1, 2):
        streams.adopt(peer, 7, f"host{peer}")
    assert streams.devices == ("G7", "G7-7")
    assert isinstance(streams.config_of(2, 7), ConfigFrame)
    assert streams.config_of(3, 7) is None
