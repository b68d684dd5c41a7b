"""Configuration frames of IEEE C37.118.2: what a stream's data frames hold (CFG-1, CFG-2, CFG-3)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from edgeflex_connectors.c37118_header import (
    CHECK_BYTES,
    CONFIG_TYPES,
    HEADER_BYTES,
    LARGEST_FRAME_BYTES,
    SMALLEST_FRAME_BYTES,
    FrameError,
    FrameHeader,
    FrameType,
    read_header,
    seal,
)

POLAR: Final = 1
FLOAT_PHASORS: Final = 2
FLOAT_ANALOGS: Final = 4
FLOAT_FREQUENCY: Final = 8
"""Bits of FORMAT. Unset: rectangular; 16-bit integers."""

LABELS_PER_WORD: Final = 16
NAME_BYTES: Final = 16
_LARGEST_TIME_BASE: Final = 0xFFFFFF


class Phasor(msgspec.Struct, frozen=True, kw_only=True):
    """A phasor channel."""

    name: str
    is_current: bool = False
    """A current in A; otherwise a voltage in V."""
    scale: float = 1.0
    """V or A per count of the integer formats. Float formats are sent in V or A and ignore it."""
    angle_offset_rad: float = 0.0
    """CFG-3: subtracted from angles of the integer formats."""
    component: int = 0
    """CFG-3: 0 zero, 1 positive, 2 negative sequence; 4, 5, 6 phase A, B, C."""
    modification: int = 0
    """CFG-3: how the phasor was changed on its way, 16 flags."""
    user: int = 0
    """CFG-3: user-designated byte."""


class Analog(msgspec.Struct, frozen=True, kw_only=True):
    """An analog channel. Its unit is between sender and receiver: the standard has no field for it."""

    name: str
    kind: int = 0
    """CFG-1 and CFG-2: 0 point on wave, 1 rms, 2 peak, 65 to 255 user-defined."""
    unit: int = 1
    """CFG-1 and CFG-2: user-defined factor, signed 24 bits. Not applied: only the sender knows what it means."""
    gain: float = 1.0
    """CFG-3, integer format: value = gain · count + offset."""
    offset: float = 0.0


class Digital(msgspec.Struct, frozen=True, kw_only=True):
    """A word of 16 digital states."""

    labels: tuple[str, ...] = ("",) * LABELS_PER_WORD
    """Names of the bits, least significant first."""
    normal_mask: int = 0
    valid_mask: int = 0xFFFF


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What CFG-3 adds about a PMU. Infinite coordinates: unknown."""

    global_id: bytes = bytes(16)
    latitude_deg: float = math.inf
    longitude_deg: float = math.inf
    elevation_m: float = math.inf
    service_class: str = "M"
    window_us: int = 0
    group_delay_us: int = 0


class PmuConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One PMU's block in a stream."""

    station: str
    idcode: int
    """Identity of the PMU; the stream that carries it may have another."""
    format: int = 0
    phasors: tuple[Phasor, ...] = ()
    analogs: tuple[Analog, ...] = ()
    digitals: tuple[Digital, ...] = ()
    nominal_hz: int = 50
    change_count: int = 0
    """CFGCNT: raised by the device with each change of its configuration."""
    details: Details | None = None

    @property
    def polar(self) -> bool:
        return bool(self.format & POLAR)

    @property
    def float_phasors(self) -> bool:
        return bool(self.format & FLOAT_PHASORS)

    @property
    def float_analogs(self) -> bool:
        return bool(self.format & FLOAT_ANALOGS)

    @property
    def float_frequency(self) -> bool:
        return bool(self.format & FLOAT_FREQUENCY)

    @property
    def block_bytes(self) -> int:
        """Size of the PMU's block in a data frame."""
        return (
            2
            + len(self.phasors) * (8 if self.float_phasors else 4)
            + 2 * (4 if self.float_frequency else 2)
            + len(self.analogs) * (4 if self.float_analogs else 2)
            + len(self.digitals) * 2
        )


class ConfigFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration: CFG-1 (what the device could send), CFG-2 or CFG-3 (what it sends)."""

    header: FrameHeader
    kind: FrameType = FrameType.CFG2
    time_base: int = 1_000_000
    """Counts of FRACSEC in a second."""
    pmus: tuple[PmuConfig, ...]
    data_rate: int = 50
    """Frames a second if positive, seconds a frame if negative."""

    @property
    def data_bytes(self) -> int:
        """Size of each data frame of the stream."""
        return SMALLEST_FRAME_BYTES + sum(pmu.block_bytes for pmu in self.pmus)


class _Reader:
    """Reads fields in their order and never past the frame."""

    def __init__(self, frame: bytes, start: int, end: int) -> None:
        self._frame = frame
        self.place = start
        self._end = end

    def take(self, count: int) -> bytes:
        stop = self.place + count
        if stop > self._end:
            raise self.error(f"configuration ends at byte {self._end}; its counts ask for at least {stop}")
        taken = self._frame[self.place : stop]
        self.place = stop
        return taken

    def numbers(self, code: str) -> tuple[Any, ...]:
        return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))

    def fixed_name(self) -> str:
        return _text(self.take(NAME_BYTES))

    def name(self) -> str:
        return _text(self.take(self.take(1)[0]))

    def error(self, text: str) -> FrameError:
        return FrameError(text, reason="bad_config", payload=self._frame)

    def finish(self) -> None:
        if self.place != self._end:
            raise self.error(f"configuration has {self._end - self.place} bytes more than its counts say")


def _text(raw: bytes) -> str:
    """A name as sent: ASCII or UTF-8 by the standard, Latin-1 by some devices; padded with spaces or NULs."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.rstrip(" \0")


def decode_config(frame: bytes) -> ConfigFrame:
    """A CFG-1, CFG-2 or unfragmented CFG-3 frame. Raises FrameError. `c37118_fragments` reads CFG-3 in parts too."""
    kind, header = read_header(frame)
    if kind not in CONFIG_TYPES:
        raise FrameError(f"a {kind.name} frame is no configuration", reason="bad_config", payload=frame)
    return decode_config_body(frame, kind, header)


def decode_config_body(frame: bytes, kind: FrameType, header: FrameHeader) -> ConfigFrame:
    """As `decode_config`, of a frame whose header has been read and whose check word is not looked at."""
    reader = _Reader(frame, HEADER_BYTES, len(frame) - CHECK_BYTES)
    if kind is FrameType.CFG3:
        (index,) = reader.numbers("H")
        if index != 0:
            raise reader.error(f"part {index} of a fragmented CFG-3 configuration, without its other parts")
    time_base, pmu_count = reader.numbers("IH")
    time_base &= _LARGEST_TIME_BASE
    if time_base == 0 or pmu_count == 0:
        raise reader.error(f"TIME_BASE {time_base} and NUM_PMU {pmu_count} must not be 0")
    read_pmu = _read_pmu_3 if kind is FrameType.CFG3 else _read_pmu_2
    pmus = tuple(read_pmu(reader) for _ in range(pmu_count))
    (data_rate,) = reader.numbers("h")
    reader.finish()
    config = ConfigFrame(header=header, kind=kind, time_base=time_base, pmus=pmus, data_rate=data_rate)
    if config.data_bytes > LARGEST_FRAME_BYTES:
        raise reader.error(
            f"data frames would have {config.data_bytes} bytes; at most {LARGEST_FRAME_BYTES} are possible"
        )
    return config


def _read_pmu_2(reader: _Reader) -> PmuConfig:
    station = reader.fixed_name()
    idcode, form, phasor_count, analog_count, word_count = reader.numbers("5H")
    phasor_names = [reader.fixed_name() for _ in range(phasor_count)]
    analog_names = [reader.fixed_name() for _ in range(analog_count)]
    labels = [reader.fixed_name() for _ in range(LABELS_PER_WORD * word_count)]
    phasor_units = reader.numbers(f"{phasor_count}I")
    analog_units = reader.numbers(f"{analog_count}I")
    masks = reader.numbers(f"{2 * word_count}H")
    nominal, change_count = reader.numbers("HH")
    return PmuConfig(
        station=station,
        idcode=idcode,
        format=form,
        phasors=tuple(
            # Dividing by 100,000 gives the float nearest to the decimal; multiplying by 1e-5 need not.
            Phasor(name=name, is_current=unit >> 24 != 0, scale=(unit & 0xFFFFFF) / 100_000)
            for name, unit in zip(phasor_names, phasor_units, strict=True)
        ),
        analogs=tuple(
            Analog(name=name, kind=unit >> 24, unit=(unit & 0xFFFFFF ^ 0x800000) - 0x800000)
            for name, unit in zip(analog_names, analog_units, strict=True)
        ),
        digitals=_digitals(labels, masks),
        nominal_hz=50 if nominal & 1 else 60,
        change_count=change_count,
    )


