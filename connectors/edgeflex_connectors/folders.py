"""Where files are made: the folder that a new file goes into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeflex_flow.disk import sync_folder
from edgeflex_flow.errors import FatalError, FieldError, RetryableError


def path_refusals(path: str) -> Iterator[FieldError]:
    """What is wrong with a field `path` at which no operating system can have a file."""
    if "\0" in path:
        yield FieldError("`path` must not hold a NUL character", "path", got=repr(path))


def make_folder_for(file: Path) -> None:
    """Make the folder of `file` unless it exists, so that it survives a power failure.

    Only this one folder: where its own parent is missing too, the path is mistyped or a drive is not mounted, and a
    folder made there would hide it. FatalError names the file and the reason.
    """
    try:
        if not file.parent.is_dir():
            file.parent.mkdir(exist_ok=True)
            sync_folder(file.parent.parent)
    except FileNotFoundError as error:
        raise FatalError(f"{file}: the folder {file.parent.parent} does not exist") from error
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise FatalError(f"{file}: the folder cannot be made: {error.strerror}") from error
    except OSError as error:
        raise RetryableError(f"{file}: the folder cannot be made: {error.strerror}") from error
    if file.is_dir():
        raise FatalError(f"{file}: a folder, not a file")
