"""`json.edgeflex`: an array of flat objects, as the edgeFLEX platform and VILLASnode have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeflex_connectors.payload_formats.channels import Channel, channel_values, own_channels, repeated_columns
from edgeflex_connectors.payload_formats.codec import Decoded, FormatConfig, PayloadFormat, name_refusals
from edgeflex_connectors.payload_formats.objects import ObjectDecoder, ObjectFields
from edgeflex_connectors.payload_formats.times import time_values
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples

OWN_KEYS = ("created", "time_ns", "quality")


class JsonEdgeflex(FormatConfig, frozen=True, kw_only=True, tag="json.edgeflex"):
    """An array of flat objects: `created` in whole ms since 1970, values by name, complex ones as `{real, imag}`.

    With `extension`, which other readers skip, each object also has `time_ns` (the exact time), `quality` (flags) and
    its device. Without it, `created` is the time, to the ms, and a device's name is read but not sent.
    """

    fields: Annotated[
        dict[str, Channel],
        Meta(description="Fields that do not go by the name and unit of their column: name in the payload to column."),
    ] = msgspec.field(default_factory=dict)
    device: Annotated[str, Meta(min_length=1, description="Key of the device's name.")] = "device"
    extension: Annotated[bool, Meta(description="Whether time_ns and quality are read and sent.")] = True

    def refusals(self) -> Iterator[FieldError]:
        yield from name_refusals({"device": self.device, **{f"fields.{name}": name for name in self.fields}})
        if self.device in OWN_KEYS:
            yield FieldError("`device` is another key of the format", "device", got=f"'{self.device}'")
        for name in self.fields:
            if name in OWN_KEYS or name == self.device:
                yield FieldError(f"`fields`: '{name}' is a key of the format", f"fields.{name}", "device")
        yield from repeated_columns((f"fields.{name}", each) for name, to in self.fields.items() for each in to.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for channel in self.fields.values() for column in channel.columns)

    @property
    def named_fields(self) -> bool:
        return True

    @property
    def taken_names(self) -> frozenset[str]:
        return frozenset((*OWN_KEYS, self.device, *self.fields))

    @property
    def names_device(self) -> bool:
        return True

    @property
    def sends_device(self) -> bool:
        return self.extension

    @property
    def carries_quality(self) -> bool:
        return self.extension


class Encoder:
    def __init__(self, config: JsonEdgeflex) -> None:
        self._config = config

    def encode(self, samples: Samples) -> list[bytes]:
        config, names = self._config, samples.devices
        fields = config.fields or own_channels(samples, config.taken_names)
        lists: dict[str, list[Any]] = {"created": time_values(samples.time_ns, "ms")}
        if config.extension:
            lists[config.device] = [names[code] for code in samples.device.tolist()]
            lists["time_ns"] = samples.time_ns.tolist()
            lists["quality"] = samples.quality.tolist()
        lists |= {name: channel_values(samples, channel) for name, channel in fields.items()}
        keys = tuple(lists)
        return [msgspec.json.encode([dict(zip(keys, row, strict=True)) for row in zip(*lists.values(), strict=True)])]


class Decoder:
    """Decodes payloads for one subscription.

    >>> Decoder(JsonEdgeflex(), ("frequency_hz",), True).decode(b'[{"created":1,"frequency_hz":49.98}]', "G1").rows
    [(1000000, 'G1', 0, (49.98,))]
    """

    def __init__(self, config: JsonEdgeflex, columns: tuple[str, ...], given: bool) -> None:
        named = {**{column: Channel(column=column) for column in columns}, **config.fields}
        exact: tuple[tuple[tuple[str, ...], str], ...] = ((("time_ns",), "ns"),) if config.extension else ()
        self._objects = ObjectDecoder(
            ObjectFields(
                times=(*exact, (("created",), "ms")),
                device=None if given else (config.device,),
                quality=("quality",) if config.extension else None,
                channels=tuple(((name,), channel) for name, channel in named.items()),
            ),
            single=False,
        )

    def decode(self, payload: bytes, device: str | None) -> Decoded:
        return self._objects.decode(payload, device)


FORMAT = PayloadFormat(config=JsonEdgeflex, decoder=Decoder, encoder=Encoder)
