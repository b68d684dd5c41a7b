"""What files need beside reading and writing: to outlive a power failure, and to have one owner."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

NEW = ".new"
"""Ends the name of a file that is being written."""


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder survive a power failure: of what was made, renamed or deleted in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(file: Path, mode: int = 0o600, *, shared: bool = False) -> int:
    """Make a file and lock it for this process; the descriptor, which gives the lock back when it is closed.

    `shared`: others may hold it at the same time, as long as all share it.

    The lock ends with the process at the latest, however that ends; the file stays. Raises BlockingIOError when it
    cannot be locked, since another holds it, and OSError when it is not there and cannot be made.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # a disk that has become read-only
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_durably(file: Path, content: bytes, *, keep: Path | None = None, like: Path | None = None) -> None:
    """Return when the file holds this content and will after a power failure. Raises OSError, the file as it was.

    A reader, or a process that is killed at any moment, finds the old content or the new one, whole. `keep`: the name
    that the old file then has; for a moment only that one is there. `like`: the file whose owner and mode it gets; else
    it is this user's alone.
    """
    # A name of its own: two processes may write at once, and each rename must put a whole file in place.
    new = file.with_name(f"{file.name}.{os.getpid()}{NEW}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as opened:
            if like is not None:
                told = like.stat()
                if (told.st_uid, told.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(opened.fileno(), told.st_uid, told.st_gid)
                os.fchmod(opened.fileno(), told.st_mode & 0o7777)
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        if keep is not None:
            with suppress(FileNotFoundError):
                file.replace(keep)
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(file.parent)
