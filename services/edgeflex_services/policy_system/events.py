"""The event service: what is reported or asked meets the policies, and what they say is done."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from edgeflex_flow.limits import RateLimit
from edgeflex_flow.messages import ServiceRequest, TimeNs
from edgeflex_flow.units import NS_PER_S
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import BLOCKED, User
from edgeflex_services.policy_system.catalogue import Entry as PolicyEntry
from edgeflex_services.policy_system.decide import Decision, Measured, Question, decide, matches
from edgeflex_services.policy_system.documents import (
    Action,
    Name,
    ReturnData,
    RevokeAccess,
    RunService,
    Sharing,
    StateCondition,
)
from edgeflex_services.policy_system.journal import Entry
from edgeflex_services.policy_system.repository import UnknownError
from edgeflex_services.policy_system.system import SYSTEM, PolicySystem

FROM_THE_FUTURE_S = 5.0
"""A value with a time tag that is further ahead is refused: it would count as new for that long."""
MOST_ASSETS = 20_000
"""Of one group: what others report never makes it forget."""
MOST_QUANTITIES = 100
"""Of one asset."""
REQUESTS_PER_MIN = 600
"""Of one user: each is written down, and must not push out what others did."""
FRESH_S = StateCondition(quantity="any").max_age_s
"""How old a value may be that is given out without a mark: as old as conditions take it if they say nothing."""
TRAFFIC = "traffic"
"""The action of questions about how much a user asks. Only rules that name it are asked them, and none reports it."""
REQUESTS_COUNT = "requests_count"
"""State in conditions: how many requests the user made within the last minute, this one included."""
TRY_AGAIN_S = 1.0
"""After so long what could not be asked for is asked for again: each time in vain is written down."""

Values = Annotated[dict[Name, float], Meta(max_length=MOST_QUANTITIES)]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happened at an asset, and what was measured there."""

    group: Name
    asset: Name
    action: Annotated[Name, Meta(description="What happened: `measured`, `frequency_event`, …")] = "measured"
    values: Annotated[Values, Meta(description="By quantity with its unit, such as rocof_hz_per_s.")] = {}
    time_ns: Annotated[TimeNs | None, Meta(description="When it was measured, UTC nanoseconds; now if not given.")] = (
        None
    )


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that somebody wants to do or to have."""

    group: Annotated[Name, Meta(description="Whose policies decide.")]
    asset: Name
    action: Annotated[Name, Meta(description="Such as `read_data` or `offer_flexibility`.")] = "read_data"
    id: Annotated[str, Meta(max_length=100, description="Comes back with the answer.")] = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy made of a report."""

    policy: str
    version: int
    rule: str
    why: str
    did: str


class GivenValue(msgspec.Struct, frozen=True):
    """A value that somebody is given, and how far it can be relied on."""

    value: float
    time_ns: int
    """When it was measured, UTC."""
    age_s: float
    stale: bool
    """Older than a condition on the state would take, or from the future."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request."""

    permitted: bool
    why: str
    """For those who may read the policy that decided; else no more than yes or no."""
    policy: str = ""
    version: int = 0
    rule: str = ""
    values: dict[str, GivenValue] = {}
    left_out: list[str] = []
    """Quantities that a rule would give out, and `variables` of its policy do not let it."""
    id: str = ""


class BadReportError(ValueError):
    """A report that cannot be true."""


class MayNotAskError(Exception):
    """Who asks has no right to."""


class TooManyRequestsError(Exception):
    """Who asks has asked too often."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"more than {REQUESTS_PER_MIN} requests a minute")
        self.wait_s = wait_s


class Ran(NamedTuple):
    """What became of a request to run a service."""

    did: str
    """In words."""
    has_gone: bool


class _Value(NamedTuple):
    value: float
    time_ns: int

    def age_s(self, now_ns: int) -> float:
        """Below 0 for a value from the future, such as one that is left from a clock that was ahead."""
        age_s = (now_ns - self.time_ns) / NS_PER_S
        return age_s if age_s < -FROM_THE_FUTURE_S else max(age_s, 0.0)


class GridState:
    """The newest value of each quantity by group and asset. Reports of one group say nothing about another's."""

    def __init__(self) -> None:
        self._groups: dict[str, OrderedDict[str, OrderedDict[str, _Value]]] = {}
        """What was reported longest ago stands first, of assets and of each one's quantities."""
        self._lock = threading.Lock()
        self.forgotten = 0
        """Assets and quantities that had to go since there were too many."""

    def take(self, report: Report, time_ns: int, now_ns: int) -> None:
        """Keep what is newer than what is known, or comes after what is from the future.

        What was not reported for longest is forgotten beyond a limit.
        """
        with self._lock:
            assets = self._groups.setdefault(report.group, OrderedDict())
            known = assets.setdefault(report.asset, OrderedDict())
            assets.move_to_end(report.asset)
            for name, value in report.values.items():
                before = known.get(name)
                if before is None or before.time_ns <= time_ns or before.age_s(now_ns) < 0:
                    known[name] = _Value(value, time_ns)
                known.move_to_end(name)
                self._forget(known, MOST_QUANTITIES)
            self._forget(assets, MOST_ASSETS)

    def _forget(self, known: OrderedDict[str, Any], most: int) -> None:
        if len(known) > most:
            known.popitem(last=False)
            self.forgotten += 1
            if self.forgotten & (self.forgotten - 1) == 0:  # each time it has doubled
                LOG.warning("state of the grid: %d assets and quantities forgotten, too many at once", self.forgotten)

    def of(self, group: str, asset: str) -> dict[str, _Value]:
        with self._lock:
            assets = self._groups.get(group)
            return dict(assets.get(asset, ())) if assets is not None else {}


