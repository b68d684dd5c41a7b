"""After which answers an HTTP service is asked again, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Annotated, TypeAlias

from msgspec import Meta

from edgeflex_connectors.http_client import Answer
from edgeflex_flow.errors import FieldError

Status: TypeAlias = Annotated[int, Meta(ge=100, le=599)]

RETRIED_STATUSES: tuple[int, ...] = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that tell of a state that passes."""
UNHANDLED_STATUSES = frozenset({425, 429, 503})
"""Of these, the ones by which a service says that it has not begun with the request (RFC 8470, RFC 6585, RFC 9110)."""

LONGEST_RETRY_AFTER_S = 3600.0


def retry_refusals(retry_min: float, retry_max: float) -> Iterator[FieldError]:
    """What is wrong with how long a node waits after failures, as an error of its config."""
    if retry_max < retry_min:
        yield FieldError("`retry_max` must not be less than `retry_min`", "retry_max", "retry_min")


def retry_after_s(answer: Answer) -> float:
    """How long the service asks to be left alone, in seconds, at most an hour; 0 if it does not say.

    >>> retry_after_s(Answer(429, "", {"retry-after": "7"}, b""))
    7.0
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)
