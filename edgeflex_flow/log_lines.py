"""Logs on standard error: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _where(record: logging.LogRecord) -> dict[str, str]:
    """The flow and the node that a record is of, as far as it tells."""
    flow, _, node = record.name.removeprefix("edgeflex").lstrip(".").partition(".")
    node = str(_extras(record).get("node", node))
    return {name: text for name, text in (("flow", flow), ("node", node)) if text}


class TextFormatter(logging.Formatter):
    """`12:46:09.123 WARNING frequency_events pmu: text`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        where = " ".join(_where(record).values())
        line = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} {record.levelname:<8}{where}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, flow, node, message, and what the caller added."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_where(record),
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up_logs(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send the logs of edgeflex-flow to `stream` (standard error) in the form `text` or `json`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    log = logging.getLogger("edgeflex")
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False