def _digitals(labels: Sequence[str], masks: Sequence[int]) -> tuple[Digital, ...]:
    return tuple(
        Digital(
            labels=tuple(labels[LABELS_PER_WORD * word : LABELS_PER_WORD * (word + 1)]),
            normal_mask=masks[2 * word],
            valid_mask=masks[2 * word + 1],
        )
        for word in range(len(masks) // 2)
    )


def _read_pmu_3(reader: _Reader) -> PmuConfig:
    station = reader.name()
    (idcode,) = reader.numbers("H")
    global_id = reader.take(16)
    form, phasor_count, analog_count, word_count = reader.numbers("4H")
    phasor_names = [reader.name() for _ in range(phasor_count)]
    analog_names = [reader.name() for _ in range(analog_count)]
    labels = [reader.name() for _ in range(LABELS_PER_WORD * word_count)]
    phasors = tuple(_read_phasor_3(reader, name) for name in phasor_names)
    analogs = tuple(_read_analog_3(reader, name) for name in analog_names)
    masks = reader.numbers(f"{2 * word_count}H")
    latitude, longitude, elevation, service, window, delay, nominal, change_count = reader.numbers("3fc2i2H")
    return PmuConfig(
        station=station,
        idcode=idcode,
        format=form,
        phasors=phasors,
        analogs=analogs,
        digitals=_digitals(labels, masks),
        nominal_hz=50 if nominal & 1 else 60,
        change_count=change_count,
        details=Details(
            global_id=global_id,
            latitude_deg=latitude,
            longitude_deg=longitude,
            elevation_m=elevation,
            service_class=service.decode("latin-1"),
            window_us=window,
            group_delay_us=delay,
        ),
    )


def _read_phasor_3(reader: _Reader, name: str) -> Phasor:
    modification, kind, user, scale, angle_offset_rad = reader.numbers("HBBff")
    if not (math.isfinite(scale) and math.isfinite(angle_offset_rad)):
        raise reader.error(f"phasor '{name}': PHSCALE {scale} and {angle_offset_rad} must be finite")
    return Phasor(
        name=name,
        is_current=bool(kind & 0x08),
        scale=scale,
        angle_offset_rad=angle_offset_rad,
        component=kind & 0x07,
        modification=modification,
        user=user,
    )


def _read_analog_3(reader: _Reader, name: str) -> Analog:
    gain, offset = reader.numbers("ff")
    if not (math.isfinite(gain) and math.isfinite(offset)):
        raise reader.error(f"analog '{name}': ANSCALE {gain} and {offset} must be finite")
    return Analog(name=name, gain=gain, offset=offset)


def encode_config(config: ConfigFrame) -> bytes:
    """The frame that `decode_config` reads back. Raises ValueError when a field does not fit its place."""
    body = encode_config_body(config)
    return seal(config.kind, config.header, bytes(2) + body if config.kind is FrameType.CFG3 else body)


def encode_config_body(config: ConfigFrame) -> bytes:
    """What stands behind the header (and CONT_IDX, in a CFG-3). Raises ValueError when a field does not fit."""
    third = config.kind is FrameType.CFG3
    if not 0 < config.time_base <= _LARGEST_TIME_BASE:
        raise ValueError(f"TIME_BASE is 1 to {_LARGEST_TIME_BASE}; got {config.time_base}")
    try:
        body = struct.pack(">IH", config.time_base, len(config.pmus))
        body += b"".join((_pmu_3 if third else _pmu_2)(pmu) for pmu in config.pmus)
        body += struct.pack(">h", config.data_rate)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"configuration of stream {config.header.idcode}: {error}") from error
    return body


