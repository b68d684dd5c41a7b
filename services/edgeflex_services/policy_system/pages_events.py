"""The page of events as they happen, by server-sent events."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated

import msgspec
from anyio.to_thread import run_sync
from litestar import Controller, Response, get
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.api_events import groups_seen_by, seen_by
from edgeflex_services.policy_system.enforce import AnyRequest, system_of
from edgeflex_services.policy_system.journal import Entry
from edgeflex_services.policy_system.pages_common import TEMPLATES, Visitor, cookie_name, html
from edgeflex_services.policy_system.system import PolicySystem

SHOWN = 100
CHECK_S = 5.0
"""How often it is looked whether a listener is still signed in; it also keeps the connection in use."""
KINDS = ("report", "request", "effect", "change", "sign_in")

Kind = Annotated[str, Parameter(max_length=20)]
Group = Annotated[str, Parameter(max_length=64)]


class EventPages(Controller):
    path = "/events"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def page(
        self,
        request: AnyRequest,
        visitor: Visitor,
        kind: Kind = "",
        group: Group = "",
        before: Annotated[int | None, Parameter(ge=1, le=2**62)] = None,
    ) -> Response[str]:
        """The last events; newer ones come in while the page is open."""
        system = system_of(request)
        system.journal.keep()
        groups = groups_seen_by(visitor.user, group)
        found = system.journal.entries(groups=groups, kind=kind, before=before, limit=SHOWN + 1)
        return html(
            request,
            "events.html",
            visitor,
            entries=[seen_by(system, visitor.user, entry) for entry in found[:SHOWN]],
            newest=found[0].id if found else 0,
            older=found[SHOWN - 1].id if len(found) > SHOWN else None,
            kinds=KINDS,
            groups=[each.name for each in system.accounts.groups() if visitor.user.may("reader", each.name)],
            asked={"kind": kind, "group": group},
            is_live=before is None,
            most=SHOWN,
        )

    @get("/stream")
    async def stream(
        self,
        request: AnyRequest,
        visitor: Visitor,
        after: Annotated[int, Parameter(ge=0, le=2**62)] = 0,
        kind: Kind = "",
        group: Group = "",
    ) -> ServerSentEvent:
        """Rows of the table as they come, from the entry `after` on."""
        shown = request.cookies.get(cookie_name(request), "")
        system = system_of(request)
        rows = _rows(system, visitor.user.name, shown, after, kind, group)
        return ServerSentEvent(rows, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def key_of(entry: Entry) -> str:
    """The same for an entry whether it comes live or was kept: a page shows it once."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(entry, id=0))).hexdigest()[:16]


TEMPLATES.filters["event_key"] = key_of


def shown_to(system: PolicySystem, user: User, entry: Entry, kind: str, group: str) -> Entry | None:
    """What of an entry somebody may see; None: nothing, or it is not asked for.

    A policy that the user may not read is not named.
    """
    if (kind and entry.kind != kind) or (group and entry.group != group) or not user.may("reader", entry.group):
        return None
    return seen_by(system, user, entry)


async def _rows(
    system: PolicySystem, name: str, session: str, after: int, kind: str, group: str
) -> AsyncIterator[ServerSentEventMessage]:
    """Rows for somebody for as long as the session lasts."""
    row = TEMPLATES.get_template("_event.html")
    checked_s = time.monotonic()
    missed = partial(_kept_since, system, name, after, kind, group)
    async with aclosing(_entries(system, missed)) as entries:
        async for entry in entries:
            if time.monotonic() - checked_s >= CHECK_S:
                checked_s = time.monotonic()
                if await run_sync(system.accounts.session, session) is None:
                    return
            user = system.tokens.user(name)
            if user is None:
                return
            if entry is None:
                yield ServerSentEventMessage(data=None, comment="still here")
                continue
            shown = shown_to(system, user, entry, kind, group)
            if shown is not None:
                yield ServerSentEventMessage(event="entry", data=row.render(entry=shown))


async def _entries(system: PolicySystem, missed: Callable[[], list[Entry]]) -> AsyncGenerator[Entry | None, None]:
    """Entries that were missed, then as they come; None every now and then. Some may come twice: they have a key."""
    async with aclosing(system.journal.subscribe()) as live:
        # Listens before it looks up what was missed: an entry may come both ways, but not neither way.
        coming = asyncio.ensure_future(anext(live))
        try:
            await asyncio.sleep(0)
            for entry in await run_sync(missed):
                yield entry
            while True:
                done, _ = await asyncio.wait([coming], timeout=CHECK_S)
                if not done:
                    yield None
                    continue
                try:
                    entry = coming.result()
                except StopAsyncIteration:
                    return
                coming = asyncio.ensure_future(anext(live))
                yield entry
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming


def _kept_since(system: PolicySystem, name: str, after: int, kind: str, group: str) -> list[Entry]:
    """Entries after one that a user asks for and may see, the oldest first; at most as many as a page shows."""
    system.journal.keep()
    user = system.tokens.user(name)
    groups = groups_seen_by(user, group) if user is not None else ()
    return [
        entry for entry in reversed(system.journal.entries(groups=groups, kind=kind, limit=SHOWN)) if entry.id > after
    ]
