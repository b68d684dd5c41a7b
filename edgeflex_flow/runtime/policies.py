"""Policies in a running flow: bound parameters take new values between two steps, within the flow file's limits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from edgeflex_flow.errors import FlowFileError, nearest
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.node import NodeConfig, SourceNode
from edgeflex_flow.policy import Binding, PolicyEffect, TextBinding
from edgeflex_flow.recording import NO_POLICY
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.inputs import MadeOf
from edgeflex_flow.runtime.policy_values import in_words, interface_problem, value_of
from edgeflex_flow.runtime.run import FlowRun, InForce, Refusal, TakenBack

PERIOD_S = 0.5
"""How often a policy file is looked at."""

FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 3600.0
"""After which what a source could not go on with is tried again; each try interrupts a source that works."""

VERSION = "version"
"""Key in a policy of what others know its state by; no field."""

LONGEST_SHOWN, LONGEST_REASON = 200, 1000
"""Characters of what is reported to a policy system."""

PolicyValues = Mapping[str, Mapping[str, Any]]
"""Values by policy and field: numbers in the unit of the parameter, or texts with their unit."""


class _Holder(NamedTuple):
    """What has bound settings: a node, or a connection of the site that nodes of the flow use."""

    name: str
    """The node's id, or `connection NAME`."""
    key: str
    entries: dict[str, InForce]
    bindings: Mapping[str, Binding]
    nodes: tuple[PlannedNode, ...]
    """Those whose counters and alarms tell of it."""
    is_input: bool
    """Whether sources must go on with what changes."""


class _Wanted(NamedTuple):
    """What a policy, or else the default, wants of one bound setting."""

    name: str
    binding: Binding
    value: Any
    version: str
    is_written: bool
    """By a person, who must say the unit: 30 may mean MW, and would be W."""

    def place(self, holder: str) -> str:
        return f"policy '{self.binding.policy}', field '{self.binding.field}', for {holder}.{self.name}"


class _Refused(NamedTuple):
    """Settings that stay as they are, though a policy wants something else."""

    wanted: Sequence[_Wanted]
    shown: str
    """What was wanted."""
    reason: str


def apply_policies(run: FlowRun, policies: PolicyValues, *, written: bool = False, complete: bool = True) -> None:
    """Give bound settings the values of their policies; where a policy says nothing, the default.

    The values of a node take effect together. One that cannot be by itself is left out; when the node refuses how the
    others go together, none of them does. The last good ones stay then: that is logged, counted as `policy_refused`,
    and told by an alarm of the node, or of the next one behind it that gives alarms. Changes count as `policy_changes`.
    `written`: numbers need their unit, where the setting has one, as in a flow file. `complete`: the policies are this
    flow's alone, so that names to which nothing is bound are told.
    """
    if complete:
        _tell_unknown(run, policies)
    with run.policy_lock:
        run.apply_again = lambda: _apply_all(run, policies, written=written)
        _apply_all(run, policies, written=written)


def _apply_all(run: FlowRun, policies: PolicyValues, *, written: bool) -> None:
    for holder in _holders(run):
        wanted = [_wanted(name, binding, policies, written=written) for name, binding in holder.bindings.items()]
        before, known = holder.entries[holder.key].config, run.refusals.get(holder.name, {})
        _tell_refusals(run, holder, _apply(run, holder, wanted))
        _tell_over(run, holder, wanted, before, known)


def _holders(run: FlowRun) -> Iterator[_Holder]:
    for name, bindings in run.plan.bound_connections.items():
        users = tuple(node for node in run.plan.nodes if any(each.name == name for each in node.connections.values()))
        yield _Holder(f"connection {name}", name, run.connections, bindings, users, is_input=True)
    for node in run.plan.nodes:
        if node.policies:
            is_input = isinstance(node.node, SourceNode)
            yield _Holder(node.id, node.id, run.in_force, node.policies, (node,), is_input)


def _wanted(name: str, binding: Binding, policies: PolicyValues, *, written: bool) -> _Wanted:
    fields = policies.get(binding.policy, {})
    if binding.field not in fields:
        return _Wanted(name, binding, binding.default, NO_POLICY, is_written=False)
    return _Wanted(name, binding, fields[binding.field], version_of(fields), is_written=written)


def version_of(fields: Mapping[str, Any]) -> str:
    """What a policy says its `version` is; else a digest of its fields."""
    told = fields.get(VERSION)
    if told is not None:
        return str(told)
    return f"sha256:{hashlib.sha256(repr(sorted(fields.items())).encode()).hexdigest()[:16]}"


def _tell_unknown(run: FlowRun, policies: PolicyValues) -> None:
    """Warn of names that look misspelt: they would change nothing, in silence. Policies may be those of other flows."""
    bound = run.plan.policy_fields
    for policy, fields in policies.items():
        if policy not in bound and (near := nearest(policy, bound)):
            run.log.warning("policies: nothing is bound to policy '%s'; did you mean '%s'?", policy, near)
        for field in sorted(fields.keys() - bound[policy] - {VERSION}) if policy in bound else ():
            known = ", ".join(sorted(bound[policy]))
            run.log.warning("policy '%s': nothing is bound to field '%s'; known: %s", policy, field, known)


