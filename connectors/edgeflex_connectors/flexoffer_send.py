"""`flexoffer_send`: offers out to a market of FlexOffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.payload_formats import FlexOfferFormat
from edgeflex_connectors.payload_formats.flexoffer import encode_offer
from edgeflex_connectors.rest import path_problem, path_refusals
from edgeflex_connectors.rest_post import Item, RestPost, RestPostConfig
from edgeflex_connectors.rest_retry import retry_refusals
from edgeflex_flow.errors import BadMessageError, FieldError
from edgeflex_flow.flexoffer import DAY_S, OfferLimits, limit_violations, send_before_ns, shown_time, violations
from edgeflex_flow.messages import FlexOffer, encode_message
from edgeflex_flow.node import (
    DEFAULT_PORT,
    Context,
    Input,
    NodeConfig,
    SinkNode,
    WireMessage,
    at_once,
    connection,
    quantity,
)
from edgeflex_flow.policy import is_allowed
from edgeflex_flow.units import NS_PER_S

MARKET_REASONS = {
    -1: "no such offer",
    -2: "no such prosumer, or one without the right to trade",
    -3: "the offer is under execution",
}
"""What INEA's market says by negative numbers in place of an id."""


class FlexofferSendConfig(NodeConfig, frozen=True, kw_only=True):
    """Send offers to a market of FlexOffers (KIBERNet, GOFLEX, `edgeflex serve market`), one a request, in order.

    An offer goes out by POST to `path`, or to the `endpoint` that it names itself if `endpoints` allows that, in the
    dialect of `format`, in the state `offered`. Before that it is held
    against the rules of FlexOffers, and against what this site allows: no profile longer than `max_duration`, none
    outside of `window_begin` to `window_end` (hours of the day, UTC; across midnight if the end is before the
    beginning). These are the site's own and stand in the file; policies may set those of `flexoffer_make`. Offers in
    other states than `initial` and `offered` are passed over.

    **An offer is never sent late**: once the time until which it is to be accepted, assigned or begun is over, it is
    dropped, however often it was tried.

    A request that fails is made again after waits that double from `retry_min` to `retry_max`, with some jitter, after
    a failure to connect, an answer that did not come, or a status that passes. That does no harm: a market knows an
    offer by its id, and `Idempotency-Key` is that id too, also after a restart. What the market then makes of the offer
    comes by `flexoffer_receive`.

    Input:
        in: `FlexOffer`.

    Output:
        None. Counts those of `rest_post`, and `not_initial` (offers in other states).

    Errors:
        Dead letters `invalid_offer` with all rules that an offer breaks, `too_late` for one whose time is over when it
        comes, `refused` for one that the service refuses (a negative number in place of an id, as INEA's market has it,
        among them), `not_encodable` for one that the dialect cannot write. One whose time ends while it waits is
        counted under `expired`. Those of the connection: see `rest`.

    Source:
        FlexOffer specification V1; edgeFLEX deliverable D4.3, section 4.3; draft-ietf-httpapi-idempotency-key-header.

    >>> FlexofferSendConfig(api="market", path="/offers", max_duration=6 * 3600.0).window_end
    86400.0
    """

    api: Annotated[str, connection("rest", "Connection to the market.")]
    path: Annotated[str, Meta(min_length=1, description="Path, which follows the url of the connection.")]
    endpoints: Annotated[
        tuple[str, ...],
        Meta(description="Other paths that offers may name; `*` stands for letters, digits, `_` and `-`."),
    ] = ()
    format: Annotated[FlexOfferFormat, Meta(description="Dialect of the market.")] = FlexOfferFormat()
    max_duration: Annotated[float, quantity("s", "Longest profile that is sent.", gt=0, le=7 * DAY_S)] = float(DAY_S)
    window_begin: Annotated[float, quantity("s", "From when on in the day (UTC) profiles run.", ge=0, le=DAY_S)] = 0.0
    window_end: Annotated[float, quantity("s", "Until when in the day (UTC).", ge=0, le=DAY_S)] = float(DAY_S)
    retry_min: Annotated[float, quantity("s", "Wait after the first failure.", gt=0, le=3600)] = 0.5
    retry_max: Annotated[float, quantity("s", "Longest wait after a failure.", gt=0, le=3600)] = 10.0
    queue: Annotated[
        int, Meta(ge=1, le=100_000, description="Offers held while they cannot go; the oldest drop first.")
    ] = 1000

    def refusals(self) -> Iterator[FieldError]:
        yield from path_refusals(self.path)
        for place, pattern in enumerate(self.endpoints):
            problem = path_problem(pattern)
            if problem is not None:
                yield FieldError(f"`endpoints`: {problem}", f"endpoints[{place}]", got=f"'{pattern}'")
        yield from retry_refusals(self.retry_min, self.retry_max)

    @property
    def limits(self) -> OfferLimits:
        return OfferLimits(self.max_duration, self.window_begin, self.window_end)


