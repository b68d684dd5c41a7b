"""Policies of a preview: read from a file, and what they change in a flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import msgspec
from msgspec import Struct

from edgeflex_flow.clock import moment_ns
from edgeflex_flow.errors import EdgeflexError, FlowFileError, nearest
from edgeflex_flow.flowfile.fields import unit_of
from edgeflex_flow.flowfile.plan import Plan
from edgeflex_flow.messages import Policy, PolicyKind
from edgeflex_flow.policy import Binding, PolicySystemError, field_values
from edgeflex_flow.runtime.policies import VERSION, PolicyValues, read_policies
from edgeflex_flow.runtime.policy_loader import ask_policies, said_by
from edgeflex_flow.runtime.policy_values import in_words, value_of
from edgeflex_flow.runtime.run import FlowRun

LARGEST_FILE_BYTES = 1 << 20
_Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class PolicyFileError(EdgeflexError):
    """A file of policies cannot be used."""


class Given(Struct, frozen=True):
    """The policies of a file."""

    values: PolicyValues
    notes: tuple[str, ...] = ()
    """What an engineer should know of them."""


class Change(Struct, frozen=True):
    """A setting that the proposed policy changes, in the unit of the setting."""

    node: str
    setting: str
    policy: str
    field: str
    before: Any
    after: Any
    unit: str


class Unbound(Struct, frozen=True):
    """A field of the proposed policy that changes nothing in the flow."""

    policy: str
    field: str
    nearest: str | None
    """What was perhaps meant."""


class _Several(Struct):
    policies: list[Policy]


class _Document(Struct):
    """A policy as it is written on the page of the policy system: its id is the name of the file."""

    kind: PolicyKind
    fields: dict[str, Any] = {}
    choices: dict[str, str] = {}
    valid_from: _Moment | None = None
    valid_until: _Moment | None = None

    def message(self, policy_id: str) -> Policy:
        """As the policy system would give it to a flow."""
        return Policy(
            policy_id=policy_id,
            policy_group="",
            policy_kind=self.kind,
            version=1,
            fields=field_values(self.kind, {**self.fields, **self.choices}),
            valid_from_ns=moment_ns(self.valid_from),
            valid_until_ns=moment_ns(self.valid_until),
        )


def read_policy_file(file: Path) -> Given:
    """Policies by id: one of the policy system as JSON, its answer with several, one as it is saved there, or a file as
    of `edgeflex run --policies`. Raises PolicyFileError, FlowFileError with its place.
    """
    try:
        if file.stat().st_size > LARGEST_FILE_BYTES:
            raise PolicyFileError(f"{file}: larger than {LARGEST_FILE_BYTES >> 20} MiB")
        text = file.read_bytes()
    except OSError as error:
        raise PolicyFileError(f"{file}: {error.strerror or error}") from error
    try:
        form = _form(text)
        policies = [] if form is None else _policies(msgspec.json.decode(text, type=form), file)
    except (msgspec.ValidationError, RecursionError) as error:
        raise PolicyFileError(f"{file}: no policy: {error}") from error
    if form is None:
        try:
            return Given(read_policies(file))
        except FlowFileError:
            raise
        except ValueError as error:
            raise PolicyFileError(str(error)) from error
    return _given(policies)


def policies_of_system(plan: Plan) -> Given:
    """What the policy system of the flow's site says now. Raises PolicyFileError, FatalError."""
    run = FlowRun(plan)
    try:
        return _given(ask_policies(run))
    except PolicySystemError as error:
        how = "give today's policies with --today FILE, or take the flow's own values with --today defaults"
        raise PolicyFileError(f"{error}; {how}") from error
    finally:
        run.wakeup.close()


def _given(policies: Sequence[Policy]) -> Given:
    return Given(
        {policy.policy_id: said_by(policy) for policy in policies},
        tuple(
            f"policy '{policy.policy_id}' holds for a certain time only: here for all of the record"
            for policy in policies
            if policy.valid_from_ns is not None or policy.valid_until_ns is not None
        ),
    )


def _form(text: bytes) -> type[Policy] | type[_Several] | type[_Document] | None:
    """What the policy system gives or takes, by its keys; None for another file."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if found.get("type") == "policy" or isinstance(found.get("policy_id"), str):
        return Policy
    if found.get("kind") in get_args(PolicyKind):
        return _Document
    return _Several if isinstance(found.get("policies"), list) else None


def _policies(found: Policy | _Several | _Document, file: Path) -> list[Policy]:
    if isinstance(found, _Document):
        found = found.message(file.stem)
    return [found] if isinstance(found, Policy) else found.policies


def changes(plan: Plan, today: FlowRun, proposed: FlowRun) -> list[Change]:
    """Settings in force that differ between two runs."""
    return [
        Change(
            node=node.id,
            setting=setting,
            policy=binding.policy,
            field=binding.field,
            before=before,
            after=after,
            unit=unit_of(type(node.config), setting).strip(),
        )
        for node in plan.nodes
        for setting, binding in node.policies.items()
        if (before := getattr(today.in_force[node.id].config, setting))
        != (after := getattr(proposed.in_force[node.id].config, setting))
    ]


def changed_connections(plan: Plan, today: PolicyValues, proposed: PolicyValues) -> Iterator[str]:
    """Notes of the settings of connections that the proposed policies change. A record needs no connection."""
    configs = {each.name: each.config for node in plan.nodes for each in node.connections.values()}
    for name, bindings in plan.bound_connections.items():
        for setting, binding in bindings.items():
            before, after = (_said(each, binding) for each in (today, proposed))
            if name not in configs or before == after:
                continue
            place = f"connection {name}.{setting} (policy '{binding.policy}', field '{binding.field}')"
            try:
                value = value_of(configs[name], setting, binding, after, is_written=after is not binding.default)
            except (ValueError, TypeError, ArithmeticError) as error:
                yield f"{place} would stay as it is, since the proposed value is refused: {error}"
                continue
            yield f"{place} would be {in_words(configs[name], setting, value)}, which a record cannot show"


def _said(policies: PolicyValues, binding: Binding) -> Any:
    """What the policies say of a setting; else its default."""
    return policies.get(binding.policy, {}).get(binding.field, binding.default)


def unbound(plan: Plan, policies: PolicyValues) -> Iterator[Unbound]:
    """Fields that nothing in the flow is bound to, with the nearest name that something is."""
    bound: dict[str, set[str]] = {}
    for bindings in (*(node.policies for node in plan.nodes), *plan.bound_connections.values()):
        for binding in bindings.values():
            bound.setdefault(binding.policy, set()).add(binding.field)
    everything = {f"{policy}.{field}" for policy, fields in bound.items() for field in fields}
    for policy, fields in policies.items():
        for field in fields:
            if field != VERSION and field not in bound.get(policy, ()):
                yield Unbound(policy, field, _nearest(policy, field, bound, everything))


def _nearest(policy: str, field: str, bound: Mapping[str, set[str]], everything: set[str]) -> str | None:
    if policy in bound:
        found = nearest(field, bound[policy])
        return None if found is None else f"{policy}.{found}"
    return nearest(f"{policy}.{field}", everything)