def _fixed(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > NAME_BYTES:
        raise ValueError(f"names in CFG-1 and CFG-2 have at most {NAME_BYTES} bytes; got '{name}'")
    return raw.ljust(NAME_BYTES)


def _prefixed(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > 255:
        raise ValueError(f"names in CFG-3 have at most 255 bytes; got {len(raw)}")
    return bytes([len(raw)]) + raw


def _channel_names(pmu: PmuConfig) -> list[str]:
    """CHNAM in its order: phasors, analogs, bits of digital words."""
    for word in pmu.digitals:
        if len(word.labels) != LABELS_PER_WORD:
            raise ValueError(f"a digital word has {LABELS_PER_WORD} labels; got {len(word.labels)}")
    return [
        *(phasor.name for phasor in pmu.phasors),
        *(analog.name for analog in pmu.analogs),
        *(label for word in pmu.digitals for label in word.labels),
    ]


def _masks(pmu: PmuConfig) -> bytes:
    return b"".join(struct.pack(">HH", word.normal_mask, word.valid_mask) for word in pmu.digitals)


def _counts(pmu: PmuConfig) -> tuple[int, int, int, int]:
    return pmu.format, len(pmu.phasors), len(pmu.analogs), len(pmu.digitals)


def _nominal(pmu: PmuConfig) -> int:
    if pmu.nominal_hz not in (50, 60):
        raise ValueError(f"the nominal frequency is 50 or 60 Hz; got {pmu.nominal_hz}")
    return int(pmu.nominal_hz == 50)


def _phasor_unit(phasor: Phasor) -> int:
    counts = round(phasor.scale * 100_000)
    if not 0 <= counts <= 0xFFFFFF:
        raise ValueError(f"PHUNIT of '{phasor.name}' is 0 to 167.77215 per count; got {phasor.scale}")
    return int(phasor.is_current) << 24 | counts


def _analog_unit(analog: Analog) -> int:
    if not -0x800000 <= analog.unit <= 0x7FFFFF:
        raise ValueError(f"ANUNIT of '{analog.name}' has 24 bits and a sign; got {analog.unit}")
    return analog.kind << 24 | analog.unit & 0xFFFFFF


def _pmu_2(pmu: PmuConfig) -> bytes:
    names = _channel_names(pmu)
    return b"".join(
        (
            _fixed(pmu.station),
            struct.pack(">5H", pmu.idcode, *_counts(pmu)),
            *map(_fixed, names),
            *(struct.pack(">I", _phasor_unit(phasor)) for phasor in pmu.phasors),
            *(struct.pack(">I", _analog_unit(analog)) for analog in pmu.analogs),
            _masks(pmu),
            struct.pack(">HH", _nominal(pmu), pmu.change_count),
        )
    )


def _pmu_3(pmu: PmuConfig) -> bytes:
    details = pmu.details or Details()
    if len(details.global_id) != 16:
        raise ValueError(f"a global PMU id has 16 bytes; got {len(details.global_id)}")
    names = _channel_names(pmu)
    return b"".join(
        (
            _prefixed(pmu.station),
            struct.pack(">H", pmu.idcode),
            details.global_id,
            struct.pack(">4H", *_counts(pmu)),
            *map(_prefixed, names),
            *(_phasor_scale(phasor) for phasor in pmu.phasors),
            *(struct.pack(">ff", analog.gain, analog.offset) for analog in pmu.analogs),
            _masks(pmu),
            struct.pack(
                ">3fc2i2H",
                details.latitude_deg,
                details.longitude_deg,
                details.elevation_m,
                details.service_class.encode("latin-1"),
                details.window_us,
                details.group_delay_us,
                _nominal(pmu),
                pmu.change_count,
            ),
        )
    )


def _phasor_scale(phasor: Phasor) -> bytes:
    kind = int(phasor.is_current) << 3 | phasor.component & 0x07
    return struct.pack(">HBBff", phasor.modification, kind, phasor.user, phasor.scale, phasor.angle_offset_rad)
