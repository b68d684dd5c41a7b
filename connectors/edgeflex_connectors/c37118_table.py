"""The streams that are known by their configurations, as the flat tables that `c37118_kernel` reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgeflex_connectors.c37118_columns import FIXED_COLUMNS, ColumnPlan, plan_columns
from edgeflex_connectors.c37118_config import NAME_BYTES, ConfigFrame, PmuConfig
from edgeflex_connectors.c37118_header import FrameType
from edgeflex_connectors.c37118_kernel import ANY_PEER, ARMED, EMPTY, add_stream

MOST_STREAMS: Final = 16_384
MOST_DEVICES: Final = 65_536
MOST_COLUMNS: Final = 4096
"""Bounds on what configuration frames, which anyone may send, can make the process remember."""


class TableFullError(Exception):
    """A configuration would exceed MOST_STREAMS, MOST_DEVICES or MOST_COLUMNS."""


class Stream(NamedTuple):
    """A configured stream of one peer."""

    config: ConfigFrame
    plans: tuple[ColumnPlan, ...]
    devices: tuple[int, ...]
    """Code of each PMU's device."""
    row: int
    """Its row in `streams`."""


class Outcome(NamedTuple):
    """What a configuration frame did."""

    new: bool = False
    changes: tuple[str, ...] = ()
    """How it differs from the stream's configuration until now; empty when it is new or the same."""
    devices: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class StreamTable:
    """Streams by (peer, IDCODE), the devices in them and the columns of all of them.

    `names`: PMU's IDCODE as text to device name. `channels`: channel name to column. Devices and columns are only ever
    added, so that codes of devices and the set of columns stay good while configurations change.
    """

    def __init__(self, names: Mapping[str, str], channels: Mapping[str, str]) -> None:
        self._names = names
        self._channels = channels
        self._streams: dict[tuple[int, int], Stream] = {}
        self._suspended: dict[tuple[int, int], Stream] = {}
        self._preloaded: dict[int, ConfigFrame] = {}
        self._codes: dict[tuple[object, ...], int] = {}
        self._columns: dict[str, int] = {
            name: index for index, name in enumerate(dict.fromkeys((*FIXED_COLUMNS, *channels.values())))
        }
        self.devices: tuple[str, ...] = ()
        self.columns: tuple[str, ...] = tuple(self._columns)
        self.most_rows = 1
        """Rows of the frame with the most PMUs."""
        self.largest_data_bytes = 0
        """Size of the largest data frame that is configured."""
        self._allocate(streams=0, pmus=0, channels=0)

    def __len__(self) -> int:
        return len(self._streams)

    def config_of(self, peer: int, idcode: int) -> ConfigFrame | None:
        """The configuration by which data of this stream are decoded now."""
        stream = self._streams.get((peer, idcode))
        return stream.config if stream else None

    def preload(self, config: ConfigFrame) -> tuple[str, ...]:
        """Know a configuration for its IDCODE from any peer, until the peer sends its own. Gives problems."""
        self._preloaded[config.header.idcode] = config
        plans = [plan_columns(pmu, self._channels) for pmu in config.pmus]
        self._add_columns(plans)
        self._rebuild()
        return tuple(
            f"'{pmu.station}' {text}" for pmu, plan in zip(config.pmus, plans, strict=True) for text in plan.problems
        )

    def adopt(self, peer: int, idcode: int, peer_name: str) -> Outcome:
        """Bind the preloaded configuration of `idcode` to a peer that sends data by it. Raises TableFullError."""
        return self.configure(peer, self._preloaded[idcode], peer_name)

    def configure(self, peer: int, config: ConfigFrame, peer_name: str) -> Outcome:
        """Take over a configuration that a peer sent. Raises TableFullError, and changes nothing then."""
        key = (peer, config.header.idcode)
        old = self._streams.get(key)
        before = old or self._suspended.get(key)
        changes = () if before is None else differences(before.config, config)
        if old is not None and not changes:
            if old.config.kind is FrameType.CFG1 and config.kind is not FrameType.CFG1:
                # Decoded as before, but known to be what is sent: no CFG-1 overrides it from here on.
                self._streams[key] = old._replace(config=config)
            return Outcome(devices=self._named(old))
        plans = tuple(plan_columns(pmu, self._channels) for pmu in config.pmus)
        new_columns = {column for plan in plans for column in plan.columns} - self._columns.keys()
        if (
            (old is None and len(self._streams) >= MOST_STREAMS)
            or len(self.devices) + len(config.pmus) > MOST_DEVICES
            or len(self._columns) + len(new_columns) > MOST_COLUMNS
        ):
            raise TableFullError
        self._add_columns(plans)
        codes = self._device_codes(key, config.pmus, peer_name)
        stream = Stream(config, plans, codes, old.row if old else len(self._streams))
        self._streams[key] = stream
        self._suspended.pop(key, None)
        self._enter(key, stream, is_new=old is None)
        devices = self._named(stream)
        problems = tuple(
            f"'{name}' {text}" for name, plan in zip(devices, plans, strict=True) for text in plan.problems
        )
        return Outcome(new=before is None, changes=changes, devices=devices, problems=problems)

    def suspend(self, peer: int, idcode: int) -> None:
        """Decode no data of this stream until its configuration comes again: it may be another by now."""
        stream = self._streams.pop((peer, idcode), None)
        if stream is None:
            return
        self._suspended[peer, idcode] = stream
        for row, key in enumerate(self._streams):
            self._streams[key] = self._streams[key]._replace(row=row)
        self._rebuild()

    def announced_devices(self) -> tuple[str, ...]:
        """Devices whose STAT announced a change of configuration since they were configured."""
        rows = np.flatnonzero(self.announced)
        return tuple(self.devices[self.pmus[row, 0]] for row in rows)

    def watch_announced(self) -> None:
        """Have the kernel stop when the STAT of these devices no longer announces a change: it has come then."""
        self.announced[self.announced != 0] = ARMED

    def _named(self, stream: Stream) -> tuple[str, ...]:
        return tuple(self.devices[code] for code in stream.devices)

    def _add_columns(self, plans: Sequence[ColumnPlan]) -> None:
        before = len(self._columns)
        for plan in plans:
            for column in plan.columns:
                self._columns.setdefault(column, len(self._columns))
        if len(self._columns) != before:
            self.columns = tuple(self._columns)

    def _device_codes(self, key: tuple[int, int], pmus: Sequence[PmuConfig], peer_name: str) -> tuple[int, ...]:
        codes: list[int] = []
        added = list(self.devices)
        seen: dict[tuple[int, str], int] = {}
        for pmu in pmus:
            base = self._names.get(str(pmu.idcode)) or pmu.station.strip() or f"pmu-{pmu.idcode}"
            # Two PMUs of one frame may share IDCODE and name; their order tells them apart.
            twin = seen[(pmu.idcode, base)] = seen.get((pmu.idcode, base), 0) + 1
            identity = (*key, pmu.idcode, base, twin)
            code = self._codes.get(identity)
            if code is None:
                code = self._codes[identity] = len(added)
                added.append(_free_name(base, pmu.idcode, peer_name, added))
            codes.append(code)
        if len(added) != len(self.devices):
            self.devices = tuple(added)
        return tuple(codes)

    def _allocate(self, *, streams: int, pmus: int, channels: int) -> None:
        """Empty tables with room for as much again."""
        size = 16
        while size < 4 * (2 * streams + len(self._preloaded) + 1):
            size *= 2
        self.slot_peers = np.zeros(size, dtype=np.uint64)
        self.slots = np.full((size, 2), EMPTY, dtype=np.uint32)
        self.streams = np.zeros((2 * streams + 4, 4), dtype=np.uint32)
        self.pmus = np.zeros((2 * pmus + 8, 7), dtype=np.uint32)
        self.nominal_hz = np.zeros(len(self.pmus))
        self.announced = np.zeros(len(self.pmus), dtype=np.uint8)
        self.channels = np.zeros((2 * channels + 32, 2), dtype=np.uint32)
        self.factors = np.zeros((len(self.channels), 2))
        self._pmus_used = 0
        self._channels_used = 0

    def _enter(self, key: tuple[int, int], stream: Stream, *, is_new: bool) -> None:
        """Write a stream behind what is there; make the tables anew when they are full.

        A stream that changes leaves its old rows unused until then.
        """
        pmus = len(stream.plans)
        channels = sum(len(plan.channels) for plan in stream.plans)
        if (
            stream.row >= len(self.streams)
            or self._pmus_used + pmus > len(self.pmus)
            or self._channels_used + channels > len(self.channels)
        ):
            self._rebuild()
            return
        self._write(stream)
        if is_new:
            add_stream(self.slot_peers, self.slots, np.uint64(key[0]), key[1], stream.row)

    def _rebuild(self) -> None:
        streams = self._streams
        self._allocate(
            streams=len(streams),
            pmus=sum(len(stream.plans) for stream in streams.values()),
            channels=sum(len(plan.channels) for stream in streams.values() for plan in stream.plans),
        )
        for (peer, idcode), stream in streams.items():
            self._write(stream)
            add_stream(self.slot_peers, self.slots, np.uint64(peer), idcode, stream.row)
        for idcode in self._preloaded:
            add_stream(self.slot_peers, self.slots, np.uint64(ANY_PEER), idcode, 0)

    def _write(self, stream: Stream) -> None:
        config = stream.config
        self.streams[stream.row] = (config.data_bytes, config.time_base, self._pmus_used, len(config.pmus))
        for pmu, plan, code in zip(config.pmus, stream.plans, stream.devices, strict=True):
            row = self._pmus_used
            self.pmus[row] = (
                code,
                pmu.format,
                len(pmu.phasors),
                len(pmu.analogs),
                len(pmu.digitals),
                self._channels_used,
                len(FIXED_COLUMNS) + len(plan.columns),
            )
            self.nominal_hz[row] = pmu.nominal_hz
            self.announced[row] = 0
            for channel in plan.channels:
                angle = 0 if channel.angle_column is None else self._columns[channel.angle_column]
                self.channels[self._channels_used] = (self._columns[channel.column], angle)
                self.factors[self._channels_used] = (channel.factor, channel.offset)
                self._channels_used += 1
            self._pmus_used += 1
        self.most_rows = max(self.most_rows, len(config.pmus))
        self.largest_data_bytes = max(self.largest_data_bytes, config.data_bytes)


