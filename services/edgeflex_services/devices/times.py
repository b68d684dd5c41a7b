"""Times as networks write them: RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from msgspec import Meta

from edgeflex_flow.units import NS_PER_S

Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
"""One without an offset is refused: it could be anybody's time."""


def time_text(time_ns: int) -> str:
    """To the second at or before it.

    >>> time_text(1_700_000_000_900_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
