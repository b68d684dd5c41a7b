"""When processes began, as the system knows it."""

from __future__ import annotations

import os
import time
from pathlib import Path

PROCESSES = Path("/proc")
BEGAN_AT = 19
"""Place of `starttime` among what stands behind the command in `/proc/PID/stat`, see proc_pid_stat(5)."""


def began_ms(pid: int) -> int | None:
    """UTC milliseconds since 1970 by the clock as it is now; None where the system does not tell."""
    try:
        told = (PROCESSES / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    began_s = int(told.rpartition(")")[2].split()[BEGAN_AT]) / os.sysconf("SC_CLK_TCK")
    return int(1000 * (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + began_s))
