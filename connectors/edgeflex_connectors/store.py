"""What a store is: where samples and messages are kept to be read again. Connections of family `store` give one."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_connectors.backoff import Backoff
from edgeflex_flow.errors import FatalError, FieldError
from edgeflex_flow.messages import FrequencyEvent, Message, Samples, encode_message, message_time_ns
from edgeflex_flow.node import Context, NodeConfig, Probe, quantity

HOUR_NS = 3_600_000_000_000

MOST_NAME_BYTES = 512
"""Of the name of a device or column, or the type or id of a message: PostgreSQL's indexes take keys of 2,704 bytes, and
type and id are one."""


def name_refusal(what: str, name: str) -> str | None:
    """Why not every store can hold a name; None if it can.

    >>> name_refusal("device", "G1")
    >>> name_refusal("device", 600 * "x")
    "device 'xxxxxxxxxxxxxxxxxxxx…' has 600 bytes, at most 512 can be stored"
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return f"{what} {name[:20]!r} holds half of a character"
    if size <= MOST_NAME_BYTES:
        return None
    return f"{what} '{name[:20]}…' has {size} bytes, at most {MOST_NAME_BYTES} can be stored"


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as stores keep it. Type and id together are its key: written twice it is kept once."""

    type: str
    id: str
    time_ns: int | None
    device: str | None
    body: bytes
    """The message as JSON."""


def stored_message(message: Message) -> StoredMessage:
    """A message with the key that it always has.

    A frequency event is known by its id and state, any other message by what it says.

    >>> from edgeflex_flow.messages import Alarm
    >>> stored_message(Alarm(source="n", severity="info", text="x", time_ns=1)).id
    'ff840db0b1c22454a73eddc9f2a5c6f9'
    """
    body = encode_message(message)
    if isinstance(message, FrequencyEvent):
        key = f"{message.id} {message.state}"
    else:
        key = hashlib.sha256(body).hexdigest()[:32]
    return StoredMessage(
        type=str(message.__struct_config__.tag),
        id=key,
        time_ns=message_time_ns(message),
        device=getattr(message, "device", None),
        body=body,
    )


EARLIEST_NS, LATEST_NS = -(2**63), 2**63 - 1
MOST_VALUES = 60_000_000
"""Bound on the values of one reading, some 2 GB while they are read."""

How: TypeAlias = Literal["mean", "min", "max"]
Age: TypeAlias = Annotated[float, Meta(ge=3600)]


class Downsampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule by which a store keeps one value for each interval."""

    every: Annotated[
        float, quantity("s", "Length of an interval, of which an hour holds a whole number.", gt=0, le=3600)
    ]
    keep: Annotated[Age | None, quantity("s", "How long its values are kept, at least 1 h; for ever if not given.")] = (
        None
    )
    how: Annotated[
        How, Meta(description="What is kept of an interval. The mean of an angle is that of its direction.")
    ] = "mean"

    @property
    def series(self) -> Series:
        return Series(round(self.every * 1e9), self.how)


class Series(NamedTuple):
    """The values that a down-sampling rule makes."""

    every_ns: int
    how: How


class StoreConfig(NodeConfig, frozen=True, kw_only=True):
    """What the configs of all stores have in common."""

    keep: Annotated[
        Age | None, quantity("s", "How long samples are kept, at least 1 h; whole hours go; for ever if not given.")
    ] = None
    keep_messages: Annotated[
        Age | None, quantity("s", "How long messages are kept, at least 1 h; for ever if not given.")
    ] = None
    downsample: Annotated[
        tuple[Downsampling, ...], Meta(description="Rules that keep one value for each interval, beside the samples.")
    ] = ()

    @property
    def hurries(self) -> bool:
        """Whether a transaction may be made for each message for which somebody waits."""
        return True

    @property
    def needs_upkeep(self) -> bool:
        """Whether anything is to be done beside writing."""
        return bool(self.downsample) or self.keep is not None or self.keep_messages is not None

    def refusals(self) -> Iterator[FieldError]:
        for place, rule in enumerate(self.downsample):
            if rule.series.every_ns == 0 or HOUR_NS % rule.series.every_ns:
                text = "`every`: an hour must hold a whole number of intervals"
                yield FieldError(text, f"downsample[{place}]", got=f"{rule.every:g} s")
        names = [rule.series for rule in self.downsample]
        if len(set(names)) != len(names):
            yield FieldError("`downsample` holds two rules with the same `every` and `how`", "downsample")


class WindowTooLargeError(FatalError):
    """More values in a time window than can be read at once."""


class NoStoreError(FatalError):
    """There is nothing to read yet: what writes first makes the store."""


