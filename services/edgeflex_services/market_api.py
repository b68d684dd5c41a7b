"""REST interface of the market: offers in every dialect, the demand, and how the market is to behave."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
from litestar import Controller, Litestar, Request, Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_304_NOT_MODIFIED,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_503_SERVICE_UNAVAILABLE,
)
from msgspec import Meta

from edgeflex_connectors.payload_formats.flexoffer import (
    Dialect,
    FlexOfferFormat,
    decode_offers,
    encode_offers,
    encode_sayable_offers,
)
from edgeflex_flow import __version__
from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import FlexOffer
from edgeflex_flow.web import PROBLEMS, BodyGuard, is_known, problem
from edgeflex_services.api_page import OperationsPage
from edgeflex_services.market_book import LONGEST_NAME, Behaviour, FullError, MarketBook, OfferConflictError
from edgeflex_services.market_demand import Demand, OfferKey
from edgeflex_services.market_store import StoreError

OPERATOR: Final = "operator"
"""The client who may set demand and behaviour, and sees all offers."""
JSON: Final = "application/json"
MOST_AT_ONCE: Final = 1000
"""Offers in a request: others wait while they are looked at."""
LONGEST_BUSY_S: Final = 0.5
BUSY_PERIOD_S: Final = 0.02
"""How long, and how often, a change is tried while another program holds the file."""
BUSY_RETRY_S: Final = 1
FULL_RETRY_S: Final = 60
LOG = logging.getLogger("edgeflex.market")

_T = TypeVar("_T")
AnyRequest = Request[Any, Any, Any]
_DialectName = Annotated[Dialect, PathParameter(description="How offers are written.")]
_ThisId = Annotated[str, QueryParameter(name="id", max_length=LONGEST_NAME, description="Which one.")]
_OwnerName = Annotated[
    str | None,
    QueryParameter(max_length=LONGEST_NAME, description="Whose; needed where several have this id."),
]
_OfferId = Annotated[str | None, QueryParameter(name="id", description="Only this one.", max_length=LONGEST_NAME)]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A state of an offer."""

    time_ns: int
    state: str
    reason: str


