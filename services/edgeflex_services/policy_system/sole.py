"""Of the instances on one database one alone has the databus: two would answer and act twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from edgeflex_flow.disk import lock_file
from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system import LOG

BUS_LOCK = 7_316_403
"""Of PostgreSQL, held by the session of the instance that has the databus."""
MOST_TRIES = 5
"""In vain, one each second, before it is another who has it: the server may hold on to a lost session for a moment."""
TAKEN = "another instance on this database has the databus already; start this one without --bus"


class SoleOnBus:
    """A lock that ends with the process that holds it, however that ends.

    SQLite: a lock on a file beside the database. PostgreSQL: a lock of a session, which a loss of the connection
    ends, and which `check` takes anew. Raises FatalError when another instance holds it.
    """

    def __init__(self, engine: Engine, on_lost: Callable[[], None]) -> None:
        self._engine = engine
        self._on_lost = on_lost
        self.is_lost = False
        self._tries = 0
        self._file: int | None = None
        self._session: Connection | None = None
        if engine.dialect.name == "sqlite":
            self._file = _locked(Path(f"{engine.url.database}.bus"))
        elif not self._take():
            raise FatalError(TAKEN)

    def _take(self) -> bool:
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if not session.scalar(text(f"SELECT pg_try_advisory_lock({BUS_LOCK})")):
            session.close()
            return False
        self._session = session
        return True

    def check(self) -> None:
        """Take the lock anew when the connection was lost; tell `on_lost` when another has it since. Each second."""
        if self._file is not None or self.is_lost:
            return
        try:
            if self._session is not None:
                self._session.execute(text("SELECT 1"))
                return
            self._tries = 0 if self._take() else self._tries + 1
            self.is_lost = self._tries >= MOST_TRIES
        except DBAPIError as error:
            LOG.warning("the lock of the databus was lost with the connection to the database: %s", error.orig)
            self._give_up_session()
        if self.is_lost:
            LOG.error("another instance has the databus now")
            self._on_lost()

    def _give_up_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.invalidate()  # a connection that goes back to the pool would keep the lock
            session.close()

    def close(self) -> None:
        """Let another have the databus."""
        self._give_up_session()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _locked(file: Path) -> int:
    try:
        return lock_file(file, 0o644)
    except OSError as error:
        raise FatalError(f"{TAKEN} ('{file}': {error.strerror or error})") from error
