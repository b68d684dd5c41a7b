"""The proof of the audit log: each entry follows from the one before it, and policies are what was saved.

Who holds the database can compute all digests anew, or cut off the end: only a head that was noted elsewhere shows it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from edgeflex_services.policy_system.tables import audit, versions

OF_VERSIONS = ("save_policy", "withdraw_policy")
HEAD = r"^[0-9]{1,18}:[0-9a-f]{64}$(?!\n)"
_COLUMNS = ("time_ns", "actor", "action", "object", "detail")
_VERSION_COLUMNS = ("group", "policy_id", "version", "document", "withdrawn", "saved_by", "saved_ns", "comment")


class Head(NamedTuple):
    """The newest entry of the audit log at some time: what is noted elsewhere."""

    id: int
    digest: str

    def __str__(self) -> str:
        return f"{self.id}:{self.digest}"

    @classmethod
    def read(cls, text: str) -> Head:
        """Read `NUMBER:DIGEST`. Raises ValueError."""
        if not re.fullmatch(HEAD, text):
            raise ValueError(f"'{text}' is no head of an audit log, which is NUMBER:DIGEST")
        number, _, digest = text.partition(":")
        return cls(int(number), digest)


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a proof."""

    intact: bool
    head: str
    """NUMBER:DIGEST of the newest entry, to be noted elsewhere."""
    first_forged: int | None = None
    """The entry at which something is wrong, if it is one."""
    why: str = ""
    """What is wrong."""


class _SavedVersion(msgspec.Struct, frozen=True):
    """Of an entry that tells that a version was saved."""

    version: int
    digest: str


class _Wrong(Exception):  # noqa: N818 - it is a finding, not a defect
    def __init__(self, why: str, entry: int | None = None) -> None:
        super().__init__(why)
        self.entry = entry


def digest_of(before: str, row: Any) -> str:
    """SHA-256 of an entry of the audit log and of the digest before it."""
    return _sha256([before, *(row[name] for name in _COLUMNS)])


def version_digest(row: Any) -> str:
    """SHA-256 of a version of a policy as it is stored."""
    return _sha256([row[name] for name in _VERSION_COLUMNS])


def _sha256(told: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def head_of(connection: Connection) -> Head:
    """The newest entry; 0 and no digest if there is none."""
    row = connection.execute(select(audit.c.id, audit.c.digest).order_by(audit.c.id.desc()).limit(1)).first()
    return Head(0, "") if row is None else Head(*row)


def prove(connection: Connection, noted: Head | None) -> Proof:
    """Compute all digests anew; `noted`: a head from before, which must still be there."""
    newest = head_of(connection)
    try:
        told = _follow(connection, newest, noted)
        _compare_versions(connection, told)
    except _Wrong as wrong:
        return Proof(intact=False, head=str(newest), first_forged=wrong.entry, why=str(wrong))
    return Proof(intact=True, head=str(newest))


def _follow(connection: Connection, newest: Head, noted: Head | None) -> dict[tuple[str, int], tuple[int, str]]:
    """Entries and digests by policy and version, as the log tells of them. Raises _Wrong."""
    told: dict[tuple[str, int], tuple[int, str]] = {}
    before, is_noted_there = "", noted is None
    for row in connection.execute(select(audit).where(audit.c.id <= newest.id).order_by(audit.c.id)).mappings():
        if row["digest"] != digest_of(before, row):
            raise _Wrong(f"entry {row['id']} does not follow from the one before it", row["id"])
        before = row["digest"]
        if noted is not None and row["id"] == noted.id:
            is_noted_there = True
            if before != noted.digest:
                raise _Wrong(f"entry {noted.id} is another one than was noted", noted.id)
        if row["action"] in OF_VERSIONS:
            saved = _saved_by(row)
            told[row["object"], saved.version] = (row["id"], saved.digest)
    if noted is not None and not is_noted_there:
        raise _Wrong(f"the log ends with entry {newest.id}; entry {noted.id}, which was noted, is not there")
    return told


def _saved_by(row: Any) -> _SavedVersion:
    try:
        return msgspec.json.decode(row["detail"], type=_SavedVersion)
    except msgspec.DecodeError as error:
        raise _Wrong(f"entry {row['id']} does not say what was saved", row["id"]) from error


def _compare_versions(connection: Connection, told: dict[tuple[str, int], tuple[int, str]]) -> None:
    """Raise _Wrong unless the versions that are stored are those of which the log tells."""
    for row in connection.execute(select(versions)).mappings():
        policy, version = f"{row['group']}/{row['policy_id']}", row["version"]
        entry, digest = told.pop((policy, version), (None, ""))
        if entry is None:
            raise _Wrong(f"version {version} of {policy} stands in no entry of the log")
        if version_digest(row) != digest:
            raise _Wrong(f"version {version} of {policy} is not what was saved by entry {entry}", entry)
    for (policy, version), (entry, _) in told.items():
        raise _Wrong(f"version {version} of {policy}, saved by entry {entry}, is gone", entry)
