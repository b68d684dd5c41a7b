"""Policies in words: rules as sentences, values with their units, places of changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from edgeflex_services.policy_system.compare import Change
from edgeflex_services.policy_system.documents import (
    Action,
    AnyDocument,
    Document,
    ReturnData,
    RevokeAccess,
    Rule,
    RunService,
    StateCondition,
    When,
)

DAYS = {
    "mon": "Monday",
    "tue": "Tuesday",
    "wed": "Wednesday",
    "thu": "Thursday",
    "fri": "Friday",
    "sat": "Saturday",
    "sun": "Sunday",
}
PLACES = {
    "about": "About",
    "asset_id": "Asset",
    "valid_from": "Valid from",
    "valid_until": "Valid until",
    "withdrawn": "Withdrawn",
    "kind": "Kind",
}


def any_of(words: Sequence[str]) -> str:
    """
    >>> any_of(["a", "b", "c"])
    'a, b or c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def label_of(name: str) -> str:
    """
    >>> label_of("max_duration")
    'Max duration'
    """
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def rule_in_words(rule: Rule) -> str:
    """A rule as a sentence.

    >>> when = When(actions=("read_data",), groups=("vpp",), since="06:00", until="22:00", timezone="Europe/Berlin")
    >>> rule_in_words(Rule(name="day", effect="permit", when=when))
    'permit read_data for group vpp each day 06:00 to 22:00 Europe/Berlin'
    """
    subject = any_of(rule.when.actions) if rule.when.actions else "anything"
    begin = f"on {subject}" if rule.effect == "act" else f"{rule.effect} {subject}"
    text = " ".join([begin, *_conditions(rule.when)])
    if rule.then is None:
        return text
    return f"{text}{':' if rule.effect == 'act' else ', and'} {action_in_words(rule.then)}"


def _conditions(when: When) -> Iterator[str]:
    if when.users:
        yield f"by {any_of(when.users)}"
    if when.groups:
        yield f"for group {any_of(when.groups)}"
    if when.assets:
        yield f"of asset {any_of(when.assets)}"
    if when.begins is not None:
        yield f"from {moment_in_words(when.begins)} on"
    if when.ends is not None:
        yield f"until {moment_in_words(when.ends)}"
    if when.days or when.since is not None:
        yield f"{_days(when.days)}{_clock(when)} {when.timezone}"
    if when.state:
        yield f"while {' and '.join(state_in_words(each) for each in when.state)}"


def _days(days: Sequence[str]) -> str:
    if not days:
        return "each day"
    known = list(DAYS)
    ordered = sorted(days, key=known.index)
    at = [known.index(day) for day in ordered]
    if len(at) > 2 and at == list(range(at[0], at[0] + len(at))):
        return f"{DAYS[ordered[0]]} to {DAYS[ordered[-1]]}"
    return any_of([DAYS[day] for day in ordered]).replace(" or ", " and ")


def _clock(when: When) -> str:
    if when.since is None or when.until is None:
        return ""
    return f" {when.since} to {when.until}{' of the next day' if when.since > when.until else ''}"


def state_in_words(condition: StateCondition) -> str:
    """
    >>> state_in_words(StateCondition(quantity="rocof_hz_per_s", above="0.5 Hz/s", magnitude=True))
    '|rocof_hz_per_s| is above 0.5 Hz/s (measured within 10s)'
    """
    name = f"|{condition.quantity}|" if condition.magnitude else condition.quantity
    limits = [f"{key} {value_in_words(getattr(condition, key))}" for key in ("above", "below") if _has(condition, key)]
    return f"{name} is {' and '.join(limits)} (measured within {value_in_words(condition.max_age)})"


def _has(condition: StateCondition, key: str) -> bool:
    return getattr(condition, key) is not None


def action_in_words(action: Action) -> str:
    match action:
        case RunService():
            return f"run {action.service}, for the same asset not again for {value_in_words(action.hold_off)}"
        case RevokeAccess():
            return f"revoke the access of {action.user or 'who caused it'}"
        case ReturnData():
            return f"return {', '.join(action.quantities)}"


