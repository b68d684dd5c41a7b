"""What the policies of a site do in its flows now: which are missing, what they lack, and what of them is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from edgeflex_flow.errors import EdgeflexError
from edgeflex_flow.flowfile import Plan
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import Context, OpenConnection
from edgeflex_flow.policy import POLICIES, PolicyAnswer, PolicyEffect, PolicySystem
from edgeflex_flow.policy_watch import is_valid
from edgeflex_flow.runtime.policies import PolicyValues, apply_policies
from edgeflex_flow.runtime.policy_loader import Lacking, lacking_fields, said_by, unread_fields
from edgeflex_flow.runtime.run import FlowRun

DEFAULTS_HOLD = "the defaults of the flows hold"


class Found(NamedTuple):
    """One policy to which flows of the site bind settings."""

    policy_id: str
    shown: str
    warnings: Sequence[str]
    """Why flows go on with a default."""
    errors: Sequence[str]
    """What flows refuse."""


def found_policies(plans: Sequence[Plan], connection: OpenConnection, context: Context) -> list[Found]:
    """Ask once for the policies to which flows of one site bind; what is found of each, by id.

    Raises EdgeflexError when the policy system gives none.
    """
    ids = sorted({each for plan in plans for each in plan.policy_ids})
    system: PolicySystem = connection.node.open(connection.config, replace(context, connections={POLICIES: connection}))
    try:
        answer = system.ask(ids, "")
    finally:
        system.close()
    if answer is None:
        raise EdgeflexError(f"{connection.name}: it answers that nothing changed, though nothing was known")
    given = {each.policy_id: each for each in answer.policies}
    now_ns = time.time_ns()
    values = {name: said_by(each) for name, each in given.items() if is_valid(each, now_ns)}
    lacking = _lacking(plans, values)
    unread = _unread(plans, values)
    refused = _refused(plans, values)
    return [
        Found(
            name,
            f"version {given[name].version}" if name in given else "",
            _absent(name, given, answer, system.terms.group, now_ns) + lacking.get(name, []) + unread.get(name, []),
            refused.get(name, []),
        )
        for name in ids
    ]


def _absent(name: str, given: Mapping[str, Policy], answer: PolicyAnswer, group: str, now_ns: int) -> list[str]:
    if name in answer.unreadable:
        return [f"it cannot be read; {DEFAULTS_HOLD}"]
    if name not in given:
        return [f"group '{group}' has no such policy, or it is not for this site; {DEFAULTS_HOLD}"]
    return [] if is_valid(given[name], now_ns) else [f"it is not valid at this time; {DEFAULTS_HOLD}"]


def _lacking(plans: Sequence[Plan], values: PolicyValues) -> dict[str, list[str]]:
    flows: dict[Lacking, list[str]] = {}
    for plan in plans:
        for each in lacking_fields(plan, values):
            flows.setdefault(each, []).append(plan.name)
    found: dict[str, list[str]] = {}
    for each, names in sorted(flows.items()):
        found.setdefault(each.policy, []).append(f"it {each.shown} ({', '.join(names)})")
    return found


def _unread(plans: Sequence[Plan], values: PolicyValues) -> dict[str, list[str]]:
    """Fields that none of the flows reads."""
    by_plan = [unread_fields(plan, values) for plan in plans]
    found: dict[str, list[str]] = {}
    for name in values:
        readers = [each[name] for each in by_plan if name in each]
        nobody_reads = frozenset.intersection(*readers) if readers else frozenset()
        if nobody_reads:
            found[name] = [f"no flow reads {', '.join(repr(each) for each in sorted(nobody_reads))}"]
    return found


def _refused(plans: Sequence[Plan], values: PolicyValues) -> dict[str, list[str]]:
    """What flows refuse of the policies, found by applying them as a running flow does."""
    found: dict[str, list[str]] = {}

    def take(effect: PolicyEffect) -> None:
        if effect.refused is not None:
            place = f"{effect.flow}/{effect.node}, '{effect.setting}'"
            found.setdefault(effect.policy_id, []).append(f"{place}: {effect.refused}")

    for plan in plans:
        run = FlowRun(plan)
        run.log = logging.Logger("edgeflex.connect", logging.CRITICAL + 1)  # what it would say is told by the caller
        run.on_effect = take
        with closing(run.wakeup):
            apply_policies(run, values, written=True, complete=False)
    return found
