"""`python -m edgeflex_flow.tied PID COMMAND…`: becomes COMMAND, which gets SIGTERM when its parent, PID, ends.

So no program outlives the one that started it, even where that is killed and cannot say goodbye. The kernel keeps the
request over the exec, hence it works for programs that are not ours, and without code between fork and exec in a
process that has threads. Linux only; elsewhere COMMAND just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tied(*command: str) -> list[str]:
    """The command that runs `command` tied to this process: to the thread, in fact, that starts it."""
    return [sys.executable, "-m", "edgeflex_flow.tied", str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return  # it ended before the request was made
    os.execvp(command[0], command)  # noqa: S606 - starting a program is what this is for


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