def moment_in_words(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def value_in_words(value: Any) -> str:  # noqa: PLR0911 - one answer a type
    """A value as people write it.

    >>> value_in_words(5.0), value_in_words(["a", "b"]), value_in_words(True), value_in_words([])
    ('5', 'a, b', 'yes', 'nothing')
    """
    if value is None or value in ("", [], (), {}):
        return "nothing"
    match value:
        case bool():
            return "yes" if value else "no"
        case float() | int():
            return f"{value:.15g}"
        case datetime():
            return moment_in_words(value)
        case Mapping():
            return "; ".join(f"{name}: {value_in_words(each)}" for name, each in value.items())
        case list() | tuple():
            return ", ".join(value_in_words(each) for each in value)
        case _:
            return str(value)


def place_in_words(place: str) -> str:
    """Where a difference lies.

    >>> place_in_words("fields.onset"), place_in_words("rules.night.when.since"), place_in_words("valid_from")
    ('Field onset', 'Rule night: since', 'Valid from')
    """
    if place in PLACES:
        return PLACES[place]
    head, _, rest = place.partition(".")
    if head in ("fields", "choices"):
        named = label_of(head.removesuffix("s"))
        return f"{named} {rest}" if rest else f"{named}s"
    if head == "rules":
        name, _, inner = rest.rpartition(".when.") if ".when." in rest else rest.partition(".")
        if not name:
            return "Rules"
        return f"Rule {name}: {inner.replace('.', ' ').replace('_', ' ')}" if inner else f"Rule {name}"
    return label_of(place)


class Difference(NamedTuple):
    """Something that is not the same in two versions, in words; None where it is not there."""

    name: str
    before: str | None
    after: str | None

    @property
    def how(self) -> str:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


def changed_rules(before: Document, after: Document) -> list[Difference]:
    """What became of rules, as sentences. Those that changed places are numbered: the first that holds decides."""
    a, b = ({rule.name: rule for rule in document.rules} for document in (before, after))
    moved = _moved(list(a), list(b))
    return [
        Difference(
            name,
            _numbered(a, name, is_moved=name in moved) if name in a else None,
            _numbered(b, name, is_moved=name in moved) if name in b else None,
        )
        for name in dict.fromkeys((*a, *b))
        if a.get(name) != b.get(name) or name in moved
    ]


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Names that stand elsewhere among those that stand in both."""
    a = [name for name in before if name in after]
    b = [name for name in after if name in before]
    return {name for name, other in zip(a, b, strict=True) if name != other}


def _numbered(rules: Mapping[str, Rule], name: str, *, is_moved: bool) -> str:
    number = f"{list(rules).index(name) + 1}. " if is_moved else ""
    return number + rule_in_words(rules[name])


def changed_parts(found: Iterable[Change]) -> list[Difference]:
    """What became of all but the rules."""
    return [
        Difference(
            place_in_words(change.place),
            None if change.kind == "added" else value_in_words(change.before),
            None if change.kind == "removed" else value_in_words(change.after),
        )
        for change in found
        if change.place.partition(".")[0] != "rules"
    ]


def fields_in_words(document: AnyDocument) -> list[tuple[str, str]]:
    """Fields and their values as they were written, those that say something."""
    said = msgspec.to_builtins(document.fields) | getattr(document, "choices", {})
    return [(name, value_in_words(value)) for name, value in said.items() if value not in (None, "", [], {})]


def field_in_words(name: str) -> str:
    """The name of a field of a form; rows and items are counted from one.

    >>> field_in_words("rules.0.when.since"), field_in_words("fields.1.value")
    ('Rules 1, when, since', 'Fields 2, value')
    """
    parts = [str(int(part) + 1) if part.isdigit() else part.replace("_", " ") for part in name.split(".")]
    return label_of(
        ", ".join(parts).replace(", ", " ", 1) if len(parts) > 1 and parts[1].isdigit() else ", ".join(parts)
    )
