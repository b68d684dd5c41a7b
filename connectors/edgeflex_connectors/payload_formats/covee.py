"""`covee`: values by node, as the voltage control of the edgeFLEX platform exchanges them with its power flow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeflex_connectors.batching import AT_ARRIVAL
from edgeflex_connectors.payload_formats.channels import channel_refusals
from edgeflex_connectors.payload_formats.codec import (
    Decoded,
    FormatConfig,
    Gathered,
    PayloadFormat,
    bad_payload,
    name_refusals,
    quoted,
)
from edgeflex_connectors.payload_formats.elements import LARGEST_WHOLE
from edgeflex_connectors.payload_formats.times import LATEST_NS
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Quality, Samples, Setpoints

TIME = "time_ns"
ARRIVED = int(Quality.TIME_UNCERTAIN)


class Covee(FormatConfig, frozen=True, kw_only=True, tag="covee"):
    """One object, in it under `field` a value for each node: `{"voltage_measurements": {"node_7": 1.031}}`.

    Payloads tell no time: rows get that of their arrival and the flag `time_uncertain`. With `extension`, which other
    readers skip, the object also has `time_ns`, that of its measurements. Of messages, set-points whose quantity is
    `column` are sent, and nothing else.
    """

    field: Annotated[str, Meta(min_length=1, description="Key under which the values stand.")]
    column: Annotated[str, Meta(min_length=1, description="Column; its name ends in its unit, that of the payload.")]
    extension: Annotated[bool, Meta(description="Whether time_ns is read and sent.")] = False

    def refusals(self) -> Iterator[FieldError]:
        yield from name_refusals({"field": self.field})
        if self.field == TIME:
            yield FieldError("`field` is another key of the format", "field", got=f"'{self.field}'")
        yield from channel_refusals(self.column, None)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names_device(self) -> bool:
        return True

    @property
    def takes_objects(self) -> bool:
        return True

    @property
    def takes_setpoints(self) -> bool:
        return True


class _TwiceError(ValueError):
    """A key that stands twice: no reader can tell which value is meant."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


def _is_number(value: object) -> bool:
    """Whether it is a finite number that stays the same as a float."""
    if type(value) is int:
        return -LARGEST_WHOLE <= value <= LARGEST_WHOLE
    return type(value) is float and math.isfinite(value)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


class Decoder:
    """Decodes payloads for one subscription.

    >>> made = Decoder(Covee(field="voltage_measurements", column="voltage_pu", extension=True), (), False)
    >>> made.decode(b'{"voltage_measurements":{"node_7":1.031},"time_ns":5}', None).rows
    [(5, 'node_7', 0, (1.031,))]
    """

    def __init__(self, config: Covee, _columns: tuple[str, ...], _given: bool) -> None:
        self._config = config

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        field, found = self._config.field, self._object(payload)
        if field not in found:
            keys = ", ".join(quoted(key)[1:-1] for key in found) or "nothing"
            raise bad_payload(f"no `{field}`; got {keys} - at `$`", payload)
        values = found[field]
        if not isinstance(values, dict):
            raise bad_payload(f"expected values by node, got {quoted(values)} - at `$.{field}`", payload)
        time_ns, quality = self._time(found, payload)
        gathered = Gathered()
        for node, value in values.items():
            if not _is_number(value):
                gathered.refuse(f"expected a number, got {quoted(value)} - at `$.{field}.{node}`", payload)
            elif not node or (device is not None and len(values) > 1):
                gathered.refuse(f"a node without a name of its own - at `$.{field}`", payload)
            else:
                gathered.rows.append((time_ns, device or node, quality, (float(value),)))
        return gathered.result()

    def _object(self, payload: bytes) -> dict[str, Any]:
        try:
            found = json.loads(payload, object_pairs_hook=_once, parse_constant=_no_number)
        except _TwiceError as error:
            raise bad_payload(f"key `{error}` stands twice", payload) from error
        except (ValueError, RecursionError) as error:
            raise bad_payload(f"no JSON: {error}", payload) from error
        if not isinstance(found, dict):
            raise bad_payload(f"expected an object, got {quoted(found)} - at `$`", payload)
        return found

    def _time(self, found: dict[str, Any], payload: bytes) -> tuple[int, int]:
        if not self._config.extension or TIME not in found:
            return AT_ARRIVAL, ARRIVED
        time_ns = found[TIME]
        if type(time_ns) is not int or not 0 <= time_ns <= LATEST_NS:
            text = f"expected nanoseconds since 1970, got {quoted(time_ns)} - at `$.{TIME}`"
            raise bad_payload(text, payload)
        return time_ns, 0


class Encoder:
    """Encodes batches, a payload for each time, and set-points."""

    def __init__(self, config: Covee) -> None:
        self._config = config

    def encode(self, samples: Samples) -> list[bytes]:
        by_time: dict[int, dict[str, float]] = {}
        rows = zip(
            samples.time_ns.tolist(),
            samples.device.tolist(),
            samples.columns[self._config.column].tolist(),
            strict=True,
        )
        for time_ns, code, value in rows:
            if math.isfinite(value):
                by_time.setdefault(time_ns, {})[samples.devices[code]] = value
        return [self._payload(values, time_ns) for time_ns, values in by_time.items()]

    def encode_setpoints(self, message: Setpoints) -> list[bytes]:
        if message.quantity != self._config.column:
            return []
        unfit = [node for node, value in message.values.items() if not math.isfinite(value)]
        if unfit:
            raise ValueError(f"the set-point of {unfit[0]} is not finite")
        return [self._payload(message.values, message.time_ns)]

    def _payload(self, values: dict[str, float], time_ns: int) -> bytes:
        content: dict[str, Any] = {self._config.field: values}
        return msgspec.json.encode({**content, TIME: time_ns} if self._config.extension else content)


FORMAT = PayloadFormat(config=Covee, decoder=Decoder, encoder=Encoder)
