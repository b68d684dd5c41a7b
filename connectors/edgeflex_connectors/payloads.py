"""Payloads on a databus: `json.edgeflex` for samples, tagged JSON objects for messages.

A payload of samples is an array of flat objects. `created` (Unix milliseconds, integer) and the values by name are the
format's own; `device`, `time_ns` (the exact time tag) and `quality` are extensions that other readers ignore.
Values that are not finite are null.

Source: the `json.edgeflex` format of VILLASnode (FEIN Aachen), OpenAPI schema `formats/edgeflex.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgeflex_connectors.batching import Row
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Quality, Samples, decode_message

NS_PER_MS = 1_000_000
LATEST_MS = (2**63 - 1) // NS_PER_MS

TOPIC_LEVEL = "topic:"
"""`device_from` values that begin so take the device's name from the topic."""

_TimeNs: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None
_TimeMs: TypeAlias = Annotated[int, Meta(ge=0, le=LATEST_MS)] | Annotated[float, Meta(ge=0, le=LATEST_MS)] | None
_Device: TypeAlias = Annotated[str, Meta(min_length=1)] | None

_NAN = float("nan")
_KEYS = frozenset({"created", "time_ns", "quality"})


def encode_samples(samples: Samples) -> bytes:
    """A batch as `json.edgeflex`, rows in order.

    >>> from edgeflex_flow.messages import samples_from_rows
    >>> encode_samples(samples_from_rows([(1_500_000, "G1", {"frequency_hz": 49.98})]))
    b'[{"created":1,"device":"G1","time_ns":1500000,"quality":0,"frequency_hz":49.98}]'
    """
    names = samples.devices
    keys = ("created", "device", "time_ns", "quality", *samples.columns)
    lists: list[list[Any]] = [
        (samples.time_ns // NS_PER_MS).tolist(),
        [names[code] for code in samples.device.tolist()],
        samples.time_ns.tolist(),
        samples.quality.tolist(),
        *(values.tolist() for values in samples.columns.values()),
    ]
    # msgspec writes NaN and infinities as null.
    return msgspec.json.encode([dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)])


def mark_late(payload: bytes) -> bytes:
    """The same payload, marked as sent late: in `quality` where it has one, else by `"late": true`. Other payloads than
    those of this module stay as they are.

    >>> mark_late(b'[{"created":1,"quality":4,"frequency_hz":50.0}]')
    b'[{"created":1,"quality":260,"frequency_hz":50.0}]'
    >>> mark_late(b'{"type":"alarm","text":"x"}')
    b'{"type":"alarm","text":"x","late":true}'
    """
    try:
        decoded = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return payload
    objects = decoded if isinstance(decoded, list) else [decoded]
    for each in objects:
        if not isinstance(each, dict):
            return payload
        if isinstance(each.get("quality"), int):
            each["quality"] |= int(Quality.LATE)
        elif "type" in each:
            each["late"] = True
        else:
            return payload
    return msgspec.json.encode(decoded)


def check_device_from(text: str) -> None:
    """Raise ValueError unless `text` is a key or `topic:N`."""
    if text.startswith(TOPIC_LEVEL):
        _topic_level(text)
    elif not text or text in _KEYS:
        raise ValueError(f"`device_from` is a key of the payload or `topic:N`; got '{text}'")


def _topic_level(text: str) -> int:
    try:
        level = int(text.removeprefix(TOPIC_LEVEL))
    except ValueError:
        level = 0
    if level == 0:
        raise ValueError(f"`device_from`: levels of a topic count from topic:1, or back from topic:-1; got '{text}'")
    return level


def _row_type(columns: Sequence[str], device_key: str | None) -> type[msgspec.Struct]:
    """A Struct of one object: its fields c0, c1 … are the columns, which need not be Python names."""
    fields: list[Any] = [
        ("time_ns", _TimeNs, None),
        ("created", _TimeMs, None),
        ("quality", Annotated[int, Meta(ge=0, le=0xFFFF)], 0),
        *((f"c{place}", float | None | UnsetType, UNSET) for place in range(len(columns))),
    ]
    rename = {f"c{place}": name for place, name in enumerate(columns)}
    if device_key is not None:
        fields.append(("device", _Device, None))
        rename["device"] = device_key
    return msgspec.defstruct("Row", fields, rename=rename, kw_only=True)


class PayloadDecoder:
    """Decodes payloads for one subscription.

    Parameters
    ----------
    columns
        Keys to take from payloads of samples; none if samples are not wanted.
    messages
        Types of messages that are wanted.
    device_from
        Key of the payload that holds the device's name, or `topic:N`, the N-th level of the topic.

    >>> decoder = PayloadDecoder(("frequency_hz",), (), "topic:2")
    >>> decoder.decode("pmu/G1", b'[{"created":1,"frequency_hz":49.98}]')
    [(1000000, 'G1', 0, (49.98,))]
    """

    def __init__(self, columns: Sequence[str], messages: Sequence[type[Message]], device_from: str) -> None:
        check_device_from(device_from)
        self._columns = tuple(columns)
        self._messages = tuple(messages)
        self._device_from = device_from
        self._level = _topic_level(device_from) if device_from.startswith(TOPIC_LEVEL) else None
        row = _row_type(columns, None if self._level is not None else device_from)
        self._rows = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def decode(self, topic: str, payload: bytes) -> list[Row] | Message | None:
        """The rows or the message in a payload; None if it is well made but not what this subscription takes.

        Raises BadMessageError with the topic and the place that is wrong. A payload is used whole or not at all.
        """
        try:
            if payload.lstrip()[:1] == b"[":
                return self._decode_rows(topic, payload) if self._columns else None
            message = decode_message(payload, BUILT_IN_MESSAGES)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessageError(f"topic '{topic}': {error}", reason="bad_payload", payload=payload) from error
        return message if isinstance(message, self._messages) else None

    def _decode_rows(self, topic: str, payload: bytes) -> list[Row]:
        device = self._device_of_topic(topic, payload) if self._level is not None else None
        rows: list[Row] = []
        for place, item in enumerate(self._rows.decode(payload)):
            problem, row = self._row(item, device)
            if problem is not None:
                text = f"topic '{topic}': {problem} - at `$[{place}]`"
                raise BadMessageError(text, reason="bad_payload", payload=payload)
            rows.append(row)
        return rows

    def _row(self, item: Any, device: str | None) -> tuple[str | None, Row]:
        """What is wrong with an object (or None) and its row."""
        given = msgspec.structs.astuple(item)[3 : 3 + len(self._columns)]
        time_ns: int | None = item.time_ns
        if time_ns is None and item.created is not None:
            time_ns = round(item.created * NS_PER_MS)
        name: str | None = device or item.device
        values = tuple([_NAN if value is None or value is UNSET else value for value in given])
        row = (time_ns or 0, name or "", item.quality, values)
        if time_ns is None:
            return "neither `created` nor `time_ns`", row
        if name is None:
            return f"no device under the key `{self._device_from}`", row
        if all(value is UNSET for value in given):
            return f"none of the columns {', '.join(self._columns)}", row
        return None, row

    def _device_of_topic(self, topic: str, payload: bytes) -> str:
        assert self._level is not None
        levels = topic.split("/")
        place = self._level - 1 if self._level > 0 else self._level
        if not -len(levels) <= place < len(levels) or not levels[place]:
            text = f"topic '{topic}' has no level {self._level} that could name the device"
            raise BadMessageError(text, reason="bad_payload", payload=payload)
        return levels[place]
