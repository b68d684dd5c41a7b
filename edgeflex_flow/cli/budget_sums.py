"""What the paths of budgets need by their settings, for people and for programs."""

from __future__ import annotations

from typing import Any, Final, get_args

from rich.text import Text

from edgeflex_flow.flowfile import CheckedFlow
from edgeflex_flow.flowfile.delays import BudgetSum, Sort, duration

SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
DIGITS: Final = 9
"""Nanoseconds."""


def budget_line(found: BudgetSum) -> Text:
    """`pmu → alarm, response: window 800 ms + lag 0 + period 0 + epoch 0 = 800 ms of 1 s, which leaves 200 ms …`."""
    budget = found.budget
    sorts = " + ".join(f"{sort} {duration(found.of_sort(sort))}" for sort in SORTS)
    text = Text.assemble(
        "  ",
        (f"{budget.from_} → {budget.to}, {budget.of}", "bold"),
        f": {sorts} = ",
        (duration(found.sum_s), "" if found.is_kept else "bold red"),
        f" of {duration(budget.within)}",
    )
    if found.is_kept:
        text.append(f", which leaves {duration(found.left_s)} for networks and computing")
    if found.since is not None:
        text.append(f"; counted from '{found.since}', whose messages tell the time of its own clock", style="dim")
    if found.unknown:
        names = ", ".join(f"'{name}'" for name in found.unknown)
        text.append(f"; not told by: {names}", style="yellow")
    return text


def budgets_as_json(flow: CheckedFlow) -> list[dict[str, Any]]:
    """The same of all budgets of a flow file, times in seconds."""
    return [
        {
            "file": str(flow.file),
            "from": found.budget.from_,
            "to": found.budget.to,
            "of": found.budget.of,
            **{f"{sort}_s": round(found.of_sort(sort), DIGITS) for sort in SORTS},
            "sum_s": round(found.sum_s, DIGITS),
            "within_s": found.budget.within,
            "left_s": round(found.left_s, DIGITS),
            "parts": [{"node": part.node, "sort": part.sort, "seconds": part.seconds} for part in found.parts],
            "counted_from": found.since,
            "not_told_by": list(found.unknown),
        }
        for found in flow.budgets
    ]
