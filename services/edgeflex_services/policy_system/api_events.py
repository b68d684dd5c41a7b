"""The event service by REST: reports, requests, questions, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Controller, get, post
from litestar.exceptions import PermissionDeniedException
from litestar.params import Parameter
from msgspec import Meta

from edgeflex_flow.units import NS_PER_S
from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.api_accounts import MOST_ENTRIES
from edgeflex_services.policy_system.api_policies import REFUSED
from edgeflex_services.policy_system.decide import Decision, Measured, Question, decide
from edgeflex_services.policy_system.documents import Moment, Name
from edgeflex_services.policy_system.enforce import AnyRequest, member_of, policy_of, state_of, system_of, user_of
from edgeflex_services.policy_system.events import Answer, Ask, Outcome, Report
from edgeflex_services.policy_system.journal import Entry
from edgeflex_services.policy_system.queries import Wanted, newest_entries
from edgeflex_services.policy_system.system import PolicySystem

MOST_REPORTS = 1000


class Reports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happened, the oldest first."""

    reports: Annotated[list[Report], Meta(min_length=1, max_length=MOST_REPORTS)]


class StateValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: float
    age_s: Annotated[float, Meta(ge=0)] = 0.0


class WhatIf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question to the decision point. Nothing is done; it is only said what would be."""

    group: Name
    policy_id: Name
    action: Name
    user: Name
    groups: Annotated[list[Name], Meta(max_length=100)] = []
    asset: Annotated[str, Meta(max_length=64)] = ""
    time: Moment | None = None
    state: Annotated[dict[Name, StateValue], Meta(max_length=100)] = {}


class EventApi(Controller):
    path = "/api/v1"
    tags: Sequence[str] | None = ["events"]

    @post("/events", status_code=200, responses=REFUSED, sync_to_thread=True)
    def report(self, request: AnyRequest, data: Reports) -> list[Outcome]:
        """Report what happened or was measured; what policies made of it. Needs the role `reporter` in each group."""
        user = user_of(request)
        for group in {each.group for each in data.reports}:
            member_of(request, "reporter", group)
        service = state_of(request).events
        return [outcome for each in data.reports for outcome in service.report(user, each, "rest")]

    @post("/requests", status_code=200, responses=REFUSED, sync_to_thread=True)
    def ask(self, request: AnyRequest, data: Ask) -> Answer:
        """Ask to do or to have something. What no policy permits is denied; why is told to those who may read it.

        Needs the role `reader` in the group, or a grant to read one of its policies.
        """
        return state_of(request).events.ask(user_of(request), data, "rest")

    @post("/decisions", status_code=200, responses=REFUSED, sync_to_thread=False)
    def decide(self, request: AnyRequest, data: WhatIf) -> Decision:
        """What the newest version of a policy would decide. Needs the right to read it."""
        entry = policy_of(request, user_of(request), data.group, data.policy_id)
        state: Mapping[str, Measured] = {name: Measured(each.value, each.age_s) for name, each in data.state.items()}
        now = data.time or datetime.fromtimestamp(system_of(request).repository.now_ns() / NS_PER_S, UTC)
        return decide(
            entry.saved.document,
            Question(data.action, data.user, frozenset(data.groups), now, data.asset, state),
        )

    @get("/events", responses=REFUSED, sync_to_thread=True)
    def entries(
        self,
        request: AnyRequest,
        before: Annotated[int | None, Parameter(ge=1, le=2**62)] = None,
        limit: Annotated[int, Parameter(ge=1, le=MOST_ENTRIES)] = 100,
    ) -> list[Entry]:
        """What happened in the caller's groups and what was made of it, the newest first.

        Those with the id 0 will be written down within seconds; go on `before` the smallest of the others.
        """
        user = user_of(request)
        if not user.is_admin and not user.groups:
            raise PermissionDeniedException("a role in a group is needed")
        system = system_of(request)
        entries = newest_entries(system.journal, Wanted(), user, before=before, limit=limit)
        return [seen_by(system, user, entry) for entry in entries]


def seen_by(system: PolicySystem, user: User, entry: Entry) -> Entry:
    """An entry of a group that the user may see. Of policies that may not be read nothing is told."""
    group, _, policy_id = entry.policy.partition("/")
    if not entry.policy or system.catalogue.entry(user, group, policy_id) is not None:
        return entry
    return msgspec.structs.replace(entry, policy="", version=0, rule="", why="", did="", values={})
