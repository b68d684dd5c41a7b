"""Files that one service alone may use."""

from __future__ import annotations

from pathlib import Path

from edgeflex_flow.disk import lock_file
from edgeflex_flow.errors import FatalError


def lock_beside(file: Path, user: str, what: str, mode: int) -> int:
    """A lock that ends with this process at the latest. Beside the file: SQLite has locks of its own on it.

    `user`: who uses such files; `what`: what the file is to it, in words. Raises FatalError.
    """
    place = file.resolve()
    try:
        return lock_file(place.with_name(f"{place.name}-lock"), mode)
    except BlockingIOError as error:
        raise FatalError(f"{file}: another {user} uses this file: end it, or name another file") from error
    except OSError as error:
        text = f"cannot be opened as {what}: {error.strerror or error}"
        raise FatalError(f"{file}: {text}") from error