class OfferEncoder:
    """Makes a request of an offer, if it may be sent."""

    withheld = 0

    def __init__(self, config: FlexofferSendConfig, context: Context) -> None:
        self._config = config
        self._context = context

    def items(self, message: WireMessage, now_s: float, now_ns: int) -> Iterable[Item]:
        assert isinstance(message, FlexOffer)
        if message.state not in ("initial", "offered"):
            self._context.counters.add("not_initial")
            return ()
        offer = replace(message, state="offered")
        wrong = [str(each) for each in (*violations(offer), *limit_violations(offer, self._config.limits))]
        wrong += self._endpoint_problems(offer)
        if wrong:
            raise self._refusal("invalid_offer", offer, "; ".join(wrong))
        until_ns = send_before_ns(offer)
        left_s = ((until_ns or now_ns) - now_ns) / NS_PER_S
        if left_s <= 0:
            raise self._refusal("too_late", offer, f"its time was over at {shown_time(until_ns)}")
        path = offer.endpoint or self._config.path
        return (Item(path, encode_offer(self._config.format, offer), now_s + left_s, key=offer.id),)

    def _endpoint_problems(self, offer: FlexOffer) -> Iterator[str]:
        """The endpoint of an offer may come from the network: it leads nowhere that the file does not name."""
        known = (self._config.path, *self._config.endpoints)
        if offer.endpoint and not is_allowed(offer.endpoint, known):
            yield f"`endpoint`: one of {', '.join(known)}; got '{offer.endpoint[:100]}'"

    def _refusal(self, reason: str, offer: FlexOffer, text: str) -> BadMessageError:
        return BadMessageError(f"offer '{offer.id}': {text}", reason=reason, payload=encode_message(offer))

    def refusal(self, answer: Answer) -> str:
        """INEA's market answers `[{"flexOffer":{"id":-2}}]` with status 200."""
        try:
            found = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        number = _number_of(found)
        return "" if number >= 0 else f"the market refuses it: {MARKET_REASONS.get(number, f'reason {number}')}"


def _number_of(found: Any) -> int:
    """The number in place of an id; 0 if there is none."""
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        return 0
    if "flexOffer" in found:
        return _number_of(found["flexOffer"])
    number = found.get("id")
    return number if isinstance(number, int) and not isinstance(number, bool) else 0


def open_sink(config: FlexofferSendConfig, context: Context) -> RestPost:
    sending = RestPostConfig(
        api=config.api,
        path=config.path,
        idempotency_key=True,
        retry_min=config.retry_min,
        retry_max=config.retry_max,
        queue=config.queue,
    )
    return RestPost(sending, context, encoder=OfferEncoder(config, context))


NODE = SinkNode(
    kind="flexoffer_send",
    config=FlexofferSendConfig,
    inputs={DEFAULT_PORT: Input(accepts=(FlexOffer,))},
    open=open_sink,
    delays=at_once,
)
