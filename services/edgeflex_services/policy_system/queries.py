"""What is looked up across tables: who reads policies now, which effects were refused, keys, and which events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, and_, func, not_, or_, select

from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.journal import Entry, Journal
from edgeflex_services.policy_system.repository import Read, Repository
from edgeflex_services.policy_system.tables import effects, events, reads, signing_keys

NOW_NS = 60 * 1_000_000_000
"""Who read a policy within this time reads it now."""
EFFECTS_LOOKED_AT = 20_000
"""The newest so many effects are looked through for refused ones."""

PolicyName: TypeAlias = tuple[str, str]


class ReaderNow(NamedTuple):
    """Who reads a policy now, and which version was read last."""

    user: str
    version: int


def readers_now(repository: Repository, waiting: Iterable[Read] = ()) -> dict[PolicyName, list[ReaderNow]]:
    """Who read which policy within the last minute; `waiting`: reads that are not written down yet."""
    query = (
        select(reads.c.group, reads.c.policy_id, reads.c.user, func.max(reads.c.version))
        .where(reads.c.last_ns > repository.now_ns() - NOW_NS)
        .group_by(reads.c.group, reads.c.policy_id, reads.c.user)
        .order_by(reads.c.user)
    )
    newest: defaultdict[PolicyName, dict[str, int]] = defaultdict(dict)
    with repository.reading() as connection:
        kept = connection.execute(query).all()
    for group, policy_id, user, version in (*kept, *(key for key, _ in waiting)):
        versions = newest[group, policy_id]
        versions[user] = max(version, versions.get(user, 0))
    found: defaultdict[PolicyName, list[ReaderNow]] = defaultdict(list)
    for name, versions in newest.items():
        found[name] = [ReaderNow(*each) for each in sorted(versions.items())]
    return found


def refused_now(repository: Repository) -> Counter[PolicyName]:
    """How many settings each policy could not change, as the newest effects tell."""
    place = (
        effects.c.group,
        effects.c.policy_id,
        effects.c.user,
        effects.c.site,
        effects.c.flow,
        effects.c.node,
        effects.c.setting,
    )
    with repository.reading() as connection:
        newest = connection.scalar(select(func.max(effects.c.id))) or 0
        last = (
            select(func.max(effects.c.id).label("id"))
            .where(effects.c.id > newest - EFFECTS_LOOKED_AT)
            .group_by(*place)
            .subquery()
        )
        query = (
            select(effects.c.group, effects.c.policy_id, func.count())
            .join(last, effects.c.id == last.c.id)
            .where(effects.c.refused.is_not(None))
            .group_by(effects.c.group, effects.c.policy_id)
        )
        return Counter({(group, policy_id): count for group, policy_id, count in connection.execute(query)})


class SigningKey(NamedTuple):
    """A key by which tokens are signed."""

    kid: str
    created_ns: int
    retired_ns: int | None


def signing_keys_known(repository: Repository) -> list[SigningKey]:
    """All of them, the newest first."""
    columns = signing_keys.c
    query = select(columns.kid, columns.created_ns, columns.retired_ns).order_by(columns.created_ns.desc())
    with repository.reading() as connection:
        return [SigningKey(*row) for row in connection.execute(query)]


class Wanted(NamedTuple):
    """Which entries of the journal are asked for; empty: any."""

    kind: str = ""
    group: str = ""
    user: str = ""
    policy: str = ""
    """As `group/id`."""
    decision: str = ""
    """As `decision_of` tells it."""

    def fits(self, entry: Entry) -> bool:
        told = (entry.kind, entry.group, entry.user, entry.policy, decision_of(entry))
        return all(wanted in ("", got) for wanted, got in zip(self, told, strict=True))


DECISIONS = ("permit", "deny", "act", "followed", "refused")


def decision_of(entry: Entry) -> str:
    """What became of it: one of `DECISIONS`, or nothing. What no policy permits is denied."""
    if entry.kind == "effect":
        return entry.action
    if entry.effect != "none":
        return entry.effect
    return "deny" if entry.kind == "request" else ""


def newest_entry(repository: Repository) -> int:
    """The id of the newest entry that is kept; 0: there is none."""
    with repository.reading() as connection:
        return connection.scalar(select(func.max(events.c.id))) or 0


def newest_entries(
    journal: Journal,
    wanted: Wanted,
    user: User,
    *conditions: ColumnElement[bool],
    before: int | None = None,
    limit: int = 100,
) -> list[Entry]:
    """The newest entries that are asked for and that a user may see, those among them that meet the conditions.

    What is not written down yet has the id 0, and meets all conditions.
    """
    waiting = [] if before is not None else [each for each in journal.waiting() if wanted.fits(each)]
    kept = journal.entries(*is_wanted(wanted), *seen_entries(user), *conditions, before=before, limit=limit)
    there = {msgspec.json.encode(msgspec.structs.replace(each, id=0)) for each in kept} if waiting else set()
    new = [each for each in waiting if user.is_admin or each.group in user.groups]
    return [*(each for each in new if msgspec.json.encode(each) not in there), *kept][:limit]


def _says(name: str, value: str) -> ColumnElement[bool]:
    """A key of an entry and its value stand in the text of it, in which quotes of other values have a backslash."""
    return events.c.entry.contains(f'"{name}":{msgspec.json.encode(value).decode()}', autoescape=True)


def seen_entries(user: User) -> tuple[ColumnElement[bool], ...]:
    """Entries that a user may see: of the groups that the user is in. Administrators see all, and what is of none."""
    return () if user.is_admin else (events.c.group.in_(user.groups),)


def did_something() -> ColumnElement[bool]:
    """Entries by which something was done."""
    return not_(_says("did", ""))


def is_wanted(wanted: Wanted) -> Iterator[ColumnElement[bool]]:
    """Entries that are asked for."""
    for column, value in ((events.c.kind, wanted.kind), (events.c.group, wanted.group)):
        if value:
            yield column == value
    for name, value in (("user", wanted.user), ("policy", wanted.policy)):
        if value:
            yield _says(name, value)
    match wanted.decision:
        case "followed" | "refused":
            yield and_(events.c.kind == "effect", _says("action", wanted.decision))
        case "deny":
            yield or_(_says("effect", "deny"), and_(events.c.kind == "request", _says("effect", "none")))
        case "":
            pass
        case _:
            yield _says("effect", wanted.decision)
