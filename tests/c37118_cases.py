"""Random C37.118.2 configurations and data, and the frames that were captured from other makers' devices."""

from __future__ import annotations

import json
import math
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from edgeflex_connectors.c37118 import (
    Analog,
    ConfigFrame,
    DataFrame,
    Details,
    Digital,
    FrameHeader,
    FrameType,
    Phasor,
    PmuConfig,
    PmuData,
)

VECTORS_FILE: Final = Path(__file__).parent / "data" / "c37118_vectors.json"
NAME_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@cache
def vectors() -> dict[str, dict[str, Any]]:
    """The captured frames by name: hex, expected values, source, licence."""
    return {vector["name"]: vector for vector in json.loads(VECTORS_FILE.read_text())}


def vector_bytes(name: str) -> bytes:
    return bytes.fromhex(vectors()[name]["hex"])


def single(number: float) -> float:
    """The float32 nearest to a number, as a frame carries it."""
    return float(struct.unpack(">f", struct.pack(">f", number))[0])


def random_name(random: Random, most: int = 16) -> str:
    return "".join(random.choice(NAME_LETTERS) for _ in range(random.randint(1, most)))


def random_header(
    random: Random, idcode: int | None = None, version: int = 1, time_base: int = 1_000_000
) -> FrameHeader:
    return FrameHeader(
        idcode=random.randint(1, 65534) if idcode is None else idcode,
        soc=random.randint(0, 0xFFFFFFFF),
        fraction=random.randrange(time_base),
        time_quality=random.choice((0, 0, random.randrange(0x80))),
        version=version,
    )


def random_phasor(random: Random, third: bool) -> Phasor:
    # PHUNIT is a whole number of 1e-5 units; CFG-3 carries float32.
    scale = random.randint(1, 0xFFFFFF) / 100_000
    if not third:
        return Phasor(name=random_name(random), is_current=random.random() < 0.5, scale=scale)
    return Phasor(
        name=random_name(random, 40),
        is_current=random.random() < 0.5,
        scale=single(scale),
        angle_offset_rad=random.choice((0.0, single(random.uniform(-math.pi, math.pi)))),
        component=random.choice((0, 1, 2, 4, 5, 6)),
        modification=random.randrange(0x10000),
        user=random.randrange(256),
    )


def random_analog(random: Random, third: bool) -> Analog:
    if third:
        gain = single(random.choice((-1, 1)) * random.uniform(0.01, 10.0))
        return Analog(name=random_name(random, 40), gain=gain, offset=single(random.uniform(-100.0, 100.0)))
    return Analog(
        name=random_name(random), kind=random.choice((0, 1, 2, 65, 255)), unit=random.randint(-0x800000, 0x7FFFFF)
    )


def random_pmu(random: Random, third: bool) -> PmuConfig:
    return PmuConfig(
        station=random_name(random, 60 if third else 16),
        idcode=random.randint(1, 65534),
        format=random.randrange(16),
        phasors=tuple(random_phasor(random, third) for _ in range(random.randint(0, 4))),
        analogs=tuple(random_analog(random, third) for _ in range(random.randint(0, 3))),
        digitals=tuple(
            Digital(
                labels=tuple(random_name(random) for _ in range(16)),
                normal_mask=random.randrange(0x10000),
                valid_mask=random.randrange(0x10000),
            )
            for _ in range(random.randint(0, 2))
        ),
        nominal_hz=random.choice((50, 60)),
        change_count=random.randrange(0x10000),
        details=Details(
            global_id=random.randbytes(16),
            latitude_deg=single(random.uniform(-90.0, 90.0)),
            longitude_deg=single(random.uniform(-180.0, 180.0)),
            elevation_m=random.choice((math.inf, single(random.uniform(0.0, 4000.0)))),
            service_class=random.choice("PM"),
            window_us=random.randint(0, 10**6),
            group_delay_us=random.randint(0, 10**6),
        )
        if third
        else None,
    )


