"""Payloads on a databus: samples in a declared format, and messages as JSON objects with their meaning in `type`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.payload_formats import AnyFormat, format_of
from edgeflex_connectors.payload_formats.codec import (
    Decoded,
    SetpointEncoder,
    bad_payload,
    name_refusals,
    only_device,
)
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import (
    BUILT_IN_MESSAGES,
    Message,
    Quality,
    Samples,
    Setpoints,
    decode_message,
    encode_message,
)

DEVICE = "{device}"
"""Stands for the device's name in a pattern of topics."""

MISLEADING = Quality.BAD_DATA | Quality.TEST
"""Rows with these flags are not sent in a format that cannot tell readers of it."""

_TAGS = frozenset(str(each.__struct_config__.tag) for each in BUILT_IN_MESSAGES)


def device_problem(text: str) -> str | None:
    """What is wrong with a device's name or the pattern of topics that holds it; None if nothing is.

    >>> device_problem("site/{device}/pmu") is None, device_problem("G1") is None
    (True, True)
    >>> device_problem("site/{meter}/pmu")
    'a pattern of topics holds {device}, once'
    """
    if not text:
        return "a device's name must not be empty"
    if "{" not in text and "}" not in text:
        return None
    rest = text.replace(DEVICE, "", 1)
    if "{" in rest or "}" in rest:
        return "a pattern of topics holds {device}, once"
    levels = text.split("/")
    if "#" in "".join(levels[:-1]) or any(("#" in level or "+" in level) and len(level) > 1 for level in levels):
        return "a wildcard is a level of its own, and '#' the last one"
    return None


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


class DeviceNames:
    """Where a subscription takes the device's name from, when payloads do not give it.

    >>> DeviceNames("site/{device}/#").of("site/G1/pmu"), DeviceNames("G1").of("any/topic")
    ('G1', 'G1')
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._pattern = re.compile("/".join(_level(level) for level in text.split("/"))) if DEVICE in text else None

    def of(self, topic: str) -> str:
        """The device of a payload on this topic. Raises BadMessageError when the topic does not tell."""
        if self._pattern is None:
            return self._text
        match = self._pattern.fullmatch(topic)
        if match is None:
            raise bad_payload(f"the topic does not match '{self._text}', which tells the device", b"")
        return match[1]


def _level(level: str) -> str:
    if level == "#":
        return "(?s:.*)"
    if level == "+":
        return "[^/]*"
    return re.escape(level).replace(re.escape(DEVICE), "([^/]+)")


def subscription_columns(columns: Sequence[str], payload_format: AnyFormat) -> tuple[str, ...]:
    """The columns that a subscription gives: those that go by their own names, and those that its format names."""
    return tuple(dict.fromkeys((*columns, *payload_format.columns)))


def samples_of(decoded: Decoded, columns: Sequence[str], received_ns: int) -> list[Samples]:
    """The rows of one payload by itself. Raises the decoder's BadMessageError when it has none but for that."""
    if decoded.error is not None and not decoded.rows:
        raise decoded.error
    builder = SamplesBuilder(columns)
    for row in decoded.rows:
        builder.add(*row)
    return [builder.take(received_ns)] if len(builder) else []


def subscription_refusals(
    columns: Sequence[str], messages: Sequence[str], payload_format: AnyFormat, device: str | None
) -> Iterator[FieldError]:
    """What of a subscription's settings does not go with its format."""
    name = payload_format.__struct_config__.tag
    if not columns and not messages and not payload_format.columns:
        text = "give `columns`, `messages` or columns in `format`: otherwise nothing would come out of this node"
        yield FieldError(text, "columns", "messages", "format")
    if columns and not payload_format.named_fields:
        yield FieldError(
            f"`columns`: fields of {name} have no names; `format` names their columns", "columns", "format"
        )
    yield from name_refusals({f"columns[{place}]": column for place, column in enumerate(columns)})
    for place, column in enumerate(columns):
        if column in payload_format.taken_names:
            yield FieldError(f"`columns`: '{column}' is another field of `format`", f"columns[{place}]", "format")
        if column in payload_format.columns:
            yield FieldError(f"`columns`: '{column}' comes from `format` too", f"columns[{place}]", "format")
    gives_samples = columns or payload_format.columns
    if device is None and gives_samples and not payload_format.names_device:
        text = f"payloads of this {name} do not name their device: give `device`, a name or a pattern of the topic"
        yield FieldError(text, "format", "device")
    problem = None if device is None else device_problem(device)
    if problem is not None:
        yield FieldError(f"`device`: {problem}", "device", got=f"'{device}'")


class _Peek(msgspec.Struct):
    type: str | UnsetType = UNSET


