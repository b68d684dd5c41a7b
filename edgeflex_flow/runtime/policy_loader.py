"""Loads the policies to which a flow binds settings from the site's policy system, and applies them as it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec.structs import replace

from edgeflex_flow.clock import SystemClock
from edgeflex_flow.errors import nearest
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import Context, OpenConnection
from edgeflex_flow.policy import POLICIES, PolicyEffect, PolicySystem
from edgeflex_flow.policy_watch import DEFAULTS_HOLD, LAST_HOLDS, InForcePolicies, PolicyWatch, keep_of
from edgeflex_flow.runtime.policies import VERSION, PolicyValues, apply_policies, report_misspelt
from edgeflex_flow.runtime.policy_effects import EffectReports
from edgeflex_flow.runtime.run import POLICY_SYSTEM, FlowRun

LONGEST_START_S = 2.0
"""How long a flow waits for the first answer of the policy system before it begins with what it has."""


@contextmanager
def policies_of_site(run: FlowRun) -> Iterator[None]:
    """Follow the policy system of the flow's site while the block runs, if the flow binds anything to a policy.

    Before the block begins, what is known from disk holds, or what the policy system answers within
    `LONGEST_START_S`. Raises FatalError when the connection cannot be made with what the site file says.
    """
    connection = run.plan.policy_system
    if connection is None or not run.plan.policy_ids:
        yield
        return
    loader = PolicyLoader(run, _opened(run, connection), _opened(run, connection))
    try:
        loader.start()
        yield
    finally:
        loader.close()


def ask_policies(run: FlowRun) -> tuple[Policy, ...]:
    """What the policy system of the flow's site says now of the policies to which the flow binds. Asks once.

    Raises PolicySystemError when it gives no answer, FatalError as `policies_of_site`.
    """
    if run.plan.policy_system is None or not run.plan.policy_ids:
        return ()
    system = _opened(run, run.plan.policy_system)
    try:
        answer = system.ask(run.plan.policy_ids, "")
    finally:
        system.close()
    return () if answer is None else answer.policies


def _opened(run: FlowRun, connection: OpenConnection) -> PolicySystem:
    context = Context(
        flow=run.plan.name,
        site=run.plan.site,
        node=POLICY_SYSTEM,
        clock=SystemClock(),
        counters=run.counters[POLICY_SYSTEM],
        log=run.log.getChild(POLICIES),
        dead_letter=lambda _reason, _text, _payload: None,
        fail=run.fail,
        folder=run.plan.folder,
        connections={POLICIES: connection},
        gauges=run.gauges[POLICY_SYSTEM],
    )
    opened: PolicySystem = connection.node.open(connection.config, context)
    return opened


class PolicyLoader:
    """Applies what the policy system says. `asking` and `reporting` are two clients, for a thread each."""

    def __init__(self, run: FlowRun, asking: PolicySystem, reporting: PolicySystem) -> None:
        self._run = run
        self._group = asking.terms.group
        self._max_age_s = asking.terms.max_age_s
        self._reports = EffectReports(run, reporting)
        self._lacking: frozenset[Lacking] = frozenset()
        self._unread: frozenset[tuple[str, str]] = frozenset()
        self._was_expired = False
        self._was_refused = False
        self._told_kept = False
        self._held: frozenset[str] = frozenset()
        """Ids of the policies that were in force when the watch told last."""
        self._watch = PolicyWatch(
            asking,
            run.plan.policy_ids,
            keep=keep_of(asking, run.plan.folder, (run.plan.site, run.plan.name)),
            clock=run.clock,
            counters=run.counters[POLICY_SYSTEM],
            log=run.log,
            on_change=self._apply,
            on_fatal=run.fail,
        )
        watch, gauges = self._watch, run.gauges[POLICY_SYSTEM]
        gauges.watch(CONNECTED, lambda: watch.is_connected)
        gauges.watch("policy_age_s", lambda: watch.age_s if watch.is_known else None)

    def start(self) -> None:
        self._run.on_effect = self._report
        self._watch.start()
        self._watch.answered.wait(LONGEST_START_S)

    def close(self) -> None:
        self._watch.close()
        self._reports.close()

    def _report(self, effect: PolicyEffect) -> None:
        self._reports.add(replace(effect, policy_group=self._group))

    def _apply(self, in_force: InForcePolicies) -> None:
        values = {name: said_by(policy) for name, policy in in_force.policies.items()}
        if in_force.is_kept and in_force.is_asked and in_force.policies and not self._told_kept:
            self._told_kept = True
            self._tell(logging.INFO, f"{_since(in_force)}; until it answers, what it said then holds")
        self._tell_lacking(values)
        self._tell_unread(values)
        if in_force.is_expired and not self._was_expired:
            text = f"{_since(in_force)}, longer than {self._max_age_s:g} s: {DEFAULTS_HOLD}"
            self._tell(logging.ERROR, text)
            self._alarm(text)
        self._was_expired = in_force.is_expired
        if in_force.refused and not self._was_refused:
            holds = LAST_HOLDS if in_force.known and not in_force.is_expired else DEFAULTS_HOLD
            self._alarm(f"{in_force.refused}; {holds}")
        self._was_refused = bool(in_force.refused)
        self._tell_withdrawn(in_force)
        apply_policies(self._run, values, written=True, complete=False)

    def _tell_withdrawn(self, in_force: InForcePolicies) -> None:
        """Alarm of policies that were in force until now and are not given any more: that may be a lost right."""
        gone = sorted(self._held & in_force.withdrawn)
        self._held = frozenset(in_force.policies)
        if gone:
            names = ", ".join(repr(each) for each in gone)
            self._alarm(f"{names}: withdrawn, or not for this site any more; {DEFAULTS_HOLD}")

    def _tell_lacking(self, values: dict[str, dict[str, Any]]) -> None:
        """Say once which bound fields a policy leaves open; warn of one that looks misspelt, and report it."""
        lacking = frozenset(lacking_fields(self._run.plan, values))
        for each in sorted(lacking - self._lacking):
            self._tell(logging.WARNING if each.near else logging.INFO, f"policy '{each.policy}' {each.shown}")
            if each.near:
                report_misspelt(self._run, values, each.policy, each.field, each.near)
        self._lacking = lacking

    def _tell_unread(self, values: dict[str, dict[str, Any]]) -> None:
        """Say once which fields of a policy nothing in the flow reads. Another flow may: it is no warning."""
        unread = {(name, field) for name, fields in unread_fields(self._run.plan, values).items() for field in fields}
        for name, field in sorted(unread - self._unread):
            self._tell(logging.INFO, f"policy '{name}': nothing in this flow reads field '{field}'")
        self._unread = frozenset(unread)

    def _tell(self, level: int, text: str) -> None:
        self._run.log.log(level, "policies: %s", text)

    def _alarm(self, text: str) -> None:
        """Raise one alarm, by the first bound node that can or has one behind it that can."""
        plan = self._run.plan
        for node in plan.nodes:
            uses_bound = any(each.name in plan.bound_connections for each in node.connections.values())
            if (node.policies or uses_bound) and self._run.teller(node.id) is not None:
                self._run.alarm(node.id, f"policies: {text}", source=POLICY_SYSTEM)
                return


def said_by(policy: Policy) -> dict[str, Any]:
    """Fields that say something, and the version. Policy systems give all that a kind has, what is left open too."""
    said = {name: value for name, value in policy.fields.items() if value is not None and value not in ("", [])}
    return {**said, VERSION: policy.version}


class Lacking(NamedTuple):
    """A field to which a flow binds, and in which the policy says nothing."""

    policy: str
    field: str
    near: str
    """A field of the policy that looks like this one misspelt; empty if none does."""

    @property
    def shown(self) -> str:
        hint = f"; it says '{self.near}': did it mean that?" if self.near else ""
        return f"says nothing in field '{self.field}': the default holds{hint}"


def lacking_fields(plan: Plan, values: PolicyValues) -> Iterator[Lacking]:
    """What policies to which the flow binds leave open."""
    for name, bound in plan.policy_fields.items():
        for field in bound - values[name].keys() if name in values else ():
            yield Lacking(name, field, nearest(field, values[name].keys() - {VERSION} - bound) or "")


def unread_fields(plan: Plan, values: PolicyValues) -> dict[str, frozenset[str]]:
    """By policy to which the flow binds, its fields that nothing in the flow reads."""
    bound = plan.policy_fields
    return {name: frozenset(values[name].keys() - {VERSION} - bound[name]) for name in bound.keys() & values.keys()}


def _since(in_force: InForcePolicies) -> str:
    if in_force.contact_ns is None:
        return "the policy system was never reached"
    contact = datetime.fromtimestamp(in_force.contact_ns / 1e9, UTC)
    return f"no contact with the policy system since {contact:%Y-%m-%d %H:%M:%S} UTC"
