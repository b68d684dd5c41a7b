"""What a payload format is: a config, a decoder and an encoder, all without input or output of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgeflex_connectors.batching import Row
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.messages import Message, Samples, Setpoints
from edgeflex_flow.node import NodeConfig

LONGEST_GOT = 60
"""Characters of a wrong value that an error quotes."""


class FormatConfig(NodeConfig, frozen=True, kw_only=True, tag_field="type"):
    """Base of the settings of a format; `type` says which one it is."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the settings themselves name, in order."""
        return ()

    @property
    def named_fields(self) -> bool:
        """Whether a payload's fields have names, so that a column may be found, and sent, under its own."""
        return False

    @property
    def taken_names(self) -> frozenset[str]:
        """Names of fields that a column which goes by its own cannot have."""
        return frozenset()

    @property
    def names_device(self) -> bool:
        """Whether payloads say which device they are of."""
        return False

    @property
    def sends_device(self) -> bool:
        """Whether payloads that are sent say which device they are of."""
        return self.names_device

    @property
    def takes_objects(self) -> bool:
        """Whether a payload of samples may be a JSON object, as messages are."""
        return False

    @property
    def carries_quality(self) -> bool:
        """Whether payloads hold the quality flags of each row."""
        return False

    @property
    def takes_setpoints(self) -> bool:
        """Whether set-points are written in this format too, by an encoder with `encode_setpoints`."""
        return False


class Decoded(NamedTuple):
    """What became of a payload: the rows that are right, and one error that speaks for those that are not."""

    rows: list[Row]
    bad_rows: int = 0
    error: BadMessageError | None = None


class Decoder(Protocol):
    """Decodes payloads of one subscription."""

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        """The rows of a payload. `device` is given where the payload does not name it.

        Raises BadMessageError when nothing of the payload can be used, and nothing else.
        """
        ...


class Encoder(Protocol):
    """Encodes batches for one topic."""

    def encode(self, samples: Samples) -> list[bytes]:
        """The payloads of a batch, in order. Raises ValueError for what the format cannot hold."""
        ...


class SetpointEncoder(Encoder, Protocol):
    """What an encoder has besides in a format that takes set-points."""

    def encode_setpoints(self, message: Setpoints) -> list[bytes]:
        """The payload of a message, none if its quantity is another one. Raises ValueError as `encode` does."""
        ...


class MessageFormat(NamedTuple):
    """How a format writes messages of some types, instead of JSON with the key `type`."""

    types: tuple[type[Message], ...]
    decode: Callable[[Any, bytes], Message]
    """The message in a JSON object without `type`. Raises BadMessageError."""
    encode: Callable[[Any, Message], bytes]
    """Raises ValueError for what the format cannot hold."""


@dataclass(frozen=True, slots=True)
class PayloadFormat:
    """A format. `decoder(config, columns, given)`: `columns` are taken under their own names, beside those that the
    config names; `given` says that the caller names the device, so that payloads need not."""

    config: type[FormatConfig]
    decoder: Callable[[Any, tuple[str, ...], bool], Decoder]
    encoder: Callable[[Any], Encoder]
    messages: MessageFormat | None = None


class NoSamplesDecoder:
    """Of a format that holds messages alone."""

    def __init__(self, config: FormatConfig, _columns: tuple[str, ...], _given: bool) -> None:
        self._name = config.__struct_config__.tag

    def decode(self, payload: bytes, device: str | None) -> Decoded:  # noqa: ARG002 - named as the protocol has it
        raise bad_payload(f"the format `{self._name}` holds no samples", payload)


class NoSamplesEncoder:
    """Of a format that holds messages alone."""

    def __init__(self, config: FormatConfig) -> None:
        self._name = config.__struct_config__.tag

    def encode(self, samples: Samples) -> list[bytes]:  # noqa: ARG002 - named as the protocol has it
        raise ValueError(f"the format `{self._name}` holds no samples")


def name_refusals(places: Mapping[str, str]) -> Iterator[FieldError]:
    """Refuses names of fields that would not stand in JSON as they are; by the place of each in the settings."""
    for place, name in places.items():
        if not name or not name.isprintable() or '"' in name or "\\" in name:
            text = "a field's name has no quotation marks, backslashes or control characters, and is not empty"
            yield FieldError(text, place, got=quoted(name))


class BadFieldError(ValueError):
    """One element of a payload cannot be used; the text names the field and its place."""


def only_device(samples: Samples) -> str:
    """The device of a batch. Raises ValueError when it holds rows of several: samples do not say whose they are."""
    codes = np.unique(samples.device)
    if len(codes) > 1:
        names = ", ".join(samples.devices[code] for code in codes[:3].tolist())
        raise ValueError(f"the format does not name devices: put {{device}} into the topic, or select one; got {names}")
    return samples.devices[int(codes[0])]


class MissingFieldError(BadFieldError):
    """An element lacks something; what it has instead is worth telling."""


def quoted(value: object) -> str:
    """A wrong value as an error shows it, cut to a readable length.

    >>> quoted("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"
    """
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= LONGEST_GOT else text[:LONGEST_GOT] + "…"


def bad_payload(text: str, payload: bytes) -> BadMessageError:
    """The error for a payload, or for the part of it at fault."""
    return BadMessageError(text, reason="bad_payload", payload=payload)


class Gathered:
    """Rows of one payload as they are decoded; keeps the first thing that is wrong and counts the others."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._bad_rows = 0
        self._first = ""
        self._payload = b""

    def refuse(self, text: str, payload: bytes) -> None:
        """Leave a row out. `payload` is what is wrong."""
        if not self._bad_rows:
            self._first, self._payload = text, payload
        self._bad_rows += 1

    def result(self) -> Decoded:
        """All that was gathered. Raises BadMessageError when no row of several is right."""
        if not self._bad_rows:
            return Decoded(self.rows)
        count = len(self.rows) + self._bad_rows
        text = self._first if count == 1 else f"{self._bad_rows} of {count} rows cannot be used, first: {self._first}"
        error = bad_payload(text, self._payload)
        if not self.rows:
            raise error
        return Decoded(self.rows, self._bad_rows, error)
