"""The kernel does what the readable codec does, on frames of any configuration and on anything that is no frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from c37118_cases import plain_config, plain_data, random_config, random_data, vector_bytes, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeflex_connectors import c37118_kernel as kernel
from edgeflex_connectors.c37118 import (
    CommandFrame,
    ConfigFrame,
    DataFrame,
    FrameError,
    FrameHeader,
    HeaderFrame,
    decode_config,
    decode_frame,
    encode_command,
    encode_config,
    encode_data,
    encode_header,
    row_quality,
    time_ns,
)
from edgeflex_connectors.c37118_header import check_word
from edgeflex_connectors.c37118_table import StreamTable
from edgeflex_flow.messages import Quality

PEER = 0x0A000001
RANDOMS = st.integers(0, 2**64 - 1).map(Random)
"""Seeds rather than hypothesis's own randomness: a configuration takes hundreds of draws."""
FAILED = {
    "truncated": kernel.TRUNCATED,
    "bad_sync": kernel.BAD_SYNC,
    "bad_version": kernel.BAD_VERSION,
    "bad_size": kernel.BAD_SIZE,
    "bad_crc": kernel.BAD_CRC,
    "unknown_idcode": kernel.UNKNOWN_IDCODE,
    "size_mismatch": kernel.SIZE_MISMATCH,
}


class Decoded:
    """What the kernel made of a block."""

    def __init__(self, rows: int, columns: Sequence[str], count: int) -> None:
        self.names = columns
        self.time_ns = np.full(rows, -1, dtype=np.int64)
        self.device = np.full(rows, -1, dtype=np.int32)
        self.quality = np.full(rows, 0xFFFF, dtype=np.uint16)
        self.columns = np.full((len(columns), rows), -1.0)
        self.status = np.full(count, -1, dtype=np.int8)
        self.counts = np.zeros(kernel.COUNTS, dtype=np.int64)
        self.stop = -1
        self.rows = -1

    def row(self, index: int) -> dict[str, float]:
        return dict(zip(self.names, self.columns[:, index].tolist(), strict=True))

    def same_as(self, other: Decoded) -> bool:
        return (
            (self.stop, self.rows) == (other.stop, other.rows)
            and all(
                np.array_equal(mine, theirs)
                for mine, theirs in (
                    (self.time_ns, other.time_ns),
                    (self.device, other.device),
                    (self.quality, other.quality),
                    (self.status, other.status),
                    (self.counts, other.counts),
                )
            )
            and np.array_equal(self.columns, other.columns, equal_nan=True)
        )


def run(
    table: StreamTable,
    data: NDArray[np.uint8],
    stride: int,
    lengths: NDArray[np.int32],
    *,
    first: int = 0,
    rows: int = 64,
    peers: NDArray[np.uint64] | None = None,
    out: Decoded | None = None,
) -> Decoded:
    """Decode a block into `out`, behind the rows that are there."""
    count = len(lengths)
    out = out or Decoded(rows, table.columns, count)
    out.stop, out.rows = kernel.decode_block(
        data,
        stride,
        lengths,
        np.full(count, PEER, dtype=np.uint64) if peers is None else peers,
        first,
        count,
        table.slot_peers,
        table.slots,
        table.streams,
        table.pmus,
        table.nominal_hz,
        table.announced,
        table.channels,
        table.factors,
        out.time_ns,
        out.device,
        out.quality,
        out.columns,
        max(out.rows, 0),
        out.status,
        out.counts,
    )
    return out


def lay_out(
    frames: Sequence[bytes], stride: int = 0, filler: int = 0
) -> tuple[NDArray[np.uint8], int, NDArray[np.int32]]:
    stride = stride or max(1, *map(len, frames))
    data = np.full(stride * len(frames), filler, dtype=np.uint8)
    for index, frame in enumerate(frames):
        data[index * stride : index * stride + len(frame)] = np.frombuffer(frame, dtype=np.uint8)
    return data, stride, np.array([len(frame) for frame in frames], dtype=np.int32)


