"""The policy system as one value: what the access point, the page and the event service work with."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeflex_flow.clock import Clock, SystemClock
from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system.accounts import Accounts, NewUser
from edgeflex_services.policy_system.catalogue import Catalogue
from edgeflex_services.policy_system.journal import Journal
from edgeflex_services.policy_system.repository import Repository
from edgeflex_services.policy_system.tables import open_database
from edgeflex_services.policy_system.tokens import Tokens
from edgeflex_services.policy_system.traffic import Traffic

LOG = logging.getLogger("edgeflex.policy")
ISSUER = "urn:edgeflex:policy"
"""Who signs the tokens that the system grants. No user can have this name, which holds colons."""
AUDIENCE = "edgeflex-policy"
ADMIN = "admin"
SYSTEM = "system"
UPKEEP_S = 1.0
"""How often changes by other instances on the same database are looked for, and reads written down."""


class PolicySystem:
    """Repository, accounts, tokens and what is served of them, kept alike."""

    def __init__(self, database: str, folder: Path, *, audience: str = AUDIENCE, clock: Clock | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.repository = Repository(open_database(database), clock or SystemClock())
        self.accounts = Accounts(self.repository)
        self.tokens = Tokens(self.repository, self.accounts, folder / "keys", audience, ISSUER)
        self.catalogue = Catalogue(self.repository)
        self.journal = Journal(self.repository)
        self.repository.on_note = self.journal.add_change
        self.traffic = Traffic(clock or SystemClock())
        self._loaded = -1
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self._upkeep: threading.Thread | None = None
        self.on_change: list[Callable[[], None]] = []
        """Called after each change of policies or accounts, by any thread."""
        self.each_second: list[Callable[[], None]] = []
        """Called by the thread of the upkeep."""

    def start(self, *, admin_password: str | None = None, rotate_keys: bool = False) -> Path | None:
        """Load everything and look after it from now on. Without any user, make an administrator.

        Gives the file with the administrator's password when one was made up. Raises FatalError.
        """
        told = None if self.accounts.users() else self._first_admin(admin_password)
        if rotate_keys:
            self.tokens.rotate(SYSTEM)
        self.changed()
        self.tokens.check_signing(SYSTEM)
        self.changed()
        self._upkeep = threading.Thread(target=self._look_after, name="policy upkeep", daemon=True)
        self._upkeep.start()
        return told

    def _first_admin(self, password: str | None) -> Path | None:
        file = None
        if password is None:
            file, password = self.folder / "admin-password", secrets.token_urlsafe(18)
            file.touch(mode=0o600)
            file.write_text(password + "\n")
        try:
            wanted = NewUser(about="made at the first start", is_admin=True, password=password)
            self.accounts.put_user(SYSTEM, ADMIN, msgspec.convert(msgspec.to_builtins(wanted), NewUser))
        except msgspec.ValidationError as error:
            raise FatalError(f"the administrator's password: {error}") from error
        return file

    def changed(self) -> None:
        """Serve what is in the database now. Call it after each change."""
        with self._loading:
            newest = self.repository.newest_change()
            self.tokens.load()
            self.catalogue.load()
            self._loaded = newest
        for call in self.on_change:
            call()

    def _look_after(self) -> None:
        while not self._stop.wait(UPKEEP_S):
            try:
                if self.repository.newest_change() != self._loaded:
                    self.changed()
                self.catalogue.keep_reads()
                self.journal.keep()
                for call in self.each_second:
                    call()
            except Exception:
                LOG.exception("upkeep")

    def close(self) -> None:
        self._stop.set()
        if self._upkeep is not None:
            self._upkeep.join()
        self.catalogue.keep_reads()
        self.journal.keep()
        self.repository.close()
