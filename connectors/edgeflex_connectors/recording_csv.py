"""Recordings in CSV files, written by people, by spreadsheets and by other programs.

Long form: one row for each device and time, with the columns `device`, a time, and measurements. Wide form: one row
for each time, the measurements of a device named `G1.frequency_hz` (also `G1:` `G1/` `G1 `), or without a prefix if
there is one device only; it is then called as the file is. The time is `time_ns`, `time_s` (both since 1970 or any
other origin) or `time`, ISO 8601 (UTC unless it says otherwise). Measurements are named as everywhere, unit last:
`frequency_hz`, `voltage_kv`, `voltage_angle_deg`, `current_a`, `current_angle_rad`, `active_power_mw`. `quality` holds
flags as a number. Separated by commas, semicolons (decimal commas are then allowed) or tabs; UTF-8. Empty cells: no
value.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from edgeflex_connectors.batching import SamplesBuilder
from edgeflex_connectors.recording_table import (
    ACTIVE_POWER,
    COLUMNS,
    MOST_ROWS,
    READABLE,
    Recording,
    RecordingError,
    Target,
    make_recording,
    target_of,
    unread,
)
from edgeflex_flow.errors import nearest
from edgeflex_flow.messages import Samples
from edgeflex_flow.units import names_its_unit

LARGEST_FILE_BYTES: Final = 1 << 29
TIMES: Final = ("time_ns", "time_s", "time")
DEVICE: Final = "device"
QUALITY: Final = "quality"
_PREFIXED: Final = re.compile(r"(?P<device>.*[^.:/\s])\s*[.:/\s]\s*(?P<name>[^.:/\s]+)")
_NO_VALUE: Final = frozenset({"", "nan", "null", "none", "na", "n/a", "-"})
_ISO: Final = re.compile(
    r"(?P<moment>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d{1,9})\d*)?\s*(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_EARLIEST_NS, _LATEST_NS = -(2**63), 2**63 - 1


class Cell(NamedTuple):
    """What a column of the file is."""

    device: str
    """Empty: the device is told by the row."""
    slot: int
    """Place among the values of a row; -1 for the flags."""
    factor: float


class _BadCellError(ValueError):
    """A cell that cannot be read; the text says why."""


def read_csv_recording(file: Path, nominal_hz: float | None) -> Recording:
    """A recording in a CSV file. Raises RecordingError with file, line and column; OSError."""
    with _reader(file, (*COLUMNS, ACTIVE_POWER), target_of) as reader:
        return reader.recording(nominal_hz)


def read_csv_table(file: Path) -> Samples:
    """The rows of a CSV file with all columns whose names end in their unit, as they are; NaN where a cell is empty.

    Raises RecordingError with file, line and column; OSError.
    """
    with _reader(file, (), lambda name: Target(name, 1.0) if names_its_unit(name) else None) as reader:
        return reader.table()


@contextmanager
def _reader(file: Path, slots: Sequence[str], target_of_name: Callable[[str], Target | None]) -> Iterator[_Reader]:
    if file.stat().st_size > LARGEST_FILE_BYTES:
        raise RecordingError(f"{file}: larger than {LARGEST_FILE_BYTES >> 20} MiB")
    try:
        # Universal newlines: a spreadsheet's file may end its lines in any way.
        with file.open(encoding="utf-8-sig", newline=None) as lines:
            yield _Reader(file, lines, slots, target_of_name)
    except UnicodeDecodeError as error:
        raise RecordingError(f"{file}: not UTF-8: byte 0x{error.object[error.start]:02x}") from error


class _Reader:
    """Reads the rows of a file. `slots`: columns that there are in any case; others follow as the header has them."""

    def __init__(
        self,
        file: Path,
        lines: Iterator[str],
        slots: Sequence[str],
        target_of_name: Callable[[str], Target | None],
    ) -> None:
        self._file = file
        self._slots = list(slots)
        self._target_of = target_of_name
        self._line = 1
        first = next(lines, "")
        self._separator = max(",;\t", key=first.count)
        self._header = [name.strip() for name in next(csv.reader([first], delimiter=self._separator), [])]
        if not any(self._header):
            raise self._wrong("the first line holds no names of columns")
        self._rows = csv.reader(lines, delimiter=self._separator)
        self._time = self._time_column()
        self._device = self._header.index(DEVICE) if DEVICE in self._header else None
        self._others: list[str] = []
        self._cells = self._cells_of_header()
        self._read_time: Callable[[str], int] = {"time_ns": _whole, "time_s": _seconds, "time": _moment}[
            self._header[self._time]
        ]

    def _wrong(self, text: str, column: int | None = None) -> RecordingError:
        where = f"{self._file}:{self._line}"
        if column is None:
            return RecordingError(f"{where}: {text}")
        return RecordingError(f"{where}: column {column + 1} ('{self._header[column]}'): {text}")

    def _time_column(self) -> int:
        found = [place for place, name in enumerate(self._header) if name in TIMES]
        if len(found) != 1:
            shown = ", ".join(self._header[place] for place in found) or "none"
            close = None if found else next((name for name in self._header if nearest(name, TIMES)), None)
            hint = f"; is '{close}' the time?" if close else ""
            raise self._wrong(f"one column of {', '.join(TIMES)} is needed; got {shown}{hint}")
        return found[0]

    def _cells_of_header(self) -> dict[int, Cell]:
        cells: dict[int, Cell] = {}
        for column, title in enumerate(self._header):
            if column in (self._time, self._device):
                continue
            cell = self._cell(column, title)
            if cell is None:
                self._others.append(title)
            else:
                twin = next((c for c, other in cells.items() if other[:2] == cell[:2]), None)
                if twin is not None:
                    raise self._wrong(f"the same as column {twin + 1} ('{self._header[twin]}')", column)
                cells[column] = cell
        if not any(cell.slot >= 0 for cell in cells.values()):
            known = f"; known: {', '.join(READABLE)}" if self._slots else ", with its unit at the end of its name"
            raise self._wrong(f"no column is a measurement{known}")
        return cells

    def _cell(self, column: int, title: str) -> Cell | None:
        """What a column is; None when it is not read."""
        device, name = "", title
        if self._device is None:
            match = _PREFIXED.fullmatch(title)
            device, name = (match["device"], match["name"]) if match else (self._file.stem, title)
        if name == QUALITY:
            # Flags without a device are those of the whole row.
            return Cell("" if name == title else device, -1, 1.0)
        try:
            target = self._target_of(name)
        except ValueError as error:
            raise self._wrong(str(error), column) from error
        if target is None:
            return None
        if target.column not in self._slots:
            self._slots.append(target.column)
        return Cell(device, self._slots.index(target.column), target.factor)

    def recording(self, nominal_hz: float | None) -> Recording:
        samples = self.table()
        if not any(cell.slot == len(COLUMNS) for cell in self._cells.values()):
            samples = samples.with_columns({name: samples.columns[name] for name in COLUMNS})
        return make_recording(self._file, samples, nominal_hz=nominal_hz, warnings=unread(self._others))

    def table(self) -> Samples:
        builder = SamplesBuilder(self._slots)
        for row in self._data_rows():
            self._take(row, builder)
            if len(builder) > MOST_ROWS:
                raise self._wrong(f"more than {MOST_ROWS} rows of devices")
        return builder.take(received_ns=0)

    def _data_rows(self) -> Iterator[list[str]]:
        while True:
            self._line = self._rows.line_num + 2
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                raise self._wrong(f"not valid CSV: {error}") from error
            if row is None:
                return
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(self._header):
                raise self._wrong(f"{len(row)} cells; the header has {len(self._header)} columns")
            yield row

    def _take(self, row: Sequence[str], builder: SamplesBuilder) -> None:
        column = self._time
        try:
            time_ns = self._read_time(row[column].strip())
            if not _EARLIEST_NS <= time_ns <= _LATEST_NS:
                raise _BadCellError(f"a time beyond what 64 bits of nanoseconds hold; got '{row[column]}'")
            shared = ""
            if self._device is not None:
                column = self._device
                shared = row[column].strip()
                if not shared:
                    raise _BadCellError("the name of a device is missing")
            values: dict[str, list[float]] = {}
            flags: dict[str, int] = {}
            for column, cell in self._cells.items():
                text = row[column].strip()
                if cell.slot < 0:
                    flags[cell.device] = _flags(text)
                    continue
                slots = values.setdefault(cell.device or shared, [math.nan] * len(self._slots))
                slots[cell.slot] = _number(text, decimal_comma=self._separator == ";") * cell.factor
        except _BadCellError as error:
            raise self._wrong(str(error), column) from error
        for device, slots in values.items():
            if self._device is not None or not all(map(math.isnan, slots)):
                builder.add(time_ns, device, flags.get("", 0) | flags.get(device, 0), slots)


def _number(text: str, *, decimal_comma: bool) -> float:
    if text.lower() in _NO_VALUE:
        return math.nan
    if decimal_comma:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        raise _BadCellError(f"a number is expected; got '{text}'") from None
    if math.isinf(value):
        raise _BadCellError(f"a finite number is expected; got '{text}'")
    return value


def _flags(text: str) -> int:
    flags = _whole(text or "0")
    if not 0 <= flags <= np.iinfo(np.uint16).max:
        raise _BadCellError(f"flags are an integer from 0 to 65535; got '{text}'")
    return flags


def _whole(text: str) -> int:
    # As a decimal, since int() takes underscores and refuses thousands of digits in a way of its own.
    if not re.fullmatch(r"[-+]?\d{1,25}", text):
        raise _BadCellError(f"an integer is expected; got '{text}'")
    return int(text)


def _seconds(text: str) -> int:
    try:
        seconds = Decimal(text.replace(",", "."))
    except InvalidOperation:
        raise _BadCellError(f"a time in seconds is expected; got '{text}'") from None
    if not seconds.is_finite() or abs(seconds) > Decimal("1e10"):
        raise _BadCellError(f"a time in seconds is expected; got '{text}'")
    return round(seconds * 1_000_000_000)


def _moment(text: str) -> int:
    match = _ISO.fullmatch(text)
    if match is None:
        raise _BadCellError(f"a time such as 2026-11-25T02:16:01.25Z is expected; got '{text}'")
    fraction = (match["fraction"] or "").ljust(9, "0")
    return _moment_s(match["moment"], match["zone"] or "Z") * 1_000_000_000 + int(fraction)


@lru_cache(maxsize=64)
def _moment_s(moment: str, zone: str) -> int:
    """Whole seconds since 1970."""
    try:
        parsed = datetime.fromisoformat(moment + zone)
    except ValueError as error:
        raise _BadCellError(f"no such time: {error}") from None
    return round((parsed.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
