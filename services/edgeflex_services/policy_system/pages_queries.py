"""What the pages look up across policies: who reads them now, which effects were refused, keys."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple, TypeAlias

from sqlalchemy import func, select

from edgeflex_services.policy_system.catalogue import Entry
from edgeflex_services.policy_system.pages_words import fields_in_words
from edgeflex_services.policy_system.repository import Repository
from edgeflex_services.policy_system.tables import effects, reads, signing_keys

NOW_NS = 60 * 1_000_000_000
"""Who read a policy within this time reads it now."""
EFFECTS_LOOKED_AT = 20_000
"""The newest so many effects are looked through for refused ones."""

PolicyName: TypeAlias = tuple[str, str]


class ReaderNow(NamedTuple):
    """Who reads a policy now, and which version was read last."""

    user: str
    version: int


def readers_now(repository: Repository) -> dict[PolicyName, list[ReaderNow]]:
    """Who read which policy within the last minute."""
    query = (
        select(reads.c.group, reads.c.policy_id, reads.c.user, func.max(reads.c.version))
        .where(reads.c.last_ns > repository.now_ns() - NOW_NS)
        .group_by(reads.c.group, reads.c.policy_id, reads.c.user)
        .order_by(reads.c.user)
    )
    found: defaultdict[PolicyName, list[ReaderNow]] = defaultdict(list)
    with repository.reading() as connection:
        for group, policy_id, user, version in connection.execute(query):
            found[group, policy_id].append(ReaderNow(user, version))
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


def keys(repository: Repository) -> list[SigningKey]:
    """All of them, the newest first."""
    columns = signing_keys.c
    query = select(columns.kid, columns.created_ns, columns.retired_ns).order_by(columns.created_ns.desc())
    with repository.reading() as connection:
        return [SigningKey(*row) for row in connection.execute(query)]


def says(entry: Entry, text: str) -> bool:
    """Whether a policy holds a text: in its id, group, kind, asset, words, or names and values of its fields."""
    saved, wanted = entry.saved, text.casefold()
    document = saved.document
    texts = [saved.policy_id, saved.group, document.kind, document.kind.replace("_", " "), document.asset_id]
    texts += [document.about]
    for name, value in fields_in_words(document):
        texts += [name, value]
    return any(wanted in each.casefold() for each in texts)
