"""The policy system as one value: what the access point, the page and the event service work with."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_flow.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD
from edgeflex_services.policy_system import LOG
from edgeflex_services.policy_system.accounts import Accounts, NewUser
from edgeflex_services.policy_system.catalogue import Catalogue
from edgeflex_services.policy_system.journal import Journal
from edgeflex_services.policy_system.repository import CannotWriteError, Noted, Repository
from edgeflex_services.policy_system.tables import open_database
from edgeflex_services.policy_system.tokens import Tokens
from edgeflex_services.policy_system.traffic import Traffic

ISSUER = "urn:edgeflex:policy"
"""Who signs the tokens that the system grants. No user can have this name, which holds colons."""
AUDIENCE = "edgeflex-policy"
ADMIN = "admin"
SYSTEM = "edgeflex:system"
"""Who does what the service does by itself. Like the next a name that no user can have, for its colon."""
DATABUS = "edgeflex:databus"
"""Who reports on topics that are trusted without tokens."""
NS_PER_DAY = 86_400_000_000_000
CHECKED_NS = 1_000_000_000
"""For how long it counts that something could be written: whoever asks for it often has nothing written."""
UPKEEP_S = 1.0
"""How often changes by other instances on the same database are looked for, and reads written down."""


class PolicySystem:
    """Repository, accounts, tokens and what is served of them, kept alike."""

    def __init__(self, database: str, folder: Path, *, audience: str = AUDIENCE, clock: Clock | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.clock = clock or SystemClock()
        self.engine = open_database(database)
        self.repository = Repository(self.engine, self.clock)
        self.accounts = Accounts(self.repository)
        self.tokens = Tokens(self.repository, self.accounts, folder / "keys", audience, ISSUER)
        self.catalogue = Catalogue(self.repository)
        self.journal = Journal(self.repository)
        self.repository.on_note = self._noted
        self.traffic = Traffic(self.clock)
        self._loaded = -1
        self._told_day = -1
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self._upkeep: threading.Thread | None = None
        self.each_second: list[Callable[[], None]] = []
        """Called by the thread of the upkeep."""
        self.counts: dict[str, Callable[[], Mapping[str, int]]] = {"journal": self.journal.counts}
        """What was counted, by who counts it: for those who look after the service."""
        self._checking = threading.Lock()
        self._checked_ns: int | None = None
        self._can_write = False

    def start(self, *, admin_password: str | None = None, rotate_keys: bool = False) -> Path | str | None:
        """Load everything and look after it from now on. Without any user, make an administrator.

        Gives where the administrator's password is from when one was made; None if there are users. Raises FatalError.
        """
        told = None if self.accounts.users() else self._first_admin(admin_password)
        if rotate_keys:
            self.tokens.rotate(SYSTEM)
        self.changed()
        self.tokens.check_signing(SYSTEM)
        self.tell_head()
        self._upkeep = threading.Thread(target=self._look_after, name="policy upkeep", daemon=True)
        self._upkeep.start()
        return told

    def _first_admin(self, password: str | None) -> Path | str:
        file: Path | str = "the environment"
        if password is None:
            file, password = self.folder / "admin-password", secrets.token_urlsafe(18)
            file.touch(mode=0o600)
            file.write_text(password + "\n")
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            limits = f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
            raise FatalError(f"the administrator's password has {limits}; got one of {len(password)}")
        self.accounts.put_user(
            SYSTEM, ADMIN, NewUser(about="made at the first start", is_admin=True, password=password)
        )
        return file

    def _noted(self, noted: Noted) -> None:
        """Something was done with policies or accounts: it is served from now on, and told."""
        self.changed()
        self.journal.add_change(noted)

    def changed(self) -> None:
        """Serve what is in the database now, whoever changed it."""
        with self._loading:
            newest = self.repository.newest_change()
            self.tokens.load()
            self.catalogue.load()
            self._loaded = newest

    def tell_head(self) -> None:
        """Write the head of the audit log to the service's log, once a day (UTC): where the database's owner is not."""
        day = self.repository.now_ns() // NS_PER_DAY
        if day != self._told_day:
            self._told_day = day
            LOG.info("audit log: head %s", self.repository.head())

    def _look_after(self) -> None:
        while not self._stop.wait(UPKEEP_S):
            # What acts comes first: it must not wait for a database into which nothing can be written.
            self._try(self._follow_others, *self.each_second, self.catalogue.keep_reads, self.journal.keep)
            self._try(self.tell_head)

    def _follow_others(self) -> None:
        if self.repository.newest_change() != self._loaded:
            self.changed()

    @staticmethod
    def _try(*calls: Callable[[], None]) -> None:
        """What goes wrong with one of them keeps none of the others from being done."""
        for call in calls:
            try:
                call()
            except CannotWriteError as error:  # it is tried again
                LOG.warning("upkeep: %s", error)
            except Exception:
                LOG.exception("upkeep")

    def can_write(self) -> bool:
        """Whether something could be written into the database just now."""
        with self._checking:
            now_ns = self.clock.monotonic_ns()
            if self._checked_ns is None or now_ns - self._checked_ns >= CHECKED_NS:
                try:
                    self.repository.check_writing()
                    self._can_write = True
                except CannotWriteError:
                    LOG.exception("the database takes nothing")
                    self._can_write = False
                self._checked_ns = self.clock.monotonic_ns()
            return self._can_write

    def close(self) -> None:
        self._stop.set()
        if self._upkeep is not None:
            self._upkeep.join()
        self._try(self.catalogue.keep_reads, self.journal.keep)
        self.repository.close()