def _free_name(base: str, idcode: int, peer_name: str, taken: Sequence[str]) -> str:
    """The first of base, base-idcode, base-idcode-peer, … that no device has yet."""
    name = base
    for addition in (f"-{idcode}", f"-{peer_name}"):
        if name not in taken:
            return name
        name += addition
    unique, number = name, 2
    while unique in taken:
        unique = f"{name}-{number}"
        number += 1
    return unique


def differences(old: ConfigFrame, new: ConfigFrame) -> tuple[str, ...]:
    """How `new` tells of other data than `old`, for a log; nothing when a stream goes on as before."""
    if new.kind is FrameType.CFG1 and old.kind is not FrameType.CFG1:
        return ()  # What the device could send, while what it does send is known.
    if new.kind is not old.kind and old.kind is not FrameType.CFG1 and _agree(old, new):
        return ()  # The same data told by CFG-2 and by CFG-3; both may be repeated in turn.
    found = [
        f"{what} {before} -> {after}"
        for what, before, after in (
            ("frame size", old.data_bytes, new.data_bytes),
            ("PMUs", len(old.pmus), len(new.pmus)),
            ("TIME_BASE", old.time_base, new.time_base),
        )
        if before != after
    ]
    for before, after in zip(old.pmus, new.pmus, strict=False):
        found += _pmu_differences(before, after)
    return tuple(found)


