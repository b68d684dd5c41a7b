"""What a policy system said last, on disk: each reader has a file of its own in a folder that many share.

A file is replaced as a whole (written beside it, made durable, renamed), so that a program that is killed while it
writes leaves the one before.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeflex_flow.disk import sync_folder
from edgeflex_flow.messages import Policy

LAYOUT = 1
NEW = ".new"
CORRUPT = ".corrupt"
LEFT_BEHIND_S = 60.0
"""A file that was being written so long ago is what a killed program left."""


class KeptPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy system said last to one reader."""

    url: str
    group: str
    asked: tuple[str, ...]
    """Ids of the policies that were asked for; none: all of the group."""
    policies: tuple[Policy, ...]
    etag: str
    contact_ns: int
    """Time of the last contact with the policy system, UTC nanoseconds since 1970."""
    age_s: float
    """How long before this was written that was, by a clock that does not jump."""


class _File(msgspec.Struct, frozen=True):
    layout: int
    sha256: str
    """Of `kept`, as it stands."""
    kept: msgspec.Raw


class CorruptKeepError(ValueError):
    """A file does not hold what this program wrote."""


class PolicyKeep:
    """The file of one reader, `SITE.FLOW.json` or `SITE.FLOW.NODE.json`. All methods raise OSError."""

    def __init__(self, folder: Path, reader: tuple[str, ...]) -> None:
        self.file = folder / f"{'.'.join(reader)}.json"

    def load(self) -> KeptPolicies | None:
        """What is kept; None if nothing is. Raises CorruptKeepError after setting aside a file that is damaged."""
        self._clean_up()
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _read(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            aside = self.file.with_name(self.file.name + CORRUPT)
            self.file.replace(aside)
            raise CorruptKeepError(f"'{self.file}' is damaged ({error}); set aside as '{aside.name}'") from error

    def save(self, kept: KeptPolicies) -> None:
        """Return when it is durable."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        raw = msgspec.json.encode(kept)
        content = msgspec.json.encode(_File(LAYOUT, hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw)))
        # A name of its own: two runs of a flow may write at once, and each rename must put a whole file in place.
        new = self.file.with_name(f"{self.file.name}.{os.getpid()}{NEW}")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.file)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        sync_folder(self.file.parent)

    def _clean_up(self) -> None:
        """Remove what killed programs left of this reader's file."""
        for left in self.file.parent.glob(f"{self.file.name}.*{NEW}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_BEHIND_S:
                    left.unlink()


def _read(content: bytes) -> KeptPolicies:
    found = msgspec.json.decode(content, type=_File)
    if found.layout != LAYOUT:
        raise CorruptKeepError(f"its layout is {found.layout}, not {LAYOUT}")
    if hashlib.sha256(found.kept).hexdigest() != found.sha256:
        raise CorruptKeepError("its checksum is wrong")
    return msgspec.json.decode(found.kept, type=KeptPolicies)
