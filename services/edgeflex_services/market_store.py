"""The file of a market: every change of an offer, the demand, and by whom it is met."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeflex_flow.errors import FatalError
from edgeflex_flow.messages import FlexOffer, decode_message, encode_message
from edgeflex_services.market_demand import Demand, OfferKey, Part
from edgeflex_services.sole_file import lock_beside

LAYOUT: Final = 2
"""Of the tables; one that is told another way is not read."""
OPEN_TIMEOUT_S: Final = 5.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS changes (owner TEXT NOT NULL, id TEXT NOT NULL, time_ns INTEGER NOT NULL,
    offer TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS changes_by_key ON changes (owner, id);
CREATE TABLE IF NOT EXISTS demand (interval_s INTEGER NOT NULL, demand TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (owner TEXT NOT NULL, id TEXT NOT NULL, number INTEGER NOT NULL,
    interval INTEGER NOT NULL, energy_kwh REAL NOT NULL);
CREATE INDEX IF NOT EXISTS parts_by_key ON parts (owner, id);
"""


class StoreError(Exception):
    """The file cannot be written now; nothing of the change is in it."""

    def __init__(self, text: str, *, is_busy: bool) -> None:
        super().__init__(text)
        self.is_busy = is_busy
        """Another program holds it, which may be over in a moment."""


class Store:
    """Every change in a file, so that a market goes on where it was. It is that of one market: two would assign the
    same demand. Waits for nobody once it is open: a file that another program holds raises StoreError at once."""

    def __init__(self, file: Path) -> None:
        """Raises FatalError."""
        self._lock = lock_beside(file, "market", "the file of a market", 0o644)
        try:
            self._database = sqlite3.connect(file, timeout=OPEN_TIMEOUT_S)
            self._prepare(file)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise FatalError(f"{file}: cannot be opened as the file of a market: {error}") from error
        except FatalError:
            os.close(self._lock)
            raise

    def _prepare(self, file: Path) -> None:
        (layout,) = self._database.execute("PRAGMA user_version").fetchone()
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and layout != LAYOUT:
            text = f"expected the file of a market with layout {LAYOUT}, got {layout or 'none'}"
            raise FatalError(f"{file}: {text}: begin a new one, or name the right one")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.executescript(_TABLES)
        self._database.execute(f"PRAGMA user_version = {LAYOUT}")
        self._database.commit()
        self._database.execute("PRAGMA busy_timeout = 0")

    def read(self) -> Iterator[tuple[int, OfferKey, FlexOffer]]:
        """All changes in their order."""
        with closing(self._database.execute("SELECT time_ns, owner, id, offer FROM changes ORDER BY rowid")) as rows:
            for time_ns, owner, offer_id, text in rows:
                offer: Any = decode_message(text, (FlexOffer,))
                yield time_ns, OfferKey(owner, offer_id), offer

    def demand(self, interval_s: int) -> list[Demand]:
        """None for a market that had other intervals."""
        found = self._database.execute("SELECT demand FROM demand WHERE interval_s = ?", (interval_s,)).fetchone()
        return [] if found is None else msgspec.json.decode(found[0], type=list[Demand])

    def parts(self) -> list[Part]:
        """Of the demand."""
        rows = self._database.execute("SELECT owner, id, number, interval, energy_kwh FROM parts")
        return [Part(OfferKey(owner, offer_id), *rest) for owner, offer_id, *rest in rows.fetchall()]

    def set_demand(self, interval_s: int, demand: Sequence[Demand]) -> None:
        text = msgspec.json.encode(demand).decode()
        self._write(
            ("DELETE FROM demand", [()]),
            ("DELETE FROM parts", [()]),
            ("INSERT INTO demand VALUES (?, ?)", [(interval_s, text)]),
        )

    def add(self, time_ns: int, changes: Sequence[tuple[OfferKey, FlexOffer]], parts: Sequence[Part]) -> None:
        self._write(
            (
                "INSERT INTO changes VALUES (?, ?, ?, ?)",
                [(*key, time_ns, encode_message(offer).decode()) for key, offer in changes],
            ),
            (
                "DELETE FROM parts WHERE owner = ? AND id = ?",
                [key for key, offer in changes if offer.state == "canceled"],
            ),
            ("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", [(*each.offer, *each[1:]) for each in parts]),
        )

    def forget(self, keys: Sequence[OfferKey]) -> None:
        self._write(("DELETE FROM changes WHERE owner = ? AND id = ?", keys))

    def _write(self, *statements: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        """All of it or nothing."""
        try:
            with self._database:
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            is_busy = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            raise StoreError(f"the market's file cannot be written: {error}", is_busy=is_busy) from error

    def close(self) -> None:
        self._database.close()
        os.close(self._lock)