def _agree(one: ConfigFrame, other: ConfigFrame) -> bool:
    """Whether a CFG-2 and a CFG-3 tell of the same data, as far as both can tell."""
    return (
        one.time_base == other.time_base
        and len(one.pmus) == len(other.pmus)
        and all(
            _outline(a) == _outline(b) and _close(_numbers(a), _numbers(b))
            for a, b in zip(one.pmus, other.pmus, strict=True)
        )
    )


def _outline(pmu: PmuConfig) -> tuple[object, ...]:
    """Layout, names and kinds of a PMU's channels. Names as far as a CFG-2, with its 16 bytes, can hold them."""
    return (
        _short(pmu.station),
        pmu.idcode,
        pmu.format,
        pmu.nominal_hz,
        pmu.change_count,
        tuple((_short(phasor.name), phasor.is_current) for phasor in pmu.phasors),
        tuple(_short(analog.name) for analog in pmu.analogs),
        len(pmu.digitals),
    )


def _short(name: str) -> bytes:
    return name.encode()[:NAME_BYTES].rstrip()


def _numbers(pmu: PmuConfig) -> list[float]:
    """Scales and offsets by which the channels are decoded."""
    phasors = () if pmu.float_phasors else pmu.phasors
    return [
        *(number for phasor in phasors for number in (phasor.scale, phasor.angle_offset_rad)),
        *(number for analog in pmu.analogs for number in (analog.gain, analog.offset)),
    ]


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Equal but for rounding: a CFG-2 holds decimals, a CFG-3 32-bit floats."""
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))


def _pmu_differences(old: PmuConfig, new: PmuConfig) -> list[str]:
    if old == new:
        return []
    parts: tuple[tuple[str, object, object], ...] = (
        ("station", old.station, new.station),
        ("IDCODE", old.idcode, new.idcode),
        ("FORMAT", old.format, new.format),
        ("phasors", [each.name for each in old.phasors], [each.name for each in new.phasors]),
        ("analogs", [each.name for each in old.analogs], [each.name for each in new.analogs]),
        ("digital words", len(old.digitals), len(new.digitals)),
        ("nominal Hz", old.nominal_hz, new.nominal_hz),
        ("CFGCNT", old.change_count, new.change_count),
    )
    found = [f"{what} {before} -> {after}" for what, before, after in parts if before != after]
    return [f"'{new.station}': {text}" for text in found or ["scales or labels"]]