def decode(table: StreamTable, frames: Sequence[bytes], **options: Any) -> Decoded:
    return run(table, *lay_out(frames), **options)


def table_of(*configs: ConfigFrame, peer: int = PEER) -> StreamTable:
    table = StreamTable({}, {})
    for config in configs:
        table.configure(peer, config, "10.0.0.1")
    return table


def check_rows(out: Decoded, table: StreamTable, frames: Sequence[DataFrame], config: ConfigFrame) -> None:
    """Every row of the kernel against the codec's frames."""
    plans = table._streams[PEER, config.header.idcode].plans
    row = 0
    for frame in frames:
        tag_ns = time_ns(frame.header.soc, frame.header.fraction, config.time_base)
        for pmu, layout, plan in zip(frame.pmus, config.pmus, plans, strict=True):
            expected = dict.fromkeys(table.columns, math.nan)
            expected["frequency_hz"] = pmu.frequency_hz
            expected["dfreq_hz_per_s"] = pmu.rocof_hz_per_s
            places = iter(plan.channels)
            for magnitude, angle_rad in pmu.phasors:
                place = next(places)
                assert place.angle_column is not None
                expected[place.column] = magnitude
                expected[place.angle_column] = angle_rad
            for number in (*pmu.analogs, *pmu.digitals):
                expected[next(places).column] = number
            assert out.time_ns[row] == tag_ns
            assert out.row(row) == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)
            quality = row_quality(pmu.stat, frame.header, config.time_base, pmu.frequency_hz)
            assert out.quality[row] == quality
            assert table.devices[out.device[row]].startswith(layout.station)
            row += 1
    assert out.rows == row


@given(RANDOMS, st.integers(1, 4))
@settings(max_examples=300)
def test_kernel_agrees_with_codec_on_any_configuration(random: Random, count: int) -> None:
    config = random_config(random)
    table = table_of(config)
    encoded = [encode_data(random_data(random, config), config) for _ in range(count)]
    out = decode(table, encoded)
    decoded = [decode_frame(frame, config) for frame in encoded]
    assert out.stop == count
    assert out.status.tolist() == [kernel.DECODED] * count
    check_rows(out, table, [frame for frame in decoded if isinstance(frame, DataFrame)], config)


@given(RANDOMS)
@settings(max_examples=100)
def test_kernel_agrees_with_codec_on_random_payloads(random: Random) -> None:
    # Any bits in the fields, also those that no encoder would send: NaN payloads, infinities, 0x8000.
    config = random_config(random)
    table = table_of(config)
    frames = []
    for _ in range(4):
        body = bytearray(encode_data(random_data(random, config), config)[:-2])
        for place in range(6, len(body)):
            body[place] = random.choice((0x00, 0x7F, 0x80, 0xFF, random.randrange(256)))
        frames.append(bytes(body) + check_word(bytes(body)).to_bytes(2, "big"))
    out = decode(table, frames)
    decoded = [decode_frame(frame, config) for frame in frames]
    check_rows(out, table, [frame for frame in decoded if isinstance(frame, DataFrame)], config)


@pytest.mark.parametrize("name", [name for name, vector in vectors().items() if "config" in vector["expect"]])
def test_kernel_agrees_with_codec_on_captured_data(name: str) -> None:
    config = decode_config(vector_bytes(vectors()[name]["expect"]["config"]))
    table = table_of(config)
    decoded = decode_frame(vector_bytes(name), config)
    assert isinstance(decoded, DataFrame)
    check_rows(decode(table, [vector_bytes(name)]), table, [decoded], config)


def test_kernel_and_messages_mean_the_same_by_their_flags() -> None:
    names = {"BAD_DATA", "SYNC_LOST", "TIME_UNCERTAIN", "ESTIMATED", "TEST"}
    assert {name: getattr(kernel, f"_{name}") for name in names} == {name: int(Quality[name]) for name in names}


