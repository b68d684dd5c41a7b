"""The policy repository: every version of every policy, who saved it and why. Nothing is overwritten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta
from sqlalchemy import ColumnElement, Connection, Engine, Table, delete, func, insert, or_, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from edgeflex_flow.clock import Clock, moment_ns
from edgeflex_flow.messages import Policy, TimeNs
from edgeflex_services.policy_system.documents import AnyDocument, Name
from edgeflex_services.policy_system.proof import Head, Proof, digest_of, head_of, prove, version_digest
from edgeflex_services.policy_system.tables import WRITE_WAIT_S, audit, effects, grants, groups, health, reads, versions

WRITERS_LOCK = 7_316_402
"""Of PostgreSQL, by which writers of all instances wait for each other."""


class ConflictError(Exception):
    """Somebody else saved first, or what is to be made is there already."""


class OthersCameFirstError(ConflictError):
    """Somebody else changed it since it was looked at."""


class CannotWriteError(Exception):
    """Nothing can be written for now: others write too long, or the database takes nothing."""


class UnknownError(Exception):
    """There is no such thing."""


class Saved(NamedTuple):
    """A version of a policy."""

    group: str
    policy_id: str
    version: int
    document: AnyDocument
    withdrawn: bool
    saved_by: str
    saved_ns: int
    comment: str

    def message(self) -> Policy:
        """As flows get it."""
        document = self.document
        return Policy(
            policy_id=self.policy_id,
            policy_group=self.group,
            policy_kind=document.kind,
            version=self.version,
            fields=document.field_values(),
            about=document.about,
            asset_id=document.asset_id,
            valid_from_ns=moment_ns(document.valid_from),
            valid_until_ns=moment_ns(document.valid_until),
            saved_ns=self.saved_ns,
        )


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A right to one policy. Once a policy has grants, roles in its group give no right to it."""

    subject_kind: Literal["user", "group"]
    subject: Name
    right: Literal["read", "edit"]


class AuditEntry(msgspec.Struct, frozen=True):
    """Something that was done."""

    id: int
    time_ns: int
    actor: str
    action: str
    object: str
    detail: str
    digest: str


class Noted(NamedTuple):
    """What an entry of the audit log says, for those who are told at once."""

    time_ns: int
    actor: str
    action: str
    object: str
    detail: Mapping[str, Any]


class Reader(msgspec.Struct, frozen=True):
    """Who read a version of a policy, and when."""

    user: str
    version: int
    first_ns: int
    last_ns: int
    count: int