class EventService:
    """Reports and requests in, actions out. `run(group, request)` has a service run and tells what became of it."""

    def __init__(self, system: PolicySystem, run: Callable[[str, ServiceRequest], Ran]) -> None:
        self._system = system
        self._run = run
        self._state = GridState()
        self._held_off: dict[str, OrderedDict[tuple[str, str, str], float]] = {}
        """By group: when which rule of which policy last had a service run for which asset."""
        self._requests = RateLimit(REQUESTS_PER_MIN, 60.0, system.clock)
        self._lock = threading.Lock()
        system.each_second.append(self.watch_traffic)
        system.counts["state"] = lambda: {"forgotten": self._state.forgotten}

    # What happened --------------------------------------------------------------------------------------------------

    def report(self, user: User, report: Report, source: str) -> list[Outcome]:
        """Take a report of a user, whose right to report in the group was checked. Raises BadReportError."""
        if report.action == TRAFFIC or REQUESTS_COUNT in report.values:
            # Else whoever may report could have anybody blocked.
            raise BadReportError(f"'{TRAFFIC}' and '{REQUESTS_COUNT}' are counted here, and cannot be reported")
        now_ns = self._system.repository.now_ns()
        time_ns = now_ns if report.time_ns is None else report.time_ns
        if time_ns > now_ns + FROM_THE_FUTURE_S * NS_PER_S:
            raise BadReportError(f"its time lies {(time_ns - now_ns) / NS_PER_S:.0f} s in the future")
        # Clocks differ a little: what comes from the near future was measured now.
        time_ns = min(time_ns, now_ns)
        self._state.take(report, time_ns, now_ns)
        question = self._question(user, report.group, report.asset, report.action, now_ns)
        followed = self._follow(user, self._policies(report.group, report.asset), question, time_ns)
        for policy, decision, did in followed:
            values = _compared(policy, decision, report.values)
            self._write_down(now_ns, "report", user, source, report, policy, decision, did, values)
        return [_outcome(policy, decision, did, user) for policy, decision, did in followed]

    def _follow(
        self, user: User, policies: Iterable[PolicyEntry], question: Question, time_ns: int
    ) -> list[tuple[PolicyEntry, Decision, str]]:
        """Do what the rules say that act; what was done by which."""
        followed: list[tuple[PolicyEntry, Decision, str]] = []
        for policy in policies:
            decision = _decided(policy, question, "none")
            if decision.effect == "act" and decision.then is not None:
                did = self._act(user, policy, decision, decision.then, question, time_ns)
                if did:
                    followed.append((policy, decision, did))
        return followed

    def _policies(self, group: str, asset: str) -> Iterable[PolicyEntry]:
        """Those of the group with rules, for this asset or for no certain one."""
        for entry in self._system.catalogue.in_force(group):
            document = entry.saved.document
            if document.rules and document.asset_id in ("", asset):
                yield entry

    def _question(self, user: User, group: str, asset: str, action: str, now_ns: int) -> Question:
        known = self._state.of(group, asset)
        state = {name: Measured(each.value, each.age_s(now_ns)) for name, each in known.items()}
        now = datetime.fromtimestamp(now_ns / NS_PER_S, UTC)
        return Question(action, user.name, user.groups, now, asset, state)

    def watch_traffic(self) -> None:
        """Let policies about traffic look at all who asked lately. Called each second."""
        now_ns = self._system.repository.now_ns()
        for name in self._system.traffic.users():
            user = self._system.tokens.user(name)
            for group in user.groups if user is not None else ():
                policies = [policy for policy in self._policies(group, "") if _is_about_traffic(policy)]
                if user is not None and policies:
                    self._judge_traffic(user, group, policies, now_ns)

    def _judge_traffic(self, user: User, group: str, policies: Sequence[PolicyEntry], now_ns: int) -> None:
        question = self._with_traffic(self._question(user, group, "", TRAFFIC, now_ns))
        what = Report(group=group, asset=user.name, action=TRAFFIC)
        count = {REQUESTS_COUNT: question.state[REQUESTS_COUNT].value}
        for policy, decision, did in self._follow(user, policies, question, now_ns):
            self._write_down(now_ns, "report", user, TRAFFIC, what, policy, decision, did, count)

    def _with_traffic(self, question: Question) -> Question:
        count = Measured(self._system.traffic.of(question.user), 0.0)
        return question._replace(state={**question.state, REQUESTS_COUNT: count})

    # What is asked --------------------------------------------------------------------------------------------------

    def ask(self, user: User, ask: Ask, source: str) -> Answer:
        """Decide a request. Any policy that denies decides; else one that permits; else it is denied.

        Raises MayNotAskError and TooManyRequestsError.
        """
        self._check_asking(user, ask.group)
        now_ns = self._system.repository.now_ns()
        question = self._with_traffic(self._question(user, ask.group, ask.asset, ask.action, now_ns))
        decisions = [
            (policy, _decided(policy, question, "deny"))
            for policy in self._policies(ask.group, ask.asset)
            if policy.saved.document.kind != "trigger"
        ]
        denied = next((each for each in decisions if each[1].effect == "deny"), None)
        permitted = [each for each in decisions if each[1].effect == "permit"]
        policy, decision = denied or (permitted[0] if permitted else (None, _NOTHING))
        did = ""
        if policy is not None and denied is not None and isinstance(decision.then, RevokeAccess):
            did = self._act(user, policy, decision, decision.then, question, now_ns)
        answer = self._answer(user, ask, policy, decision)
        if answer.permitted:
            known = self._state.of(ask.group, ask.asset)
            given, left_out = _shared(known, permitted)
            values = {name: _given(known[name], now_ns) for name in given}
            answer = msgspec.structs.replace(answer, values=values, left_out=left_out)
            told = [f"{word} {', '.join(names)}" for word, names in (("gave", given), ("left out", left_out)) if names]
            did = "; ".join(told)
        self._write_down(now_ns, "request", user, source, ask, policy, decision, did, {})
        return answer

    def _check_asking(self, user: User, group: str) -> None:
        """Who asks is a member of the group, or may read one of its policies by a grant; and not too often."""
        is_known = user.may("reader", group) or any(
            policy.may(user, "read") for policy in self._system.catalogue.in_force(group)
        )
        if not is_known:
            raise MayNotAskError("to ask needs the role 'reader' in the group, or a grant to read one of its policies")
        wait_s = self._requests.wait_s(user.name)
        if wait_s > 0:
            raise TooManyRequestsError(wait_s)
        self._requests.add(user.name)

    def _answer(self, user: User, ask: Ask, policy: PolicyEntry | None, decision: Decision) -> Answer:
        permitted = decision.effect == "permit"
        if policy is None or not policy.may(user, "read"):
            return Answer(permitted=permitted, why="permitted" if permitted else "denied", id=ask.id)
        return Answer(
            id=ask.id,
            permitted=permitted,
            why=decision.why,
            policy=f"{ask.group}/{policy.saved.policy_id}",
            version=policy.saved.version,
            rule=decision.rule,
        )

    # What is done ---------------------------------------------------------------------------------------------------

    def _act(
        self, user: User, policy: PolicyEntry, decision: Decision, action: Action, question: Question, time_ns: int
    ) -> str:
        """Do what a rule says; in words. Empty: nothing, since the same was done a short time ago."""
        if isinstance(action, RunService):
            return self._run_service(policy, decision, action, question, time_ns)
        if isinstance(action, RevokeAccess):
            return self._revoke(policy, decision, action.user or user.name)
        return ""

    def _run_service(
        self, policy: PolicyEntry, decision: Decision, action: RunService, question: Question, time_ns: int
    ) -> str:
        group = policy.saved.group
        key = (policy.saved.policy_id, decision.rule, question.asset)
        if not self._may_act(group, key, action.hold_off_s):
            return ""
        request = ServiceRequest(
            service=action.service,
            policy=f"{group}/{policy.saved.policy_id}",
            version=policy.saved.version,
            rule=decision.rule,
            reason=decision.why,
            time_ns=time_ns,
            device=question.asset or None,
            values={name: each.value for name, each in question.state.items()},
        )
        ran = self._run(group, request)
        if not ran.has_gone:
            self._try_again_soon(group, key, action.hold_off_s)
        return ran.did

    def _now_s(self) -> float:
        return self._system.clock.monotonic_ns() / NS_PER_S

    def _try_again_soon(self, group: str, key: tuple[str, str, str], hold_off_s: float) -> None:
        """What was not done holds off no longer than it takes to try again."""
        with self._lock:
            self._held_off[group][key] = self._now_s() - max(hold_off_s - TRY_AGAIN_S, 0.0)

    def _may_act(self, group: str, key: tuple[str, str, str], hold_off_s: float) -> bool:
        now_s = self._now_s()
        with self._lock:
            held_off = self._held_off.setdefault(group, OrderedDict())
            last_s = held_off.get(key)
            if last_s is not None and now_s - last_s < hold_off_s:
                return False
            held_off[key] = now_s
            held_off.move_to_end(key)
            if len(held_off) > MOST_ASSETS:
                held_off.popitem(last=False)
            return True

    def _revoke(self, policy: PolicyEntry, decision: Decision, name: str) -> str:
        """Block a user in the group of the policy: a policy has no power beyond its group."""
        group = policy.saved.group
        user = self._system.tokens.user(name)
        if user is None or user.is_admin:
            return f"could not block '{name}': {'an administrator' if user else 'no such user'}"
        role = user.roles.get(group)
        if role == BLOCKED:
            return ""
        if role in ("editor", "manager"):  # else who may save policies could shut out who may take them back
            return f"could not block '{name}': {role} in group '{group}', whom only a person can block"
        try:
            why = f"{policy.saved.policy_id} version {policy.saved.version}: {decision.why}"
            self._system.accounts.block(SYSTEM, group, name, why)
        except UnknownError as error:
            return f"could not block '{name}': {error}"
        return f"blocked '{name}' in group '{group}'"

    def _write_down(
        self,
        now_ns: int,
        kind: Literal["report", "request"],
        user: User,
        source: str,
        what: Report | Ask,
        policy: PolicyEntry | None,
        decision: Decision,
        did: str,
        values: Mapping[str, float],
    ) -> None:
        self._system.journal.add(
            Entry(
                time_ns=now_ns,
                kind=kind,
                group=what.group,
                user=user.name,
                source=source,
                asset=what.asset,
                action=what.action,
                values=dict(values),
                policy="" if policy is None else f"{what.group}/{policy.saved.policy_id}",
                version=0 if policy is None else policy.saved.version,
                rule=decision.rule,
                effect=decision.effect,
                why=decision.why,
                did=did,
            )
        )