def random_config(random: Random, kind: FrameType | None = None) -> ConfigFrame:
    """A configuration of 1 to 3 PMUs in any format."""
    kind = kind or random.choice((FrameType.CFG1, FrameType.CFG2, FrameType.CFG3))
    third = kind is FrameType.CFG3
    return ConfigFrame(
        header=random_header(random, version=2 if third else 1),
        kind=kind,
        time_base=random.choice((1_000_000, 1_000_000, 16_777_215, 600, 1)),
        pmus=tuple(random_pmu(random, third) for _ in range(random.randint(1, 3))),
        data_rate=random.choice((10, 25, 50, 60, -5)),
    )


def random_value(random: Random, low: float, high: float) -> float:
    """A float32, now and then absent."""
    return math.nan if random.random() < 0.05 else single(random.uniform(low, high))


def random_pmu_data(random: Random, pmu: PmuConfig) -> PmuData:
    def phasor(scale: float) -> tuple[float, float]:
        if random.random() < 0.05:
            return math.nan, math.nan
        most = 500_000.0 if pmu.float_phasors else 32_000.0 * scale
        return single(random.uniform(0.0, most)), single(random.uniform(-3.14159, 3.14159))

    def analog(each: Analog) -> float:
        if pmu.float_analogs:
            return random_value(random, -1e6, 1e6)
        return math.nan if random.random() < 0.05 else random.randint(-32_767, 32_767) * each.gain + each.offset

    return PmuData(
        stat=random.choice((0, 0, random.randrange(0x10000))),
        phasors=tuple(phasor(each.scale) for each in pmu.phasors),
        frequency_hz=random_value(random, pmu.nominal_hz - 5.0, pmu.nominal_hz + 5.0),
        rocof_hz_per_s=random_value(random, -10.0, 10.0),
        analogs=tuple(analog(each) for each in pmu.analogs),
        digitals=tuple(random.randrange(0x10000) for _ in pmu.digitals),
    )


def random_data(random: Random, config: ConfigFrame) -> DataFrame:
    """Data that fit a configuration."""
    header = random_header(
        random, idcode=config.header.idcode, version=config.header.version, time_base=config.time_base
    )
    return DataFrame(header=header, pmus=tuple(random_pmu_data(random, pmu) for pmu in config.pmus))


def plain_config(
    idcode: int = 7,
    station: str | None = None,
    *,
    phasors: tuple[Phasor, ...] = (Phasor(name="V1"), Phasor(name="I1", is_current=True)),
    analogs: tuple[Analog, ...] = (Analog(name="P"),),
    change_count: int = 1,
    format_bits: int = 15,
    pmu_idcode: int | None = None,
    kind: FrameType = FrameType.CFG2,
) -> ConfigFrame:
    """A stream of one PMU whose data frames have 46 bytes unless told otherwise."""
    pmu = PmuConfig(
        station=station or f"G{idcode}",
        idcode=idcode if pmu_idcode is None else pmu_idcode,
        format=format_bits,
        phasors=phasors,
        analogs=analogs,
        change_count=change_count,
    )
    return ConfigFrame(header=FrameHeader(idcode=idcode, soc=1_700_000_000), kind=kind, pmus=(pmu,))


def plain_data(
    config: ConfigFrame, frame: int = 0, *, frequency_hz: float = 50.0, stat: int = 0, time_quality: int = 0
) -> DataFrame:
    """Data for a configuration; `frame` counts frames of 20 ms."""
    return DataFrame(
        header=FrameHeader(
            idcode=config.header.idcode,
            soc=1_700_000_000 + frame // 50,
            fraction=frame % 50 * 20_000,
            time_quality=time_quality,
        ),
        pmus=tuple(
            PmuData(
                stat=stat,
                phasors=tuple((230.0 + number, 0.5) for number in range(len(pmu.phasors))),
                frequency_hz=frequency_hz,
                rocof_hz_per_s=0.25,
                analogs=tuple(1000.0 + number for number in range(len(pmu.analogs))),
                digitals=tuple(range(len(pmu.digitals))),
            )
            for pmu in config.pmus
        ),
    )
