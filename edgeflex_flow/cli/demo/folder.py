"""The folder of a demo, and those that killed demos left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "edgeflex-demo-"
LOCK = "in_use"
"""A file that a living demo holds locked; the system unlocks it however the demo ends."""


@contextmanager
def demo_folder() -> Iterator[Path]:
    """A new folder that goes with the block. Also removes those of demos that were killed."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        unnamed = folder / "lock"
        with unnamed.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unnamed.rename(folder / LOCK)  # seen by other demos only once it is locked
            yield folder


def _remove_abandoned() -> None:
    for lock_file in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            with lock_file.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock_file.stat().st_uid == os.geteuid():
                    shutil.rmtree(lock_file.parent)
        except OSError:
            continue  # in use, or another user's
