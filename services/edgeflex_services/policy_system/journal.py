"""What happened, for people: told as it happens, and kept."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, select

from edgeflex_flow.messages import TimeNs
from edgeflex_services.policy_system.repository import Effect, NewestRows, Noted, Repository
from edgeflex_services.policy_system.tables import events

MOST_PENDING = 10_000
MOST_FOR_ONE = 500
"""Entries that wait for a listener who is slow; the oldest go first."""
OF_POLICIES = ("save_policy", "withdraw_policy", "set_grants")
OF_GROUPS = ("put_group", "set_role")
MEMBER = ":"
"""Between group and user in what a membership is noted as: no policy can be called so."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened and what the policies made of it."""

    time_ns: TimeNs
    kind: Literal["report", "request", "effect", "change", "sign_in"]
    """Reported to the event service, asked of it, told by a flow, done by somebody, or a sign-in in vain."""
    group: str
    user: str
    source: str
    """Such as `rest`, or the topic of the databus."""
    asset: str = ""
    action: str = ""
    values: dict[str, float] = {}
    policy: str = ""
    version: int = 0
    rule: str = ""
    effect: Literal["permit", "deny", "act", "none"] = "none"
    why: str = ""
    did: str = ""
    """What was done, or could not be."""
    id: int = 0
    """Counts entries that are kept; 0: not yet."""


def entry_of(user: str, effect: Effect) -> Entry:
    """What a flow told of a policy's effect, as something that happened."""
    return Entry(
        time_ns=effect.time_ns,
        kind="effect",
        group=effect.policy_group,
        user=user,
        source="rest",
        action="followed" if effect.refused is None else "refused",
        policy=f"{effect.policy_group}/{effect.policy_id}",
        version=effect.version,
        why=effect.refused or "",
        did=f"{effect.site}, {effect.flow}: {effect.node}.{effect.setting} {effect.before} → {effect.after}",
    )


class Journal:
    """Tells entries to all who listen, and writes them down a little later. Any thread may add."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._has_ended = False
        self._pending: deque[Entry] = deque()
        self._listeners: set[Callable[[Entry | None], None]] = set()
        self._rows = NewestRows(events)
        self.lost = 0
        """Entries that were told, but not written down: too many at once."""

    def add(self, entry: Entry) -> None:
        with self._lock:
            if len(self._pending) < MOST_PENDING:
                self._pending.append(entry)
            else:
                self.lost += 1
            listeners = tuple(self._listeners)
        for tell in listeners:
            tell(entry)

    def counts(self) -> dict[str, int]:
        """How many entries are not written down yet, and how many never will be."""
        with self._lock:
            return {"waiting": len(self._pending), "lost": self.lost}

    def waiting(self) -> list[Entry]:
        """What is not written down yet, the newest first. Look here before `entries`: what is missing here is there."""
        with self._lock:
            return list(reversed(self._pending))

    def end(self) -> None:
        """Tell all who listen that nothing more comes."""
        with self._lock:
            self._has_ended = True
            listeners = tuple(self._listeners)
        for tell in listeners:
            tell(None)

    def keep(self) -> None:
        """Write down what was added since the last call, and forget the oldest if there are too many."""
        with self._keeping:
            with self._lock:
                pending = tuple(self._pending)
            if pending:
                self._write_down(pending)
            with self._lock:
                for _ in pending:
                    self._pending.popleft()

    def _write_down(self, pending: Iterable[Entry]) -> None:
        rows = [
            {
                "time_ns": entry.time_ns,
                "group": entry.group,
                "kind": entry.kind,
                "entry": msgspec.json.encode(entry).decode(),
            }
            for entry in pending
        ]
        with self._repository.writing() as connection:
            self._rows.add(connection, rows)

    def entries(self, *conditions: ColumnElement[bool], before: int | None = None, limit: int = 100) -> list[Entry]:
        """The newest entries that are kept and meet the conditions; `before`: only those with a smaller id."""
        query = select(events).where(*conditions).order_by(events.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(events.c.id < before)
        with self._repository.reading() as connection:
            rows = connection.execute(query).all()
        return [msgspec.structs.replace(msgspec.json.decode(row.entry, type=Entry), id=row.id) for row in rows]

    def add_change(self, noted: Noted) -> None:
        """Tell of something that was done with policies or accounts."""
        group, _, rest = noted.object.partition("/" if noted.action in OF_POLICIES else MEMBER)
        is_of_group = noted.action in (*OF_POLICIES, *OF_GROUPS)
        told = {name: value for name, value in noted.detail.items() if value not in ("", None, []) and name != "digest"}
        self.add(
            Entry(
                time_ns=noted.time_ns,
                kind="change",
                group=group if is_of_group else "",
                user=noted.actor,
                source="policy system",
                action=noted.action,
                policy=noted.object if noted.action in OF_POLICIES else "",
                version=int(noted.detail.get("version", 0)),
                did=", ".join([rest if is_of_group else noted.object, *(f"{name} {told[name]}" for name in told)]),
            )
        )

    async def subscribe(self) -> AsyncGenerator[Entry, None]:
        """Entries as they happen, until the iterator is closed or the journal ends.

        The oldest are dropped for one who reads too slowly.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Entry | None] = asyncio.Queue(MOST_FOR_ONE)

        def put(entry: Entry | None) -> None:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(entry)

        def tell(entry: Entry | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the service ends
                loop.call_soon_threadsafe(put, entry)

        with self._lock:
            if self._has_ended:
                return
            self._listeners.add(tell)
        try:
            while (entry := await queue.get()) is not None:
                yield entry
        finally:
            with self._lock:
                self._listeners.discard(tell)