def report_misspelt(run: FlowRun, policies: PolicyValues, policy: str, field: str, near: str) -> None:
    """Tell the policy system that a setting stays as it is, since the policy seems to misspell its field as `near`."""
    for holder in _holders(run):
        for name, binding in holder.bindings.items():
            if (binding.policy, binding.field) == (policy, field):
                value = policies[policy][near]
                wanted = _Wanted(name, binding, value, version_of(policies[policy]), is_written=True)
                config = holder.entries[holder.key].config
                before = in_words(config, name, getattr(config, name))
                why = (
                    f"the policy says nothing in field '{field}', but in '{near}', which nothing reads: is that meant?"
                )
                run.on_effect(_effect(run, holder, wanted, before, str(value), why))


def _apply(run: FlowRun, holder: _Holder, wanted: Sequence[_Wanted]) -> list[_Refused]:
    """Have a node go on with these values, as far as they can be; what is refused, and why."""
    config, versions = holder.entries[holder.key]
    values: list[tuple[_Wanted, Any]] = []
    refused: list[_Refused] = []
    for each in wanted:
        taken_back = run.taken_back.get((holder.name, each.name))
        if taken_back is not None and taken_back.version == each.version and time.monotonic() < taken_back.again_at_s:
            refused.append(_Refused([each], str(each.value)[:LONGEST_SHOWN], taken_back.reason))
            continue
        try:
            values.append((each, value_of(config, each.name, each.binding, each.value, is_written=each.is_written)))
        except (ValueError, TypeError, ArithmeticError) as error:
            refused.append(_Refused([each], str(each.value)[:LONGEST_SHOWN], str(error)))
    changes = [(each, value) for each, value in values if value != getattr(config, each.name)]
    new = config  # the same object while nothing changes: by that nodes know
    try:
        if changes:
            new = replace(config, **{each.name: value for each, value in changes})
            _check_interface(run, holder, changes, new)
    except (ValueError, TypeError, ArithmeticError) as error:
        given = " and ".join(in_words(config, each.name, value) for each, value in changes)
        refused.append(_Refused([each for each, _ in changes], given, f"{given}: {error}"))
        values = [each for each in values if each not in changes]
        changes, new = [], config
    now = {**versions, **{each.binding.key: each.version for each, _ in values}}
    holder.entries[holder.key] = InForce(new, now)
    if new is not config or now != versions:
        run.settings_changes += 1
    for each, value in changes:
        _tell_change(run, holder, InForce(config, versions), each, value)
    if changes and holder.is_input:
        run.sources_change()
    return refused


def take_back(run: FlowRun, planned: PlannedNode, last_good: MadeOf, reason: str) -> None:
    """A source could not go on with what policies gave it, or a connection of it: the last good settings hold again.

    That version of the policy is tried again after some time, each time a longer one.
    """
    with run.policy_lock:
        _take_back(run, planned, last_good, reason)


def try_again(run: FlowRun) -> None:
    """Apply the policies again if something that was taken back is due to be tried again."""
    with run.policy_lock:
        run.apply_again()


def _take_back(run: FlowRun, planned: PlannedNode, last_good: MadeOf, reason: str) -> None:
    for holder in _holders(run):
        good = last_good.own if holder.entries is run.in_force else last_good.connections.get(holder.key)
        if planned not in holder.nodes or good is None:
            continue
        config, versions = holder.entries[holder.key]
        changed = [
            _Wanted(name, binding, getattr(config, name), versions[binding.key], is_written=False)
            for name, binding in holder.bindings.items()
            if getattr(config, name) != getattr(good.config, name)
        ]
        if changed:
            shown = " and ".join(in_words(config, each.name, each.value) for each in changed)
            holder.entries[holder.key] = good
            run.settings_changes += 1
            for each in changed:
                key = holder.name, each.name
                run.taken_back[key] = _taken_back(run.taken_back.get(key), each.version, reason)
            _tell_refusals(run, holder, [_Refused(changed, shown, f"{shown}: {reason}")])


def _taken_back(before: TakenBack | None, version: str, reason: str) -> TakenBack:
    is_again = before is not None and before.version == version
    wait_s = min(2 * before.wait_s, LONGEST_WAIT_S) if before is not None and is_again else FIRST_WAIT_S
    return TakenBack(version, reason, wait_s, time.monotonic() + wait_s)


def _check_interface(run: FlowRun, holder: _Holder, changes: Sequence[tuple[_Wanted, Any]], new: NodeConfig) -> None:
    """Texts may name columns or assets. Raises ValueError when they would be others than the flow was checked with."""
    if holder.entries is run.in_force and any(isinstance(each.binding, TextBinding) for each, _ in changes):
        problem = interface_problem(run.plan, holder.nodes[0], new)
        if problem is not None:
            raise ValueError(problem)


