"""What pages ask for beside themselves: one stream a viewer, pictures, dead letters, and what operators do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get, post
from litestar.exceptions import HTTPException
from litestar.params import PathParameter
from litestar.response import Stream

from edgeflex_flow.studio import LOG
from edgeflex_flow.studio.pages import AnyRequest, InPath, InQuery, operator, reader, visitor_of
from edgeflex_flow.studio.state import studio_of
from edgeflex_flow.supervisor.studio_channel import Answered

MOST_VIEWERS = 200
MOST_OF_ONE = 40
"""Streams of one person: one of each open page."""
FIRST_ENTRIES = 500
AT_ONCE = 200
"""Entries that one update holds at most: the newest."""
STALE_S = 4.0
"""Without a status for so long, viewers are told that what they see is old."""
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@get("/live", sync_to_thread=False)
def live(request: AnyRequest, flow: InQuery = "", node: InQuery = "", what: InQuery = "") -> Stream:
    """Server-sent events, one each second: the site, and of one flow its rates and what flows on a wire.

    `what`: words of `entries` and `letters`.
    """
    visitor = reader(request)
    studio = studio_of(request)
    if studio.viewers.total() >= MOST_VIEWERS:
        raise HTTPException("too many look already", status_code=503)
    if visitor.name and studio.viewers[visitor.name] >= MOST_OF_ONE:
        raise HTTPException(f"{visitor.name} looks at {MOST_OF_ONE} pages already; close some", status_code=503)
    told = _updates(request, visitor.name, flow, node, frozenset(what.split(",")))
    return Stream(told, media_type="text/event-stream", headers=SSE_HEADERS)


async def _updates(request: AnyRequest, who: str, flow: str, node: str, what: frozenset[str]) -> AsyncIterator[bytes]:
    """Updates for as long as somebody is signed in. While one is not read, no other is made."""
    studio = studio_of(request)
    model = studio.model
    studio.viewers[who] += 1
    if flow and node:
        model.watch(flow, node)
    seen = model.last
    last = 0
    try:
        while not studio.is_ending and visitor_of(request) is not None:
            parts = [b'"site":' + model.site_json()]
            if flow:
                parts.append(b'"flow":' + model.flow_json(flow))
            if flow and node:
                parts.append(b'"seen":' + msgspec.json.encode(model.seen(flow, node, seen)))
            most = AT_ONCE if last else FIRST_ENTRIES
            if "entries" in what:
                parts.append(b'"entries":' + msgspec.json.encode(model.entries_since(last)[-most:]))
            if "letters" in what:
                kept = [{"flow": each.flow, **msgspec.structs.asdict(each.head)} for each in model.letters_since(last)]
                parts.append(b'"letters":' + msgspec.json.encode(kept[-most:]))
            last = seen = model.last
            yield b"data:{" + b",".join(parts) + b"}\n\n"
            try:
                await asyncio.wait_for(model.beat.wait(), STALE_S)
            except TimeoutError:
                yield b"event:stale\ndata:{}\n\n"
                await model.beat.wait()
    finally:
        studio.viewers[who] -= 1
        if flow and node:
            model.unwatch(flow, node)


@get("/api/flows/{name:str}/picture", sync_to_thread=False)
def picture(request: AnyRequest, name: InPath) -> Response[bytes]:
    """The picture of a flow, as the version draws it that runs."""
    reader(request)
    found = studio_of(request).model.pictures.get(name)
    if found is None:
        raise HTTPException(f"there is no flow '{name}'", status_code=404)
    body = msgspec.json.encode({"digest": found[0], **msgspec.to_builtins(found[1])})
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


Letter = Annotated[int, PathParameter(ge=0, le=2**53)]


@get("/api/letters/{flow:str}/{letter:int}")
async def payload(request: AnyRequest, flow: InPath, letter: Letter) -> Response[bytes]:
    """The payload of a dead letter, as text and in hexadecimal digits."""
    visitor = reader(request)
    answer = await studio_of(request).link.letter("payload", flow, letter, visitor.name)
    body = answer.payload
    told = {"done": answer.is_done, "text": answer.text, "as_text": _as_text(body), "as_hex": body.hex(" ")}
    return Response(msgspec.json.encode(told), media_type="application/json", headers={"Cache-Control": "no-store"})


@post("/api/letters/{flow:str}/{letter:int}/replay", status_code=200)
async def replay(request: AnyRequest, flow: InPath, letter: Letter) -> dict[str, Any]:
    """Give a dead letter to its node once more. Needs the right to operate."""
    visitor = await operator(request)
    LOG.info("%s replays dead letter %d of flow '%s'", visitor.name, letter, flow)
    return _told(await studio_of(request).link.letter("replay", flow, letter, visitor.name))


@post("/api/flows/{name:str}/{do:str}", status_code=200)
async def operate(request: AnyRequest, name: InPath, do: InPath) -> dict[str, Any]:
    """Restart, stop or start a flow. Needs the right to operate."""
    visitor = await operator(request)
    wanted = _WISHES.get(do)
    if wanted is None:
        raise HTTPException("a flow can be told to restart, stop or start", status_code=404)
    LOG.info("%s: %s flow '%s'", visitor.name, do, name)
    return _told(await studio_of(request).link.wish(wanted, name, visitor.name))


_WISHES: dict[str, Literal["restart", "stop", "start"]] = {"restart": "restart", "stop": "stop", "start": "start"}


@get("/health/live", sync_to_thread=False)
def health() -> dict[str, str]:
    return {"status": "live"}


def _told(answer: Answered) -> dict[str, Any]:
    return {"done": answer.is_done, "text": answer.text}


def _as_text(body: bytes) -> str:
    """What can be read of it; other bytes as a dot."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    return "".join(each if each.isprintable() or each in "\n\t" else "·" for each in text)
