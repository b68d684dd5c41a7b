"""What the programs of the services share: signals end them, they tell lines of JSON, and nobody forges their log."""

from __future__ import annotations

import json
import logging
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


class OneLine(logging.Formatter):
    r"""Each record is one line, whatever others wrote into it; lines of an error's story begin with `|`, as none does.

    >>> OneLine("%(message)s").format(logging.makeLogRecord({"msg": "kid %s", "args": ("a\nINFO forged\x1b[2J",)}))
    'kid a\\nINFO forged\\x1b[2J'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        return _shown(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        return _story(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _story(super().formatStack(stack_info))


def log_to_errors() -> None:
    """Let all loggers write to standard error from now on, one line a record."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _shown(text: str) -> str:
    """What cannot be seen, or ends a line, as it is escaped in Python."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _story(text: str) -> str:
    return "\n".join(f"| {_shown(line)}" for line in text.split("\n"))
