"""Where files are made: the folder that a new file goes into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeflex_flow.errors import FatalError, FieldError, RetryableError


def path_refusals(path: str) -> Iterator[FieldError]:
    """What is wrong with a field `path` at which no operating system can have a file."""
    if "\0" in path:
        yield FieldError("`path` must not hold a NUL character", "path", got=repr(path))


def make_folder_for(file: Path) -> None:
    """Make the folder of `file` unless it exists.

    Only this one folder: where its own parent is missing too, the path is mistyped or a drive is not mounted, and a
    folder made there would hide it. FatalError names the file and the reason.
    """
    try:
        file.parent.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise FatalError(f"{file}: the folder {file.parent.parent} does not exist") from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise FatalError(f"{file}: the folder cannot be made: {error.strerror}") from error
    except OSError as error:
        raise RetryableError(f"{file}: the folder cannot be made: {error.strerror}") from error
    if file.is_dir():
        raise FatalError(f"{file}: a folder, not a file")


def free_bytes(folder: Path, name: str) -> int:
    """What is free where a folder stands, or would be made with its parents. Makes nothing.

    FatalError, which begins with `name`, when no file can be written there.
    """
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not there.is_dir():
            raise FatalError(f"{name} '{folder}': {there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            what = "cannot be written to" if there == folder else f"cannot be made: {there} cannot be written to"
            raise FatalError(f"{name} '{folder}': {what}")
        return shutil.disk_usage(there).free
    except OSError as error:
        raise FatalError(f"{name} '{folder}': {error.strerror or error}") from error
