"""Rows that come one by one become `Samples`; names of devices become codes that stay the same from batch to batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.errors import FieldError, nearest
from edgeflex_flow.messages import BUILT_IN_MESSAGES, Message, Samples
from edgeflex_flow.units import names_its_unit

AT_ARRIVAL = -(2**63) - 1
"""The time of a row whose payload tells none; none that a row can have."""

Row = tuple[int, str, int, tuple[float, ...]]
"""time_ns, device, quality, values in the order of the columns (NaN where there is none)."""


class DeviceTable:
    """Codes of the devices seen so far. `names` stays the same object while no new device comes."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            code = self._codes[name] = len(self._codes)
        return code

    def codes(self, names: Sequence[str]) -> NDArray[np.int32]:
        """The code of each name, shape (len(names),)."""
        return np.array([self.code(name) for name in names], dtype=np.int32)

    def freeze(self) -> tuple[str, ...]:
        """The table for a batch whose codes were taken from here."""
        if len(self.names) != len(self._codes):
            self.names = tuple(self._codes)
        return self.names


class SamplesBuilder:
    """Collects rows of the same columns and makes them one `Samples`."""

    def __init__(self, columns: Sequence[str], devices: DeviceTable | None = None) -> None:
        self._columns = tuple(columns)
        self._devices = devices or DeviceTable()
        self._time_ns: list[int] = []
        self._arrived: list[int] = []
        """Places of the rows that get the time of their arrival."""
        self._codes: list[int] = []
        self._quality: list[int] = []
        self._values: list[Sequence[float]] = []

    def __len__(self) -> int:
        return len(self._time_ns)

    def add(self, time_ns: int, device: str, quality: int, values: Sequence[float]) -> None:
        """Add a row; `values` in the order of the columns, NaN where there is none."""
        if time_ns == AT_ARRIVAL:
            self._arrived.append(len(self._time_ns))
            time_ns = 0
        self._time_ns.append(time_ns)
        self._codes.append(self._devices.code(device))
        self._quality.append(quality)
        self._values.append(values)

    def take(self, received_ns: int) -> Samples:
        """The rows so far as one batch; the builder is empty afterwards."""
        table = np.array(self._values, dtype=np.float64).reshape(len(self), len(self._columns))
        time_ns = np.array(self._time_ns, dtype=np.int64)
        time_ns[self._arrived] = received_ns
        samples = Samples(
            time_ns=time_ns,
            device=np.array(self._codes, dtype=np.int32),
            devices=self._devices.freeze(),
            columns={name: np.ascontiguousarray(table[:, place]) for place, name in enumerate(self._columns)},
            quality=np.array(self._quality, dtype=np.uint16),
            received_ns=received_ns,
        )
        self._time_ns, self._codes, self._quality, self._values, self._arrived = [], [], [], [], []
        return samples


_BY_TAG = {str(each.__struct_config__.tag): each for each in BUILT_IN_MESSAGES}


def message_types(tags: Sequence[str]) -> tuple[type[Message], ...]:
    """The message types with these names, which `promise_refusals` has found to be known."""
    return tuple(_BY_TAG[tag] for tag in tags)


def promise_refusals(columns: Sequence[str], messages: Sequence[str]) -> Iterator[FieldError]:
    """What is wrong with what a source promises in its fields `columns` and `messages`."""
    if not columns and not messages:
        text = "give `columns`, `messages` or both: otherwise nothing would come out of this node"
        yield FieldError(text, "columns", "messages")
    for place, column in enumerate(columns):
        if not names_its_unit(column):
            text = f"`columns`: '{column}' does not end in a unit (`frequency_hz`, `voltage_v`, …)"
            yield FieldError(text, f"columns[{place}]")
    for name, values in (("columns", columns), ("messages", messages)):
        if len(set(values)) != len(values):
            yield FieldError(f"`{name}` names something twice", name, got=", ".join(values))
    for place, tag in enumerate(messages):
        if tag not in _BY_TAG:
            text = f"`messages`: no message type '{tag}'"
            yield FieldError(text, f"messages[{place}]", known=_BY_TAG, nearest=nearest(tag, _BY_TAG))
