"""What differs between two versions of a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from edgeflex_services.policy_system.repository import Saved


class Change(msgspec.Struct, frozen=True):
    """One difference."""

    place: str
    """Such as `fields.onset` or `rules.night.when.since`: entries of lists by their name, if they have one."""
    kind: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


def changes(before: Saved, after: Saved) -> list[Change]:
    """All differences, by place."""
    a, b = _flat(before), _flat(after)
    return list(_changes(a, b))


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for place in dict.fromkeys((*a, *b)):
        if place not in b:
            yield Change(place, "removed", before=a[place])
        elif place not in a:
            yield Change(place, "added", after=b[place])
        elif a[place] != b[place]:
            yield Change(place, "changed", a[place], b[place])


def _flat(saved: Saved) -> dict[str, Any]:
    told = {"withdrawn": saved.withdrawn, **msgspec.to_builtins(saved.document)}
    return dict(_leaves("", told))


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of a tree with their places. Lists of named parts go by name, so that a new one moves no other."""
    if isinstance(value, list | tuple) and value and all(isinstance(each, dict) and "name" in each for each in value):
        value = {each["name"]: {**each, "position": at + 1} for at, each in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}" if place else str(key), inner)
    else:
        yield place, value