class Refused:
    """What a store could not hold of one write. It counts once the rest is written: a write that failed comes again."""

    def __init__(self) -> None:
        self.rows = 0
        """Those of which no value is kept."""
        self.values = 0
        self.messages = 0
        self.reasons: list[tuple[int, str]] = []
        """How many things were refused, and why."""

    def add_values(self, count: int, why: str) -> None:
        self.values += count
        self.reasons.append((count, why))

    def add_message(self, why: str) -> None:
        self.messages += 1
        self.reasons.append((1, why))


class NotStorable:
    """Counts under `not_storable` what a store cannot hold, and says so in the log at growing intervals.

    It makes no dead letters: one that is kept in the same store might be refused for what it tells of, without end.
    """

    def __init__(self, store: str, context: Context) -> None:
        self._store = store
        self._context = context
        self._lines = Backoff(1.0, 1.0)

    def add(self, count: int, why: str) -> None:
        self._context.counters.add("not_storable", count)
        if self._lines.failed():
            self._context.log.warning("%s: %d cannot be stored: %s", self._store, count, why)

    def tell(self, refused: Refused) -> None:
        """Of a write that is through."""
        for count, why in refused.reasons:
            self.add(count, why)


class NewerStoreError(FatalError):
    """A store that a newer version of this program wrote."""

    def __init__(self, name: str, version: int, known: int) -> None:
        super().__init__(
            f"{name}: written by a newer version of this program: its schema is {version}, known: up to {known}"
        )


class Span(NamedTuple):
    """Earliest and latest time of something."""

    first_ns: int
    last_ns: int


class Store(Protocol):
    """A store that one thread uses. RetryableError: nothing was written, try again. FatalError: trying cannot help.

    Where `series` is None the samples are meant as they were written, else what a down-sampling rule made of them.
    Reading makes and changes nothing, and needs no `open`.
    """

    def open(self) -> None:
        """Connect, create what is missing, check the version of what is there and bring it up to the present one."""

    def write(self, samples: Sequence[Samples], messages: Sequence[StoredMessage]) -> Refused:
        """Write all or nothing, but for what the store cannot hold. Rows with the same device, time and column as a row
        that is there replace it, and so do messages with the same key, so that writing again changes nothing."""
        ...

    def sync(self) -> None:
        """Return when everything written survives a power failure."""

    def read(
        self,
        columns: Sequence[str] | None = None,
        begin_ns: int = EARLIEST_NS,
        end_ns: int = LATEST_NS,
        devices: Sequence[str] | None = None,
        *,
        series: Series | None = None,
        most_values: int = MOST_VALUES,
    ) -> Samples:
        """What is stored of the time begin_ns <= t < end_ns, in order of time and device, bit for bit.

        All columns and devices unless they are named; a column that is not stored is NaN. Flags of one device and time
        are joined. Raises WindowTooLargeError when there are more than `most_values` in that time."""
        ...

    def read_messages(self, types: Sequence[str], begin_ns: int, end_ns: int) -> list[StoredMessage]:
        """Messages of these types that are about this time, in order of time."""
        ...

    def span(
        self, begin_ns: int = EARLIEST_NS, end_ns: int = LATEST_NS, *, series: Series | None = None
    ) -> Span | None:
        """Times of the first and last value in begin_ns <= t < end_ns; None when there is none."""
        ...

    def last_message_ns(self, end_ns: int = LATEST_NS) -> int | None:
        """The time of the newest message before this one; None when none has a time."""
        ...

    def made_until(self, series: Series) -> int | None:
        """The time up to which this series has been made; None when it never was."""
        ...

    def write_series(self, series: Series, values: Sequence[Samples], until_ns: int) -> None:
        """Keep what was made of the samples, and up to what time it was, which never goes back."""

    def delete(self, what: Series | Literal["samples", "messages"], before_ns: int) -> int:
        """Delete what is older; how many rows that were, as far as the store tells. Of very much it deletes a part,
        so that nobody waits long for it; the next call goes on."""
        ...

    def tidy(self) -> None:
        """What a store of this kind needs done now and then."""

    def close(self) -> None: ...


def probe_store(store: Store, certificate_until_s: float | None = None) -> Probe:
    """Ask a store from when to when it has samples."""
    began_s = time.monotonic()
    try:
        span = store.span()
        peer = "no samples yet"
        if span is not None:
            peer = f"samples until {datetime.fromtimestamp(span.last_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except NoStoreError:
        peer = "no store yet: the first flow that writes makes it"
    finally:
        store.close()
    return Probe(time.monotonic() - began_s, peer, certificate_until_s)


def check_folder(file: Path) -> None:
    """FatalError unless a file, or a folder, can be made or written there."""
    folder = file.absolute().parent
    if not folder.exists() and not folder.parent.is_dir():
        raise FatalError(f"{file}: there is no folder '{folder.parent}'")
    there = next(each for each in (file, folder, folder.parent) if each.exists())
    if not os.access(there, os.W_OK):
        raise FatalError(f"{file}: '{there}' cannot be written")