def _tell_change(run: FlowRun, holder: _Holder, before_it: InForce, wanted: _Wanted, value: Any) -> None:
    config, versions = before_it
    for node in holder.nodes:
        run.counters[node.id].add("policy_changes")
    before, after = (in_words(config, wanted.name, each) for each in (getattr(config, wanted.name), value))
    if wanted.version == NO_POLICY:
        # Else it would look as if the policy had said so.
        after += ", the flow's own default"
        wanted = wanted._replace(version=versions[wanted.binding.key])
    run.log.info("%s: %s -> %s", wanted.place(holder.name), before, after, extra={"node": holder.key})
    run.on_effect(_effect(run, holder, wanted, before, after, None))


def _effect(
    run: FlowRun, holder: _Holder, wanted: _Wanted, before: str, after: str, refused: str | None
) -> PolicyEffect:
    return PolicyEffect(
        policy_group="",
        policy_id=wanted.binding.policy,
        version=int(wanted.version) if wanted.version.isdecimal() else 0,
        site=run.plan.site,
        flow=run.plan.name,
        node=holder.name,
        setting=wanted.name,
        before=before[:LONGEST_SHOWN],
        after=after[:LONGEST_SHOWN],
        refused=None if refused is None else refused[:LONGEST_REASON],
        time_ns=run.clock.now_ns(),
    )


def _tell_refusals(run: FlowRun, holder: _Holder, refused: Sequence[_Refused]) -> None:
    """Count and log what is refused each time; alarm of it and report it once as long as it stays the same."""
    config = holder.entries[holder.key].config
    known = {each.text for each in run.refusals.get(holder.name, {}).values()}
    told: dict[str, Refusal] = {}
    for each in refused:
        places = " and ".join(wanted.place(holder.name) for wanted in each.wanted)
        kept = [in_words(config, wanted.name, getattr(config, wanted.name)) for wanted in each.wanted]
        stay = "stays" if len(kept) == 1 else "stay"
        text = f"{places}: refused: {each.reason}; {' and '.join(kept)} {stay}"
        told |= {wanted.name: Refusal(wanted.version, text) for wanted in each.wanted}
        for node in holder.nodes:
            run.counters[node.id].add("policy_refused", len(each.wanted))
        run.log.warning("%s", text, extra={"node": holder.key})
        if text not in known:
            run.alarm(holder.nodes[0].id, text)
            for wanted, before in zip(each.wanted, kept, strict=True):
                run.on_effect(_effect(run, holder, wanted, before, each.shown, each.reason))
    run.refusals[holder.name] = told


def _tell_over(
    run: FlowRun, holder: _Holder, wanted: Sequence[_Wanted], before: NodeConfig, known: Mapping[str, Refusal]
) -> None:
    """Log and report of settings that were refused what a policy wanted, and are as it wants now without a change."""
    config = holder.entries[holder.key].config
    for each in wanted:
        is_over = each.name in known and each.name not in run.refusals[holder.name]
        if is_over and getattr(config, each.name) == getattr(before, each.name):
            shown = in_words(config, each.name, getattr(config, each.name))
            run.log.info("%s: %s holds; no more is wanted", each.place(holder.name), shown, extra={"node": holder.key})
            version = known[each.name].version if each.version == NO_POLICY else each.version
            run.on_effect(_effect(run, holder, each._replace(version=version), shown, shown, None))


def read_policies(file: Path) -> PolicyValues:
    """Values by policy and field from a YAML file. Raises FlowFileError when it is none."""
    document = read_document(file)
    if document.problems:
        raise FlowFileError(document.problems)
    found = None if document.root is None else document.root.plain()
    if not isinstance(found, dict) or not all(isinstance(fields, dict) for fields in found.values()):
        raise ValueError(f"{file}: a policy file holds policies, and in each its fields with their values")
    return found


@contextmanager
def policies_from(file: Path | None, run: FlowRun) -> Iterator[None]:
    """Follow a policy file while the block runs. A file that cannot be read leaves the last good values in force."""
    if file is None:
        yield
        return
    seen = _look(file, run, None)

    def look() -> None:
        nonlocal seen
        seen = _look(file, run, seen)

    with every(PERIOD_S, look, "policies"):
        yield


def _look(file: Path, run: FlowRun, seen: tuple[int, int] | None) -> tuple[int, int] | None:
    """Apply the file if it is not as it was when last seen; what tells that (None: it is not there)."""
    try:
        status = file.stat()
    except OSError as error:
        if seen is not None:
            run.log.warning("policies: '%s': %s; what was in force stays", file, error.strerror)
        return None
    now = status.st_mtime_ns, status.st_size
    if now != seen:
        try:
            apply_policies(run, read_policies(file), written=True)
        except (ValueError, FlowFileError) as error:
            run.log.warning("policies: %s; what was in force stays", error)
    return now
