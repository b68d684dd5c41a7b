"""What commands say on standard error, in the form of their logs."""

from __future__ import annotations

import logging

import click

from edgeflex_flow.log_lines import JsonFormatter


def logs_are_json() -> bool:
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger("edgeflex").handlers)


def tell(level: int, text: str, flow: str | None = None, **details: object) -> None:
    """Say on standard error what the command itself has to say: a line, or with JSON logs a record with `details`."""
    if logs_are_json():
        logging.getLogger(f"edgeflex.{flow}" if flow else "edgeflex").log(level, "%s", text, extra=details)
        return
    word = logging.getLevelName(level).lower()
    click.echo(f"{word}: flow '{flow}': {text}" if flow else f"{word}: {text}", err=True)
