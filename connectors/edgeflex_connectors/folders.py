"""Where files are made: the folder that a new file goes into."""

from __future__ import annotations

from pathlib import Path

from edgeflex_flow.errors import FatalError, RetryableError


def check_path(path: str) -> None:
    """ValueError for a path that no operating system can have a file at."""
    if "\0" in path:
        raise ValueError(f"`path` must not hold a NUL character; got {path!r}")


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