class DemandList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is needed."""

    demand: Annotated[list[Demand], Meta(max_length=10_000)]


def make_app(book: MarketBook, clients: Mapping[str, str] | None = None, clear_every_s: float = 1.0) -> Litestar:
    """The application. `clients`: tokens by the name of their owner; None: anyone may do everything."""
    trade = Trade(book)

    @asynccontextmanager
    async def trading(_app: Litestar) -> AsyncIterator[None]:
        task = asyncio.create_task(trade.go_on(clear_every_s))
        try:
            yield
        finally:
            task.cancel()
            book.close()

    routes = Router("/api/v1", route_handlers=[OfferApi, OperationApi])
    security: list[dict[str, list[str]]] | None = None if clients is None else [{"bearer": []}]
    return Litestar(
        [routes, *_health(trade)],
        lifespan=[trading],
        state=State({"desk": _Desk(book, _Clients(clients), trade)}),
        middleware=[BodyGuard],
        exception_handlers=PROBLEMS,
        logging_config=None,  # else it would put handlers of its own in place of the program's
        openapi_config=OpenAPIConfig(
            title="Market of FlexOffers",
            version=__version__,
            description="Accepts, rejects, clears by merit order and assigns.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(), OperationsPage()],
            security=security,
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        ),
    )


class Trade:
    """Trading, and how it goes. Clears in a thread, so that requests need not wait."""

    def __init__(self, book: MarketBook) -> None:
        self.trouble = ""
        """Why nothing could be traded the last time; empty: all is well."""
        self._book = book
        self._one_at_a_time = asyncio.Lock()

    async def clear(self) -> int:
        """Number of offers that were dealt with."""
        async with self._one_at_a_time:
            auction = self._book.auction(time.time_ns())
            if auction is None:
                return 0
            cleared = await asyncio.to_thread(auction.clear)
            return len(self._book.settle(auction, cleared, time.time_ns()))

    async def go_on(self, every_s: float) -> None:
        """Whatever happens: a full disk or a locked file may be over the next time."""
        while True:
            try:
                self._book.expire(time.time_ns())
                if self._book.behaviour.assigns:
                    await self.clear()
            except Exception as error:
                if not self.trouble:
                    LOG.exception("trading stands still")
                self.trouble = f"{type(error).__name__}: {error}"
            else:
                if self.trouble:
                    LOG.warning("trading goes on")
                self.trouble = ""
            await asyncio.sleep(every_s)


def _health(trade: Trade) -> list[Any]:
    @get("/health/live", include_in_schema=False, sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/health/ready", include_in_schema=False, sync_to_thread=False)
    def ready() -> dict[str, str]:
        """Whether the market trades."""
        if trade.trouble:
            detail = f"trading stands still: {trade.trouble}"
            raise HTTPException(status_code=HTTP_503_SERVICE_UNAVAILABLE, detail=detail)
        return {"status": "ready"}

    return [live, ready]


class _Clients:
    """Who may do what."""

    def __init__(self, tokens: Mapping[str, str] | None) -> None:
        self._tokens = tokens

    def owner(self, request: AnyRequest) -> str | None:
        """Who asks; None where it does not matter: there are no clients, or it is the operator."""
        if self._tokens is None:
            return None
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        found = ""
        for name, token in self._tokens.items():
            # All of them, so that the time tells nothing.
            if hmac.compare_digest(token.encode(), shown.strip().encode()):
                found = name
        if kind.lower() != "bearer" or not found:
            raise NotAuthorizedException("a token of a client is needed", headers={"WWW-Authenticate": "Bearer"})
        return None if found == OPERATOR else found

    def need_operator(self, request: AnyRequest) -> None:
        if self.owner(request) is not None:
            raise PermissionDeniedException("the market's operator may do this alone")


class _Desk(NamedTuple):
    """What requests are answered from."""

    book: MarketBook
    clients: _Clients
    trade: Trade


def _desk(request: AnyRequest) -> _Desk:
    desk: _Desk = request.app.state.desk
    return desk


class OfferApi(Controller):
    """Offers of the client, or all for the operator."""

    tags: Sequence[str] | None = ["offers"]

    @post("/{dialect:str}/offers", status_code=HTTP_200_OK, summary="Offer")
    async def submit(self, dialect: _DialectName, request: AnyRequest) -> Response[Any]:
        """One offer or several, in any shape of the dialect; the answer holds them in their order, each with its state
        and reason. The same offer again changes nothing. All are taken or none: another offer of the same owner under
        an id is a conflict, and `offers` tells of each which it was."""
        desk = _desk(request)
        owner = desk.clients.owner(request)
        form = _format(dialect)
        try:
            came = decode_offers(form, await request.body())
            if len(came) > MOST_AT_ONCE:
                raise HTTPException(status_code=413, detail=f"{MOST_AT_ONCE} offers at once; got {len(came)}")
            encode_offers(form, came)
        except (BadMessageError, ValueError) as error:
            # What the dialect could not tell of again is not taken either.
            raise HTTPException(status_code=400, detail=str(error)) from error
        try:
            return _answer(form, await written(lambda: desk.book.submit(came, time.time_ns(), owner)))
        except OfferConflictError as error:
            return _conflict(came, error)
        except FullError as error:
            raise _unavailable(str(error), FULL_RETRY_S) from error

    @get("/{dialect:str}/offers", summary="Offers and what became of them")
    async def look(self, dialect: _DialectName, request: AnyRequest, offer_id: _OfferId = None) -> Response[bytes]:
        """Those of the client, or all for the operator. With an `ETag`. Offers that the dialect cannot say (text ids in
        INEA's) are left out and counted in `X-Left-Out`; asked for by id they are a conflict."""
        desk = _desk(request)
        form = _format(dialect)
        now_ns = time.time_ns()
        seen = [desk.book.seen(each, now_ns) for each in desk.book.keys_of(desk.clients.owner(request), offer_id)]
        answer = _answer(form, seen) if offer_id is not None else _sayable(form, seen)
        tag = f'"{_digest(answer.content)}"'
        if is_known(request, tag):
            return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers={"ETag": tag})
        answer.headers["ETag"] = tag
        return answer

    @delete("/{dialect:str}/offers", status_code=HTTP_200_OK, summary="Take an offer back")
    async def cancel(
        self,
        dialect: _DialectName,
        request: AnyRequest,
        offer_id: _ThisId,
        owner: _OwnerName = None,
    ) -> Response[bytes]:
        """It is canceled, whatever was assigned."""
        desk = _desk(request)
        form = _format(dialect)
        key = _own(desk.book, offer_id, desk.clients.owner(request) or owner)
        try:
            canceled = await written(lambda: desk.book.cancel(key, time.time_ns(), "taken back by its owner"))
            return _answer(form, [canceled])
        except ValueError as error:
            raise HTTPException(status_code=HTTP_409_CONFLICT, detail=str(error)) from error

    @get("/history", summary="When an offer came into each of its states")
    async def history(
        self,
        request: AnyRequest,
        offer_id: _ThisId,
        owner: _OwnerName = None,
    ) -> list[Change]:
        """What is held back by a delay is not told here either."""
        desk = _desk(request)
        key = _own(desk.book, offer_id, desk.clients.owner(request) or owner)
        told = desk.book.history(key, time.time_ns())
        return [Change(time_ns=time_ns, state=each.state, reason=each.state_reason) for time_ns, each in told]