@given(st.binary(max_size=300))
def test_crc_agrees_with_the_standard_library(octets: bytes) -> None:
    data = np.frombuffer(b"\x55" + octets + b"\x55", dtype=np.uint8).copy()
    assert kernel.crc_ccitt(data, 1, 1 + len(octets)) == check_word(octets)


CONFIG = plain_config()
DATA = encode_data(plain_data(CONFIG), CONFIG)
HEADER = FrameHeader(idcode=7, soc=1_700_000_000)


def test_frames_that_are_not_plain_data_get_their_status() -> None:
    frames = [
        encode_header(HeaderFrame(header=HEADER, text="hello")),
        encode_command(CommandFrame(header=HEADER, command=2)),
        encode_data(plain_data(plain_config(8)), plain_config(8)),
        DATA,
        DATA[:10],
        b"",
    ]
    out = decode(table_of(CONFIG), frames)
    assert out.status.tolist() == [
        kernel.HEADER_FRAME,
        kernel.COMMAND_FRAME,
        kernel.UNKNOWN_IDCODE,
        kernel.DECODED,
        kernel.TRUNCATED,
        kernel.TRUNCATED,
    ]
    assert out.counts[kernel.TRUNCATED] == 2
    assert out.rows == 1


def test_kernel_stops_in_front_of_a_configuration_and_goes_on_behind_it() -> None:
    frames = [DATA, encode_config(CONFIG), DATA]
    table = table_of(CONFIG)
    first = decode(table, frames)
    assert (first.stop, first.rows, int(first.status[1])) == (1, 1, kernel.CONFIG_FRAME)
    second = decode(table, frames, first=2)
    assert (second.stop, second.rows) == (3, 1)


def test_kernel_stops_when_a_frame_has_more_rows_than_there_is_room() -> None:
    config = decode_config(vector_bytes("pypmu_cfg2_2pmu"))
    frame = vector_bytes("pypmu_data_2pmu")
    out = decode(table_of(config), [frame, frame], rows=3)
    assert (out.stop, out.rows, int(out.status[1])) == (1, 2, kernel.FULL)
    assert out.time_ns[2] == -1


def test_kernel_stops_in_front_of_a_datagram_longer_than_its_slot() -> None:
    data, stride, lengths = lay_out([DATA, DATA])
    lengths[1] = stride + 1
    out = run(table_of(CONFIG), data, stride, lengths)
    assert (out.stop, int(out.status[1])) == (1, kernel.OVERSIZE)


def test_kernel_refuses_a_length_beyond_the_buffer() -> None:
    data, stride, lengths = lay_out([DATA, DATA])
    out = run(table_of(CONFIG), data[:-1].copy(), stride, lengths)
    assert out.status.tolist() == [kernel.DECODED, kernel.TRUNCATED]


def test_stream_of_another_peer_is_unknown() -> None:
    out = decode(table_of(CONFIG), [DATA], peers=np.array([PEER + 1], dtype=np.uint64))
    assert out.status.tolist() == [kernel.UNKNOWN_IDCODE]


def test_preloaded_stream_is_offered_for_adoption() -> None:
    table = StreamTable({}, {})
    table.preload(CONFIG)
    out = decode(table, [DATA])
    assert (out.stop, out.rows, int(out.status[0])) == (0, 0, kernel.ADOPT)


def test_announced_change_is_told_for_its_pmu_only() -> None:
    other = plain_config(8)
    table = table_of(CONFIG, other)
    out = decode(table, [encode_data(plain_data(other, stat=0x0400), other), DATA])
    assert out.counts[kernel.ANNOUNCED] == 1
    assert table.announced_devices() == ("G8",)


def test_columns_that_a_device_lacks_are_nan_in_its_rows() -> None:
    short = plain_config(8, phasors=(), analogs=())
    table = table_of(CONFIG, short)
    out = decode(table, [DATA, encode_data(plain_data(short), short)])
    assert out.row(0)["v1_v"] == 230.0
    assert math.isnan(out.row(1)["v1_v"])
    assert math.isnan(out.row(1)["p_raw"])
    assert out.row(1)["frequency_hz"] == 50.0


