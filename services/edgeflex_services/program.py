"""What the programs of the services share: signals end them, and they tell lines of JSON."""

from __future__ import annotations

import json
import signal
import sys
import threading
from types import FrameType as StackFrame


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set from now on. Call it in the main thread."""
    stop = threading.Event()

    def end(signal_number: int, frame: StackFrame | None) -> None:
        del signal_number, frame
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return stop


def tell(**fields: object) -> None:
    """A line of JSON that a reader of the output gets at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()
