"""Times as options of commands."""

from __future__ import annotations

from typing import Any

import click

from edgeflex_connectors.store_read import time_ns_of


class Time(click.ParamType[int]):
    """A time in ISO 8601 with its zone, as UTC nanoseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return time_ns_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
