"""Runs `edgeflex` with its arguments and prints, last of all, what it wrote, connected to or listened on.

Compiled kernels and modules are kept on disk whatever runs: they do not count.
"""

from __future__ import annotations

import os
import sys

SPOKEN = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "sqlite3.connect")
CHANGED = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.move",
    "subprocess.Popen",
    "os.fork",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

seen: list[str] = []


def watch(kept: str) -> None:
    """Note what happens from now on, but for changes in the folder of compiled kernels and for compiled modules."""

    def is_kept(place: object) -> bool:
        text = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else str(place)
        return text.startswith(kept) or "__pycache__" in text

    def note(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITES)
        if event in SPOKEN or ((event in CHANGED or writes) and not is_kept(arguments[0])):
            seen.append(f"{event} {arguments}")

    sys.addaudithook(note)


def main() -> None:
    from numba.core import config

    from edgeflex_flow.cli import main as edgeflex
    from edgeflex_flow.cli.kinds import shipped_registry

    shipped_registry()
    watch(vars(config)["CACHE_DIR"])
    try:
        edgeflex()
    finally:
        sys.stderr.write(f"audit: {seen}\n")


if __name__ == "__main__":
    main()