Read: TypeAlias = tuple[tuple[str, str, str, int], tuple[int, int, int]]
"""Group, policy, user and version; first and last time in ns, and how many."""
Told: TypeAlias = Annotated[str, Meta(max_length=200)]


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a policy changed, or could not change, in a running flow."""

    policy_group: Name
    policy_id: Name
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    site: Told
    flow: Told
    node: Told
    setting: Told
    before: Told
    after: Told
    refused: Annotated[str, Meta(max_length=1000)] | None = None
    time_ns: TimeNs


KEPT = 100_000
PUT_GROUP = "put_group"


class NewestRows:
    """A table with ids that grow, of which the newest `KEPT` rows are kept, and up to a hundredth more."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._since_pruning = 0

    def add(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, as part of a transaction that writes."""
        id_ = self._table.c.id
        connection.execute(insert(self._table), rows)
        self._since_pruning += len(rows)
        if self._since_pruning > KEPT // 100:
            self._since_pruning = 0
            newest = connection.scalar(select(func.max(id_))) or 0
            connection.execute(delete(self._table).where(id_ <= newest - KEPT))


def about(name: str) -> ColumnElement[bool]:
    """Entries about a policy (`group/id`), a user and the roles of that, or a group with its roles and policies."""
    told = audit.c.object
    of_group = (told.startswith(f"{name}{mark}", autoescape=True) for mark in ":/")
    return or_(told == name, told.endswith(f":{name}", autoescape=True), *of_group)


def about_user(name: str) -> ColumnElement[bool]:
    """Entries about a user and the roles of that, and not about a group that is called the same."""
    told = audit.c.object
    itself = (told == name) & (audit.c.action != PUT_GROUP)
    return or_(itself, told.endswith(f":{name}", autoescape=True))


class Repository:
    """Policies in a database. Methods may be called from any thread; writers come one after the other."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._writing = threading.RLock()
        self._noted: list[Noted] = []
        self._effects = NewestRows(effects)
        self.on_note: Callable[[Noted], None] = _tell_nobody
        """Called for each entry of the audit log once it is kept."""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes. What goes wrong in it leaves nothing behind.

        Raises CannotWriteError.
        """
        if not self._writing.acquire(timeout=WRITE_WAIT_S):
            raise CannotWriteError("others are writing")
        try:
            self._noted = []
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text(f"SET LOCAL lock_timeout = {WRITE_WAIT_S * 1000:.0f}"))
                    # Instances write one after the other, so that ids of the audit log grow in the order of commits.
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})"))
                yield connection
            noted, self._noted = self._noted, []
        except OperationalError as error:
            # Without the error itself, which holds what was to be written.
            raise CannotWriteError(str(error.orig)) from None
        finally:
            self._writing.release()
        for entry in noted:
            self.on_note(entry)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def check_writing(self) -> None:
        """Write something, to see whether that goes. Raises CannotWriteError."""
        row = {"name": "written", "time_ns": self.now_ns()}
        with self.writing() as connection:
            if connection.execute(update(health).values(row)).rowcount == 0:
                connection.execute(insert(health).values(row))

    def close(self) -> None:
        """Give up all connections to the database."""
        self._engine.dispose()

    # Policies -------------------------------------------------------------------------------------------------------

    def heads(self) -> list[Saved]:
        """The newest version of each policy, withdrawn ones included."""
        newest = select(versions.c.group, versions.c.policy_id, func.max(versions.c.version).label("version")).group_by(
            versions.c.group, versions.c.policy_id
        )
        found = newest.subquery()
        query = select(versions).join(
            found,
            (versions.c.group == found.c.group)
            & (versions.c.policy_id == found.c.policy_id)
            & (versions.c.version == found.c.version),
        )
        with self.reading() as connection:
            return [_saved(row) for row in connection.execute(query).mappings()]

    def versions(self, group: str, policy_id: str) -> list[Saved]:
        """All versions, newest first. Raises UnknownError."""
        query = (
            select(versions)
            .where(versions.c.group == group, versions.c.policy_id == policy_id)
            .order_by(versions.c.version.desc())
        )
        with self.reading() as connection:
            found = [_saved(row) for row in connection.execute(query).mappings()]
        if not found:
            raise UnknownError(f"{group}/{policy_id}")
        return found

    def version(self, group: str, policy_id: str, version: int) -> Saved:
        """One version. Raises UnknownError."""
        query = select(versions).where(
            versions.c.group == group, versions.c.policy_id == policy_id, versions.c.version == version
        )
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise UnknownError(f"{group}/{policy_id} version {version}")
        return _saved(row)

    def save(
        self,
        actor: str,
        group: str,
        policy_id: str,
        document: AnyDocument,
        *,
        based_on: int,
        comment: str = "",
        withdrawn: bool = False,
    ) -> Saved:
        """Save a new version after `based_on` (0: a new policy). Raises ConflictError when another came first."""
        saved = Saved(group, policy_id, based_on + 1, document, withdrawn, actor, self.now_ns(), comment)
        saved.message()  # what cannot be served must not be saved
        with self.writing() as connection:
            newest = connection.scalar(
                select(func.max(versions.c.version)).where(versions.c.group == group, versions.c.policy_id == policy_id)
            )
            if (newest or 0) != based_on:
                raise ConflictError(f"version {newest or 0} is the newest, this was made from version {based_on}")
            if connection.scalar(select(groups.c.name).where(groups.c.name == group)) is None:
                raise UnknownError(f"there is no group '{group}'")
            row = {**saved._asdict(), "document": msgspec.json.encode(document).decode()}
            try:
                connection.execute(insert(versions).values(row))
            except IntegrityError as error:  # another instance on the same database
                raise ConflictError(f"version {saved.version} was saved by somebody else meanwhile") from error
            action = "withdraw_policy" if withdrawn else "save_policy"
            detail = {"version": saved.version, "comment": comment, "digest": version_digest(row)}
            self.note(connection, actor, action, f"{group}/{policy_id}", detail)
        return saved

    # Rights to single policies --------------------------------------------------------------------------------------

    def grants(self) -> dict[tuple[str, str], list[Grant]]:
        """All grants by group and policy."""
        found: dict[tuple[str, str], list[Grant]] = {}
        with self.reading() as connection:
            for row in connection.execute(select(grants)).mappings():
                grant = Grant(row["subject_kind"], row["subject"], row["right"])
                found.setdefault((row["group"], row["policy_id"]), []).append(grant)
        return found

    def set_grants(
        self,
        actor: str,
        group: str,
        policy_id: str,
        wanted: Sequence[Grant],
        *,
        based_on: Sequence[Grant] | None = None,
        everybody: bool = False,
        says: str = "",
    ) -> None:
        """Replace the grants of a policy. None: roles in the group decide again, which `everybody` confirms.

        `based_on`: the grants that were changed. `says`: what that does, for the audit log. Raises ConflictError, and
        OthersCameFirstError when the grants are others than those by now.
        """
        if everybody and wanted:
            raise ConflictError("`everybody` goes with no grants: with some, the policy is for those whom they name")
        with self.writing() as connection:
            of_policy = (grants.c.group == group) & (grants.c.policy_id == policy_id)
            if based_on is not None:
                columns = (grants.c.subject_kind, grants.c.subject, grants.c.right)
                known = {Grant(*row) for row in connection.execute(select(*columns).where(of_policy))}
                if known != set(based_on):
                    raise OthersCameFirstError("somebody else changed the grants meanwhile: look at them again")
            removed = connection.execute(delete(grants).where(of_policy)).rowcount
            if removed and not wanted and not everybody:
                raise ConflictError("without any grant the policy is open to its group: confirm that by `everybody`")
            for grant in wanted:
                row = {"group": group, "policy_id": policy_id, **msgspec.to_builtins(grant)}
                connection.execute(insert(grants).values(row))
            detail = {"grants": msgspec.to_builtins(list(wanted)), "says": says}
            self.note(connection, actor, "set_grants", f"{group}/{policy_id}", detail)

    # Who reads, and what came of it ---------------------------------------------------------------------------------

    def add_reads(self, counted: Mapping[tuple[str, str, str, int], tuple[int, int, int]]) -> None:
        """Add to the reads by group, policy, user and version: first and last time in ns, and how many."""
        with self.writing() as connection:
            for (group, policy_id, user, version), (first_ns, last_ns, count) in counted.items():
                key = (
                    (reads.c.group == group)
                    & (reads.c.policy_id == policy_id)
                    & (reads.c.user == user)
                    & (reads.c.version == version)
                )
                changed = connection.execute(
                    update(reads).where(key).values(last_ns=last_ns, count=reads.c.count + count)
                )
                if changed.rowcount == 0:
                    row = {"group": group, "policy_id": policy_id, "user": user, "version": version}
                    times = {"first_ns": first_ns, "last_ns": last_ns, "count": count}
                    connection.execute(insert(reads).values({**row, **times}))

    def readers(self, group: str, policy_id: str) -> list[Reader]:
        """Who read a policy, the latest first."""
        query = (
            select(reads.c.user, reads.c.version, reads.c.first_ns, reads.c.last_ns, reads.c.count)
            .where(reads.c.group == group, reads.c.policy_id == policy_id)
            .order_by(reads.c.last_ns.desc())
        )
        with self.reading() as connection:
            return [Reader(*row) for row in connection.execute(query)]

    def add_effects(self, user: str, told: Sequence[Effect]) -> None:
        """Keep what a flow says that policies changed in it."""
        rows = [
            {
                "user": user,
                "group": each.policy_group,
                **{name: value for name, value in msgspec.to_builtins(each).items() if name != "policy_group"},
            }
            for each in told
        ]
        with self.writing() as connection:
            self._effects.add(connection, rows)

    def effects(self, group: str, policy_id: str, limit: int = 100) -> list[tuple[str, Effect]]:
        """The newest effects of a policy and who told them."""
        query = (
            select(effects)
            .where(effects.c.group == group, effects.c.policy_id == policy_id)
            .order_by(effects.c.id.desc())
            .limit(limit)
        )
        with self.reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [(row["user"], _effect(row)) for row in rows]

    # The audit log --------------------------------------------------------------------------------------------------

    def note(self, connection: Connection, actor: str, action: str, what: str, detail: Mapping[str, Any]) -> None:
        """Add to the audit log, as part of a transaction that writes. Each entry's digest covers the one before it."""
        before = head_of(connection).digest
        now_ns = self.now_ns()
        row = {
            "time_ns": now_ns,
            "actor": actor,
            "action": action,
            "object": what,
            "detail": msgspec.json.encode(detail, order="deterministic").decode(),
        }
        connection.execute(insert(audit).values({**row, "digest": digest_of(before, row)}))
        self._noted.append(Noted(now_ns, actor, action, what, detail))

    def audit_entries(
        self, *conditions: ColumnElement[bool], before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """The newest entries that meet the conditions; `before`: only those with a smaller id."""
        query = select(audit).where(*conditions).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.id < before)
        with self.reading() as connection:
            return [AuditEntry(*row) for row in connection.execute(query)]

    def newest_change(self) -> int:
        """The id of the newest entry of the audit log: it grows with every change, whoever made it."""
        with self.reading() as connection:
            return connection.scalar(select(func.max(audit.c.id))) or 0

    def head(self) -> Head:
        """The newest entry of the audit log."""
        with self.reading() as connection:
            return head_of(connection)

    def prove(self, noted: Head | None = None) -> Proof:
        """Whether log and policies are as they were written; `noted`: a head from before."""
        while True:
            with self.reading() as connection:
                proof = prove(connection, noted)
            # What somebody saved while it was read is no forgery.
            if proof.intact or proof.head == str(self.head()):
                return proof


def _tell_nobody(_: Noted) -> None:
    """Where nobody listens."""


def _saved(row: Any) -> Saved:
    return Saved(**{**row, "document": msgspec.json.decode(row["document"], type=AnyDocument)})


def _effect(row: Mapping[str, Any]) -> Effect:
    names = {name: row[name] for name in Effect.__struct_fields__ if name != "policy_group"}
    return Effect(policy_group=row["group"], **names)
