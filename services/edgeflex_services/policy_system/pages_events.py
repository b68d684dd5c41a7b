"""The page of events as they happen, by server-sent events."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, NamedTuple
from urllib.parse import urlencode

import msgspec
from anyio.to_thread import run_sync
from litestar import Controller, Response, get
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from edgeflex_flow.web_pages import cookie_name
from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.api_events import seen_by
from edgeflex_services.policy_system.enforce import AnyRequest, system_of
from edgeflex_services.policy_system.journal import Entry
from edgeflex_services.policy_system.pages_common import COOKIE, TEMPLATES, Visitor, html
from edgeflex_services.policy_system.queries import (
    DECISIONS,
    Wanted,
    decision_of,
    did_something,
    newest_entries,
    newest_entry,
)
from edgeflex_services.policy_system.system import PolicySystem

SHOWN = 100
LOOKED_THROUGH = 2000
"""The newest so many entries are looked through for rows to show."""
CHECK_S = 5.0
"""How often it is looked whether a listener is still signed in; it also keeps the connection in use."""
KINDS = ("report", "request", "effect", "change", "sign_in")
BY_RULES = ("report", "request")

Short = Annotated[str, Parameter(max_length=64)]
Policy = Annotated[str, Parameter(max_length=140)]


class Row(NamedTuple):
    """Entries that are alike, as one row shows them."""

    entry: Entry
    """The newest of them."""
    key: str
    """The same for all that are alike."""
    times: int = 1


class Kept(NamedTuple):
    """What a page shows when it is loaded."""

    rows: list[Row]
    older: int | None
    """The id before which older entries are; None: there are none."""
    waiting: list[str]
    """Keys of entries in the rows that are not written down yet, and come again by the stream once they are."""


def provide_wanted(
    kind: Short = "", group: Short = "", user: Short = "", policy: Policy = "", decision: Short = ""
) -> Wanted:
    """What the query asks for."""
    return Wanted(kind, group, user.strip(), policy.strip().strip("/"), decision)


class EventPages(Controller):
    path = "/events"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def page(
        self,
        request: AnyRequest,
        visitor: Visitor,
        wanted: Wanted,
        each: bool = False,
        before: Annotated[int | None, Parameter(ge=1, le=2**62)] = None,
    ) -> Response[str]:
        """The last events; newer ones come in while the page is open. What is alike shares a row unless `each`."""
        system = system_of(request)
        newest = newest_entry(system.repository)
        kept = _rows_kept(system, visitor.user, wanted, before, each=each)
        return html(
            request,
            "events.html",
            visitor,
            **kept._asdict(),
            newest=newest,
            kinds=KINDS,
            decisions=DECISIONS,
            groups=[name.name for name in system.accounts.groups() if visitor.user.may("reader", name.name)],
            asked=wanted,
            each=each,
            is_live=before is None,
            most=SHOWN,
        )

    @get("/stream")
    async def stream(
        self,
        request: AnyRequest,
        visitor: Visitor,
        wanted: Wanted,
        after: Annotated[int, Parameter(ge=0, le=2**62)] = 0,
        each: bool = False,
    ) -> ServerSentEvent:
        """Rows of the table as they come, one for each entry from `after` on."""
        shown = request.cookies.get(cookie_name(request, COOKIE), "")
        rows = _rows_live(system_of(request), visitor.user.name, shown, after, wanted, each=each)
        return ServerSentEvent(rows, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def key_of(entry: Entry) -> str:
    """The same for an entry whether it comes live or was kept: a page shows it once."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(entry, id=0))).hexdigest()[:16]


def alike(entry: Entry) -> str:
    """The same for entries that say the same again: who, what, and what policies made of it.

    What people did and what flows tell is the same only if it was the same thing.
    """
    did = entry.did if entry.kind in ("change", "effect") else ""
    told = (entry.kind, entry.group, entry.user, entry.policy, entry.action, entry.rule, decision_of(entry), did)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def events_path(wanted: Wanted, **more: object) -> str:
    """The address of the page of these events.

    >>> events_path(Wanted(policy="south/bounds"), each=True)
    '/events?policy=south%2Fbounds&each=true'
    """
    query = _query(wanted, more)
    return f"/events?{query}" if query else "/events"