class PayloadDecoder:
    """Decodes payloads for one subscription.

    Parameters
    ----------
    payload_format
        How samples are written.
    columns
        Columns to take from fields of their own names, beside those that the format names.
    messages
        Types of messages that are wanted.
    device
        The device's name or a pattern of topics that holds `{device}`; None if payloads tell it.

    >>> from edgeflex_connectors.payload_formats import JsonEdgeflex
    >>> decoder = PayloadDecoder(JsonEdgeflex(), ("frequency_hz",), (), "pmu/{device}")
    >>> decoder.decode("pmu/G1", b'[{"created":1,"frequency_hz":49.98}]').rows
    [(1000000, 'G1', 0, (49.98,))]
    """

    def __init__(
        self,
        payload_format: AnyFormat,
        columns: Sequence[str],
        messages: Sequence[type[Message]],
        device: str | None,
    ) -> None:
        self._messages = tuple(messages)
        self._devices = None if device is None else DeviceNames(device)
        self._takes_objects = payload_format.takes_objects
        self._format, self._of_messages = payload_format, format_of(payload_format).messages
        self._decoder = None
        if subscription_columns(columns, payload_format):
            self._decoder = format_of(payload_format).decoder(payload_format, tuple(columns), device is not None)

    def decode(self, topic: str, payload: bytes) -> Decoded | Message | None:
        """The rows or the message in a payload; None if it is well made but not what this subscription takes.

        Rows that are right are given although others are wrong; the error that comes with them tells of those.
        Raises BadMessageError with the topic and the place that is wrong when nothing can be used.
        """
        try:
            decoded = self._decode(topic, payload)
        except BadMessageError as error:
            raise _at(topic, error, payload) from error
        except Exception as error:  # what a decoder did not foresee must not end the flow, at each redelivery again
            raise _at(topic, bad_payload(f"{type(error).__name__}: {error}", payload), payload) from error
        if isinstance(decoded, Decoded) and decoded.error is not None:
            return decoded._replace(error=_at(topic, decoded.error, payload))
        return decoded

    def _decode(self, topic: str, payload: bytes) -> Decoded | Message | None:
        if payload.lstrip()[:1] == b"{" and self._may_be_message(payload):
            return self._message(payload)
        if self._decoder is None:
            return None
        return self._decoder.decode(payload, None if self._devices is None else self._devices.of(topic))

    def _may_be_message(self, payload: bytes) -> bool:
        return self._decoder is None or not self._takes_objects or self._is_typed(payload)

    def _is_typed(self, payload: bytes) -> bool:
        try:
            return msgspec.json.decode(payload, type=_Peek).type in _TAGS
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False  # the format says what is wrong

    def _message(self, payload: bytes) -> Message | None:
        if self._of_messages is not None and not self._is_typed(payload):
            message = self._of_messages.decode(self._format, payload)
            return message if isinstance(message, self._messages) else None
        try:
            message = decode_message(payload, BUILT_IN_MESSAGES)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_payload(str(error), payload) from error
        return message if isinstance(message, self._messages) else None


def _at(topic: str, error: BadMessageError, payload: bytes) -> BadMessageError:
    """The error with its topic, and with the payload if it has no part of it."""
    return BadMessageError(f"topic '{topic}': {error}", reason=error.reason, payload=error.payload or payload)


class PayloadEncoder:
    """Encodes batches in one format."""

    def __init__(self, payload_format: AnyFormat) -> None:
        self._encoder = format_of(payload_format).encoder(payload_format)
        self._is_for_one = not payload_format.sends_device
        self._withholds = not payload_format.carries_quality
        self._takes_setpoints = payload_format.takes_setpoints
        self._format, self._of_messages = payload_format, format_of(payload_format).messages
        self.withheld = 0
        """Rows so far that were not sent, because readers would have taken them for good ones."""

    def encode(self, samples: Samples) -> list[bytes]:
        """The payloads of a batch, in order; none if no row may be sent. ValueError for what the format cannot hold."""
        if self._withholds:
            good = (samples.quality & int(MISLEADING)) == 0
            if not good.all():
                self.withheld += int(samples.rows - good.sum())
                samples = samples.take(good)
        if self._is_for_one and samples.rows:
            only_device(samples)
        return self._encoder.encode(samples) if samples.rows else []

    def encode_message(self, message: Message) -> list[bytes]:
        """The payloads of a message: JSON, or as the format writes it. ValueError as above.

        In a format that writes messages of some types, such as set-points, these alone are sent.
        """
        if self._of_messages is not None:
            wanted = isinstance(message, self._of_messages.types)
            return [self._of_messages.encode(self._format, message)] if wanted else []
        if not self._takes_setpoints:
            return [encode_message(message)]
        if not isinstance(message, Setpoints):
            return []
        return cast("SetpointEncoder", self._encoder).encode_setpoints(message)
