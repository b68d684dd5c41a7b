"""The file of the service: devices, groups, sessions, watches, operations, and who did what."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_services.devices.model import (
    AuditEntry,
    DeviceEntry,
    GroupEntry,
    LinkEntry,
    Operation,
    QosEntry,
    Remembered,
    WatchEntry,
)
from edgeflex_services.sole_file import lock_beside

LAYOUT: Final = 1
"""Of the tables; one that is told another way is not read."""
KEPT_AUDIT: Final = 1_000_000
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS entries (kind TEXT NOT NULL, key TEXT NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, actor TEXT NOT NULL,
    action TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_update_of_audit BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'what was done is kept as it was'); END;
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
Entry: TypeAlias = DeviceEntry | GroupEntry | LinkEntry | Operation | QosEntry | Remembered | WatchEntry
KINDS: Final[dict[str, type[Entry]]] = {
    "device": DeviceEntry,
    "group": GroupEntry,
    "operation": Operation,
    "qos": QosEntry,
    "key": Remembered,
    "watch": WatchEntry,
}
_KIND_OF: Final = {of: kind for kind, of in KINDS.items()}


def key_of(entry: Entry) -> str:
    """By what an entry is found among those of its kind."""
    match entry:
        case GroupEntry():
            return entry.name
        case Operation():
            return entry.id
        case Remembered():
            return entry.key
        case _:
            return entry.gpsi


def is_kept(entry: Entry) -> bool:
    """Whether it outlives the service."""
    return type(entry) in _KIND_OF


class StoreError(Exception):
    """The file cannot be written now; nothing of the change is in it."""


class Store:
    """The file of one service, which keeps all of it in memory too: this is what it begins with."""

    def __init__(self, file: Path) -> None:
        """Raises FatalError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_beside(file, "device service", "the file of the service", 0o600)
        try:
            self._database = sqlite3.connect(file, check_same_thread=False)
            self._prepare(file)
        except (sqlite3.Error, FatalError) as error:
            os.close(self._lock)
            if isinstance(error, FatalError):
                raise
            raise FatalError(f"{file}: cannot be opened as the file of the service: {error}") from error
        file.chmod(0o600)

    def _prepare(self, file: Path) -> None:
        (layout,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and layout != LAYOUT:
            text = f"expected the file of a device service with layout {LAYOUT}, got {layout or 'none'}"
            raise FatalError(f"{file}: {text}: begin a new one, or name the right one")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_TABLES)
        self._database.execute(f"PRAGMA user_version = {LAYOUT}")
        self._database.commit()

    def secret(self) -> bytes:
        """By which callbacks are told from forged ones; made once."""
        with self._database:
            self._database.execute("INSERT OR IGNORE INTO secrets VALUES ('callbacks', ?)", (os.urandom(32),))
        found: tuple[bytes] = self._database.execute("SELECT value FROM secrets WHERE name = 'callbacks'").fetchone()
        return found[0]

    def of_network(self, network: str) -> None:
        """Raises FatalError where it is the file of a service in another network: nothing in it would be true here."""
        with self._database:
            self._database.execute("INSERT OR IGNORE INTO secrets VALUES ('network', ?)", (network.encode(),))
        (found,) = self._database.execute("SELECT value FROM secrets WHERE name = 'network'").fetchone()
        if found.decode() != network:
            text = f"--data is the file of a service in another network: {found.decode()}"
            raise FatalError(f"{text}; this one: {network}; give each a file of its own")

    def read(self) -> Iterator[Entry]:
        """All entries."""
        with closing(self._database.execute("SELECT kind, entry FROM entries")) as rows:
            for kind, text in rows:
                yield msgspec.json.decode(text, type=KINDS[kind])

    def write(
        self,
        entries: Iterable[Entry] = (),
        gone: Iterable[Entry] = (),
        audit: Sequence[AuditEntry] = (),
    ) -> None:
        """All of it or nothing. Raises StoreError."""
        kept = filter(is_kept, entries)
        saved = [(_KIND_OF[type(each)], key_of(each), msgspec.json.encode(each).decode()) for each in kept]
        dropped = [(_KIND_OF[type(each)], key_of(each)) for each in gone if is_kept(each)]
        told = [(each.time_ns, each.actor, each.action, each.target, each.outcome, each.detail) for each in audit]
        try:
            with self._database:
                self._database.executemany("DELETE FROM entries WHERE kind = ? AND key = ?", dropped)
                self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", saved)
                self._database.executemany(
                    "INSERT INTO audit (time_ns, actor, action, target, outcome, detail) VALUES (?, ?, ?, ?, ?, ?)",
                    told,
                )
        except sqlite3.Error as error:
            raise StoreError(f"the file of the service cannot be written: {error}") from error

    def audit(self, most: int, before: int | None = None) -> list[AuditEntry]:
        """The newest entries first, of those before an id."""
        rows: list[tuple[Any, ...]] = self._database.execute(
            "SELECT id, time_ns, actor, action, target, outcome, detail FROM audit "
            "WHERE id < ? ORDER BY id DESC LIMIT ?",
            (before if before is not None else 2**63 - 1, most),
        ).fetchall()
        names = AuditEntry.__struct_fields__
        return [AuditEntry(**dict(zip(names, row, strict=True))) for row in rows]

    def forget_audit(self) -> None:
        """Keep the newest entries alone, so that the disk does not fill. Raises StoreError."""
        try:
            with self._database:
                self._database.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (KEPT_AUDIT,))
        except sqlite3.Error as error:
            raise StoreError(f"the file of the service cannot be written: {error}") from error

    def can_write(self) -> bool:
        try:
            with self._database:
                self._database.execute("INSERT OR REPLACE INTO secrets VALUES ('probe', x'00')")
        except sqlite3.Error:
            return False
        return True

    def close(self) -> None:
        self._database.close()
        os.close(self._lock)