class OperationApi(Controller):
    """What is needed, and how the market behaves."""

    tags: Sequence[str] | None = ["operation"]

    @get("/demand", summary="What is needed")
    async def demand(self, request: AnyRequest) -> DemandList:
        """Positive energy is production that is needed."""
        desk = _desk(request)
        desk.clients.owner(request)
        return DemandList(demand=list(desk.book.demand))

    @put("/demand", summary="Say what is needed")
    async def set_demand(self, request: AnyRequest, data: JSONBody[DemandList]) -> DemandList:
        """In place of what was needed before, and as if nothing was assigned yet; the same again changes nothing."""
        desk = _desk(request)
        desk.clients.need_operator(request)
        await written(lambda: desk.book.set_demand(data.demand))
        return DemandList(demand=list(desk.book.demand))

    @get("/behaviour", summary="How the market behaves")
    async def behaviour(self, request: AnyRequest) -> Behaviour:
        """Delays and refusals."""
        desk = _desk(request)
        desk.clients.owner(request)
        return desk.book.behaviour

    @put("/behaviour", summary="Make the market late or unwilling")
    async def set_behaviour(self, request: AnyRequest, data: JSONBody[Behaviour]) -> Behaviour:
        """For tests of those who trade on it."""
        desk = _desk(request)
        desk.clients.need_operator(request)
        desk.book.behaviour = data
        return data

    @post("/clear", status_code=HTTP_200_OK, summary="Clear now")
    async def clear(self, request: AnyRequest) -> dict[str, int]:
        """Without waiting for the next time; says how many offers were dealt with."""
        desk = _desk(request)
        desk.clients.need_operator(request)
        try:
            return {"offers": await desk.trade.clear()}
        except StoreError as error:
            raise _unavailable(str(error), BUSY_RETRY_S) from error


async def written(change: Callable[[], _T]) -> _T:
    """Make a change of the book. While another program holds its file it is tried again for a moment, in which other
    requests go on. Raises 503 then, and nothing has changed."""
    end_s = time.monotonic() + LONGEST_BUSY_S
    while True:
        try:
            return change()
        except StoreError as error:
            if not error.is_busy or time.monotonic() >= end_s:
                raise _unavailable(str(error), BUSY_RETRY_S) from error
        await asyncio.sleep(BUSY_PERIOD_S)


def _unavailable(detail: str, retry_s: int) -> HTTPException:
    return HTTPException(status_code=HTTP_503_SERVICE_UNAVAILABLE, detail=detail, headers={"Retry-After": str(retry_s)})


def _conflict(came: list[FlexOffer], error: OfferConflictError) -> Response[dict[str, Any]]:
    told = [
        {"id": each.id, "detail": "another offer stands under this id" if each.id in error.ids else "not taken"}
        for each in came
    ]
    return problem(HTTP_409_CONFLICT, f"{error}; nothing was taken", offers=told)


def _own(book: MarketBook, offer_id: str, owner: str | None) -> OfferKey:
    """Raises 404 also for an offer of someone else, 409 where several owners have one of this id."""
    keys = book.keys_of(owner, offer_id)
    if not keys:
        raise HTTPException(status_code=HTTP_404_NOT_FOUND, detail=f"no offer has the id '{offer_id}'")
    if len(keys) > 1:
        detail = f"{len(keys)} owners have an offer '{offer_id}': say which one by `owner`"
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=detail)
    return keys[0]


def _format(dialect: Dialect) -> FlexOfferFormat:
    return FlexOfferFormat(dialect=dialect)


def _answer(form: FlexOfferFormat, offers: list[FlexOffer]) -> Response[bytes]:
    try:
        return Response(encode_offers(form, offers), media_type=JSON)
    except ValueError as error:
        raise HTTPException(status_code=HTTP_409_CONFLICT, detail=str(error)) from error


def _sayable(form: FlexOfferFormat, offers: list[FlexOffer]) -> Response[bytes]:
    body, left_out = encode_sayable_offers(form, offers)
    return Response(body, media_type=JSON, headers={"X-Left-Out": str(left_out)} if left_out else {})


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
