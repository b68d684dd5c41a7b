"""`flexoffer_receive`: what a market makes of offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from msgspec import Meta, field

from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import decode_readable_offers
from edgeflex_connectors.rest import path_refusals
from edgeflex_connectors.rest_poll import Read, RestPoll, RestPollConfig
from edgeflex_connectors.rest_retry import retry_refusals
from edgeflex_flow.errors import FieldError
from edgeflex_flow.flexoffer import is_later
from edgeflex_flow.messages import FlexOffer
from edgeflex_flow.node import (
    Context,
    Delays,
    NodeConfig,
    SourceNode,
    Wire,
    WireMessage,
    connection,
    message_wire,
    quantity,
)

MOST_KNOWN = 100_000
"""Offers whose state is remembered."""


class FlexofferReceiveConfig(NodeConfig, frozen=True, kw_only=True):
    """Ask a market of FlexOffers (KIBERNet, GOFLEX, `edgeflex serve market`) again and again what became of offers.

    A GET of `path` goes out every `period`; the answer holds offers in the dialect of `format`, one or many, some of
    them perhaps with state and schedule alone. What comes out are changes: an offer that is seen for the first time,
    one in a state that may follow on the state in which it was seen last, or one with a newer schedule. The same again
    is dropped and counted under `duplicates`, an earlier state under `out_of_order`: answers may overtake each other.

    The service is told by `If-None-Match` which answer was used last; when it answers 304 there is nothing new. When it
    is away, it is asked again after waits that double from `retry_min` to `retry_max`. All that is as in `rest_poll`.

    Input:
        None: answers of the market.

    Output:
        `FlexOffer`. Counts those of `rest_poll`, `duplicates` and `out_of_order`.

    Errors:
        Dead letter `bad_payload` for an answer that cannot be read, or in which an offer cannot: the others are used,
        and `bad_rows` counts those that cannot. Those of `rest_poll` and of the connection besides.

    Source:
        FlexOffer specification V1, section 1.3; RFC 9110 (HTTP).

    >>> FlexofferReceiveConfig(api="market", path="/offers", period=1.0).format.dialect
    'edgeflex'
    """

    api: Annotated[str, connection("rest", "Connection to the market.")]
    path: Annotated[str, Meta(min_length=1, description="Path, which follows the url of the connection.")]
    period: Annotated[float, quantity("s", "Time from one request to the next.", ge=0.05, le=86_400)] = 1.0
    query: Annotated[dict[str, str], Meta(description="Names and values of the query.")] = field(default_factory=dict)
    format: Annotated[FlexOfferFormat, Meta(description="Dialect of the market.")] = FlexOfferFormat()
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 1.0
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=86_400)] = 30.0

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)
        yield from retry_refusals(self.retry_min, self.retry_max)


class ChangedOffers:
    """Reads answers, and gives what is new in them."""

    def __init__(self, form: FlexOfferFormat, context: Context) -> None:
        self._format = form
        self._context = context
        self._known: dict[tuple[str, str], FlexOffer] = {}
        """By owner, as the market tells it, and id."""

    def read(self, body: bytes, received_ns: int) -> Read:
        del received_ns
        offers, bad = decode_readable_offers(self._format, body)
        changed: list[WireMessage] = [each for each in offers if self._is_new(each)]
        return Read(changed, bad_rows=len(bad), error=bad[0] if bad else None)

    def _is_new(self, offer: FlexOffer) -> bool:
        key = offer.offered_by, offer.id
        known = self._known.get(key)
        if known is not None and not is_later(known.state, offer.state):
            before, after = known.schedule, offer.schedule
            if known.state != offer.state:
                self._context.counters.add("out_of_order")
                return False
            if before is None or after is None or after.update <= before.update:
                self._context.counters.add("duplicates")
                return False
        self._known.pop(key, None)
        self._known[key] = offer
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return True


def output(_config: FlexofferReceiveConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(FlexOffer)


def open_source(config: FlexofferReceiveConfig, context: Context) -> RestPoll:
    polling = RestPollConfig(
        api=config.api,
        path=config.path,
        period=config.period,
        query=config.query,
        messages=("flex_offer",),
        retry_min=config.retry_min,
        retry_max=config.retry_max,
    )
    return RestPoll(polling, context, reader=ChangedOffers(config.format, context))


NODE = SourceNode(
    kind="flexoffer_receive",
    config=FlexofferReceiveConfig,
    output=output,
    open=open_source,
    delays=lambda config: Delays(period_s=config.period),
)
