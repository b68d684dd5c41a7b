"""How operators list what concerns many."""

from __future__ import annotations

from collections.abc import Sequence

MOST_TOLD = 5
"""Of a kind, in one text."""


def some(texts: Sequence[str]) -> str:
    """
    >>> some([str(each) for each in range(7)])
    '0, 1, 2, 3, 4 and 2 more'
    """
    return ", ".join(texts[:MOST_TOLD]) + (f" and {len(texts) - MOST_TOLD} more" if len(texts) > MOST_TOLD else "")
