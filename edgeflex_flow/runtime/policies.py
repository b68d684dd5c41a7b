"""Policies in a running flow: bound parameters take new values between two steps, within the flow file's limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgeflex_flow.errors import FlowFileError, nearest
from edgeflex_flow.flowfile.document import read_document
from edgeflex_flow.flowfile.fields import parse_number, unit_of
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.policy import PolicyBinding
from edgeflex_flow.runtime.every import every
from edgeflex_flow.runtime.run import NO_POLICY, FlowRun, InForce

PERIOD_S = 0.5
"""How often a policy file is looked at."""

VERSION = "version"
"""Key in a policy of what others know its state by; no field."""

PolicyValues = Mapping[str, Mapping[str, Any]]
"""Values by policy and field: numbers in the unit of the parameter, or texts with their unit."""


def apply_policies(run: FlowRun, policies: PolicyValues) -> None:
    """Give bound parameters the values of their policies; where a policy says nothing, the default.

    A value outside its limits, or one that its node refuses, changes nothing: the last good one stays, and that is
    logged and counted as `policy_refused`. Changes count as `policy_changes`.
    """
    _tell_unknown(run, policies)
    for planned in run.plan.nodes:
        for name, binding in planned.policies.items():
            fields = policies.get(binding.policy, {})
            is_told = binding.field in fields
            value = fields.get(binding.field, binding.default)
            _apply(run, planned, name, binding, value, version_of(fields) if is_told else NO_POLICY)


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


def _apply(run: FlowRun, planned: PlannedNode, name: str, binding: PolicyBinding, value: Any, version: str) -> None:
    config, versions = run.in_force[planned.id]
    before = getattr(config, name)
    where = f"policy '{binding.policy}', field '{binding.field}', for {planned.id}.{name}"
    unit = unit_of(type(config), name)
    try:
        number = parse_number(type(config), name, value)
        if not binding.min <= number <= binding.max:
            raise ValueError(f"{number:g} is outside {binding.min:g} to {binding.max:g}{unit}")
        new = config if number == before else replace(config, **{name: type(before)(number)})
    except (ValueError, TypeError) as error:
        run.counters[planned.id].add("policy_refused")
        run.log.warning("%s: refused: %s; %g%s stays", where, error, before, unit, extra={"node": planned.id})
        return
    run.in_force[planned.id] = InForce(new, {**versions, binding.key: version})
    if number == before:
        return
    run.counters[planned.id].add("policy_changes")
    run.log.info("%s: %g -> %g%s", where, before, number, unit, extra={"node": planned.id})


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
            apply_policies(run, read_policies(file))
        except (ValueError, FlowFileError) as error:
            run.log.warning("policies: %s; what was in force stays", error)
    return now
