"""The linear program of a market whose offers bound their energy as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from edgeflex_services.market_clearing import OPERATOR, Bidder, Book

SNAP_KWH: Final = 1e-7
"""So near to a bound a solution stands at it."""


def fill(book: Book, coupled: Mapping[int, Bidder]) -> dict[int, float]:
    """Fill the blocks of offers that bound their energy as a whole, by a linear program over all blocks.

    Gives by owner what a kWh more of it would be worth because of these bounds. Raises ArithmeticError.
    """
    blocks = [block for of_interval in book.blocks for block in of_interval]
    # What is consumed counts by itself, so that large demands cost no digits.
    sign = np.array([-1.0 if each.is_bought else 1.0 for each in blocks])
    price = np.array([each.price for each in blocks])
    size = np.array([math.inf if each.owner == OPERATOR else each.size for each in blocks])
    columns = np.arange(len(blocks))
    balance = csr_array((sign, ([each.interval for each in blocks], columns)), shape=(len(book.blocks), len(blocks)))
    rows = {owner: row for row, owner in enumerate(coupled)}
    mine = np.array([each.owner in rows for each in blocks])
    row_of = [rows[each.owner] for each in blocks if each.owner in rows]
    totals = csr_array((sign[mine], (row_of, columns[mine])), shape=(len(rows), len(blocks)))
    must = np.array(
        [sum(max(bid.lower_kwh, 0.0) + min(bid.upper_kwh, 0.0) for bid in each.bids) for each in coupled.values()]
    )
    # Bounds may lie beyond what the slices can hold, by the tolerance of the rules.
    room = np.where(mine, size, 0.0)
    least, most = totals.minimum(0.0) @ room, totals.maximum(0.0) @ room
    low = np.minimum(np.array([each.total_lower_kwh for each in coupled.values()]) - must, most)
    high = np.maximum(np.array([each.total_upper_kwh for each in coupled.values()]) - must, least)
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    found = _solved(
        price * sign,
        A_ub=vstack([totals[has_high], -totals[has_low]], format="csr"),
        b_ub=np.concatenate([high[has_high], -low[has_low]]),
        A_eq=balance,
        b_eq=-np.array(book.must),
        bounds=np.stack([np.zeros(len(blocks)), size], axis=1),
    )
    for place in columns[mine]:
        block, taken = blocks[place], float(found.x[place])
        taken = 0.0 if taken < SNAP_KWH else block.size if taken > block.size - SNAP_KWH else taken
        block.fill = block.size - taken if block.is_bought else taken
    values = np.zeros(len(rows))
    values[has_high] += found.ineqlin.marginals[: has_high.sum()]
    values[has_low] -= found.ineqlin.marginals[has_high.sum() :]
    return dict(zip(coupled, values.tolist(), strict=True))


def _solved(costs: NDArray[np.float64], **terms: Any) -> Any:
    """The best solution. One way of solving may fail on its numbers where the other does not."""
    for method in ("highs-ds", "highs-ipm"):
        found = linprog(costs, method=method, **terms)
        if found.status == 0:
            return found
    raise ArithmeticError(f"the market cannot be cleared: {found.message}")
