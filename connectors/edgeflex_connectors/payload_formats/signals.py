"""Signals of the VILLAS formats, which have no names on the wire: each place of a sample has a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from edgeflex_connectors.payload_formats.channels import Channel, channel_refusals, repeated_columns
from edgeflex_connectors.payload_formats.codec import FormatConfig
from edgeflex_flow.errors import FieldError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import NodeConfig
from edgeflex_flow.units import column_unit

QUALITY = "quality"
SEQUENCES = 2**32


class Signal(NodeConfig, frozen=True, kw_only=True):
    """What stands at one place of every sample."""

    column: Annotated[
        str | None,
        Meta(description="Column; its name ends in its unit. `quality`: the quality flags. None: nothing of use."),
    ] = None
    angle_column: Annotated[
        str | None, Meta(description="For complex values: column of the angle; `column` is then the magnitude.")
    ] = None
    unit: Annotated[str | None, Meta(description="Unit in the payload; by default that of the column.")] = None
    integer: Annotated[bool, Meta(description="Whether VILLASnode has it as an integer.")] = False

    def refusals(self) -> Iterator[FieldError]:
        if self.column in (None, QUALITY):
            for name in ("angle_column", "unit"):
                if getattr(self, name) is not None:
                    yield FieldError(f"`{name}` goes with a column of values", name, "column")
            return
        assert self.column is not None
        yield from channel_refusals(self.column, self.unit)
        if self.angle_column is not None:
            unit = column_unit(self.angle_column)
            if unit is None or unit.dimension != "angle":
                text = f"`angle_column`: '{self.angle_column}' does not end in `_rad` or `_deg`"
                yield FieldError(text, "angle_column")
            if self.integer:
                yield FieldError("a complex value is no integer", "integer", "angle_column")

    @property
    def channel(self) -> Channel | None:
        """What it is as a column of values; None for quality flags and what is of no use."""
        if self.column is None or self.column == QUALITY:
            return None
        return Channel(column=self.column, angle_column=self.angle_column, unit=self.unit)

    @property
    def is_integer(self) -> bool:
        return self.integer or self.column == QUALITY


class SignalFormat(FormatConfig, frozen=True, kw_only=True):
    """What the VILLAS formats have in common."""

    signals: Annotated[
        tuple[Signal, ...], Meta(min_length=1, max_length=4096, description="What stands at each place, in order.")
    ]
    sequence: Annotated[
        str | None,
        Meta(description="Column of the sequence number, ending in `_count`; none: only numbered on sending."),
    ] = None
    vectorize: Annotated[
        int, Meta(ge=1, le=65535, description="Most samples in one payload that is sent, as VILLASnode's `vectorize`.")
    ] = 1

    def refusals(self) -> Iterator[FieldError]:
        if not any(each.channel for each in self.signals):
            yield FieldError("`signals` names no column", "signals")
        places = [
            (f"signals[{place}]", column)
            for place, each in enumerate(self.signals)
            for column in (each.column, each.angle_column)
            if column is not None
        ]
        if self.sequence is not None:
            places.append(("sequence", self.sequence))
            if not self.sequence.endswith("_count"):
                yield FieldError("`sequence` is a column that ends in `_count`", "sequence", got=f"'{self.sequence}'")
        yield from repeated_columns(places)

    @property
    def channels(self) -> list[Channel]:
        return [channel for each in self.signals if (channel := each.channel) is not None]

    @property
    def columns(self) -> tuple[str, ...]:
        named = tuple(column for channel in self.channels for column in channel.columns)
        return named if self.sequence is None else (*named, self.sequence)

    @property
    def carries_quality(self) -> bool:
        return any(each.column == QUALITY for each in self.signals)

    @property
    def quality_at(self) -> int | None:
        return next((place for place, each in enumerate(self.signals) if each.column == QUALITY), None)


class Sequences:
    """Sequence numbers of what is sent: those of the column, else counted up for each device."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._next: dict[str, int] = {}

    def of(self, samples: Samples, device: str) -> list[int]:
        """The numbers of rows that are all of one device."""
        given = samples.columns.get(self._column) if self._column is not None else None
        if given is not None and not np.isnan(given).any():
            if ((given < 0) | (given >= SEQUENCES) | (given != np.floor(given))).any():
                raise ValueError(f"column '{self._column}' holds no sequence numbers from 0 to {SEQUENCES - 1}")
            return [int(each) for each in given.tolist()]
        first = self._next.get(device, 0)
        self._next[device] = (first + samples.rows) % SEQUENCES
        return [(first + row) % SEQUENCES for row in range(samples.rows)]


def parts(samples: Samples, most: int) -> Sequence[Samples]:
    """The batch in runs of at most `most` rows."""
    return [samples.take(np.arange(first, min(first + most, samples.rows))) for first in range(0, samples.rows, most)]
