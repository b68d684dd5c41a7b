"""Programs of the operating system that tests use."""

from __future__ import annotations

import os
import shutil

PROGRAM_FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])


def find_program(name: str) -> str | None:
    """The path of an operating system's program, also where only root has it on the PATH."""
    return shutil.which(name, path=PROGRAM_FOLDERS)
