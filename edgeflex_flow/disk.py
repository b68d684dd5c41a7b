"""What files need beside reading and writing: to outlive a power failure, and to have one owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder survive a power failure: of what was made, renamed or deleted in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(file: Path, mode: int = 0o600) -> int:
    """Make a file and lock it for this process; the descriptor, which gives the lock back when it is closed.

    The lock ends with the process at the latest, however that ends; the file stays. Raises BlockingIOError when it
    cannot be locked, since another holds it, and OSError when it cannot be made.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(*error.args) from error
    return descriptor
