"""What a change of a policy's grants does, in words: the first shuts others out, without the last they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.catalogue import Entry, Right
from edgeflex_services.policy_system.repository import Grant


def what_it_does(entry: Entry, wanted: Sequence[Grant], users: Iterable[User]) -> str:
    """What follows from giving a policy these grants. Administrators, who may all, are not counted."""
    after = entry._replace(grants=tuple(wanted))
    others = [user for user in users if not user.is_admin and user.disabled_because is None]
    lost = sum(entry.may(user, "read") and not after.may(user, "read") for user in others)
    if not wanted:
        now = sum(after.may(user, "read") for user in others)
        done = f"From now on the roles in group '{entry.saved.group}' decide: {_count(now)} may read it"
        return f"{done}{_lost(lost)}."
    readers = _named(wanted, "read")
    editors = _named(wanted, "edit") or "nobody"
    return f"From now on only {readers} may read it, and {editors} may edit it, beside administrators{_lost(lost)}."


def _lost(count: int) -> str:
    if not count:
        return ""
    return "; 1 other no longer does" if count == 1 else f"; {count} others no longer do"


def _count(number: int) -> str:
    return "1 user" if number == 1 else f"{number} users"


def _named(grants: Sequence[Grant], right: Right) -> str:
    names = [
        each.subject if each.subject_kind == "user" else f"group {each.subject}"
        for each in grants
        if each.right in (right, "edit")
    ]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
