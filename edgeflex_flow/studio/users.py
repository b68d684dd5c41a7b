"""Who may sign in to the studio, what they may, and who is signed in."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgeflex_flow.disk import replace_durably
from edgeflex_flow.errors import FatalError
from edgeflex_flow.passwords import Passwords

SESSION_S = 8 * 3600.0
"""How long a person stays signed in."""
MOST_OF_ONE = 20
"""Sessions of one person: the oldest end."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person."""

    password: str
    """Its argon2 hash."""
    operate: bool = False
    """Whether flows may be restarted, stopped and started, and dead letters given again."""


class UsersFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of users."""

    users: dict[str, User]


def read_users(file: Path) -> dict[str, User]:
    """By name. Raises FatalError, which quotes nothing of the file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=UsersFile).users
    except OSError as error:
        raise FatalError(f"cannot read the users in '{file}': {error.strerror}") from error
    except msgspec.DecodeError:
        raise FatalError(f"'{file}' is no file of users as `edgeflex studio-user` writes it") from None


def write_users(file: Path, users: dict[str, User]) -> None:
    """Replace the file as a whole; only its owner can read it. Raises OSError."""
    replace_durably(file, msgspec.json.format(msgspec.json.encode(UsersFile(users)), indent=2) + b"\n")


class Session(NamedTuple):
    """Somebody who is signed in."""

    user: str
    csrf: str
    """What requests of this session hold that change something, so that no other page can send them."""
    until_s: float
    password: str
    """The hash that the user had: with another password, sessions end."""


class Visitor(NamedTuple):
    """Who looks at a page."""

    name: str
    may_operate: bool
    csrf: str


EVERYBODY = Visitor("", may_operate=False, csrf="")
"""Who is on this computer, where there is no file of users."""


class Door:
    """Lets people in. Sessions are kept in memory: when the studio was restarted, people sign in again."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._passwords = Passwords()
        self._sessions: dict[str, Session] = {}
        self._users: dict[str, User] = {}
        self._stamp: tuple[int, int] | None = None
        if file is not None:
            self._users = read_users(file)

    @property
    def is_open(self) -> bool:
        """Whether all may look, since there is no file of users."""
        return self._file is None

    def users(self) -> dict[str, User]:
        """As the file says now; a file that is wrong changes nothing."""
        if self._file is not None:
            try:
                found = os.stat(self._file)
                stamp = (found.st_mtime_ns, found.st_ino)
                if stamp != self._stamp:
                    self._stamp, self._users = stamp, read_users(self._file)
            except (OSError, FatalError):
                return self._users
        return self._users

    def check(self, name: str, password: str) -> bool:
        """Whether it is the password of this user. It takes as long for names that nobody has."""
        known = self.users().get(name)
        return self._passwords.check(None if known is None else known.password, password)

    def begin(self, name: str) -> str:
        """Sign somebody in, whose password was right a moment ago; the text that the browser shows from now on."""
        shown = secrets.token_urlsafe(32)
        now_s = time.monotonic()
        self._sessions = {key: each for key, each in self._sessions.items() if each.until_s > now_s}
        own = [key for key, each in self._sessions.items() if each.user == name]
        for key in own[: max(len(own) - MOST_OF_ONE + 1, 0)]:  # the oldest, and of nobody else
            del self._sessions[key]
        user = self.users()[name]
        self._sessions[_digest(shown)] = Session(name, secrets.token_urlsafe(32), now_s + SESSION_S, user.password)
        return shown

    def end(self, shown: str) -> None:
        self._sessions.pop(_digest(shown), None)

    def visitor(self, shown: str) -> Visitor | None:
        """Who shows this; None if nobody is signed in by it."""
        if self.is_open:
            return EVERYBODY
        session = self._sessions.get(_digest(shown))
        user = None if session is None else self.users().get(session.user)
        if session is None or user is None or time.monotonic() >= session.until_s or user.password != session.password:
            return None
        return Visitor(session.user, user.operate, session.csrf)


def _digest(shown: str) -> str:
    return hashlib.sha256(shown.encode(errors="replace")).hexdigest()
