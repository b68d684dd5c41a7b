from __future__ import annotations

from random import Random

import pytest
from c37118_cases import plain_config, plain_data
from hypothesis import given
from hypothesis import strategies as st

from edgeflex_connectors.c37118 import encode_config, encode_data
from edgeflex_connectors.c37118_cutter import MOST_STRIKES, FrameCutter

CONFIG = plain_config()
FRAMES = [encode_config(CONFIG), *(encode_data(plain_data(CONFIG, number), CONFIG) for number in range(20))]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_frames_come_out_however_the_bytes_are_split(sizes: list[int]) -> None:
    stream, cutter, found, place, turn = b"".join(FRAMES), FrameCutter(), [], 0, 0
    while place < len(stream):
        size = sizes[turn % len(sizes)]
        found += cutter.add(stream[place : place + size])
        place, turn = place + size, turn + 1
    assert found == FRAMES
    assert (len(cutter), cutter.skipped_bytes, cutter.rejected) == (0, 0, 0)


@given(st.lists(st.binary(max_size=60), min_size=20, max_size=20))
def test_every_byte_is_a_frame_or_skipped_or_waits(garbage: list[bytes]) -> None:
    cutter = FrameCutter()
    stream = b"".join(part + frame for part, frame in zip(garbage, FRAMES, strict=False))
    found = cutter.add(stream)
    assert set(found) <= set(FRAMES)
    assert sum(map(len, found)) + cutter.skipped_bytes + len(cutter) == len(stream)


def test_garbage_between_frames_costs_no_frame() -> None:
    cutter = FrameCutter()
    found = cutter.add(b"".join(bytes([0x00, 0xAA, 0xFF]) * 5 + frame for frame in FRAMES))
    assert found == FRAMES
    assert cutter.skipped_bytes == 15 * len(FRAMES)


def test_a_damaged_frame_costs_itself_alone() -> None:
    damaged = bytearray(FRAMES[3])
    damaged[20:24] = b"\xaa\x01\x00\xff"
    damaged[-1] ^= 1
    cutter = FrameCutter()
    assert cutter.add(b"".join([*FRAMES[:3], bytes(damaged), *FRAMES[4:]])) == FRAMES[:3] + FRAMES[4:]
    assert cutter.rejected == 1
    assert cutter.last_rejected == bytes(damaged)


@pytest.mark.parametrize("claimed", [200, 65_535])
def test_a_length_that_lies_only_delays_what_follows(claimed: int) -> None:
    lying = FRAMES[1][:2] + claimed.to_bytes(2, "big") + FRAMES[1][4:]
    cutter = FrameCutter()
    found = cutter.add(lying + b"".join(FRAMES[2:]))
    found += cutter.give_up_head()
    assert found == FRAMES[2:]
    assert cutter.rejected == 1


def test_a_frame_that_comes_slowly_is_waited_for() -> None:
    cutter = FrameCutter()
    assert cutter.add(FRAMES[0][:50]) == []
    assert len(cutter) == 50
    assert cutter.add(FRAMES[0][50:]) == [FRAMES[0]]


def test_bytes_of_something_else_are_given_up() -> None:
    cutter = FrameCutter()
    cutter.add(b"\xaa\x01\x00\x10" * 5000)
    assert cutter.lost
    assert cutter.rejected == MOST_STRIKES
    assert cutter.add(FRAMES[0]) == []


def test_random_bytes_make_no_frames() -> None:
    random, cutter = Random(7), FrameCutter()
    found = [frame for _ in range(200) for frame in cutter.add(random.randbytes(1000))]
    assert len(found) <= 1
    assert len(cutter) <= 65_535 + 1000
