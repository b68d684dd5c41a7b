"""`villas.json`: samples as the format `json` of VILLASnode has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.batching import Row
from edgeflex_connectors.payload_formats.channels import RowLayout, channel_values
from edgeflex_connectors.payload_formats.codec import BadFieldError, Decoded, PayloadFormat, only_device
from edgeflex_connectors.payload_formats.elements import Complex, ElementDecoder, Number
from edgeflex_connectors.payload_formats.signals import SEQUENCES, Sequences, SignalFormat, parts
from edgeflex_connectors.payload_formats.times import LATEST_NS
from edgeflex_flow.messages import Samples
from edgeflex_flow.units import NS_PER_S, column_unit


class VillasJson(SignalFormat, frozen=True, kw_only=True, tag="villas.json"):
    """An array of samples, each with its time `[s, ns]`, its sequence number and its values in order.

    The node's `device` names the device, as samples do not. A sample has exactly as many values as there are signals.
    Values that are not finite are sent as null, which VILLASnode itself does not take.
    """


_Second: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST_NS // NS_PER_S)]
_Nanosecond: TypeAlias = Annotated[int, Meta(ge=0, lt=NS_PER_S)]
_Sequence: TypeAlias = Annotated[int, Meta(ge=0)]


class _Times(msgspec.Struct, gc=False):
    origin: tuple[_Second, _Nanosecond]


class _Plain(msgspec.Struct, gc=False):
    ts: _Times
    data: list[Number | bool | None]
    sequence: _Sequence | UnsetType = UNSET


class _WithComplex(msgspec.Struct, gc=False):
    ts: _Times
    data: list[Number | bool | Complex | None]
    sequence: _Sequence | UnsetType = UNSET


class Decoder:
    """Decodes payloads for one subscription."""

    def __init__(self, config: VillasJson, _columns: tuple[str, ...], given: bool) -> None:
        assert given
        self._signals = config.signals
        self._keeps_sequence = config.sequence is not None
        self._quality_at = config.quality_at
        self._layout = RowLayout(config.channels)
        self._picked = [place for place, each in enumerate(config.signals) if each.channel is not None]
        self._picks_all = len(self._picked) == len(config.signals)
        self._is_complex = [each.angle_column is not None for each in config.signals]
        self._is_word = [each.channel is None or column_unit(each.channel.column) is None for each in config.signals]
        self._has_complex = any(self._is_complex)
        element = _WithComplex if self._has_complex else _Plain
        self._elements = ElementDecoder(element, self._read, self._counts, single=False)

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        return self._elements.decode(payload, device)

    def _counts(self, samples: Sequence[Any]) -> list[tuple[bytes, int]]:
        inner = sum(self._is_complex) * len(samples)
        keys = [(key, len(samples)) for key in (b'"ts"', b'"origin"', b'"sequence"', b'"data"')]
        return [*keys, (b'"real"', inner), (b'"imag"', inner)] if self._has_complex else keys

    def _read(self, sample: Any, device: str | None, rows: list[Row]) -> None:
        assert device is not None
        data: list[Any] = sample.data
        if len(data) != len(self._signals):
            raise BadFieldError(f"{len(data)} values, known: {len(self._signals)} signals - at `$.data`")
        if self._has_complex or True in data or False in data:
            self._check_types(data)
        values = data if self._picks_all else [data[place] for place in self._picked]
        row = self._layout.row(values)
        if self._keeps_sequence:
            row = (*row, self._sequence(sample))
        seconds, nanoseconds = sample.ts.origin
        time_ns = seconds * NS_PER_S + nanoseconds
        if time_ns > LATEST_NS:
            raise BadFieldError(f"expected a time from 1970 to 2262, got {seconds} s - at `$.ts.origin`")
        rows.append((time_ns, device, self._quality(data), row))

    def _check_types(self, data: list[Any]) -> None:
        for place, value in enumerate(data):
            if isinstance(value, bool) and not self._is_word[place]:
                raise BadFieldError(f"Expected a number, got `bool` - at `$.data[{place}]`")
            if isinstance(value, Complex) != self._is_complex[place] and value is not None:
                wanted, got = ("an object", "a number") if self._is_complex[place] else ("a number", "an object")
                raise BadFieldError(f"Expected {wanted}, got {got} - at `$.data[{place}]`")

    def _sequence(self, sample: Any) -> float:
        if sample.sequence is UNSET:
            return math.nan
        if sample.sequence >= SEQUENCES:
            raise BadFieldError(f"expected a number below 2^32, got {sample.sequence} - at `$.sequence`")
        return float(sample.sequence)

    def _quality(self, data: list[Any]) -> int:
        if self._quality_at is None:
            return 0
        flags = data[self._quality_at]
        if flags is None:
            return 0
        if flags != int(flags) or not 0 <= flags <= 0xFFFF:
            raise BadFieldError(
                f"expected quality flags from 0 to 65535, got {flags} - at `$.data[{self._quality_at}]`"
            )
        return int(flags)


class Encoder:
    """Encodes batches that are of one device each."""

    def __init__(self, config: VillasJson) -> None:
        self._config = config
        self._sequences = Sequences(config.sequence)

    def encode(self, samples: Samples) -> list[bytes]:
        device = only_device(samples)
        return [self._payload(part, device) for part in parts(samples, self._config.vectorize)]

    def _payload(self, samples: Samples, device: str) -> bytes:
        lists = [self._values(samples, place) for place in range(len(self._config.signals))]
        head = zip(samples.time_ns.tolist(), self._sequences.of(samples, device), strict=True)
        return msgspec.json.encode(
            [
                {"ts": {"origin": divmod(time_ns, NS_PER_S)}, "sequence": sequence, "data": row}
                for (time_ns, sequence), row in zip(head, zip(*lists, strict=True), strict=True)
            ]
        )

    def _values(self, samples: Samples, place: int) -> list[Any]:
        signal = self._config.signals[place]
        channel = signal.channel
        if channel is None:
            return samples.quality.tolist() if signal.is_integer else [None] * samples.rows
        values = channel_values(samples, channel)
        return [_whole(value) for value in values] if signal.integer else values


def _whole(value: float) -> float | int:
    return int(value) if math.isfinite(value) and value == math.floor(value) else value


FORMAT = PayloadFormat(config=VillasJson, decoder=Decoder, encoder=Encoder)
