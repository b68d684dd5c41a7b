"""Reading of recorded files that may be damaged, for tests."""

from __future__ import annotations

from pathlib import Path

from edgeflex_connectors.recording_table import Recording, RecordingError
from edgeflex_connectors.recordings import read_recording


def read_or_refusal(file: Path) -> Recording | str:
    """The recording, or the text of the error."""
    try:
        return read_recording(file)
    except RecordingError as error:
        return str(error)
