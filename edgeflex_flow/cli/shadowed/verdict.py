"""What is known of an edited flow that runs, or has run, beside the running one: a file beside that one's.

`edgeflex promote` and `edgeflex discard` read it, and take it away; the shadow ends when it is gone.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import msgspec

from edgeflex_flow.disk import replace_durably
from edgeflex_flow.errors import EdgeflexError


class NoShadowError(EdgeflexError):
    """There is no shadow of that flow beside that one."""


class Shadowed(msgspec.Struct, frozen=True, kw_only=True):
    """An edited flow beside a running one."""

    new: str
    """The edited file, absolute."""
    new_content: str
    running_content: str
    """SHA-256 of what both files said."""
    site: str
    revision: str
    """Digest of the edited flow in the place of the running one."""
    began_ns: int
    """When the shadow began, UTC nanoseconds."""
    host: str
    pid: int
    """Whose shadow it is."""
    seconds: float = 0.0
    """How long it has compared, the time to settle left out."""
    compared: int = 0
    deviating: int = 0
    """Of those."""
    agrees: float | None = None
    """Share in which what the running flow gave was what is computed of it here; None if it gave nothing."""
    ended: bool = False


def content_of(file: Path) -> str:
    """Digest of a file's content. Raises OSError."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def place_of(running: Path) -> Path:
    return running.absolute().with_name(f".{running.name}.shadow")


def write(running: Path, told: Shadowed) -> None:
    """Raises OSError."""
    replace_durably(place_of(running), msgspec.json.encode(told))


def read(new: Path, running: Path) -> Shadowed:
    """What is known of this edited file beside that running one. Raises NoShadowError, OSError."""
    try:
        told = msgspec.json.decode(place_of(running).read_bytes(), type=Shadowed)
    except FileNotFoundError:
        raise NoShadowError(
            f"{new} has not run beside {running}: `edgeflex shadow {new} --beside {running}` first"
        ) from None
    except msgspec.MsgspecError as error:
        raise NoShadowError(f"{place_of(running)}: {error}") from error
    if Path(told.new) != new.absolute():
        raise NoShadowError(f"what runs beside {running} is {told.new}, not {new}")
    return told


def is_ours(running: Path, told: Shadowed) -> bool:
    """Whether nobody has promoted or discarded it, or begun another one."""
    there = _there(running)
    return there is not None and (there.host, there.pid, there.began_ns) == (told.host, told.pid, told.began_ns)


def refuse_twin(running: Path) -> None:
    """Raises NoShadowError if a shadow runs beside that flow already, OSError."""
    there = _there(running)
    if there is None or there.ended:
        return
    if there.host == socket.gethostname() and _is_alive(there.pid):
        raise NoShadowError(f"{there.new} runs beside {running} already, in process {there.pid}")


def _there(running: Path) -> Shadowed | None:
    """What stands beside a flow, if it can be read. Raises OSError."""
    try:
        return msgspec.json.decode(place_of(running).read_bytes(), type=Shadowed)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def take_away(running: Path) -> None:
    place_of(running).unlink(missing_ok=True)


def in_words(told: Shadowed) -> str:
    """For people.

    >>> texts = dict.fromkeys(("new", "new_content", "running_content", "site", "revision", "host"), "")
    >>> told = {**texts, "began_ns": 0, "pid": 1}
    >>> in_words(Shadowed(seconds=60.0, compared=9, **told))
    'in 60 s nothing of 9 deviates'
    """
    if not told.compared:
        return f"in {told.seconds:.0f} s nothing could be compared"
    if not told.deviating:
        return f"in {told.seconds:.0f} s nothing of {told.compared:,} deviates"
    return f"in {told.seconds:.0f} s {told.deviating:,} of {told.compared:,} deviate"
