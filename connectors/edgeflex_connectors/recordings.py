"""Recorded files of any known format, read as `recording_table.Recording`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from edgeflex_connectors.recording_capture import read_capture
from edgeflex_connectors.recording_csv import read_csv_recording
from edgeflex_connectors.recording_npz import read_npz_recording
from edgeflex_connectors.recording_table import READABLE, Recording, RecordingError, make_recording, read_columns
from edgeflex_connectors.sqlite import SqliteConfig, SqliteStore
from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS
from edgeflex_flow.errors import FatalError, RetryableError, nearest

SUFFIXES: Final = {
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
    ".db": "store",
    ".sqlite": "store",
    ".pcap": "capture",
    ".pcapng": "capture",
    ".cap": "capture",
}
"""Formats by the ending of a file's name."""


def read_recording(
    file: Path,
    *,
    nominal_hz: float | None = None,
    channels: Mapping[str, str] | None = None,
    begin_ns: int = EARLIEST_NS,
    end_ns: int = LATEST_NS,
) -> Recording:
    """The recording in a file, by the ending of its name. Raises RecordingError with the file and what is wrong.

    `nominal_hz`: to derive a frequency that the file lacks from angles; a file that tells its own needs none.
    `channels`: columns by name of a PMU's phasor or analog, for captures. Of a store only begin_ns <= t < end_ns is
    read; of other files that cannot be asked for.
    """
    form = SUFFIXES.get(file.suffix.lower())
    if form is None:
        close = nearest(file.suffix.lower(), SUFFIXES)
        hint = f"; did you mean '{close}'?" if close else ""
        raise RecordingError(
            f"{file}: the name ends in none of the known ways; got '{file.suffix}'; known: {', '.join(SUFFIXES)}{hint}"
        )
    if form != "store" and (begin_ns, end_ns) != (EARLIEST_NS, LATEST_NS):
        raise RecordingError(f"{file}: a begin and an end choose from a store; this file is read as a whole")
    try:
        if form == "npz":
            return read_npz_recording(file, nominal_hz)
        if form == "csv":
            return read_csv_recording(file, nominal_hz)
        if form == "store":
            return _read_store(file, nominal_hz, begin_ns, end_ns)
        return read_capture(file, channels or {})
    except OSError as error:
        raise RecordingError(f"{file}: {error.strerror or error}") from error


def _read_store(file: Path, nominal_hz: float | None, begin_ns: int, end_ns: int) -> Recording:
    try:
        samples = SqliteStore(SqliteConfig(path=str(file)), file).read(READABLE, begin_ns, end_ns)
    except (FatalError, RetryableError) as error:
        raise RecordingError(str(error)) from error
    stored = {name: values for name, values in samples.columns.items() if not np.isnan(values).all()}
    return make_recording(file, read_columns(samples.with_columns(stored))[0], nominal_hz=nominal_hz)
