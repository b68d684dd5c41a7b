"""What stands in a config for a value that is wrong or not there, while only checking."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from edgeflex_flow.flowfile.fields import Hint

PLACEHOLDER = "(missing)"
"""Stands in a config for a text that is not there, while only checking. No column or topic is called that."""


class Broken:
    """Stands for a value that has been reported as wrong."""


BROKEN: Final = Broken()


def placeholder(hint: Hint) -> Any:
    """A value of the type, to check the rest of a config while a secret is missing. Never used for running.

    BROKEN when no usual one will do (a word of a list, a text with a pattern): the config cannot be made then.
    """
    if hint.words:
        return BROKEN
    candidates: tuple[Any, ...] = (PLACEHOLDER, *_numbers(hint), False, None, [], {})
    for candidate in candidates:
        try:
            return msgspec.convert(candidate, hint.full)
        except msgspec.ValidationError:
            continue
    return BROKEN


def _numbers(hint: Hint) -> tuple[float, ...]:
    """Numbers of which one keeps the hint's bounds."""
    edges = [hint.constraint(name) for name in ("ge", "gt", "le", "lt")]
    given = [edge for edge in edges if edge is not None]
    return (0, *given, *(edge + 1 for edge in given), *(edge - 1 for edge in given), sum(given) / max(len(given), 1))
