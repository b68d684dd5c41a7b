"""What the access point serves from memory: the newest version of each policy, who may read it, and who did."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import BLOCKED, Role, User
from edgeflex_services.policy_system.repository import Grant, Read, Reader, Repository, Saved

Right: TypeAlias = Literal["read", "edit"]
ROLE_FOR: dict[Right, Role] = {"read": "reader", "edit": "editor"}
"""What gives the right in a group when a policy has no grants."""


class Entry(NamedTuple):
    """A policy as it is served."""

    saved: Saved
    body: bytes
    """JSON, made once."""
    grants: tuple[Grant, ...]

    def may(self, user: User, right: Right) -> bool:
        """Whether a user has a right to it. Administrators have all of them."""
        if user.is_admin:
            return True
        if user.roles.get(self.saved.group) == BLOCKED:
            return False
        if not self.grants:
            return user.may(ROLE_FOR[right], self.saved.group)
        return any(_covers(grant, user, right) for grant in self.grants)


def _covers(grant: Grant, user: User, right: Right) -> bool:
    theirs = grant.subject == user.name if grant.subject_kind == "user" else grant.subject in user.groups
    return theirs and grant.right in (right, "edit")


class Served(NamedTuple):
    """An answer of the access point."""

    etag: str
    body: bytes


class Catalogue:
    """The newest versions of all policies. Loading replaces all at once, so that readers need no lock."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._entries: dict[str, dict[str, Entry]] = {}
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._reads: dict[tuple[str, str, str, int], tuple[int, int, int]] = {}
        self._reads_being_kept: dict[tuple[str, str, str, int], tuple[int, int, int]] = {}

    def load(self) -> None:
        grants = self._repository.grants()
        entries: dict[str, dict[str, Entry]] = {}
        for saved in self._repository.heads():
            own = tuple(grants.get((saved.group, saved.policy_id), ()))
            try:
                entries.setdefault(saved.group, {})[saved.policy_id] = Entry(saved, _body(saved), own)
            except Exception:  # one that cannot be served, whatever the reason, must not hold up all others
                LOG.exception("policy %s/%s version %d is left out", saved.group, saved.policy_id, saved.version)
        self._entries = entries

    def entry(self, user: User, group: str, policy_id: str, right: Right = "read") -> Entry | None:
        """A policy to which the user has this right, withdrawn ones included; None else."""
        found = self._entries.get(group, {}).get(policy_id)
        return found if found is not None and found.may(user, right) else None

    def is_new(self, group: str, policy_id: str) -> bool:
        return policy_id not in self._entries.get(group, {})

    def readable(self, user: User, group: str | None = None) -> list[Entry]:
        """All that the user may read, of a group or of all, by group and id; withdrawn ones included."""
        groups = self._entries if group is None else {group: self._entries.get(group, {})}
        every = (entry for _, found in sorted(groups.items()) for _, entry in sorted(found.items()))
        return [entry for entry in every if entry.may(user, "read")]

    def in_force(self, group: str) -> Iterable[Entry]:
        """A group's policies that are not withdrawn, for decisions."""
        return [entry for entry in self._entries.get(group, {}).values() if not entry.saved.withdrawn]

    def serve(self, user: User, group: str, ids: Sequence[str] | None, asset: str | None = None) -> Served:
        """The policies of a group that the user may read, those with these ids or for this asset or all; counted as
        read."""
        known = self._entries.get(group, {})
        wanted = sorted(known) if ids is None else dict.fromkeys(ids)
        found = [known[each] for each in wanted if each in known]
        if asset is not None:
            found = [entry for entry in found if entry.saved.document.asset_id == asset]
        given = [entry for entry in found if not entry.saved.withdrawn and entry.may(user, "read")]
        self._count(user, given)
        return Served(_etag(group, given), b'{"policies":[' + b",".join(entry.body for entry in given) + b"]}")

    def serve_one(self, user: User, group: str, policy_id: str) -> Served | None:
        """One policy, counted as read; None if it is not there, withdrawn, or the user has no right to it."""
        entry = self.entry(user, group, policy_id)
        if entry is None or entry.saved.withdrawn:
            return None
        self._count(user, [entry])
        return Served(_etag(group, [entry]), entry.body)

    # Who reads ------------------------------------------------------------------------------------------------------

    def _count(self, user: User, given: Iterable[Entry]) -> None:
        now_ns = self._repository.now_ns()
        with self._lock:
            for entry in given:
                key = (entry.saved.group, entry.saved.policy_id, user.name, entry.saved.version)
                first_ns, _, count = self._reads.get(key, (now_ns, now_ns, 0))
                self._reads[key] = (first_ns, now_ns, count + 1)

    def keep_reads(self) -> None:
        """Write down who read since the last call. After it, all that was counted before is there."""
        with self._keeping:
            with self._lock:
                counted = self._reads_being_kept = self._reads
                self._reads = {}
            try:
                if counted:
                    self._repository.add_reads(counted)
            except BaseException:
                self._take_back(counted)
                raise
            finally:
                self._reads_being_kept = {}

    def reads_waiting(self) -> list[Read]:
        """Reads that are not written down yet."""
        with self._lock:
            return [*self._reads_being_kept.items(), *self._reads.items()]

    def readers(self, group: str, policy_id: str) -> list[Reader]:
        """Who read a policy, the latest first, whether it is written down already or not."""
        waiting = self.reads_waiting()
        found = {(each.user, each.version): each for each in self._repository.readers(group, policy_id)}
        for (*place, user, version), (first_ns, last_ns, count) in waiting:
            if place == [group, policy_id]:
                known = found.get((user, version), Reader(user, version, first_ns, last_ns, 0))
                found[user, version] = Reader(user, version, known.first_ns, last_ns, known.count + count)
        return sorted(found.values(), key=lambda each: -each.last_ns)

    def _take_back(self, counted: dict[tuple[str, str, str, int], tuple[int, int, int]]) -> None:
        """Count again what could not be written down, for the next time."""
        with self._lock:
            for key, (first_ns, last_ns, count) in counted.items():
                _, later_ns, more = self._reads.get(key, (0, last_ns, 0))
                self._reads[key] = (first_ns, later_ns, count + more)


def _etag(group: str, given: Sequence[Entry]) -> str:
    """Names an answer. A version's number alone would not: in a database begun anew it comes again."""
    told = [(entry.saved.policy_id, entry.saved.version, entry.saved.saved_ns) for entry in given]
    return f'"{hashlib.sha256(msgspec.json.encode((group, told))).hexdigest()[:24]}"'


def _body(saved: Saved) -> bytes:
    """The message that flows read, and the rules beside it."""
    told = msgspec.to_builtins(saved.message())
    rules = msgspec.to_builtins(saved.document.rules)
    return msgspec.json.encode({**told, "rules": rules} if rules else told)
