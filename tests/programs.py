"""Programs of the operating system that tests use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM_FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])


def find_program(name: str) -> str | None:
    """The path of an operating system's program, also where only root has it on the PATH."""
    return shutil.which(name, path=PROGRAM_FOLDERS) or _of_postgresql(name)


def _of_postgresql(name: str) -> str | None:
    """The path of one of PostgreSQL's programs, which Debian keeps in folders by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else None