def stream_path(wanted: Wanted, **more: object) -> str:
    return f"/events/stream?{_query(wanted, more)}"


def _query(wanted: Wanted, more: Mapping[str, object]) -> str:
    told = {name: str(value).lower() for name, value in more.items() if value is not False and value is not None}
    return urlencode({name: text for name, text in wanted._asdict().items() if text} | told)


def wanted_of(entry: Entry) -> Wanted:
    """What finds an entry and those that are alike."""
    return Wanted(entry.kind, entry.group, entry.user, entry.policy, decision_of(entry))


TEMPLATES.filters |= {"event_key": key_of, "decision": decision_of}
TEMPLATES.globals |= {
    "events_path": events_path,
    "stream_path": stream_path,
    "wanted_of": wanted_of,
}


def rows_of(entries: Iterable[Entry], *, each: bool = False) -> list[Row]:
    """Entries, the newest first, in rows: those that are alike share one, at the place of the newest."""
    rows: dict[str, Row] = {}
    for entry in entries:
        key = key_of(entry) if each else alike(entry)
        known = rows.get(key)
        rows[key] = Row(entry, key) if known is None else known._replace(times=known.times + 1)
    return list(rows.values())


def rows_of_policy(system: PolicySystem, user: User, policy: str, most: int) -> list[Row]:
    """What the rules of a policy did lately: services started, data returned, access revoked."""
    wanted = Wanted(policy=policy)
    kept = newest_entries(system.journal, wanted, user, did_something(), limit=LOOKED_THROUGH)
    shown = (shown_to(system, user, entry, wanted) for entry in kept if entry.kind in BY_RULES and entry.did)
    return rows_of(entry for entry in shown if entry is not None)[:most]


def _rows_kept(system: PolicySystem, user: User, wanted: Wanted, before: int | None, *, each: bool) -> Kept:
    kept = newest_entries(system.journal, wanted, user, before=before, limit=LOOKED_THROUGH)
    shown = [seen for entry in kept if (seen := shown_to(system, user, entry, wanted)) is not None]
    rows = rows_of(shown, each=each)
    older = (kept[-1].id or None) if len(kept) == LOOKED_THROUGH else None
    if len(rows) > SHOWN:
        # What belongs to the rows that find no place stands on the next page, with all that is older.
        first = rows[SHOWN].entry.id
        shown = [entry for entry in shown if entry.id == 0 or entry.id > first]
        rows, older = rows_of(shown, each=each)[:SHOWN], first + 1 if first else None
    return Kept(rows, older, [key_of(entry) for entry in shown if entry.id == 0])


def shown_to(system: PolicySystem, user: User, entry: Entry, wanted: Wanted) -> Entry | None:
    """What of an entry somebody may see; None: nothing, or it is not asked for.

    A policy that the user may not read is not named, and finds nothing.
    """
    if not wanted.fits(entry) or not user.may("reader", entry.group):
        return None
    seen = seen_by(system, user, entry)
    return seen if wanted.fits(seen) else None


async def _rows_live(
    system: PolicySystem, name: str, session: str, after: int, wanted: Wanted, *, each: bool
) -> AsyncIterator[ServerSentEventMessage]:
    """Rows for somebody for as long as the session lasts."""
    template = TEMPLATES.get_template("_event.html")
    checked_s = time.monotonic()
    missed = partial(_kept_since, system, name, after, wanted)
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
            shown = shown_to(system, user, entry, wanted)
            if shown is not None:
                [row] = rows_of([shown], each=each)
                text = template.render(row=row)
                yield ServerSentEventMessage(event="entry", data=text)


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


def _kept_since(system: PolicySystem, name: str, after: int, wanted: Wanted) -> list[Entry]:
    """Entries after one that a user asks for and may see, the oldest first; at most as many as a page shows."""
    user = system.tokens.user(name)
    if user is None:
        return []
    kept = newest_entries(system.journal, wanted, user, limit=SHOWN)
    return [entry for entry in reversed(kept) if entry.id == 0 or entry.id > after]