def _decided(policy: PolicyEntry, question: Question, failed: Literal["none", "deny"]) -> Decision:
    """What a policy decides. One that cannot be decided holds up no other."""
    try:
        return decide(policy.saved.document, question)
    except Exception:
        LOG.exception("policy %s/%s cannot be decided", policy.saved.group, policy.saved.policy_id)
        return Decision(effect=failed, why="the policy cannot be decided, which the log of the service tells")


_NOTHING = Decision(effect="none", why="no rule permits it")


def _is_about_traffic(policy: PolicyEntry) -> bool:
    return any(TRAFFIC in rule.when.actions for rule in policy.saved.document.rules)


def _shared(
    known: Mapping[str, _Value], permitted: Sequence[tuple[PolicyEntry, Decision]]
) -> tuple[list[str], list[str]]:
    """Quantities that the policies give out, and those that they would but for their `variables`."""
    given: set[str] = set()
    left_out: set[str] = set()
    for policy, decision in permitted:
        wanted = decision.then.quantities if isinstance(decision.then, ReturnData) else ()
        document = policy.saved.document
        bounds = document.fields.variables if isinstance(document, Sharing) else ()
        for name in known:
            if matches(name, wanted):
                (given if not bounds or matches(name, bounds) else left_out).add(name)
    return sorted(given), sorted(left_out - given)


def _given(known: _Value, now_ns: int) -> GivenValue:
    age_s = known.age_s(now_ns)
    return GivenValue(known.value, known.time_ns, age_s, not 0 <= age_s <= FRESH_S)


def _compared(policy: PolicyEntry, decision: Decision, values: Mapping[str, float]) -> dict[str, float]:
    """Those values that the rule compared: readers of the journal need not be given the others."""
    rules = [rule for rule in policy.saved.document.rules if rule.name == decision.rule]
    names = {condition.quantity for rule in rules for condition in rule.when.state}
    return {name: value for name, value in values.items() if name in names}


def _outcome(policy: PolicyEntry, decision: Decision, did: str, user: User) -> Outcome:
    if not policy.may(user, "read"):
        return Outcome(policy="", version=0, rule="", why="", did="acted")
    return Outcome(
        policy=f"{policy.saved.group}/{policy.saved.policy_id}",
        version=policy.saved.version,
        rule=decision.rule,
        why=decision.why,
        did=did,
    )
