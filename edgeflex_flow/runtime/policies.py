"""Policies in a running flow: bound parameters take new values between two steps, within the flow file's limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from edgeflex_flow.errors import FlowFileError, nearest
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.flowfile.fields import parse_number, unit_of
from edgeflex_flow.node import NodeConfig
from edgeflex_flow.policy import PolicyBinding
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.run import NO_POLICY, FlowRun, InForce

PERIOD_S = 0.5
"""How often a policy file is looked at."""

VERSION = "version"
"""Key in a policy of what others know its state by; no field."""

PolicyValues = Mapping[str, Mapping[str, Any]]
"""Values by policy and field: numbers in the unit of the parameter, or texts with their unit."""


class _Wanted(NamedTuple):
    """What a policy, or else the default, wants of one bound setting of a node."""

    name: str
    binding: PolicyBinding
    value: Any
    version: str
    is_written: bool
    """By a person, who must say the unit: 30 may mean MW, and would be W."""

    def place(self, node: str) -> str:
        return f"policy '{self.binding.policy}', field '{self.binding.field}', for {node}.{self.name}"


def apply_policies(run: FlowRun, policies: PolicyValues, *, written: bool = False) -> None:
    """Give bound parameters the values of their policies; where a policy says nothing, the default.

    The values of a node take effect together. One that cannot be by itself is left out; when the node refuses how the
    others go together, none of them does. The last good ones stay then: that is logged, counted as `policy_refused`,
    and told by an alarm of the node. Changes count as `policy_changes`. `written`: numbers need their unit, where the
    setting has one, as in a flow file.
    """
    _tell_unknown(run, policies)
    for planned in run.plan.nodes:
        if planned.policies:
            wanted = [_wanted(name, binding, policies, written=written) for name, binding in planned.policies.items()]
            _tell_refusals(run, planned.id, _apply(run, planned.id, wanted))


def _wanted(name: str, binding: PolicyBinding, policies: PolicyValues, *, written: bool) -> _Wanted:
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
    bound: dict[str, set[str]] = {}
    for planned in run.plan.nodes:
        for binding in planned.policies.values():
            bound.setdefault(binding.policy, set()).add(binding.field)
    for policy, fields in policies.items():
        if policy not in bound and (near := nearest(policy, bound)):
            run.log.warning("policies: nothing is bound to policy '%s'; did you mean '%s'?", policy, near)
        for field in sorted(fields.keys() - bound[policy] - {VERSION}) if policy in bound else ():
            known = ", ".join(sorted(bound[policy]))
            run.log.warning("policy '%s': nothing is bound to field '%s'; known: %s", policy, field, known)


def _apply(run: FlowRun, node: str, wanted: Sequence[_Wanted]) -> list[str]:
    """Have a node go on with these values, as far as they can be; what is refused, and why."""
    config, versions = run.in_force[node]
    numbers: dict[_Wanted, float] = {}
    refused: list[str] = []
    for each in wanted:
        try:
            numbers[each] = _number(config, each)
        except (ValueError, TypeError) as error:
            refused.append(_refused(run, node, [each], str(error)))
    changes = {each: number for each, number in numbers.items() if number != getattr(config, each.name)}
    new = config  # the same object while nothing changes: by that nodes know
    try:
        if changes:
            new = replace(config, **{each.name: _like(config, each, number) for each, number in changes.items()})
    except (ValueError, TypeError) as error:
        given = " and ".join(f"{number:g}{_unit(config, each)}" for each, number in changes.items())
        refused.append(_refused(run, node, list(changes), f"{given}: {error}"))
        numbers = {each: number for each, number in numbers.items() if each not in changes}
        changes = {}
    run.in_force[node] = InForce(new, {**versions, **{each.binding.key: each.version for each in numbers}})
    for each, number in changes.items():
        run.counters[node].add("policy_changes")
        before, unit = getattr(config, each.name), _unit(config, each)
        run.log.info("%s: %g -> %g%s", each.place(node), before, number, unit, extra={"node": node})
    return refused


def _number(config: NodeConfig, wanted: _Wanted) -> float:
    """The value in the unit of the setting, if it can be by itself. Raises ValueError, TypeError."""
    binding, unit = wanted.binding, _unit(config, wanted)
    if wanted.is_written and unit and isinstance(wanted.value, int | float):
        raise ValueError(f"write it with its unit, e.g. {wanted.value:g}{unit}")
    number = parse_number(type(config), wanted.name, wanted.value)
    if not binding.min <= number <= binding.max:
        raise ValueError(f"{number:g} is outside {binding.min:g} to {binding.max:g}{unit}")
    return number


def _like(config: NodeConfig, wanted: _Wanted, number: float) -> float:
    """The number in the type that the setting has."""
    kind: type[float] = type(getattr(config, wanted.name))
    return kind(number)


def _unit(config: NodeConfig, wanted: _Wanted) -> str:
    return unit_of(type(config), wanted.name)


def _refused(run: FlowRun, node: str, wanted: Sequence[_Wanted], reason: str) -> str:
    """Count what is refused; in words, with what stays."""
    config = run.in_force[node].config
    run.counters[node].add("policy_refused", len(wanted))
    places = " and ".join(each.place(node) for each in wanted)
    kept = " and ".join(f"{getattr(config, each.name):g}{_unit(config, each)}" for each in wanted)
    return f"{places}: refused: {reason}; {kept} {'stays' if len(wanted) == 1 else 'stay'}"


def _tell_refusals(run: FlowRun, node: str, refused: Sequence[str]) -> None:
    """Log what is refused each time, and alarm of it once as long as it stays the same."""
    for text in refused:
        run.log.warning("%s", text, extra={"node": node})
        if text not in run.refusals.get(node, ()):
            run.alarm(node, text)
    run.refusals[node] = frozenset(refused)


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
