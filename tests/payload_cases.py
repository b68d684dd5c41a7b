"""Batches, wild payloads and what both must do, for the tests of payload formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from edgeflex_connectors.batching import AT_ARRIVAL, SamplesBuilder
from edgeflex_connectors.payload_formats import AnyFormat, format_of
from edgeflex_connectors.payload_formats.codec import Decoded, Decoder, Encoder
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Samples

GOLDEN = Path(__file__).parent / "data" / "payloads"
LATEST_NS = 2**63 - 1
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
FLAGS = st.integers(0, 0xFFFF)
ANY_VALUE = st.floats(allow_infinity=False)
SCALABLE = st.floats(1e-100, 1e100) | st.floats(-1e100, -1e-100) | st.sampled_from([0.0, float("nan")])
"""Values that survive a change of their unit without loss."""


def golden(name: str) -> bytes:
    """A payload as its format's own documentation has it; `tests/data/README.md` tells the sources."""
    return (GOLDEN / name).read_bytes().rstrip(b"\n")


def decoder_of(config: AnyFormat, *columns: str, given: bool = False) -> Decoder:
    return format_of(config).decoder(config, columns, given)


def encoder_of(config: AnyFormat) -> Encoder:
    return format_of(config).encoder(config)


@st.composite
def batches(
    draw: st.DrawFn,
    columns: Sequence[str],
    *,
    values: st.SearchStrategy[float] = ANY_VALUE,
    devices: st.SearchStrategy[str] = NAMES,
    flags: st.SearchStrategy[int] = FLAGS,
    latest_ns: int = LATEST_NS,
    resolution_ns: int = 1,
) -> Samples:
    """Batches of one row to ten with these columns; times are whole multiples of the resolution."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, latest_ns // resolution_ns).map(lambda ticks: ticks * resolution_ns),
                devices,
                flags,
                st.tuples(*[values] * len(columns)),
            ),
            min_size=1,
            max_size=10,
        )
    )
    builder = SamplesBuilder(columns)
    for row in rows:
        builder.add(*row)
    return builder.take(0)


def decode_all(decoder: Decoder, payloads: Sequence[bytes], device: str | None, columns: Sequence[str]) -> Samples:
    """What several payloads decode to, as one batch. None of them may hold anything wrong."""
    builder = SamplesBuilder(columns)
    for payload in payloads:
        decoded = decoder.decode(payload, device)
        assert decoded.error is None
        for row in decoded.rows:
            builder.add(*row)
    return builder.take(0)


def assert_same_rows(got: Samples, wanted: Samples, *, rel: float = 0.0) -> None:
    assert got.time_ns.tolist() == wanted.time_ns.tolist()
    assert [got.devices[code] for code in got.device] == [wanted.devices[code] for code in wanted.device]
    assert got.quality.tolist() == wanted.quality.tolist()
    assert set(got.columns) == set(wanted.columns)
    for name, values in wanted.columns.items():
        np.testing.assert_allclose(got.columns[name], values, rtol=rel, atol=0.0, equal_nan=True, err_msg=name)


def refusal(decoder: Decoder, payload: bytes, device: str | None = None) -> BadMessageError:
    """The error of a payload of which nothing can be used."""
    try:
        decoded = decoder.decode(payload, device)
    except BadMessageError as error:
        return error
    raise AssertionError(f"it was decoded: {decoded}")


JSON_KEYS = st.sampled_from(
    ["created", "time_ns", "quality", "device", "t", "ts", "origin", "data", "sequence", "readings", "timestamp"]
) | st.sampled_from(["measurand", "phase", "component", "real", "imag", "x_v", "u", "frequency_hz"])
JSON_LEAVES = (
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.integers(0, 3)
    | st.sampled_from(["2020-05-20T10:27:57Z", "frequency", "voltmagnitude", "A", "G1"])
)  # fmt: skip
JSON = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_KEYS | st.text(max_size=3), inner, max_size=6),
    max_leaves=20,
)
WILD_JSON = JSON.map(lambda value: json.dumps(value).encode())
HOSTILE = (
    b"",
    b" ",
    b"[",
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'[{"device":"\\ud800","created":1,"x_v":1}]',
    b'[{"device":"\xff","created":1,"x_v":1}]',
    b'[{"created":1,"device":"G","x_v":' + b"9" * 5000 + b"}]",
    b'[{"created":' + b"9" * 5000 + b',"device":"G","x_v":1}]',
    b'[{"created":1e999999999,"device":"G","x_v":1}]',
    b'[{"created":NaN,"device":"G","x_v":-Infinity}]',
    b"\xef\xbb\xbf[]",
    b"\x00",
)


@st.composite
def mutated(draw: st.DrawFn, payload: bytes) -> bytes:
    """A right payload with a few bytes put in, taken out or changed."""
    wild = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(wild) - 1, 0)))
        change = draw(st.sampled_from(["set", "put", "cut", "end"]))
        if change == "end":
            del wild[at:]
        elif change == "cut":
            del wild[at : at + draw(st.integers(1, 4))]
        elif change == "put":
            wild[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif wild:
            wild[at] = draw(st.integers(0, 255))
    return bytes(wild)


def assert_right_or_refused(decoder: Decoder, payload: bytes, device: str | None, columns: Sequence[str]) -> None:
    """A decoder gives rows that make a batch, or BadMessageError, whatever it gets."""
    try:
        decoded = decoder.decode(payload, device)
    except BadMessageError:
        return
    assert_makes_a_batch(decoded, columns)


def assert_makes_a_batch(decoded: Decoded, columns: Sequence[str]) -> None:
    assert (decoded.error is None) == (decoded.bad_rows == 0)
    builder = SamplesBuilder(columns)
    for row in decoded.rows:
        assert row[0] == AT_ARRIVAL or 0 <= row[0] <= LATEST_NS
        assert row[1]
        builder.add(*row)
    assert list(builder.take(0).problems()) == []


def rows_of(decoder: Decoder, payload: bytes, device: str | None = None) -> list[Any]:
    """The rows of a payload that is right."""
    decoded = decoder.decode(payload, device)
    assert decoded.error is None, decoded.error
    return decoded.rows
