"""What is known of an edited flow that runs, or has run, beside the running one: a file beside that one's.

`edgeflex promote` and `edgeflex discard` read it, and take it away; the shadow ends when it is gone.
"""

from __future__ import annotations

import hashlib
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
    began_ns: int
    """When the shadow began, UTC nanoseconds."""
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


def is_there(running: Path) -> bool:
    return place_of(running).exists()


def take_away(running: Path) -> None:
    place_of(running).unlink(missing_ok=True)


def in_words(told: Shadowed) -> str:
    """For people.

    >>> in_words(Shadowed(new="n", new_content="", running_content="", site="s", began_ns=0, seconds=60.0, compared=9))
    'in 60 s nothing of 9 deviates'
    """
    if not told.compared:
        return f"in {told.seconds:.0f} s nothing could be compared"
    if not told.deviating:
        return f"in {told.seconds:.0f} s nothing of {told.compared:,} deviates"
    return f"in {told.seconds:.0f} s {told.deviating:,} of {told.compared:,} deviate"
