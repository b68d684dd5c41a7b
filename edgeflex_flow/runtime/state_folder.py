"""Where a flow's state lives between runs: one folder a flow, held by one process.

The state is replaced as a whole (written beside, made durable, renamed), and the one before is kept: whatever moment a
process is killed at, or the power fails, one of the two is whole. What is damaged is set aside, never read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edgeflex_flow.disk import NEW, lock_file, replace_durably, sync_folder
from edgeflex_flow.errors import FatalError

MAGIC = b"edgeflex state 1\n"
"""The number is the layout's."""
DIGEST_BYTES = 32
STATE, BEFORE, LOCK = "state", "state.before", "lock"
ASIDE = ".aside"
MOST_ASIDE = 5
MOVED = "state.moved"
"""Begins the name of the state as it was when another version took over, which has still to show that it runs. The rest
says whose it is (`StateUse.of`)."""


class StateUse(msgspec.Struct, frozen=True):
    """What a run does with the state that is there."""

    do: Literal["go_on", "anew", "on_trial"] = "go_on"
    """Go on with it; set it aside, since the flow broke down with it; go on, but keep it for the version before."""
    of: str = ""
    """Whose state it is, by a name that no other version ever has: that of the one that runs, or, on trial, of the one
    before. What was kept under that name is put back first; what was kept under others is out of date."""


GO_ON = StateUse()


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one operator, as one stage has it."""

    stage: str
    node: str
    kind: str
    version: int
    """`OperatorNode.state_version`: what the state looks like."""
    settings: dict[str, str]
    """Digests of the operator's settings by key, that a change is seen without their values being kept."""
    pickled: bytes


class FlowState(msgspec.Struct, frozen=True, kw_only=True):
    """The states of a flow's operators between two turns."""

    flow: str
    site: str
    layout: str
    """How the flow's nodes were shared out among stages; a state fits only the same."""
    run: str
    """The run that wrote it."""
    time_ns: int
    """When, UTC nanoseconds since 1970."""
    ended: bool
    """Whether the run had taken all that its sources had, and ended."""
    rows: dict[str, int]
    """Rows and messages that each source had given in that run, of those that do not give again what is lost."""
    nodes: tuple[NodeState, ...]


class DamagedStateError(ValueError):
    """A file does not hold what this program wrote."""


class StateFolder:
    """The folder of one flow. `messages` has what there is to tell about what `load` found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.messages: list[str] = []
        self._lock: int | None = None
        self._use = GO_ON
        self._is_settled = True
        """Whether what is kept for the version before is as `_use` wants it. Nothing may be saved sooner."""

    def open(self, use: StateUse = GO_ON) -> None:
        """Take the folder for this process. Raises FatalError when another has it, OSError when it cannot be used."""
        self._use, self._is_settled = use, False
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._refuse_others_files()
        try:
            self._lock = lock_file(self.folder / LOCK)
        except BlockingIOError:
            raise FatalError(f"'{self.folder}' holds the state of this flow, and another process runs it") from None
        for left in self.folder.glob(f"*{NEW}"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)

    def _refuse_others_files(self) -> None:
        """State is unpickled, and who writes a pickle runs code: nobody else may write here."""
        found = self.folder.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise FatalError(
                f"'{self.folder}' holds state, and others than this user may write it: owner {found.st_uid}, mode "
                f"{found.st_mode & 0o777:o}; own it and take the right away (chmod go-w)"
            )

    def take_up(self) -> FlowState | None:
        """What the run goes on with; None if it begins anew. Raises OSError."""
        self._put_back()
        if self._use.do == "anew":
            self.set_aside("the flow broke down with it again and again")
        found = self.load()  # what is damaged is out of the way after that
        self._settle()
        return found

    @property
    def _moved(self) -> Path:
        return self.folder / f"{MOVED}.{self._use.of}"

    def _put_back(self) -> None:
        """What was kept for the version that is to go on, if another one has been on trial meanwhile. If that one has
        saved nothing, both names are of one file, and both stay until `_settle`."""
        state, before = self._kept()
        moved = self._moved
        if self._use.of and moved.exists():
            before.unlink(missing_ok=True)
            moved.replace(state)
            sync_folder(self.folder)

    def _settle(self) -> None:
        """Keep nothing that is out of date; on trial, keep what the version before would go on with."""
        self._put_back()
        for left in self.folder.glob(f"{MOVED}*"):
            left.unlink(missing_ok=True)
        if self._use.do == "on_trial":
            newest = next((each for each in self._kept() if each.exists()), None)
            if newest is not None:
                self._keep(newest)
        sync_folder(self.folder)
        self._is_settled = True

    def _keep(self, file: Path) -> None:
        try:
            self._moved.hardlink_to(file)
        except OSError:  # there are file systems that know no such links
            replace_durably(self._moved, file.read_bytes())

    def load(self) -> FlowState | None:
        """The newest state that is whole; None if there is none. Raises OSError."""
        for file in self._kept():
            try:
                return _read(file.read_bytes())
            except FileNotFoundError:
                continue
            except DamagedStateError as error:
                self._set_aside(file, f"it is damaged: {error}")
            except OSError as error:
                self._set_aside(file, f"it cannot be read: {error.strerror}")
        return None

    def _kept(self) -> Iterator[Path]:
        yield self.folder / STATE
        yield self.folder / BEFORE

    def set_aside(self, why: str) -> None:
        """Begin anew. Raises OSError."""
        for file in self._kept():
            if file.exists():
                self._set_aside(file, why)

    def _set_aside(self, file: Path, why: str) -> None:
        aside = file.with_name(file.name + ASIDE)
        number = 1
        while aside.exists() and number < MOST_ASIDE:  # what was set aside first may be worth most
            number += 1
            aside = file.with_name(f"{file.name}{ASIDE}.{number}")
        file.replace(aside)
        self.messages.append(f"'{file}' is set aside as '{aside.name}': {why}")

    def save(self, content: bytes) -> None:
        """Return when it is durable. Raises OSError."""
        if not self._is_settled:  # a disk that could not be written then
            self._settle()
        state, before = self._kept()
        replace_durably(state, content, keep=before)

    def forget(self) -> None:
        """There is nothing to go on with. Raises OSError."""
        if not self._is_settled:
            self._settle()
        for file in self._kept():
            file.unlink(missing_ok=True)
        sync_folder(self.folder)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def written(state: FlowState) -> bytes:
    """What a file holds."""
    body = msgspec.msgpack.encode(state)
    return MAGIC + hashlib.sha256(body).digest() + body


def _read(content: bytes) -> FlowState:
    if not content.startswith(MAGIC):
        raise DamagedStateError("it does not begin as a state of this version does")
    digest, body = content[len(MAGIC) : len(MAGIC) + DIGEST_BYTES], content[len(MAGIC) + DIGEST_BYTES :]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedStateError(f"its checksum is wrong, {len(content)} bytes")
    try:
        return msgspec.msgpack.decode(body, type=FlowState)
    except msgspec.DecodeError as error:
        raise DamagedStateError(str(error)) from error
