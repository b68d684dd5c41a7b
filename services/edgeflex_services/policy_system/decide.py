"""The policy decision point: which rule of a policy holds for a question, what follows, and why. Pure computation."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from edgeflex_services.policy_system.documents import Action, Document, Rule, StateCondition, When

Effect: TypeAlias = Literal["permit", "deny", "act", "none"]
Held: TypeAlias = Literal["yes", "no", "unknown"]
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Measured(NamedTuple):
    """A value of the grid's state and how old it is."""

    value: float
    age_s: float


class Question(NamedTuple):
    """What somebody wants to do, or what happened."""

    action: str
    """Such as `read_data`, `offer_flexibility`, `measured`."""
    user: str
    groups: frozenset[str]
    now: datetime
    asset: str = ""
    state: Mapping[str, Measured] = {}


class Checked(msgspec.Struct, frozen=True):
    """A condition and whether it held."""

    condition: str
    held: Held
    text: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a policy."""

    effect: Effect
    """none: no rule held."""
    rule: str = ""
    """The rule that decided."""
    why: str
    """In words."""
    checked: tuple[Checked, ...] = ()
    """The conditions of the rule that decided; of all rules when none did."""
    then: Action | None = None


def decide(document: Document, question: Question) -> Decision:
    """The first rule that holds decides.

    Where a condition cannot be told (a state that nobody measured, or long ago), a rule that denies holds and any other
    does not, and nothing is done: what is not known permits nothing, starts nothing and takes nothing away.
    """
    if not is_valid_at(document, question.now):
        return Decision(effect="none", why="the policy is not valid at this time")
    missed: list[Checked] = []
    for rule in document.rules:
        checked = tuple(_check(rule.when, question))
        if _holds(rule, checked):
            # Access is taken away for what is known, never for what is not.
            then = rule.then if all(each.held == "yes" for each in checked) else None
            return Decision(effect=rule.effect, rule=rule.name, why=_why(rule, checked), checked=checked, then=then)
        missed += [each for each in checked if each.held != "yes"]
    why = "; ".join(each.text for each in missed) or "there are none"
    return Decision(effect="none", why=f"no rule holds: {why}", checked=tuple(missed))


def is_valid_at(document: Document, now: datetime) -> bool:
    """Whether the policy says anything at this moment."""
    begun = document.valid_from is None or document.valid_from <= now
    return begun and (document.valid_until is None or now < document.valid_until)


def _holds(rule: Rule, checked: Sequence[Checked]) -> bool:
    counts_as_held = ("yes", "unknown") if rule.effect == "deny" else ("yes",)
    return all(each.held in counts_as_held for each in checked)


def _why(rule: Rule, checked: Sequence[Checked]) -> str:
    texts = [each.text for each in checked]
    return f"rule '{rule.name}': {' and '.join(texts)}" if texts else f"rule '{rule.name}' holds always"


def _check(when: When, question: Question) -> Iterator[Checked]:
    if when.actions:
        yield _one_of("action", question.action, when.actions)
    if when.users:
        yield _one_of("user", question.user, when.users)
    if when.groups:
        yield _in_groups(when.groups, question.groups)
    if when.assets:
        yield _one_of("asset", question.asset, when.assets)
    yield from _times(when, question.now)
    for condition in when.state:
        yield _state(condition, question.state.get(condition.quantity))


def _one_of(what: str, got: str, patterns: Sequence[str]) -> Checked:
    held = matches(got, patterns)
    return Checked(what, _held(held), f"{what} '{got}' is {'' if held else 'not '}among {', '.join(patterns)}")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is among some, in which `*` stands for any characters."""
    return any(fnmatchcase(name, _plain(pattern)) for pattern in patterns)


def _plain(pattern: str) -> str:
    """Only `*` stands for others: brackets and question marks are themselves."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _in_groups(wanted: Sequence[str], has: frozenset[str]) -> Checked:
    held = not has.isdisjoint(wanted)
    return Checked("group", _held(held), f"who asks is {'' if held else 'not '}in {', '.join(wanted)}")


def _times(when: When, now: datetime) -> Iterator[Checked]:
    if when.begins is not None:
        yield _time_check("begins", when.begins <= now, f"it is {_at(now)}, from {_at(when.begins)} on")
    if when.ends is not None:
        yield _time_check("ends", now < when.ends, f"it is {_at(now)}, until {_at(when.ends)}")
    if when.since is not None or when.days:
        yield _daily(when, now)


def _time_check(what: str, held: bool, text: str) -> Checked:
    return Checked(what, _held(held), text if held else f"not so: {text}")


def _daily(when: When, now: datetime) -> Checked:
    """Time of day and day of the week, by the clocks of the place."""
    local = now.astimezone(ZoneInfo(when.timezone))
    clock = local.strftime("%H:%M")
    day = local
    held = True
    if when.since is not None and when.until is not None:
        over_midnight = when.since > when.until
        after, before = clock >= when.since, clock < when.until
        held = (after or before) if over_midnight else (after and before)
        if over_midnight and before:
            day = local - timedelta(days=1)
    if when.days:
        held = held and DAYS[day.weekday()] in when.days
    span = "" if when.since is None else f" {when.since} to {when.until}"
    days = f" {', '.join(when.days)}" if when.days else ""
    text = f"{DAYS[local.weekday()]} {clock} {when.timezone} is {'' if held else 'not '}within{span}{days}"
    return Checked("time of day", _held(held), text)


def _state(condition: StateCondition, measured: Measured | None) -> Checked:
    name = f"|{condition.quantity}|" if condition.magnitude else condition.quantity
    if measured is None:
        return Checked(condition.quantity, "unknown", f"{name} is not measured")
    if not 0 <= measured.age_s <= condition.max_age_s:
        return Checked(condition.quantity, "unknown", f"{name} is {measured.age_s:.1f} s old")
    if math.isnan(measured.value):
        return Checked(condition.quantity, "unknown", f"{name} has no value")
    value = abs(measured.value) if condition.magnitude else measured.value
    parts: list[str] = []
    held = True
    for key, beyond in (("above", operator.gt), ("below", operator.lt)):
        limit = getattr(condition, key)
        if limit is not None:
            is_beyond = beyond(value, condition.limit(limit))
            held = held and is_beyond
            parts.append(f"{'' if is_beyond else 'not '}{key} {limit}")
    return Checked(condition.quantity, _held(held), f"{name} = {value:g} is {' and '.join(parts)}")


def _held(held: bool) -> Held:
    return "yes" if held else "no"


def _at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
