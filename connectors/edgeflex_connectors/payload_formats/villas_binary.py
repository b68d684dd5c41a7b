"""`villas.binary`: the binary samples of VILLASnode, version 2.

A sample is a header of 16 bytes and one value of 4 bytes for each signal; a payload is one sample or several.

| byte | size | content |
|---|---|---|
| 0 | 1 | bits 7…4 version (2), bits 3…2 type (0 data, 1 start, 2 stop), bits 1…0 reserved (0) |
| 1 | 1 | source index |
| 2 | 2 | number of values |
| 4 | 4 | sequence number |
| 8 | 4 | seconds since 1970 |
| 12 | 4 | nanoseconds of the second |
| 16 | 4 each | values: float32 or uint32 |

Source: VILLASnode (RWTH Aachen), `include/villas/formats/msg_format.hpp`.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.batching import Row
from edgeflex_connectors.payload_formats.channels import RowLayout, payload_values
from edgeflex_connectors.payload_formats.codec import Decoded, Gathered, PayloadFormat, only_device
from edgeflex_connectors.payload_formats.signals import Sequences, SignalFormat
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.units import NS_PER_S

VERSION_2_DATA = 0x20
HEADER_BYTES = 16
HEADER_FIELDS = 6
LARGEST_FLAGS = 0xFFFF
VALUE_BYTES = 4
LARGEST_UINT32 = 2**32 - 1
TYPES = {0: "data", 1: "start", 2: "stop", 3: "an unknown type"}


class VillasBinary(SignalFormat, frozen=True, kw_only=True, tag="villas.binary"):
    """Samples of 16 bytes and 4 for each value, float32 or uint32: also for the samples of a PMU over UDP.

    The node's `device` names the device, as samples do not. A sample has exactly as many values as there are signals.
    Times are to the ns until 2106, values to 24 bits.
    """

    byte_order: Annotated[
        Literal["big", "little"], Meta(description="big: `villas.binary` of VILLASnode, little: its `villas.web`.")
    ] = "big"
    source_index: Annotated[
        Annotated[int, Meta(ge=0, le=255)] | None,
        Meta(description="Source index to send, and to require; none: send 0, take all."),
    ] = None

    def refusals(self) -> Any:
        yield from super().refusals()
        for place, each in enumerate(self.signals):
            if each.angle_column is not None:
                yield FieldError("the format holds no complex values", f"signals[{place}].angle_column")


def sample_struct(config: VillasBinary) -> struct.Struct:
    """A sample as the fields of its header and its values."""
    order = ">" if config.byte_order == "big" else "<"
    return struct.Struct(f"{order}BBHIII{''.join('I' if each.is_integer else 'f' for each in config.signals)}")


def record_type(config: VillasBinary) -> np.dtype[Any]:
    """A sample as a numpy record."""
    order = ">" if config.byte_order == "big" else "<"
    kinds = [f"{order}u4" if each.is_integer else f"{order}f4" for each in config.signals]
    header = [("kind", "u1"), ("source", "u1"), ("length", f"{order}u2")]
    header += [(name, f"{order}u4") for name in ("sequence", "seconds", "nanoseconds")]
    return np.dtype(header + [(f"v{place}", kind) for place, kind in enumerate(kinds)])


class Decoder:
    """Decodes payloads of one source.

    >>> from edgeflex_connectors.payload_formats.signals import Signal
    >>> decoder = Decoder(VillasBinary(signals=(Signal(column="frequency_hz"),)), (), True)
    >>> decoder.decode(bytes.fromhex("20000001 00000007 00000001 00000002 42480000"), "G1").rows
    [(1000000002, 'G1', 0, (50.0,))]
    """

    def __init__(self, config: VillasBinary, _columns: tuple[str, ...], given: bool) -> None:
        assert given
        self._config = config
        self._sample = sample_struct(config)
        self._order: Literal["big", "little"] = config.byte_order
        self._length = len(config.signals)
        self._layout = RowLayout(config.channels)
        self._picked = [HEADER_FIELDS + place for place, each in enumerate(config.signals) if each.channel is not None]
        self._takes_all = len(self._picked) == self._length
        self._quality_at = None if config.quality_at is None else HEADER_FIELDS + config.quality_at
        self._keeps_sequence = config.sequence is not None
        self._source_index = config.source_index

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        assert device is not None
        if payload and len(payload) % self._sample.size == 0:
            samples = list(self._sample.iter_unpack(payload))
            if all(map(self._is_right, samples)):
                return Decoded([self._row(sample, device) for sample in samples])
        return self._one_by_one(payload, device)

    def _is_right(self, sample: tuple[Any, ...]) -> bool:
        kind, source, length, _, _, nanoseconds = sample[:HEADER_FIELDS]
        return (
            kind == VERSION_2_DATA
            and length == self._length
            and nanoseconds < NS_PER_S
            and self._source_index in (None, source)
            and (self._quality_at is None or sample[self._quality_at] <= LARGEST_FLAGS)
        )

    def _row(self, sample: tuple[Any, ...], device: str) -> Row:
        _, _, _, sequence, seconds, nanoseconds = sample[:HEADER_FIELDS]
        row = self._layout.row(sample[HEADER_FIELDS:] if self._takes_all else [sample[place] for place in self._picked])
        if self._keeps_sequence:
            row = (*row, float(sequence))
        flags = 0 if self._quality_at is None else sample[self._quality_at]
        return seconds * NS_PER_S + nanoseconds, device, flags, row

    def _one_by_one(self, payload: bytes, device: str) -> Decoded:
        """Samples by their own lengths: one that is wrong is left out, and ends the payload if none can follow it."""
        gathered = Gathered()
        begin = 0
        while begin < len(payload) or not payload:
            end, problem = self._sample_end(payload, begin)
            if problem is None and end is not None:
                gathered.rows.append(self._row(self._sample.unpack(payload[begin:end]), device))
            else:
                gathered.refuse(problem or "", payload[begin:end])
            if end is None:
                break
            begin = end
        return gathered.result()

    def _sample_end(self, payload: bytes, begin: int) -> tuple[int | None, str | None]:
        """Where the sample ends that begins here, None if nobody knows; and what is wrong with it, None if nothing."""
        left = len(payload) - begin
        if left < HEADER_BYTES:
            return None, f"byte {begin}: {left} bytes, known: a header of {HEADER_BYTES}"
        version = payload[begin] >> 4
        if version != VERSION_2_DATA >> 4:
            return None, f"byte {begin}: version: got {version}, known: 2"
        length = int.from_bytes(payload[begin + 2 : begin + 4], self._order)
        end = begin + HEADER_BYTES + VALUE_BYTES * length
        if end > len(payload):
            return None, f"byte {begin + 2}: length: got {length} values, {left - HEADER_BYTES} bytes are left for them"
        return end, self._problem(payload, begin, length)

    def _problem(self, payload: bytes, begin: int, length: int) -> str | None:
        """What is wrong with a sample that is there as a whole."""
        wanted = len(self._config.signals)
        if payload[begin] & 0x0F:
            kind = payload[begin] >> 2 & 3
            got = f"type: got {kind} ({TYPES[kind]}), known: 0 (data)" if kind else "the reserved bits are not 0"
            return f"byte {begin}: {got}"
        if length != wanted:
            return f"byte {begin + 2}: length: got {length} values, known: {wanted} signals"
        source, nanoseconds = payload[begin + 1], int.from_bytes(payload[begin + 12 : begin + 16], self._order)
        if self._config.source_index not in (None, source):
            return f"byte {begin + 1}: source index: got {source}, known: {self._config.source_index}"
        if nanoseconds >= NS_PER_S:
            return f"byte {begin + 12}: nanoseconds: got {nanoseconds}, known: 0 to 999999999"
        if self._config.quality_at is not None:
            at = begin + HEADER_BYTES + VALUE_BYTES * self._config.quality_at
            flags = int.from_bytes(payload[at : at + VALUE_BYTES], self._order)
            if flags > LARGEST_FLAGS:
                return f"byte {at}: quality flags: got {flags}, known: 0 to 65535"
        return None


class Encoder:
    """Encodes batches that are of one device each."""

    def __init__(self, config: VillasBinary) -> None:
        self._config = config
        self._record = record_type(config)
        self._sequences = Sequences(config.sequence)

    def encode(self, samples: Samples) -> list[bytes]:
        device = only_device(samples)
        seconds, nanoseconds = np.divmod(samples.time_ns, NS_PER_S)
        if seconds.min() < 0 or seconds.max() > LARGEST_UINT32:
            raise ValueError("the format holds times from 1970 to 2106")
        records = np.zeros(samples.rows, self._record)
        records["kind"] = VERSION_2_DATA
        records["source"] = self._config.source_index or 0
        records["length"] = len(self._config.signals)
        records["sequence"] = self._sequences.of(samples, device)
        records["seconds"], records["nanoseconds"] = seconds, nanoseconds
        for place in range(len(self._config.signals)):
            records[f"v{place}"] = self._values(samples, place)
        most = self._config.vectorize
        return [records[first : first + most].tobytes() for first in range(0, samples.rows, most)]

    def _values(self, samples: Samples, place: int) -> NDArray[Any]:
        signal = self._config.signals[place]
        channel = signal.channel
        if channel is None:
            return samples.quality if signal.is_integer else np.full(samples.rows, np.nan)
        values = payload_values(samples, channel)
        if signal.integer:
            if not ((values >= 0) & (values <= LARGEST_UINT32) & (values == np.floor(values))).all():
                raise ValueError(f"column '{channel.column}' is not made of integers from 0 to {LARGEST_UINT32}")
        elif (np.isfinite(values) & (np.abs(values) > np.finfo(np.float32).max)).any():
            raise ValueError(f"column '{channel.column}' holds a value too large for 32 bits")
        return values


FORMAT = PayloadFormat(config=VillasBinary, decoder=Decoder, encoder=Encoder)
