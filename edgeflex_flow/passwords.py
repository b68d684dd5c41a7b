"""Passwords of people, as they are kept: by argon2id."""

from __future__ import annotations

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 200


class Passwords:
    """Makes what is kept of passwords, and checks them against it. Each takes 19 MB of memory for a moment."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._nobodys_hash = self._hasher.hash(secrets.token_hex())

    def hash(self, password: str) -> str:
        return self._hasher.hash(password)

    def check(self, known: str | None, password: str) -> bool:
        """Whether it is the password. `known`: what is kept of it; None, for a name that nobody has, takes as long."""
        try:
            right = self._hasher.verify(known or self._nobodys_hash, password)
        except (VerificationError, InvalidHashError):
            return False
        return right and known is not None
