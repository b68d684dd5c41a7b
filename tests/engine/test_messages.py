"""Batches and messages."""

from __future__ import annotations

import pickle

import msgspec
import numpy as np
import pytest

from edgeflex_flow.messages import (
    BUILT_IN_MESSAGES,
    DeadLetter,
    FrequencyEvent,
    Quality,
    Samples,
    decode_message,
    encode_message,
    join_samples,
    samples_from_rows,
)


def two_rows() -> Samples:
    return samples_from_rows([(1, "G1", {"frequency_hz": 50.0}), (2, "G2", {"frequency_hz": 49.0})])


def test_rows_make_a_well_formed_batch() -> None:
    assert list(two_rows().problems()) == []


def test_a_wrong_dtype_and_a_wrong_length_are_named() -> None:
    batch = msgspec.structs.replace(two_rows(), quality=np.zeros(3, dtype=np.int64))
    assert list(batch.problems()) == ["quality: dtype int64, expected uint16", "quality: shape (3,), expected (2,)"]


def test_a_device_code_without_a_name_is_named() -> None:
    batch = msgspec.structs.replace(two_rows(), devices=("G1",))
    assert list(batch.problems()) == ["device: a code outside 0..0"]


def test_joining_keeps_rows_and_fills_missing_columns_with_nan() -> None:
    other = samples_from_rows([(3, "G2", {"rocof_hz_per_s": 0.1})])
    joined = join_samples([two_rows(), other])
    assert list(joined.problems()) == []
    assert [joined.devices[code] for code in joined.device] == ["G1", "G2", "G2"]
    np.testing.assert_array_equal(joined.columns["frequency_hz"], [50.0, 49.0, np.nan])
    np.testing.assert_array_equal(joined.columns["rocof_hz_per_s"], [np.nan, np.nan, 0.1])


def test_taking_rows_takes_them_from_every_column() -> None:
    taken = two_rows().take(np.array([False, True]))
    assert taken.rows == 1
    assert taken.columns["frequency_hz"].tolist() == [49.0]


def test_a_batch_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(two_rows()))
    assert again.time_ns.tolist() == [1, 2]


def test_a_message_survives_json_with_its_meaning() -> None:
    letter = DeadLetter(node="pmu", reason="bad_crc", text="t", time_ns=7, payload=b"\xaa\x01")
    assert decode_message(encode_message(letter), BUILT_IN_MESSAGES) == letter


def test_json_of_another_meaning_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="type"):
        decode_message(b'{"type":"nonsense"}', [FrequencyEvent])


def test_quality_flags_fit_sixteen_bits() -> None:
    assert all(0 < flag < 2**16 for flag in Quality)