def test_thousands_of_streams_are_all_found() -> None:
    random = Random(5)
    configs = [plain_config(idcode) for idcode in range(1, 1501)]
    table = StreamTable({}, {})
    for peer in (1, 2, 0x0A000001, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        for config in random.sample(configs, 600):
            table.configure(peer, config, str(peer))
    for peer, idcode in table._streams:
        row = kernel.find_stream(table.slot_peers, table.slots, np.uint64(peer), idcode)
        assert row == table._streams[peer, idcode].row
    assert kernel.find_stream(table.slot_peers, table.slots, np.uint64(3), 7) == kernel.NO_STREAM


# -- damaged frames ----------------------------------------------------------------------------------------------------


def expected_status(frame: bytes, config: ConfigFrame) -> int:
    """What the codec says about a frame whose stream is the only one that is known."""
    try:
        decoded = decode_frame(frame, config if frame[4:6] == config.header.idcode.to_bytes(2, "big") else None)
    except FrameError as error:
        # Whether a configuration makes sense is not the kernel's affair.
        return kernel.CONFIG_FRAME if error.reason == "bad_config" else FAILED[error.reason]
    if isinstance(decoded, HeaderFrame):
        return kernel.HEADER_FRAME
    if isinstance(decoded, CommandFrame):
        return kernel.COMMAND_FRAME
    return kernel.DECODED if isinstance(decoded, DataFrame) else kernel.CONFIG_FRAME


@given(RANDOMS, st.binary(max_size=80))
@settings(max_examples=400)
def test_kernel_and_codec_refuse_the_same_frames_for_the_same_reason(random: Random, octets: bytes) -> None:
    config = random_config(random)
    table = table_of(config)
    whole = [
        encode_data(random_data(random, config), config),
        encode_config(config),
        encode_command(CommandFrame(header=config.header, command=1)),
        encode_header(HeaderFrame(header=config.header, text="text")),
    ]
    frame = bytearray(random.choice(whole))
    for _ in range(random.randrange(3)):
        frame[random.randrange(min(20, len(frame)))] = random.randrange(256)
    damaged = bytes(frame[: random.choice((len(frame), random.randrange(len(frame) + 1)))])
    if random.random() < 0.7 and len(damaged) >= 4:
        sized = damaged[:2] + len(damaged).to_bytes(2, "big") + damaged[4:]
        damaged = sized[:-2] + check_word(sized[:-2]).to_bytes(2, "big")
    for each in (damaged, octets):
        assert int(decode(table, [each]).status[0]) == expected_status(each, config)


def mutated(frames: Sequence[bytes], count: int, stride: int, random: np.random.Generator) -> Any:
    """`count` frames, each a valid one with bytes changed, cut, lengthened or wholly random; many with a right CRC."""
    choice = random.integers(0, len(frames), count)
    table = np.zeros((len(frames), stride), dtype=np.uint8)
    sizes = np.array([len(frame) for frame in frames])
    for index, frame in enumerate(frames):
        table[index, : len(frame)] = np.frombuffer(frame, dtype=np.uint8)
    data = table[choice]
    lengths = sizes[choice].astype(np.int32)
    rows = np.arange(count)
    for _ in range(3):
        hit = random.random(count) < 0.5
        data[rows[hit], random.integers(0, np.maximum(lengths[hit], 1))] = random.integers(0, 256, hit.sum())
    wild = random.random(count) < 0.1
    data[wild] = random.integers(0, 256, (int(wild.sum()), stride))
    cut = random.random(count) < 0.25
    lengths[cut] = random.integers(0, stride + 1, cut.sum())
    # FRAMESIZE and CHK put right for most, so that the damage reaches behind those checks.
    mend = (random.random(count) < 0.7) & (lengths >= 16)
    data[mend, 2], data[mend, 3] = lengths[mend] >> 8, lengths[mend] & 0xFF
    flat = data.reshape(-1)
    for index in rows[mend]:
        end = index * stride + int(lengths[index])
        crc = kernel.crc_ccitt(flat, index * stride, end - 2)
        flat[end - 2], flat[end - 1] = crc >> 8, crc & 0xFF
    return flat, lengths


def decode_all(table: StreamTable, data: NDArray[np.uint8], stride: int, lengths: NDArray[np.int32]) -> Decoded:
    """The whole block, going on behind each datagram where the kernel stops."""
    peers = np.full(len(lengths), PEER, dtype=np.uint64)
    out = Decoded(3 * len(lengths), table.columns, len(lengths))
    while out.stop < len(lengths):
        run(table, data, stride, lengths, first=out.stop + 1, peers=peers, out=out)
    return out


@pytest.mark.long
def test_a_million_damaged_frames_are_survived_and_never_read_past() -> None:
    """The result must not depend on what lies behind a frame: in its slot, or in the next."""
    random = np.random.default_rng(7)
    cases = Random(7)
    stride = 192
    configs = [config for config in (random_config(cases) for _ in range(60)) if config.data_bytes <= stride][:12]
    table = table_of(*configs)
    frames = [encode_data(random_data(cases, config), config) for config in configs for _ in range(4)]
    frames += [
        encode_command(CommandFrame(header=HEADER, command=1)),
        encode_header(HeaderFrame(header=HEADER, text="x")),
    ]
    block, done, statuses = 20_000, 0, np.zeros(kernel.COUNTS, dtype=np.int64)
    while done < 1_000_000:
        data, lengths = mutated(frames, block, stride, random)
        out = decode_all(table, data, stride, lengths)
        behind = np.arange(stride)[np.newaxis, :] >= lengths[:, np.newaxis]
        other = np.where(behind, ~data.reshape(block, stride), data.reshape(block, stride)).reshape(-1)
        assert out.same_as(decode_all(table, other, stride, lengths))
        statuses += out.counts
        done += block
    # The damage reached every branch: each state that a single frame can be in occurred, and often.
    for state in (*FAILED.values(), kernel.DECODED, kernel.HEADER_FRAME, kernel.COMMAND_FRAME):
        assert statuses[state] > 100, state
    assert statuses[: kernel.ANNOUNCED].sum() == done


def test_rows_never_leave_their_arrays() -> None:
    """Canaries around every array that the kernel writes."""
    random = Random(11)
    config = random_config(random)
    table = table_of(config)
    frames = [encode_data(random_data(random, config), config) for _ in range(20)]
    data, stride, lengths = lay_out(frames)
    rows = 7
    wide = np.full((len(table.columns) + 2, rows), -7.0)
    columns = wide[1:-1]
    tags, devices = np.full(rows + 2, -7, dtype=np.int64), np.full(rows + 2, -7, dtype=np.int32)
    flags, status = np.full(rows + 2, 777, dtype=np.uint16), np.full(len(frames) + 2, -7, dtype=np.int8)
    counts = np.full(kernel.COUNTS + 2, 0, dtype=np.int64)
    stop, filled = kernel.decode_block(
        data, stride, lengths, np.full(len(frames), PEER, dtype=np.uint64), 0, len(frames),
        table.slot_peers, table.slots, table.streams, table.pmus, table.nominal_hz, table.announced, table.channels,
        table.factors, tags[1:-1], devices[1:-1], flags[1:-1], columns, 0, status[1:-1], counts[1:-1],
    )  # fmt: skip
    assert 0 < filled <= rows
    assert stop == filled // len(config.pmus)
    assert (wide[0] == -7.0).all()
    assert (wide[-1] == -7.0).all()
    for array, canary in ((tags, -7), (devices, -7), (flags, 777), (status, -7), (counts, 0)):
        assert array[0] == canary
        assert array[-1] == canary
